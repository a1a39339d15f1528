"""How short a schedule could be at best: what its makespan is printed beside."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from rebalancer.cluster.policy import Limits
from rebalancer.planning.jobs import Job, by_lane
from rebalancer.planning.network import Lane

ROUNDING = 1e-6

HALVINGS = 30
LARGEST_SCALE = 2.0**60
"""Of grants in proportion: with so large a one everybody has the most that it can use."""


def lower_bound_seconds(jobs: Sequence[Job], limits: Limits) -> float:
    """No schedule of these migrations is shorter than the largest of these.

    The busiest lane; the longest chain of migrations that wait for each other; the seconds of
    all migrations out of, or into, one host over its slots; those of all over the cluster's.
    Each migration counts with the least it can take. Where migrations share a lane or slots and
    none of them can start before others have ended, or others wait for each of them, that time
    comes on top (the one-machine relaxation of Carlier, 1982).
    """
    if not jobs:
        return 0.0
    tails = tails_of(jobs, limits)
    chains = _Chains(
        heads=_heads_of(jobs, limits),
        rests=tuple(tail - job.seconds for tail, job in zip(tails, jobs, strict=True)),
    )
    outward: dict[str, list[Job]] = defaultdict(list)
    inward: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        outward[job.out_slot].append(job)
        inward[job.in_slot].append(job)
    groups: list[tuple[Sequence[Job], Callable[[Sequence[Job]], float]]] = [
        (jobs, partial(_slots_needed, limits.cluster)),
        *((each, partial(_slots_needed, limits.per_host_out)) for each in outward.values()),
        *((each, partial(_slots_needed, limits.per_host_in)) for each in inward.values()),
        *((users, partial(_lane_needed, lane, limits)) for lane, users in by_lane(jobs).items()),
    ]
    return max(max(tails), *(chains.around(members, needed) for members, needed in groups))


def tails_of(jobs: Sequence[Job], limits: Limits) -> tuple[float, ...]:
    """Seconds that pass at least from the start of each job to the end of all that waits for it.

    The longest chain; and where several jobs that wait for it share a lane, what that lane
    needs for them, and the shortest of what waits for one of these.
    """
    behind: list[list[Job]] = [[] for _ in jobs]
    for job in jobs:
        for other in job.ordered.depends_on:
            behind[other].append(job)
    rests = [0.0] * len(jobs)
    # Every job comes after what it depends on, so one walk backwards will do.
    for job in reversed(jobs):
        rests[job.position] = _around(behind[job.position], rests, limits)
    return tuple(job.seconds + rest for job, rest in zip(jobs, rests, strict=True))


def _heads_of(jobs: Sequence[Job], limits: Limits) -> tuple[float, ...]:
    """Seconds from the start of everything to the earliest start of each job, likewise."""
    heads = [0.0] * len(jobs)
    for job in jobs:
        before = [jobs[other] for other in job.ordered.depends_on]
        heads[job.position] = _around(before, heads, limits)
    return tuple(heads)


def _around(members: Sequence[Job], beyond: Sequence[float], limits: Limits) -> float:
    """The least time that jobs take of which each has so much before it, or behind it."""
    if not members:
        return 0.0
    longest = max(beyond[job.position] + job.seconds for job in members)
    shared = (
        min(beyond[job.position] for job in users) + _lane_needed(lane, limits, users)
        for lane, users in by_lane(members).items()
        if len(users) > 1
    )
    return max(longest, *shared, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chains:
    """What comes before and after each job at least, in seconds, by position."""

    heads: Sequence[float]
    rests: Sequence[float]

    def around(self, jobs: Sequence[Job], needed: Callable[[Sequence[Job]], float]) -> float:
        """The least time for jobs that share something, with what comes before and after.

        Of those that cannot start before h, none does, so that h passes before the time that
        they need; and when the last of them ends, the shortest of what waits for one is left.
        """
        late = sorted(jobs, key=lambda job: self.heads[job.position])
        starts = sorted({self.heads[job.position] for job in jobs})
        found, first = 0.0, 0
        for head in starts:
            while self.heads[late[first].position] < head:
                first += 1
            members = late[first:]
            rest = min(self.rests[job.position] for job in members)
            found = max(found, head + needed(members) + rest)
        return found


def _slots_needed(slots: int, jobs: Sequence[Job]) -> float:
    return _slot_seconds([job.seconds for job in jobs], slots)


def _lane_needed(lane: Lane, limits: Limits, users: Sequence[Job]) -> float:
    return max(_lane_seconds(lane, users, limits), _places_seconds(lane, users))


def _slot_seconds(seconds: Sequence[float], slots: int) -> float:
    """How long so many slots are needed at least by jobs of so many seconds.

    All together over the slots; but jobs are not cut up: of the k·slots + 1 longest, k + 1 have
    to go one after the other (Graham, Bounds on Multiprocessing Timing Anomalies).
    """
    longest_first = sorted(seconds, reverse=True)
    before = [0.0, *accumulate(longest_first)]
    rounds = (
        before[count] - before[count - number]
        for number, count in enumerate(range(1, len(longest_first) + 1, slots), start=1)
    )
    return max(before[-1] / slots, max(rounds, default=0.0))


def _places_seconds(lane: Lane, users: Sequence[Job]) -> float:
    """The same with as many slots as the lane has room for grants, the least that is wanted."""
    least = min(job.least for job in users)
    if least <= 0:
        return 0.0
    places = max(1, int((lane.budget_bytes_per_second + ROUNDING) // least))
    return _slot_seconds([job.seconds for job in users], places)


def _lane_seconds(lane: Lane, users: Sequence[Job], limits: Limits) -> float:
    """How long a lane is needed at least.

    Its budget B carries all bytes b[i]: T ≥ Σb/B. But a migration also holds its grant r[i]
    for s[i] seconds without using it, and only K of them have a slot at a time:

        Σ r[i]·(s[i] + b[i]/r[i]) ≤ B·T   and   Σ (s[i] + b[i]/r[i]) ≤ K·T.

    Small grants waste little bandwidth but many slots, and none is less than a migration must
    have. The least T that both allow is had with r[i] = λ·√(b[i]/s[i]), kept within what it must
    have and can use (Lagrange); λ is found by halving: with it the first sum grows and the second
    falls.
    """
    budget = lane.budget_bytes_per_second
    slots = min(limits.cluster, max(limits.per_host_out, limits.per_host_in))
    if lane.is_shared:
        slots = limits.cluster
    total = sum(job.streamed_bytes for job in users)
    idle = sum(job.idle_seconds for job in users)

    def needed(scale: float) -> tuple[float, float]:
        """Seconds by bandwidth and by slots with grants of that scale."""
        held = streaming = 0.0
        for job in users:
            shape = math.sqrt(job.streamed_bytes / job.idle_seconds)
            grant = min(job.most, max(job.least, scale * shape))
            held += grant * job.idle_seconds
            streaming += job.streamed_bytes / grant
        return (total + held) / budget, (idle + streaming) / slots

    by_bandwidth, by_slots = needed(0.0)
    if by_bandwidth >= by_slots:
        return by_bandwidth
    low, high = 0.0, 1.0
    by_bandwidth, by_slots = needed(high)
    while by_bandwidth < by_slots:
        if high > LARGEST_SCALE:
            return by_slots
        low, high = high, 2 * high
        by_bandwidth, by_slots = needed(high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        by_bandwidth, by_slots = needed(middle)
        low, high = (middle, high) if by_bandwidth < by_slots else (low, middle)
    # The one sum grows and the other falls, so the least T is above the lesser of both at each end.
    return max(min(needed(low)), min(needed(high)))
