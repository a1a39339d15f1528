"""What moving one VM costs: seconds, bytes, and how long the guest stands still.

Pre-copy as QEMU does it, computed and not simulated: no pages, only how many bytes are still
to be sent each time QEMU looks. `docs/migration-model.md` derives it and measures it. Which
mode follows from these numbers is `modes`' business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from rebalancer.cluster.plan import Confidence
from rebalancer.planning.guest import Guest, more_active
from rebalancer.planning.habits import ASSUMED, SETUP_SAFETY, Habits, Safety

RATE_SLICE_SECONDS = 0.1
"""QEMU keeps to a bandwidth by filling slices of this length (BUFFER_DELAY); it looks at what
is left once a slice."""

PAGE_BYTES = 4096
PAGE_HEADER_BYTES = 8
WIRE_RATIO = (PAGE_BYTES + PAGE_HEADER_BYTES) / PAGE_BYTES
"""Every page travels with its address and flags."""

MAX_ROUNDS = 500
STALLED_ROUNDS = 5
LEAST_PROGRESS_RATIO = 0.001
"""Pre-copy that gained less than this in the last rounds will not end by itself."""
STALL_MARGIN_RATIO = 0.04
STALL_ROUNDS = 2
"""The rollout helps a transfer that in two rounds did not come 4 % below the least so far."""

SHUTDOWN_SECONDS = 60.0
BOOT_SECONDS = 60.0
DEFINE_SECONDS = 2.0
"""Cold: the guest ends its services, is defined on the target, and starts them again. Nobody
knows how long without having measured that guest; a minute each is what other systems assume."""

THROTTLE_STEPS = (0.2, 0.3, 0.4, 0.5)
"""Auto-converge takes 20 % of the guest's CPU time, then 10 % more each time it was not enough
(QEMU's defaults). More than half is counted as worse than a planned pause."""

POST_COPY_FAULT_SECONDS = 0.5
"""After the switch the guest waits for pages it touches; pauses of 0.5 to 1.6 s were seen."""

type DirtyLaw = Callable[[float, float, float], float]
"""(dirty bytes per second, working set bytes, seconds) -> distinct bytes written meanwhile."""


def cycling_writes(
    dirty_bytes_per_second: float, working_set_bytes: float, seconds: float
) -> float:
    """Distinct bytes written by a guest that goes round its working set: min(W, D·t).

    No guest of steady habits writes more distinct bytes than this in a time longer than the
    one that D was measured over: what it writes twice is counted once. So it is the bound to
    plan with, and for guests that do go round it is exact.
    """
    return min(working_set_bytes, dirty_bytes_per_second * seconds)


def random_writes(dirty_bytes_per_second: float, working_set_bytes: float, seconds: float) -> float:
    """Distinct bytes written by a guest that hits its working set anywhere: W·(1−exp(−D·t/W)).

    Less than `cycling_writes` for the same rate: nothing is planned with it, it is here to be
    compared with.
    """
    if working_set_bytes <= 0:
        return 0.0
    return -working_set_bytes * math.expm1(-dirty_bytes_per_second * seconds / working_set_bytes)


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
class Precopy:
    """How pre-copy goes as long as nobody steps in."""

    converges: bool
    seconds: float
    """Until the guest is stopped; until it is clear that it never will be, if it is not."""
    sent_bytes: float
    pending_bytes: float
    """Left for the switch-over, or what is left again and again if it does not converge."""
    rounds: int
    stall_seconds: float
    """When two rounds in a row had not come 4 % below the least before them."""
    stall_sent_bytes: float


def precopy(
    guest: Guest,
    bytes_per_second: float,
    max_downtime_seconds: float,
    law: DirtyLaw = cycling_writes,
) -> Precopy:
    """Follow QEMU's pre-copy round by round.

    QEMU sends slices of R·0.1 s. When less than R·max_downtime is left it looks which pages
    were written meanwhile; if that is still less, it stops the guest and sends the rest, else
    the next round begins with what was left plus what was written:

        V[0] = memory;  n = ceil((V[i] − R·d) / (0.1·R));  r = V[i] − 0.1·R·n
        V[i+1] = r·(1 − u/W) + u,  u = min(W, D·0.1·n)        (in round 0: r + u)

    (u/W of the hot bytes left over are among those written again.) After migration.c and ram.c
    of QEMU 7.2.
    """
    rate = bytes_per_second / WIRE_RATIO
    threshold = rate * max_downtime_seconds
    slice_bytes = rate * RATE_SLICE_SECONDS
    hot = max(guest.working_set_bytes, 1.0)
    pending = guest.memory_bytes
    seconds = sent = 0.0
    floor = _Floor()
    while pending > threshold and floor.rounds < MAX_ROUNDS and not floor.is_reached:
        slices = math.ceil((pending - threshold) / slice_bytes)
        moved = min(pending, slices * slice_bytes)
        left = pending - moved
        period = slices * RATE_SLICE_SECONDS
        dirtied = law(guest.dirty_bytes_per_second, guest.working_set_bytes, period)
        again = left * min(1.0, dirtied / hot) if floor.rounds else 0.0
        pending = min(guest.memory_bytes, left + dirtied - again)
        seconds += period
        sent += moved
        floor.see(pending, seconds, sent)
    converges = pending <= threshold
    return Precopy(
        converges=converges,
        seconds=seconds,
        sent_bytes=sent * WIRE_RATIO,
        pending_bytes=(pending if converges else floor.bytes) * WIRE_RATIO,
        rounds=floor.rounds + 1,
        stall_seconds=floor.stall_seconds,
        stall_sent_bytes=floor.stall_sent_bytes * WIRE_RATIO,
    )


@dataclass(slots=True)
class _Floor:
    """What the rounds of one pre-copy came down to so far, and when it was clear."""

    bytes: float = math.inf
    rounds: int = 0
    stall_seconds: float = 0.0
    stall_sent_bytes: float = 0.0
    _low: float = math.inf
    _since_low: int = 0
    _since_progress: int = 0

    def see(self, pending: float, seconds: float, sent: float) -> None:
        self.rounds += 1
        lower = pending < self._low * (1 - STALL_MARGIN_RATIO)
        self._since_low = 0 if lower else self._since_low + 1
        self._low = pending if lower else self._low
        if self._since_low <= STALL_ROUNDS:
            self.stall_seconds, self.stall_sent_bytes = seconds, sent
        progress = pending < self.bytes * (1 - LEAST_PROGRESS_RATIO)
        self._since_progress = 0 if progress else self._since_progress + 1
        self.bytes = min(self.bytes, pending)

    @property
    def is_reached(self) -> bool:
        return self._since_progress >= STALLED_ROUNDS


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


def live(
    guest: Guest, line: Line, max_downtime_seconds: float, law: DirtyLaw = cycling_writes
) -> Estimate:
    """Pre-copy until QEMU ends it by itself.

    downtime = V[n]/R' + c, with R' the rate of the switch-over and c its fixed cost. QEMU may
    stop at anything up to R·max_downtime, so the band reaches to 1.5·(max_downtime + c).
    """
    rate, fixed = line.memory_bytes_per_second, line.switchover_seconds
    course = precopy(guest, rate, max_downtime_seconds, law)
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

    By a tenth, or by as much as the measurement may be off.
    """
    expected = live(guest, line, max_downtime_seconds)
    worse = live(more_active(guest), line, max_downtime_seconds)
    return replace(
        expected,
        converges=expected.converges and worse.converges,
        duration_upper_seconds=max(expected.duration_upper_seconds, worse.duration_upper_seconds),
    )


def downtime_floor_seconds(
    guest: Guest, line: Line, max_downtime_seconds: float, law: DirtyLaw = cycling_writes
) -> float:
    """The shortest pause that pre-copy on this line can get to: V*/R + c.

    V* is what is left again and again however long one waits; if pre-copy converges it is
    what is left when QEMU stops the guest.
    """
    rate = line.memory_bytes_per_second
    course = precopy(guest, rate, max_downtime_seconds, law)
    return course.pending_bytes / rate + line.switchover_seconds


def suspended(
    guest: Guest, line: Line, max_downtime_seconds: float, law: DirtyLaw = cycling_writes
) -> Estimate:
    """Pre-copy until waiting longer gains nothing, then the guest is paused for the rest.

    The limit on bandwidth stays in force during that pause: V*/R + c. The bands are those of a
    guest that writes more, as for `live_for_certain`.
    """
    expected = _suspended(guest, line, max_downtime_seconds, law)
    worse = _suspended(more_active(guest), line, max_downtime_seconds, law)
    return replace(
        expected,
        duration_upper_seconds=max(expected.duration_upper_seconds, worse.duration_upper_seconds),
        downtime_upper_seconds=max(expected.downtime_upper_seconds, worse.downtime_upper_seconds),
    )


def _suspended(guest: Guest, line: Line, max_downtime_seconds: float, law: DirtyLaw) -> Estimate:
    rate = line.memory_bytes_per_second
    course = precopy(guest, rate, max_downtime_seconds, law)
    if course.converges:
        return live(guest, line, max_downtime_seconds, law)
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


def post_copied(
    guest: Guest, line: Line, max_downtime_seconds: float, law: DirtyLaw = cycling_writes
) -> Estimate:
    """One pass of pre-copy, then the VM runs on the target and fetches what was written since."""
    rate = line.memory_bytes_per_second
    course = precopy(guest, rate, max_downtime_seconds, law)
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


def cold() -> Estimate:
    """Shut down on the source, define, start on the target: down all the while.

    Disks are on storage that both hosts reach, so nothing but the definition is transferred. The
    migration is over when the VM is started; that its services are back takes until it has booted.
    """
    moved = SHUTDOWN_SECONDS + DEFINE_SECONDS
    down = moved + BOOT_SECONDS
    safety = Safety()
    return Estimate(
        duration_seconds=moved,
        duration_upper_seconds=safety.transfer_ratio * moved,
        downtime_seconds=down,
        downtime_upper_seconds=safety.downtime_ratio * down,
        transfer_bytes=0.0,
        confidence=Confidence.LOW,
    )


def offline() -> Estimate:
    """Move the definition of a VM that does not run."""
    return Estimate(
        duration_seconds=DEFINE_SECONDS,
        duration_upper_seconds=SETUP_SAFETY * DEFINE_SECONDS,
        downtime_seconds=0.0,
        downtime_upper_seconds=0.0,
        transfer_bytes=0.0,
        confidence=Confidence.HIGH,
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
