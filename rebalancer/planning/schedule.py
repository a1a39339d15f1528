"""When each migration starts and what bandwidth it gets.

Schedules are made by passes over time (`timeline`) with different orders of preference and
ways of sharing lanes: first the usual rules (longest first, busiest lane first, longest chain
first), then mixtures of them by chance, as many as are affordable. The shortest is kept. Pure
arithmetic: no clock, and the same plan every time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebalancer.cluster.policy import Limits
from rebalancer.planning.bounds import lower_bound_seconds
from rebalancer.planning.jobs import Job, by_lane, tails_of
from rebalancer.planning.order import Ordered
from rebalancer.planning.timeline import ROUNDING, Sharing, Slot, Timeline

GOOD_ENOUGH_RATIO = 1.01
"""A schedule this near to the lower bound is not improved any more."""

JOBS_PLACED = 8_000
MOST_PASSES = 200
"""Passes by chance: as many as put so many jobs in time, which keeps 1,000 migrations within a
few seconds; small plans need no more than 200."""

BOTTLENECK_RATIO = 1.5
"""A lane is the bottleneck of a path if it is so much busier than the path's other lanes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """A slot for each ordered migration, by position."""

    slots: tuple[Slot, ...]
    makespan_seconds: float
    lower_bound_seconds: float


def schedule(moves: Sequence[Ordered], limits: Limits) -> Timetable:
    """Give every migration a start and a bandwidth, so that all are over as soon as possible."""
    jobs = tuple(Job.of(position, ordered) for position, ordered in enumerate(moves))
    bound = lower_bound_seconds(jobs, limits)
    best: tuple[Slot, ...] = ()
    for preference, sharable in _attempts(jobs):
        slots = Timeline(jobs, limits, preference, sharable).slots()
        if not best or _makespan(slots) < _makespan(best) - ROUNDING:
            best = slots
        if _makespan(best) <= GOOD_ENOUGH_RATIO * bound:
            break
    makespan = _makespan(best)
    return Timetable(
        slots=best,
        makespan_seconds=makespan,
        # Transfers go by slices, so a slower one can be shorter by a fraction of a second.
        lower_bound_seconds=min(makespan, bound),
    )


def _makespan(slots: Iterable[Slot]) -> float:
    return max((slot.release_seconds for slot in slots), default=0.0)


type _Attempt = tuple[Sequence[int], Sequence[frozenset[str]]]
"""Place of each job in the order of preference; lanes that each may share."""


def _attempts(jobs: Sequence[Job]) -> Iterator[_Attempt]:
    """Ways to make a schedule, the usual ones first."""
    if not jobs:
        return
    load = {
        lane.name: sum(job.fastest.transfer_bytes for job in users) / lane.budget_bytes_per_second
        for lane, users in by_lane(jobs).items()
    }
    traits = _traits(jobs, load)
    sharable = [_sharable(jobs, load, sharing) for sharing in Sharing]
    for weights in ((0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 0, 1)):
        for shared in sharable:
            yield _places(jobs, traits, weights, [1.0] * len(jobs)), shared
    chance = random.Random(0)
    for _ in range(min(MOST_PASSES, JOBS_PLACED // len(jobs))):
        mixture = (chance.random(), chance.random(), chance.random())
        noise = [chance.uniform(0.7, 1.3) for _ in jobs]
        yield _places(jobs, traits, mixture, noise), chance.choice(sharable)


def _traits(
    jobs: Sequence[Job], load: Mapping[str, float]
) -> tuple[tuple[float, float, float], ...]:
    """What makes a job urgent, in seconds: its busiest lane, its length, the chain behind it."""
    tails = tails_of(jobs)
    return tuple(
        (
            max((load[lane.name] for lane in job.lanes), default=0.0),
            job.seconds,
            tails[job.position],
        )
        for job in jobs
    )


def _places(
    jobs: Sequence[Job],
    traits: Sequence[tuple[float, float, float]],
    weights: Sequence[float],
    noise: Sequence[float],
) -> list[int]:
    """Rank jobs: by importance, guests that need a path alone first, then by urgency."""

    def key(job: Job) -> tuple[float, ...]:
        mixed = sum(w * t for w, t in zip(weights, traits[job.position], strict=True))
        return (job.rank, not job.alone, -mixed * noise[job.position], -job.seconds, job.position)

    places = [0] * len(jobs)
    for place, job in enumerate(sorted(jobs, key=key)):
        places[job.position] = place
    return places


def _sharable(
    jobs: Sequence[Job], load: Mapping[str, float], sharing: Sharing
) -> list[frozenset[str]]:
    """The lanes that each job may use while another one does."""
    if sharing is Sharing.NEVER:
        return [frozenset()] * len(jobs)
    names = [[lane.name for lane in job.lanes] for job in jobs]
    if sharing is Sharing.ALWAYS:
        return [frozenset(each) for each in names]
    return [_bottleneck(each, load) for each in names]


def _bottleneck(lanes: Sequence[str], load: Mapping[str, float]) -> frozenset[str]:
    ranked = sorted(lanes, key=lambda lane: load[lane], reverse=True)
    if len(ranked) > 1 and load[ranked[0]] < BOTTLENECK_RATIO * load[ranked[1]]:
        return frozenset()
    return frozenset(ranked[:1])
