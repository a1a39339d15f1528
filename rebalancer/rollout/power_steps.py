"""What is known of the hosts that are switched: one table of states, and what leads where.

    awake ──> falling asleep ──> asleep ──> waking ──> awake
                     │           ^            │
                     │           └────────────┤   (it was never told)
                     └────> quarantined <─────┘

A host that is awake has no mark. Every other one has a mark in the journal, written before
anything is done, so that whoever comes after a crash looks at it again: on, off, or unknown.
Pure: a mark, a look, and the time in; the next mark out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.power import Census, NoCensus, PowerState


class Phase(StrEnum):
    """Where a host stands between on and off."""

    FALLING_ASLEEP = "falling asleep"
    """It was told, or is just going to be told, to shut down."""
    ASLEEP = "asleep"
    WAKING = "waking"
    """It was told, or is just going to be told, to start; it counts when libvirt answers."""
    QUARANTINED = "quarantined"
    """It did not do as it was told. Nothing touches it until an operator has."""


IN_TRANSIT = frozenset({Phase.FALLING_ASLEEP, Phase.WAKING})

TRANSITIONS: Mapping[Phase | None, frozenset[Phase | None]] = {
    None: frozenset({Phase.FALLING_ASLEEP, Phase.ASLEEP, Phase.WAKING}),
    Phase.FALLING_ASLEEP: frozenset({Phase.ASLEEP, Phase.QUARANTINED, None}),
    Phase.ASLEEP: frozenset({Phase.WAKING, None}),
    Phase.WAKING: frozenset({Phase.QUARANTINED, Phase.ASLEEP, None}),
    Phase.QUARANTINED: frozenset({Phase.WAKING, Phase.ASLEEP, None}),
}
"""What may follow what; `None` is awake. Out of quarantine only an operator leads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a host had when it was seen last: nobody can ask it while it sleeps."""

    cpu_cores: float
    memory_bytes: int
    reserved_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerMark:
    """A host that is not simply awake."""

    host: HostId
    phase: Phase
    since: datetime
    reason: str = ""
    told: bool = False
    """Whether whatever switches it took the command, or did not answer and may have taken it."""
    size: Size | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSight:
    """One look at a host: first at its power, then at its libvirt."""

    power: PowerState
    guests: Census | NoCensus
    why: str = ""
    """Why the power is unknown."""

    @property
    def answers(self) -> bool:
        """Whether libvirt does."""
        return isinstance(self.guests, Census)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerTimes:
    """How long hosts may take."""

    boot_seconds: float = 600.0
    """From being told to wake until libvirt answers."""
    shutdown_seconds: float = 600.0
    """From being told to sleep until the power is off."""
    tick_seconds: float = 5.0


def next_mark(
    mark: PowerMark, sight: PowerSight, now: datetime, times: PowerTimes
) -> PowerMark | None:
    """What follows for a host from a look at it; `None`: it is awake."""
    match mark.phase:
        case Phase.FALLING_ASLEEP:
            return _falling_asleep(mark, sight, now, times.shutdown_seconds)
        case Phase.ASLEEP:
            return _asleep(mark, sight, now)
        case Phase.WAKING:
            return _waking(mark, sight, now, times.boot_seconds)
        case Phase.QUARANTINED:
            return mark


def _falling_asleep(
    mark: PowerMark, sight: PowerSight, now: datetime, patience_seconds: float
) -> PowerMark | None:
    """Off is off only if libvirt is silent, too: else another machine is being looked at."""
    if sight.power is PowerState.OFF and not sight.answers:
        return _into(mark, Phase.ASLEEP, now, mark.reason)
    if not is_late(mark, now, patience_seconds):
        return mark
    if sight.power is PowerState.ON and sight.answers and not mark.told:
        # Whoever wrote the mark died before the command got there.
        return None
    waited = f"{patience_seconds:.0f} s after it was told to shut down"
    if sight.power is PowerState.OFF:
        return _into(mark, Phase.QUARANTINED, now, _CONTRADICTION)
    if sight.power is PowerState.ON:
        return _into(mark, Phase.QUARANTINED, now, f"it is still on {waited}")
    why = f"{waited} nobody knows whether it is on: {sight.why or 'its power state is unknown'}"
    return _into(mark, Phase.QUARANTINED, now, why)


_CONTRADICTION = (
    "its power is said to be off and its libvirt answers: see whether `power` in its settings "
    "leads to another machine"
)


def _asleep(mark: PowerMark, sight: PowerSight, now: datetime) -> PowerMark | None:
    """A sleeping host that is on was switched on by somebody else."""
    if sight.answers:
        return None
    if sight.power is PowerState.ON:
        return _into(mark, Phase.WAKING, now, "somebody else switched it on")
    return mark


def _waking(
    mark: PowerMark, sight: PowerSight, now: datetime, patience_seconds: float
) -> PowerMark | None:
    """Power and libvirt are asked one after the other, so that they may contradict for a while."""
    if sight.answers and sight.power is not PowerState.OFF:
        return None
    if not is_late(mark, now, patience_seconds):
        return mark
    if sight.answers:
        return _into(mark, Phase.QUARANTINED, now, _CONTRADICTION)
    if sight.power is PowerState.OFF and not mark.told:
        # Whoever wrote the mark died before the command got there: it sleeps on.
        return _into(mark, Phase.ASLEEP, now, "nobody told it to wake")
    silent = sight.guests.why if isinstance(sight.guests, NoCensus) else ""
    why = (
        f"it did not wake within {patience_seconds:.0f} s: its power is {sight.power}"
        f"{f' ({sight.why})' if sight.why else ''}, its libvirt does not answer: {silent}"
    )
    return _into(mark, Phase.QUARANTINED, now, why)


def _into(mark: PowerMark, phase: Phase, now: datetime, reason: str) -> PowerMark:
    assert phase in TRANSITIONS[mark.phase], f"{mark.phase} cannot be followed by {phase}"
    return replace(mark, phase=phase, since=now, reason=reason, told=False)


def is_late(mark: PowerMark, now: datetime, patience_seconds: float) -> bool:
    """Whether a host had the time that it may take."""
    return (now - mark.since).total_seconds() >= patience_seconds


# Slow to sleep -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Unneeded:
    """For how many cycles in a row a policy had no need of a host."""

    cycles: int
    at: datetime
    """When the last of them was counted."""


def counted(
    before: Mapping[HostId, Unneeded],
    unneeded: Collection[HostId],
    now: datetime,
    *,
    at_least_seconds: float,
    at_most_seconds: float,
) -> dict[HostId, Unneeded]:
    """Count one more cycle for the hosts that are not needed; the others begin anew.

    Cycles closer together than `at_least_seconds` are the same one seen twice, and after more
    than `at_most_seconds` of silence nobody knows what happened meanwhile.
    """
    return {
        host: _one_more(before.get(host), now, at_least_seconds, at_most_seconds)
        for host in unneeded
    }


def _one_more(
    before: Unneeded | None, now: datetime, at_least_seconds: float, at_most_seconds: float
) -> Unneeded:
    if before is None:
        return Unneeded(cycles=1, at=now)
    apart = (now - before.at).total_seconds()
    if not 0 <= apart <= at_most_seconds:
        return Unneeded(cycles=1, at=now)
    return Unneeded(cycles=before.cycles + 1, at=now) if apart >= at_least_seconds else before
