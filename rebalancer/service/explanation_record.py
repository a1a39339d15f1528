"""The part of a plan file that explains the plan: see `cluster.explanation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from rebalancer.cluster.explanation import (
    CapacityAdvice,
    Conflict,
    Explanation,
    Gain,
    RejectedHost,
    RejectedMove,
    Relaxation,
    Use,
)
from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.files import FileModel

type Count = Annotated[int, Field(ge=0)]


class GainRecord(FileModel):
    """See `cluster.explanation.Gain`."""

    vm: VmId
    total: float
    by_goal: Mapping[str, float] = {}

    def noun(self) -> Gain:
        """Return the gain that this means."""
        return Gain(vm=self.vm, total=self.total, by_goal=self.by_goal)


class RejectedMoveRecord(FileModel):
    """See `cluster.explanation.RejectedMove`."""

    vm: VmId
    vm_name: str
    source: HostId
    target: HostId
    benefit: float
    price: float
    reasons: tuple[str, ...]

    def noun(self) -> RejectedMove:
        """Return the move that this means."""
        return RejectedMove(**dict(self))


class RejectedHostRecord(FileModel):
    """See `cluster.explanation.RejectedHost`."""

    host: HostId
    name: str
    reasons: tuple[str, ...]

    def noun(self) -> RejectedHost:
        """Return the host that this means."""
        return RejectedHost(**dict(self))


class RelaxationRecord(FileModel):
    """See `cluster.explanation.Relaxation`."""

    text: str
    met: Count
    unlocks: bool

    def noun(self) -> Relaxation:
        """Return the relaxation that this means."""
        return Relaxation(**dict(self))


class ConflictRecord(FileModel):
    """See `cluster.explanation.Conflict`."""

    text: str
    wishes: tuple[str, ...]
    members: tuple[str, ...]
    is_minimal: bool
    assumption: str = ""
    relaxations: tuple[RelaxationRecord, ...] = ()

    def noun(self) -> Conflict:
        """Return the conflict that this means."""
        relaxations = tuple(one.noun() for one in self.relaxations)
        return Conflict(**{**dict(self), "relaxations": relaxations})


class UseRecord(FileModel):
    """See `cluster.explanation.Use`."""

    resource: str
    needed: float
    usable: float

    def noun(self) -> Use:
        """Return the use that this means."""
        return Use(**dict(self))


class CapacityRecord(FileModel):
    """See `cluster.explanation.CapacityAdvice`."""

    uses: tuple[UseRecord, ...]
    short: Count
    spare: tuple[HostId, ...]
    text: str

    def noun(self) -> CapacityAdvice:
        """Return the advice that this means."""
        return CapacityAdvice(**{**dict(self), "uses": tuple(use.noun() for use in self.uses)})


class ExplanationRecord(FileModel):
    """See `cluster.explanation.Explanation`."""

    gains: tuple[GainRecord, ...] = ()
    rejected_moves: tuple[RejectedMoveRecord, ...] = ()
    rejected_hosts: tuple[RejectedHostRecord, ...] = ()
    conflicts: tuple[ConflictRecord, ...] = ()
    capacity: CapacityRecord | None = None
    notes: tuple[str, ...] = ()

    def noun(self) -> Explanation:
        """Return the explanation that this means."""
        return Explanation(
            gains=tuple(one.noun() for one in self.gains),
            rejected_moves=tuple(one.noun() for one in self.rejected_moves),
            rejected_hosts=tuple(one.noun() for one in self.rejected_hosts),
            conflicts=tuple(one.noun() for one in self.conflicts),
            capacity=self.capacity.noun() if self.capacity else None,
            notes=self.notes,
        )
