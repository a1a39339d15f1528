"""One pass over time: whatever is ready starts as soon as lanes and slots have room for it."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from rebalancer.cluster.policy import Limits
from rebalancer.planning.cost import Estimate
from rebalancer.planning.jobs import HANDOVER_SECONDS, Job
from rebalancer.planning.network import whole_mib

ROUNDING = 1e-6


class Sharing(Enum):
    """When a migration may start on a lane that another one is using."""

    NEVER = "never"
    """Each has what it can fill for itself: fast, but set-up times are lost."""
    ON_BOTTLENECKS = "on bottlenecks"
    """Only on the lane that is by far the busiest of its path, so that the others stay free."""
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One migration in time, with its bandwidth."""

    start_seconds: float
    bytes_per_second: float
    estimate: Estimate
    handover_seconds: float = HANDOVER_SECONDS

    @property
    def release_seconds(self) -> float:
        """When it should be over and seen to be, so that others can have what it held."""
        return self.start_seconds + self.estimate.duration_seconds + self.handover_seconds


class Timeline:
    """Puts jobs in time, preferring those with a smaller place in `preference`."""

    def __init__(
        self,
        jobs: Sequence[Job],
        limits: Limits,
        preference: Sequence[float],
        sharable: Sequence[frozenset[str]],
        least: Sequence[float] | None = None,
    ) -> None:
        """`sharable` are the lanes that each job may use while another one does.

        `least` is the bandwidth in bytes per second below which it does not start, if that is
        not what it must have.
        """
        self._jobs = jobs
        self._preference = preference
        self._sharable = sharable
        self._lanes = tuple(tuple(lane.name for lane in job.lanes) for job in jobs)
        self._free = {lane.name: lane.budget_bytes_per_second for job in jobs for lane in job.lanes}
        self._users: dict[str, int] = defaultdict(int)
        self._closed: dict[str, int] = defaultdict(int)
        """Lanes with a user that does not share them."""
        self._alone_on = tuple(
            tuple(lane for lane in lanes if lane not in shared)
            for lanes, shared in zip(self._lanes, sharable, strict=True)
        )
        self._hosts = tuple((job.out_slot, job.in_slot) for job in jobs)
        self._least = tuple(job.least for job in jobs) if least is None else least
        self._out: dict[str, int] = defaultdict(lambda: limits.per_host_out)
        self._in: dict[str, int] = defaultdict(lambda: limits.per_host_in)
        self._cluster = limits.cluster
        self._open = [len(job.ordered.depends_on) for job in jobs]
        self._dependants: dict[int, list[int]] = defaultdict(list)
        for job in jobs:
            for other in job.ordered.depends_on:
                self._dependants[other].append(job.position)
        self._needs = tuple(
            frozenset({f"{job.out_slot} out", f"{job.in_slot} in", *lanes})
            for job, lanes in zip(jobs, self._lanes, strict=True)
        )
        self._waiting: dict[str, set[int]] = defaultdict(set)
        """Jobs that are ready to start, by what they need."""
        self._ready: set[int] = set()
        self._worth_a_look: set[int] = set()
        """Ready jobs that may fit although they did not before."""
        for job in jobs:
            if not job.ordered.depends_on:
                self._make_ready(job.position)
        self._slots: dict[int, Slot] = {}
        self._running: list[tuple[float, int]] = []

    def slots(self) -> tuple[Slot, ...]:
        """Run through time until every job has its slot."""
        now = 0.0
        while self._ready or self._running:
            self._start_all(now)
            now = self._next_end(now)
        return tuple(self._slots[job.position] for job in self._jobs)

    def _next_end(self, now: float) -> float:
        """Let time pass until something ends, with all that ends at the same instant."""
        if not self._running:
            # With everything free the first ready job fits: it needs at most its path.
            raise AssertionError(f"nothing runs at {now} and nothing can start")
        end = self._running[0][0]
        while self._running and self._running[0][0] <= end + ROUNDING:
            end, position = heapq.heappop(self._running)
            self._release(position)
        return end

    def _make_ready(self, position: int) -> None:
        self._ready.add(position)
        self._worth_a_look.add(position)
        for need in self._needs[position]:
            self._waiting[need].add(position)

    def _release(self, position: int) -> None:
        """Give back what a job held, and look again at those that may have waited for it."""
        job, slot = self._jobs[position], self._slots[position]
        for lane in self._lanes[position]:
            self._free[lane] += slot.bytes_per_second
            self._users[lane] -= 1
        for lane in self._alone_on[position]:
            self._closed[lane] -= 1
        self._out[job.out_slot] += 1
        self._in[job.in_slot] += 1
        self._cluster += 1
        for need in self._needs[position]:
            self._worth_a_look |= self._waiting[need]
        for other in self._dependants[position]:
            self._open[other] -= 1
            if self._open[other] == 0:
                self._make_ready(other)

    def _start_all(self, now: float) -> None:
        starting = self._choose()
        for position, rate in self._share(starting).items():
            choice = self._jobs[position].ordered.move.choice
            slot = Slot(
                start_seconds=now,
                bytes_per_second=rate,
                estimate=choice.estimate(rate),
                handover_seconds=self._jobs[position].handover_seconds,
            )
            self._slots[position] = slot
            for lane in self._lanes[position]:
                self._free[lane] -= rate
            heapq.heappush(self._running, (slot.release_seconds, position))

    def _choose(self) -> list[int]:
        """Pick what starts now: first one per idle lane, then more where slots are left."""
        starting: list[int] = []
        taken: dict[str, float] = defaultdict(float)
        candidates = sorted(self._worth_a_look, key=self._preference.__getitem__)
        for sharing in (False, True):
            for position in candidates:
                if self._cluster == 0:
                    # Whoever was not looked at may fit as soon as anything ends.
                    self._worth_a_look = set(self._ready)
                    return starting
                if position in self._ready and self._may_start(position, sharing, taken):
                    starting.append(position)
                    self._occupy(position, taken)
        self._worth_a_look = set()
        return starting

    def _may_start(self, position: int, sharing: bool, taken: Mapping[str, float]) -> bool:
        source, target = self._hosts[position]
        if self._out[source] == 0 or self._in[target] == 0:
            return False
        # A lane is free, or it is in use and all of its users, this one too, may share it.
        if not sharing and any(map(self._users.__getitem__, self._lanes[position])):
            return False
        if any(map(self._users.__getitem__, self._alone_on[position])):
            return False
        least = self._least[position]
        for lane in self._lanes[position]:
            if self._closed[lane] or self._free[lane] - taken[lane] + ROUNDING < least:
                return False
        return True

    def _occupy(self, position: int, taken: dict[str, float]) -> None:
        job = self._jobs[position]
        self._ready.discard(position)
        for need in self._needs[position]:
            self._waiting[need].discard(position)
        for lane in self._lanes[position]:
            taken[lane] += self._least[position]
            self._users[lane] += 1
        for lane in self._alone_on[position]:
            self._closed[lane] += 1
        self._out[job.out_slot] -= 1
        self._in[job.in_slot] -= 1
        self._cluster -= 1

    def _share(self, starting: Sequence[int]) -> Mapping[int, float]:
        """Share what is free max-min fairly: all rise together until a lane or path is full."""
        rate = {position: self._least[position] for position in starting}
        free: dict[str, float] = {}
        for position in starting:
            for lane in self._lanes[position]:
                free[lane] = free.get(lane, self._free[lane]) - rate[position]
        rising = {p for p in starting if rate[p] < self._jobs[p].most}
        while rising:
            count: dict[str, int] = defaultdict(int)
            for position in rising:
                for lane in self._lanes[position]:
                    count[lane] += 1
            step = min(
                min(free[lane] / number for lane, number in count.items()),
                min(self._jobs[p].most - rate[p] for p in rising),
            )
            for position in rising:
                rate[position] += step
            for lane, number in count.items():
                free[lane] -= step * number
            rising = {
                p
                for p in rising
                if self._jobs[p].most - rate[p] > ROUNDING
                and all(free[lane] > ROUNDING * count[lane] for lane in self._lanes[p])
            }
        return {position: whole_mib(rate[position] + ROUNDING) for position in starting}
