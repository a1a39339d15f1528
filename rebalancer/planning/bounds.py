"""How short a schedule could be at best: what its makespan is printed beside."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

from rebalancer.cluster.policy import Limits
from rebalancer.planning.jobs import Job, by_lane, tails_of
from rebalancer.planning.network import Lane

ROUNDING = 1e-6


def lower_bound_seconds(jobs: Sequence[Job], limits: Limits) -> float:
    """No schedule of these migrations is shorter than the largest of these.

    The busiest lane; the longest chain of migrations that wait for each other; the seconds of
    all migrations out of, or into, one host over its slots; those of all over the cluster's.
    Each migration counts with the least it can take.
    """
    outward: dict[str, list[float]] = defaultdict(list)
    inward: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        outward[job.out_slot].append(job.seconds)
        inward[job.in_slot].append(job.seconds)
    return max(
        max(tails_of(jobs), default=0.0),
        max((_slot_seconds(each, limits.per_host_out) for each in outward.values()), default=0.0),
        max((_slot_seconds(each, limits.per_host_in) for each in inward.values()), default=0.0),
        _slot_seconds([job.seconds for job in jobs], limits.cluster),
        max(
            (
                max(_lane_seconds(lane, users, limits), _places_seconds(lane, users))
                for lane, users in by_lane(jobs).items()
            ),
            default=0.0,
        ),
    )


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

    Small grants waste little bandwidth but many slots. With Σ r·s · Σ b/r ≥ min(s)·(Σ√b)²
    (Cauchy-Schwarz) both hold only if (B·T − Σb)·(K·T − Σs) ≥ min(s)·(Σ√b)²: T is at least the
    larger root of that.
    """
    budget = lane.budget_bytes_per_second
    slots = min(limits.cluster, max(limits.per_host_out, limits.per_host_in))
    if lane.joins_sites:
        slots = limits.cluster
    total = sum(job.streamed_bytes for job in users)
    roots = sum(math.sqrt(job.streamed_bytes) for job in users)
    idle = sum(job.idle_seconds for job in users)
    least_idle = min(job.idle_seconds for job in users)
    # B·K·T² − (B·Σs + K·Σb)·T + Σb·Σs − min(s)·(Σ√b)² = 0
    linear = budget * idle + slots * total
    constant = total * idle - least_idle * roots**2
    discriminant = max(0.0, linear**2 - 4 * budget * slots * constant)
    return (linear + math.sqrt(discriminant)) / (2 * budget * slots)
