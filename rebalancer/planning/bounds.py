"""How short a schedule could be at best: what its makespan is printed beside."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from rebalancer.cluster.policy import Limits
from rebalancer.planning.jobs import Job, by_lane, tails_of
from rebalancer.planning.network import Lane


def lower_bound_seconds(jobs: Sequence[Job], limits: Limits) -> float:
    """No schedule of these migrations is shorter than the largest of these.

    The busiest lane; the longest chain of migrations that wait for each other; the seconds of
    all migrations out of, or into, one host over its slots; those of all over the cluster's.
    Each migration counts with the least it can take.
    """
    outward: dict[str, float] = defaultdict(float)
    inward: dict[str, float] = defaultdict(float)
    for job in jobs:
        outward[job.out_slot] += job.seconds
        inward[job.in_slot] += job.seconds
    return max(
        max(tails_of(jobs), default=0.0),
        max(outward.values(), default=0.0) / limits.per_host_out,
        max(inward.values(), default=0.0) / limits.per_host_in,
        sum(job.seconds for job in jobs) / limits.cluster,
        max(
            (_lane_seconds(lane, users, limits) for lane, users in by_lane(jobs).items()),
            default=0.0,
        ),
    )


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
