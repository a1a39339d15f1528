"""What a migration is expected to take, how sure that is, and what parts of it really took."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Confidence(StrEnum):
    """How much a prediction is worth."""

    HIGH = "high"
    """Dirty rate and working set were measured."""
    MEDIUM = "medium"
    """Dirty rate was measured, the working set assumed; cold: the guest was seen shutting down."""
    LOW = "low"
    """The dirty rate is unknown and was assumed."""


class Part(StrEnum):
    """What takes its time in a migration beside its memory, and is learned for itself."""

    SHUT_DOWN = "shut down"
    """From the request until the guest is seen off."""
    START = "start"
    """From there until it is started on the target; when its services answer nobody sees."""
    SAVE = "save"
    RESTORE = "restore"
    DISKS = "copy disks"
    """Until the copies are in step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedPart:
    """What one part of a migration is expected to take."""

    part: Part
    seconds: float
    upper_seconds: float
    """The end of the band that nine of ten should stay within."""
    ideal_seconds: float = 0.0
    """What its bytes alone take at the rate that is stated; 0 where it is not about bytes."""
    learned_from: int = 0
    """So many migrations taught it; 0: it is assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPart:
    """What one part of a migration really took."""

    part: Part
    seconds: float
    is_over: bool = True
    """False: it had not come to an end when it was given up."""
    transfer_bytes: float | None = None
    """What was sent in it, where the hypervisor counts that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a migration is expected to take. Times count from the start of the plan.

    `_upper` values are the ends of the band that nine of ten migrations should stay within.
    """

    start_seconds: float
    duration_seconds: float
    duration_upper_seconds: float
    downtime_seconds: float
    downtime_upper_seconds: float
    transfer_bytes: float
    confidence: Confidence
    rounds: int = 0
    """Iterations of pre-copy; 0 where memory is not copied like that."""
    switchover_seconds: float = 0.0
    """The part of the pause in which no memory travels."""
    parts: tuple[PredictedPart, ...] = ()
    """What is learned for itself beside how memory is copied."""

    @property
    def finish_seconds(self) -> float:
        """When it should be over."""
        return self.start_seconds + self.duration_seconds
