"""When each migration starts and what bandwidth it gets.

Schedules are made by passes over time (`timeline`), each with a preference who goes first and
which lanes are shared: the usual rules of thumb, some mixtures of them by chance, and then a
local search, which hurries migrations that the makespan of the best schedule is made of. As
many passes as are affordable; the shortest schedule is kept. Pure arithmetic: no clock, and the
same plan every time.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rebalancer.cluster.policy import Limits
from rebalancer.planning.bounds import lower_bound_seconds
from rebalancer.planning.jobs import HANDOVER_SECONDS, Job
from rebalancer.planning.order import Ordered
from rebalancer.planning.preference import Preference, Preferences, late_chains
from rebalancer.planning.timeline import Slot, Timeline

GOOD_ENOUGH_RATIO = 1.01
"""A schedule this near to the lower bound is not improved any more."""

JOBS_PLACED = 130_000
MOST_PASSES = 400
"""Passes beyond the usual ones: as many as put so many jobs in time, which keeps 1,000
migrations within a few seconds; small plans need no more than 400."""

PATIENCE = 60
"""Passes without any progress after which the search goes on from elsewhere, or ends."""

SEARCHES = 3
LARGE = 200
"""So often it begins for plans of so many migrations: where one gets stuck is chance. In small
plans chance has less to choose from, and they are made far more often."""

MIXED = 13
"""Passes by chance that a search begins with; it goes on from the best of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """A slot for each ordered migration, by position."""

    slots: tuple[Slot, ...]
    makespan_seconds: float
    lower_bound_seconds: float


def schedule(
    moves: Sequence[Ordered], limits: Limits, handover_seconds: float = HANDOVER_SECONDS
) -> Timetable:
    """Give every migration a start and a bandwidth, so that all are over as soon as possible.

    `handover_seconds` pass around each migration until others can have what it held.
    """
    jobs = tuple(
        Job.of(position, ordered, handover_seconds) for position, ordered in enumerate(moves)
    )
    bound = lower_bound_seconds(jobs, limits)
    best = _search(jobs, limits, bound) if jobs else ()
    makespan = _makespan(best)
    return Timetable(
        slots=best,
        makespan_seconds=makespan,
        # Transfers go by slices, so a slower one can be shorter by a fraction of a second.
        lower_bound_seconds=min(makespan, bound),
    )


def _search(jobs: Sequence[Job], limits: Limits, bound_seconds: float) -> tuple[Slot, ...]:
    """Try preferences until the schedule is good enough, or no more are affordable."""
    attempts = _Attempts(jobs, limits, bound_seconds)
    preferences, chance = Preferences(jobs, limits, bound_seconds), random.Random(0)
    for preference in preferences.usual():
        if attempts.try_out(preference):
            return attempts.shortest
    passes = min(MOST_PASSES, JOBS_PLACED // len(jobs))
    searches, mixed = 1, min(MIXED, passes // 5)
    for _ in range(passes):
        if attempts.in_vain >= PATIENCE:
            if searches == SEARCHES or len(jobs) < LARGE:
                break
            attempts.begin_anew()
            searches, mixed = searches + 1, MIXED
        if mixed:
            preference, mixed = preferences.mixed(chance), mixed - 1
        else:
            preference = preferences.hurried(attempts.promising, attempts.late, chance)
        if attempts.try_out(preference):
            break
    return attempts.shortest


class _Attempts:
    """The schedules that were made, as far as they are worth to be remembered."""

    def __init__(self, jobs: Sequence[Job], limits: Limits, bound_seconds: float) -> None:
        self._jobs = jobs
        self._limits = limits
        self._bound_seconds = bound_seconds
        self._lateness = math.inf
        self.shortest: tuple[Slot, ...] = ()
        self.promising: Preference
        """That of the schedule with the least lateness, which is the one to be improved."""
        self.late: list[list[int]] = []
        self.in_vain = 0
        """Attempts since there was any progress."""

    def try_out(self, preference: Preference) -> bool:
        """Make a schedule; returns whether the shortest so far is good enough."""
        slots = Timeline(
            self._jobs,
            self._limits,
            preference.places,
            preference.sharable,
            preference.least,
        ).slots()
        lateness = self._late_by(slots)
        self.in_vain = 0 if lateness < self._lateness else self.in_vain + 1
        if lateness <= self._lateness:
            self._lateness, self.promising = lateness, preference
            self.late = late_chains(self._jobs, slots, self._bound_seconds)
        if not self.shortest or _makespan(slots) < _makespan(self.shortest):
            self.shortest = slots
        return _makespan(self.shortest) <= GOOD_ENOUGH_RATIO * self._bound_seconds

    def begin_anew(self) -> None:
        """Improve on something else from here on; the shortest schedule is kept."""
        self._lateness, self.in_vain = math.inf, 0

    def _late_by(self, slots: Sequence[Slot]) -> float:
        """How much later than the bound hosts are done, the latest counting most by far.

        The makespan alone does not tell progress where several hosts are the last.
        """
        ends: dict[str, float] = defaultdict(float)
        for job, slot in zip(self._jobs, slots, strict=True):
            ends[job.out_slot] = max(ends[job.out_slot], slot.release_seconds)
        return sum(max(0.0, end / self._bound_seconds - 1) ** 4 for end in ends.values())


def _makespan(slots: Iterable[Slot]) -> float:
    return max((slot.release_seconds for slot in slots), default=0.0)
