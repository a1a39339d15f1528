"""What moving one VM costs: seconds, bytes, and how long the guest stands still.

Made of how pre-copy goes (`precopy`), of what passes without a byte, and of how certain that
is. `docs/migration-model.md` derives and measures it. What moves without its memory being sent
is in `cold` and `saving`; which mode follows from these numbers is `modes`' business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rebalancer.cluster.prediction import Confidence, PredictedPart
from rebalancer.planning.guest import Guest, more_active
from rebalancer.planning.habits import ASSUMED, Habits
from rebalancer.planning.precopy import (
    WIRE_RATIO,
    DirtyLaw,
    Precopy,
    cycling_writes,
    precopy,
)

THROTTLE_STEPS = (0.2, 0.3, 0.4, 0.5)
"""Auto-converge takes 20 % of the guest's CPU time, then 10 % more each time it was not enough
(QEMU's defaults). More than half is counted as worse than a planned pause."""

POST_COPY_FAULT_SECONDS = 0.5
"""After the switch the guest waits for pages it touches; pauses of 0.5 to 1.6 s were seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The bandwidth that one migration has."""

    bytes_per_second: float
    """What it is granted, and QEMU is told to keep to; payload, as QEMU counts it."""
    switchover_bytes_per_second: float
    """What the last bytes travel at: QEMU lifts the limit for them, the NIC does not."""
    round_trip_seconds: float = 0.0
    habits: Habits = ASSUMED
    """How migrations go between its two hosts."""

    @classmethod
    def of(cls, bytes_per_second: float) -> Line:
        """A line with no reserve beyond what is granted."""
        return cls(bytes_per_second=bytes_per_second, switchover_bytes_per_second=bytes_per_second)

    @property
    def memory_bytes_per_second(self) -> float:
        """What memory really travels at while the guest runs."""
        return self.bytes_per_second * self.habits.efficiency_ratio

    @property
    def switchover_seconds(self) -> float:
        """The part of a pause in which no memory travels."""
        # The end of the stream, the target's answer and the source's farewell each cross once.
        return self.habits.switchover_seconds + 2 * self.round_trip_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one migration takes in one mode, on one line.

    `_upper` values are the ends of the band that nine of ten should stay within.
    """

    duration_seconds: float
    duration_upper_seconds: float
    downtime_seconds: float
    downtime_upper_seconds: float
    transfer_bytes: float
    confidence: Confidence
    converges: bool = True
    rounds: int = 0
    throttle_ratio: float = 0.0
    """Share of the guest's CPU time that auto-converge has to take."""
    switchover_seconds: float = 0.0
    """The part of the pause in which no memory travels."""
    stall_seconds: float = 0.0
    """From the start of the transfer: when suspending or switching gains nothing by waiting."""
    parts: tuple[PredictedPart, ...] = ()
    """What takes its time beside memory: local disks, shutting down, saving."""


def live(
    guest: Guest,
    line: Line,
    max_downtime_seconds: float,
    law: DirtyLaw = cycling_writes,
    *,
    is_written_first: bool = False,
) -> Estimate:
    """Pre-copy until QEMU ends it by itself.

    downtime = V[n]/R' + c, with R' the rate of the switch-over and c its fixed cost. QEMU may
    stop at anything up to R·max_downtime, so the band reaches to 1.5·(max_downtime + c).
    """
    rate, fixed = line.memory_bytes_per_second, line.switchover_seconds
    course = precopy(guest, rate, max_downtime_seconds, law, is_written_first=is_written_first)
    downtime = course.pending_bytes / line.switchover_bytes_per_second + fixed
    pause = min(max_downtime_seconds, guest.memory_bytes * WIRE_RATIO / rate)
    safety = line.habits.safety(course.rounds)
    return _estimate(
        guest,
        line,
        transfer=course.seconds + downtime,
        downtime=downtime,
        downtime_upper=max(downtime, safety.downtime_ratio * (pause + fixed)),
        sent=course.sent_bytes + course.pending_bytes,
        course=course,
    )


def live_for_certain(guest: Guest, line: Line, max_downtime_seconds: float) -> Estimate:
    """What to expect of pre-copy, with `converges` and the band as if it wrote more.

    By a tenth, or by as much as the measurement may be off, and where all of it counts.
    """
    expected = live(guest, line, max_downtime_seconds)
    worse = live(more_active(guest), line, max_downtime_seconds, is_written_first=True)
    return replace(
        expected,
        converges=expected.converges and worse.converges,
        duration_upper_seconds=max(expected.duration_upper_seconds, worse.duration_upper_seconds),
    )


def downtime_floor_seconds(guest: Guest, line: Line, max_downtime_seconds: float) -> float:
    """The shortest pause that pre-copy on this line can get to: V*/R + c.

    V* is what is left again and again however long one waits; if pre-copy converges it is
    what is left when QEMU stops the guest.
    """
    rate = line.memory_bytes_per_second
    course = precopy(guest, rate, max_downtime_seconds)
    return course.pending_bytes / rate + line.switchover_seconds


def suspended(guest: Guest, line: Line, max_downtime_seconds: float) -> Estimate:
    """Pre-copy until waiting longer gains nothing, then the guest is paused for the rest.

    The limit on bandwidth stays in force during that pause: V*/R + c. The bands are those of a
    guest that writes more, as for `live_for_certain`.
    """
    expected = _suspended(guest, line, max_downtime_seconds)
    worse = _suspended(more_active(guest), line, max_downtime_seconds, is_written_first=True)
    return replace(
        expected,
        duration_upper_seconds=max(expected.duration_upper_seconds, worse.duration_upper_seconds),
        downtime_upper_seconds=max(expected.downtime_upper_seconds, worse.downtime_upper_seconds),
    )


def _suspended(
    guest: Guest, line: Line, max_downtime_seconds: float, *, is_written_first: bool = False
) -> Estimate:
    rate = line.memory_bytes_per_second
    course = precopy(guest, rate, max_downtime_seconds, is_written_first=is_written_first)
    if course.converges:
        return live(guest, line, max_downtime_seconds, is_written_first=is_written_first)
    downtime = course.pending_bytes / rate + line.switchover_seconds
    return _estimate(
        guest,
        line,
        transfer=course.stall_seconds + downtime,
        downtime=downtime,
        downtime_upper=line.habits.safety(course.rounds).downtime_ratio * downtime,
        sent=course.stall_sent_bytes + course.pending_bytes,
        course=course,
    )


def auto_converged(guest: Guest, line: Line, max_downtime_seconds: float) -> Estimate:
    """Pre-copy while the guest's CPUs are slowed until it ends, at the mildest step that does.

    Writing slows down with the CPUs. Each step is tried for one round over the working set
    before QEMU takes the next one. `converges` is false when half of the CPU is not enough.
    """
    round_bytes = guest.working_set_bytes * WIRE_RATIO
    for tried, throttle in enumerate(THROTTLE_STEPS, start=1):
        slowed = replace(
            guest, dirty_bytes_per_second=guest.dirty_bytes_per_second * (1 - throttle)
        )
        found = live_for_certain(slowed, line, max_downtime_seconds)
        if found.converges:
            return _delayed(found, tried * round_bytes, line, throttle)
    return replace(found, throttle_ratio=throttle)


def _delayed(estimate: Estimate, extra_bytes: float, line: Line, throttle: float) -> Estimate:
    extra = extra_bytes / line.memory_bytes_per_second
    safety = line.habits.safety(estimate.rounds)
    return replace(
        estimate,
        duration_seconds=estimate.duration_seconds + extra,
        duration_upper_seconds=estimate.duration_upper_seconds + safety.transfer_ratio * extra,
        transfer_bytes=estimate.transfer_bytes + extra_bytes,
        throttle_ratio=throttle,
    )


def post_copied(guest: Guest, line: Line, max_downtime_seconds: float) -> Estimate:
    """One pass of pre-copy, then the VM runs on the target and fetches what was written since."""
    rate = line.memory_bytes_per_second
    course = precopy(guest, rate, max_downtime_seconds)
    downtime = line.switchover_seconds + POST_COPY_FAULT_SECONDS
    rest = course.pending_bytes
    return _estimate(
        guest,
        line,
        transfer=course.stall_seconds + downtime + rest / rate,
        downtime=downtime,
        downtime_upper=line.habits.safety(course.rounds).downtime_ratio * downtime,
        sent=course.stall_sent_bytes + rest,
        course=course,
    )


def max_downtime_for(limit_seconds: float, line: Line) -> float:
    """What QEMU may be told as `max_downtime` so that the pause's band ends at the limit.

    s·(max_downtime + c) = limit, s the safety of a restless guest: how many rounds it takes is
    not known yet. Not positive where the switch-over alone takes too long.
    """
    safety = max(line.habits.calm.downtime_ratio, line.habits.restless.downtime_ratio)
    return limit_seconds / safety - line.switchover_seconds


def _estimate(
    guest: Guest,
    line: Line,
    *,
    transfer: float,
    downtime: float,
    downtime_upper: float,
    sent: float,
    course: Precopy,
) -> Estimate:
    setup, safety = line.habits.setup_seconds, line.habits.safety(course.rounds)
    return Estimate(
        duration_seconds=setup + transfer,
        duration_upper_seconds=safety.setup_ratio * setup + safety.transfer_ratio * transfer,
        downtime_seconds=downtime,
        downtime_upper_seconds=downtime_upper,
        transfer_bytes=sent,
        confidence=guest.confidence,
        converges=course.converges,
        rounds=course.rounds,
        switchover_seconds=line.switchover_seconds,
        stall_seconds=course.stall_seconds,
    )
