"""Watching a memory transfer, and deciding when to help it along or to call it off.

Pre-copy sends memory in passes: the first sends everything, each later one what was written
during the pass before. What remains therefore falls within a pass and jumps up at the next one:
a saw-tooth. Only the height of its teeth tells whether the transfer converges, so judgements
are made on what a pass begins with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime

from rebalancer.cluster.inventory import Mode
from rebalancer.rollout.sightings import TransferProgress

SMOOTHING = 0.4
"""Weight of the newest sample in the moving average of the rate (after oVirt's and KubeVirt's)."""
SHRINKS_BELOW = 0.96
"""A pass has to begin with less than this share of the best one so far to count as progress."""
PASSES_WITHOUT_PROGRESS = 2
"""So many passes in a row without progress, and the transfer has found its floor."""
DOWNTIME_MARGIN = 1.2
"""The pause is raised to so many times what the last pass would have taken: passes differ."""
WORTH_RAISING = 1.1
"""Raises of less than a tenth are not worth a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """What may be done to get one transfer to its end; from the plan and the owner's policy."""

    mode: Mode
    max_downtime_seconds: float
    max_suspend_seconds: float | None
    """`None`: the guest must not be paused to finish."""
    deadline_seconds: float
    """From the request on; after it the transfer is ended one way or the other."""
    stall_seconds: float = 60.0
    silence_seconds: float = 60.0
    """Without a single byte for so long it is the network, and no help for the guest helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What was learnt from the samples so far."""

    started_at: datetime
    sampled_at: datetime | None = None
    flowed_at: datetime
    """When bytes were last seen to flow."""
    transferred_bytes: float = 0.0
    bytes_per_second: float | None = None
    """Moving average."""
    iteration: int = -1
    remaining_bytes: float = math.inf
    pass_bytes: float = math.inf
    """What the present pass began with."""
    best_pass_bytes: float = math.inf
    best_at: datetime
    passes_since_best: int = 0
    downtime_seconds: float
    """The pause that the hypervisor may end with just now."""
    is_copying_disks: bool = False
    """Disks are being copied: of memory, and so of passes, there is nothing to be said yet."""
    paused_at: datetime | None = None
    switched: bool = False
    """Post-copy has begun: nothing can be called off any more."""
    is_switch_doubtful: bool = False
    """The switch to post-copy failed or was not answered; only a look tells what came of it."""

    @classmethod
    def begun(cls, now: datetime, downtime_seconds: float) -> Watch:
        """Start watching at the request."""
        return cls(started_at=now, flowed_at=now, best_at=now, downtime_seconds=downtime_seconds)

    def seen(self, progress: TransferProgress, now: datetime) -> Watch:
        """Take in one sample. One without any bytes (a job being torn down) teaches nothing."""
        if progress.total_bytes <= 0 and progress.transferred_bytes <= 0:
            return self
        flowed = progress.transferred_bytes > self.transferred_bytes
        sampled = replace(
            self,
            sampled_at=now,
            flowed_at=now if flowed else self.flowed_at,
            bytes_per_second=self._rate(progress, now),
            transferred_bytes=progress.transferred_bytes,
            is_copying_disks=progress.is_copying_disks,
        )
        if progress.is_copying_disks:
            return sampled
        sampled = replace(sampled, remaining_bytes=progress.remaining_memory_bytes)
        begins_pass = progress.iteration != self.iteration
        return sampled._at_pass(progress, now) if begins_pass else sampled

    def _rate(self, progress: TransferProgress, now: datetime) -> float | None:
        if self.sampled_at is None:
            return progress.bytes_per_second or None
        seconds = (now - self.sampled_at).total_seconds()
        moved = progress.transferred_bytes - self.transferred_bytes
        if seconds <= 0 or moved < 0:
            return self.bytes_per_second
        newest = moved / seconds
        if self.bytes_per_second is None:
            return newest
        return SMOOTHING * newest + (1 - SMOOTHING) * self.bytes_per_second

    def _at_pass(self, progress: TransferProgress, now: datetime) -> Watch:
        size = progress.remaining_memory_bytes
        better = size < SHRINKS_BELOW * self.best_pass_bytes
        return replace(
            self,
            iteration=progress.iteration,
            pass_bytes=size,
            best_pass_bytes=size if better else self.best_pass_bytes,
            best_at=now if better else self.best_at,
            passes_since_best=0 if better else self.passes_since_best + 1,
        )

    @property
    def pause_seconds(self) -> float:
        """How long the guest would stand still if it were paused now for the rest."""
        left = max(self.remaining_bytes, self.pass_bytes)
        return left / self.bytes_per_second if self.bytes_per_second else math.inf

    @property
    def found_its_floor(self) -> bool:
        """Whether passes have stopped getting smaller."""
        return self.passes_since_best >= PASSES_WITHOUT_PROGRESS

    def judged_anew(self, now: datetime) -> Watch:
        """Wait for new passes before the floor is believed in: something was changed."""
        return replace(self, best_at=now, passes_since_best=0, best_pass_bytes=math.inf)

    def eta_seconds(self) -> float | None:
        """When the present pass is over, which is the end if the guest writes nothing more."""
        if not self.bytes_per_second or math.isinf(self.remaining_bytes):
            return None
        return self.remaining_bytes / self.bytes_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class Carry:
    """Go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowDowntime:
    """Let the hypervisor end with a longer pause."""

    seconds: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseGuest:
    """Stop the guest's CPUs, so that nothing more is written."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBandwidth:
    """Go on with what other migrations have left of the links."""

    bytes_per_second: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchOver:
    """Run on the target now, fetch the rest (post-copy)."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOff:
    """Give up; the VM stays on the source."""

    why: str


type Judgement = Carry | AllowDowntime | TakeBandwidth | PauseGuest | SwitchOver | CallOff


def judge(
    watch: Watch, mandate: Mandate, now: datetime, wider_bytes_per_second: float = 0.0
) -> Judgement:
    """Decide what a transfer needs, within its mandate. The mildest help comes first.

    `wider_bytes_per_second` is what it may use from now on if it wants to; 0: no more than it has.
    """
    if watch.switched:
        return Carry()
    if watch.paused_at is not None:
        return _judge_paused(watch, watch.paused_at, mandate, now)
    silent_seconds = (now - watch.flowed_at).total_seconds()
    if silent_seconds >= mandate.silence_seconds:
        return CallOff(why=f"no byte was transferred for {silent_seconds:.0f} s")
    elapsed_seconds = (now - watch.started_at).total_seconds()
    if elapsed_seconds >= mandate.deadline_seconds:
        late = f"after {elapsed_seconds:.0f} s it was not done"
        if watch.is_copying_disks:
            return CallOff(why=f"{late}, its disks were still being copied")
        return _last_resort(watch, mandate, late)
    if watch.found_its_floor:
        return _judge_stalled(watch, mandate, now, wider_bytes_per_second)
    return Carry()


def _judge_paused(watch: Watch, paused_at: datetime, mandate: Mandate, now: datetime) -> Judgement:
    """The pause may take three times what was allowed before it does more harm than good."""
    allowed = 3 * max(mandate.max_suspend_seconds or 0.0, 1.0)
    stood = (now - paused_at).total_seconds()
    still_flows = (now - watch.flowed_at).total_seconds() < allowed
    if stood < allowed or (still_flows and watch.pause_seconds < allowed - stood):
        return Carry()
    return CallOff(why=f"the guest has stood still for {stood:.0f} s and it is not done")


def _judge_stalled(watch: Watch, mandate: Mandate, now: datetime, wider: float) -> Judgement:
    stall = f"passes no longer get smaller than {watch.best_pass_bytes:,.0f} bytes"
    if mandate.mode is Mode.POST_COPY:
        return _switched_over(watch, mandate, stall)
    if mandate.mode is Mode.SUSPEND and _may_pause(watch, mandate):
        return PauseGuest(why=f"{stall}; the pause will be about {watch.pause_seconds:.1f} s")
    if wider > 0 and mandate.mode is not Mode.SUSPEND:
        return TakeBandwidth(bytes_per_second=wider, why=stall)
    if (seconds := _raised_downtime(watch, mandate)) is not None:
        return AllowDowntime(seconds=seconds, why=stall)
    if (now - watch.best_at).total_seconds() < mandate.stall_seconds:
        return Carry()
    if (
        watch.downtime_seconds < mandate.max_downtime_seconds
        and watch.pause_seconds <= 1.5 * mandate.max_downtime_seconds
    ):
        return AllowDowntime(seconds=mandate.max_downtime_seconds, why=stall)
    return _last_resort(watch, mandate, stall)


def _raised_downtime(watch: Watch, mandate: Mandate) -> float | None:
    """The pause that would end it now, where that is allowed and more than the present limit."""
    wanted = min(DOWNTIME_MARGIN * watch.pause_seconds, mandate.max_downtime_seconds)
    is_enough = watch.pause_seconds <= mandate.max_downtime_seconds
    return wanted if is_enough and wanted >= WORTH_RAISING * watch.downtime_seconds else None


def _switched_over(watch: Watch, mandate: Mandate, what: str) -> Judgement:
    """Switch, unless the rest would take longer than anything may: then it is the network."""
    if watch.pause_seconds > mandate.deadline_seconds:
        rest = f"the rest would take {watch.pause_seconds:,.0f} s"
        return CallOff(why=f"{what}; {rest}, for which no guest is made to wait for its memory")
    return SwitchOver(why=what)


def _last_resort(watch: Watch, mandate: Mandate, what: str) -> Judgement:
    pause = watch.pause_seconds
    if mandate.mode is Mode.POST_COPY and watch.iteration >= 0:
        return _switched_over(watch, mandate, what)
    if _may_pause(watch, mandate):
        return PauseGuest(why=f"{what}; the pause will be about {pause:.1f} s")
    if mandate.max_suspend_seconds is None:
        return CallOff(why=f"it did not converge: {what}, and pausing it is not allowed")
    would = "nobody knows how long" if math.isinf(pause) else f"about {pause:.1f} s"
    return CallOff(
        why=f"it did not converge: {what}; finishing it would pause the guest for {would}, "
        f"{mandate.max_suspend_seconds:.1f} s are allowed"
    )


def _may_pause(watch: Watch, mandate: Mandate) -> bool:
    limit = mandate.max_suspend_seconds
    return limit is not None and watch.pause_seconds <= limit
