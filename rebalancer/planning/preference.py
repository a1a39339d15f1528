"""Which migrations go first, and which lanes they share: what a pass over time starts from.

A preference is the usual rules of thumb (longest first, busiest lane first, longest chain
first) and mixtures of them. It never sets importance aside: drains come before repairs, and
those before balance.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rebalancer.cluster.policy import Limits
from rebalancer.planning.bounds import tails_of
from rebalancer.planning.jobs import Job, by_lane
from rebalancer.planning.network import whole_mib
from rebalancer.planning.timeline import Sharing, Slot

BOTTLENECK_RATIO = 1.5
"""A lane is the bottleneck of a path if it is so much busier than the path's other lanes."""

LONG_PARTS = 8
"""A migration that takes more than this part of everything together is a long one."""

NOISE = (0.7, 1.3)
"""So far a mixture may be off, so that no two are the same."""

SHARING_CHANGED = 0.4
"""How often a late chain is made to share otherwise, and not to go earlier."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Preference:
    """What a pass over time starts from; both by job."""

    places: Sequence[float]
    """Who may start is asked in this order, smallest first."""
    sharable: Sequence[frozenset[str]]
    """Lanes that each job may use while another one does."""
    least: Sequence[float]
    """Bytes per second below which each job does not start: more than it must have where it
    had better wait for its full speed."""


class _Terms(NamedTuple):
    """The last two for one job."""

    sharable: frozenset[str]
    least: float


class Preferences:
    """Makes preferences for one set of jobs."""

    def __init__(self, jobs: Sequence[Job], limits: Limits, bound_seconds: float) -> None:
        """Look up how busy lanes are, and how long chains."""
        self._jobs = jobs
        self._load = {
            lane.name: sum(j.fastest.transfer_bytes for j in users) / lane.budget_bytes_per_second
            for lane, users in by_lane(jobs).items()
        }
        self._traits = _traits(jobs, limits, self._load)
        self._terms = [
            [_terms(job, self._load, way, bound_seconds) for job in jobs] for way in _WAYS
        ]

    def usual(self) -> Iterator[Preference]:
        """The rules of thumb, each with every way of sharing lanes."""
        level = [1.0] * len(self._jobs)
        rules = [((0, 0, 1), True), ((1, 0, 0), True), ((0, 1, 0), True), ((1, 0, 1), True)]
        if len({job.alone for job in self._jobs}) > 1:
            rules.append(((0, 0, 1), False))
        for weights, alone_first in rules:
            places = self._places(weights, level, alone_first=alone_first)
            for terms in self._terms:
                yield _preference(places, terms)

    def mixed(self, chance: random.Random) -> Preference:
        """A mixture of the rules by chance."""
        weights = (chance.random(), chance.random(), chance.random())
        noise = [chance.uniform(*NOISE) for _ in self._jobs]
        places = self._places(weights, noise, alone_first=chance.random() < 0.5)
        return _preference(places, chance.choice(self._terms))

    def hurried(
        self, found: Preference, late: Sequence[Sequence[int]], chance: random.Random
    ) -> Preference:
        """The same with some jobs of each `late` chain earlier, or sharing lanes otherwise."""
        places = list(found.places)
        terms = [_Terms(*each) for each in zip(found.sharable, found.least, strict=True)]
        for chain in late:
            count = 1 + min(int(chance.expovariate(1.0)), len(chain) - 1)
            other = chance.choice(self._terms) if chance.random() < SHARING_CHANGED else None
            for position in chance.sample(chain, count):
                if other is None:
                    places[position] *= chance.random()
                else:
                    terms[position] = other[position]
        return _preference(self._ranked(places), terms)

    def _places(
        self, weights: Sequence[float], noise: Sequence[float], *, alone_first: bool
    ) -> list[float]:
        """Rank jobs by urgency, those that need a path alone before all others if asked to."""

        def key(job: Job) -> tuple[float, ...]:
            mixed = sum(w * t for w, t in zip(weights, self._traits[job.position], strict=True))
            later = alone_first and not job.alone
            return (later, -mixed * noise[job.position], -job.seconds, job.position)

        places = [0.0] * len(self._jobs)
        for place, job in enumerate(sorted(self._jobs, key=key), start=1):
            places[job.position] = place
        return self._ranked(places)

    def _ranked(self, places: Sequence[float]) -> list[float]:
        """Number the jobs anew: the important ones first, each kind in the order of `places`."""
        ranked = [0.0] * len(places)
        order = sorted(self._jobs, key=lambda job: (job.rank, places[job.position], job.position))
        for place, job in enumerate(order, start=1):
            ranked[job.position] = place
        return ranked


def _preference(places: Sequence[float], terms: Sequence[_Terms]) -> Preference:
    return Preference(
        places=places,
        sharable=[each.sharable for each in terms],
        least=[each.least for each in terms],
    )


def late_chains(
    jobs: Sequence[Job], slots: Sequence[Slot], bound_seconds: float
) -> list[list[int]]:
    """Why hosts are done late: of each its last job, whom that waited for, and so on."""
    ended: dict[float, list[int]] = defaultdict(list)
    last: dict[str, int] = {}
    for position, slot in enumerate(slots):
        ended[_instant(slot.release_seconds)].append(position)
        host = jobs[position].out_slot
        if slot.release_seconds > max(bound_seconds, _end(slots, last.get(host))):
            last[host] = position
    needs = [
        {f"{job.out_slot} out", f"{job.in_slot} in", *(lane.name for lane in job.lanes)}
        for job in jobs
    ]

    def waited_for(position: int) -> int | None:
        before = ended.get(_instant(slots[position].start_seconds), ())
        on = jobs[position].ordered.depends_on
        return next((p for p in before if p in on or needs[p] & needs[position]), None)

    chains = []
    for end in last.values():
        chain, here = [end], waited_for(end)
        while here is not None:
            chain.append(here)
            here = waited_for(here)
        chains.append(chain)
    return chains


def _instant(seconds: float) -> float:
    return round(seconds, 4)


def _end(slots: Sequence[Slot], position: int | None) -> float:
    return 0.0 if position is None else slots[position].release_seconds


def _traits(
    jobs: Sequence[Job], limits: Limits, load: Mapping[str, float]
) -> tuple[tuple[float, float, float], ...]:
    """What makes a job urgent, in seconds: its busiest lane, its length, what is behind it."""
    tails = tails_of(jobs, limits)
    return tuple(
        (
            max((load[lane.name] for lane in job.lanes), default=0.0),
            job.seconds,
            tails[job.position],
        )
        for job in jobs
    )


def _never_full(job: Job) -> frozenset[str]:
    """The lanes that carry two such jobs at full speed: waiting for each other gains nothing.

    Between distant sites a stream is limited by its TCP window, and the link carries many.
    """
    return frozenset(
        lane.name for lane in job.lanes if 2 * job.most <= lane.budget_bytes_per_second
    )


class _Way(NamedTuple):
    """A way to share lanes."""

    sharing: Sharing
    long_ones_in_halves: bool = False
    """Long migrations share with one other at most."""


_WAYS = (
    *map(_Way, Sharing),
    _Way(Sharing.ON_BOTTLENECKS, long_ones_in_halves=True),
    _Way(Sharing.ALWAYS, long_ones_in_halves=True),
)


def _terms(job: Job, load: Mapping[str, float], way: _Way, bound_seconds: float) -> _Terms:
    """On which lanes a job may start while another one uses them, and with how much.

    One that takes half as long as everything together shares only what it cannot fill: with half
    of its bandwidth the schedule would be longer for it alone. One that takes a good part of it
    had often better share with one other at most: it keeps what it is granted to its end, however
    soon the others are done.
    """
    sharing = way.sharing
    never_full = _never_full(job)
    if sharing is Sharing.NEVER or 2 * job.seconds > bound_seconds:
        return _Terms(sharable=never_full, least=job.most)
    lanes = [lane.name for lane in job.lanes]
    shared = frozenset(lanes) if sharing is Sharing.ALWAYS else _bottleneck(lanes, load)
    is_long = way.long_ones_in_halves and LONG_PARTS * job.seconds > bound_seconds
    least = max(job.least, whole_mib(job.most / 2)) if is_long else job.least
    return _Terms(sharable=never_full | shared, least=least)


def _bottleneck(lanes: Sequence[str], load: Mapping[str, float]) -> frozenset[str]:
    ranked = sorted(lanes, key=lambda lane: load[lane], reverse=True)
    if len(ranked) > 1 and load[ranked[0]] < BOTTLENECK_RATIO * load[ranked[1]]:
        return frozenset()
    return frozenset(ranked[:1])
