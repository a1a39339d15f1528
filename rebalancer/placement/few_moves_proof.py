"""The best of all sets of up to three moves, and the proof that none is better.

Moves that share no host do not know of each other: the cost of a set is that of its moves one by
one, and what each two of them add that touch the same host. Both are put into tables, so that
millions of sets are judged by adding up rows of them. A host that all three moves touch costs
more than its pairs say only where its curves bend otherwise than a square: that is added, too.

What guards have to say depends on the sum over all hosts. In the tables it counts at a price
instead (Lagrangian relaxation: Fisher, Management Science 27(1), 1981): as long as that is no
more than a guard's own, no set costs less than its tables say. Sets that by these could be better
than the best known one are then judged exactly, and tried on a layout, which knows of all rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.curves import Switch
from rebalancer.placement.few_moves_tables import Ground, Moves, Tables, fair_prices
from rebalancer.placement.layout import TIER_RATIO, Layout, scale_of
from rebalancer.placement.objectives import Tier
from rebalancer.placement.ordering import needs_parking
from rebalancer.placement.problem import PlacementProblem
from rebalancer.placement.program import choices_of

PROVED_AT_MOST = 3
"""Moves in a set: with each one more, there are hundreds of times as many sets."""
MOVES_AT_MOST = 1200
"""Single moves, about units times hosts: tables have the square of that."""
SETS_AT_MOST = 40_000_000
"""Sets that are judged by tables before it is given up: half a second."""
TRIED_AT_MOST = 600
"""Sets that are tried one by one before it is given up."""
PROMISING = 2_000
"""Sets that are judged exactly first, so that there is something good to compare with."""
LEADING = 200
"""Pairs that those are the best continuations of."""
BATCH = 10_000
"""Sets that are judged exactly at once."""
EXACTLY = 30
"""How many times as long it takes to judge a set exactly as by tables."""
SAME = 1e-9
"""Costs that differ by this share of them, or of 1, are the same."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proved:
    """The best placement that few moves lead to."""

    x: Ints
    bound: float
    """No placement with so few moves costs less in the tier."""
    others: tuple[Ints, ...]
    """The best one whose moves can be made one after the other, if `x` is none such."""

    @property
    def easiest(self) -> Ints:
        """The best one that there is a way to."""
        return self.others[0] if self.others else self.x


def best_of_all_sets(
    problem: PlacementProblem, tier: Tier, x: Ints, budget: Budget
) -> Proved | None:
    """Find the best placement that the moves left in the budget lead to from `x`.

    All placements count that keep the limits that `x` keeps. `None` where there may be too many
    moves or sets to judge, where the tier has a term that is not a sum over hosts, and where
    something has to move whatever the goals say: that does not count, and may be anywhere.
    """
    if budget.moves is None or budget.moves > PROVED_AT_MOST:
        return None
    if (x != problem.start).any() or (budget.exempt is not None and budget.exempt.any()):
        return None
    if any(isinstance(curve, Switch) for curve in tier.curves):
        return None
    if problem.unit_count * (problem.host_count - 1) > 4 * MOVES_AT_MOST:
        return None
    choices = choices_of(problem, x, range(problem.unit_count), problem.receives)
    if sum(len(hosts) - 1 for hosts in choices.values()) > MOVES_AT_MOST:
        return None
    best = _Best(problem, tier, x)
    try:
        moves = _moves(choices, x)
        _Search(best, Ground(problem, tier, x), moves, budget).run(budget.moves)
    except _GivenUpError:
        return None
    return best.proved()


class _GivenUpError(Exception):
    """There is more to judge than there is time for."""


def _moves(choices: Mapping[int, list[int]], x: Ints) -> Moves:
    moves = [
        (unit, int(x[unit]), host)
        for unit, hosts in sorted(choices.items())
        for host in hosts
        if host != x[unit]
    ]
    unit, source, target = np.array(moves, np.intp).reshape(len(moves), 3).T
    return Moves(unit=unit, source=source, target=target)


class _Best:
    """What has been found, and how much has been done for it."""

    def __init__(self, problem: PlacementProblem, tier: Tier, x: Ints) -> None:
        self._problem, self._tier = problem, tier
        self._layout = Layout(problem, x, scale_of([tier], TIER_RATIO))
        self._x, self._cost = x, tier.cost(problem, x)
        self._awkward: Ints | None = None
        self._awkward_cost = np.inf
        self._judged = self._tried = 0

    @property
    def beaten_below(self) -> float:
        """What a set has to cost less than."""
        return self._cost - self._tolerance

    @property
    def _tolerance(self) -> float:
        return SAME * max(1.0, abs(self._cost))

    def judge(self, sets: int) -> None:
        """Take in that so many sets are looked at."""
        self._judged += sets
        if self._judged > SETS_AT_MOST:
            raise _GivenUpError

    def try_on(self, x: Ints) -> None:
        """Take the placement, if it breaks nothing and is better."""
        self._tried += 1
        if self._tried > TRIED_AT_MOST:
            raise _GivenUpError
        cost = self._tier.cost(self._problem, x)
        if cost >= self.beaten_below or not self._is_allowed(x):
            return
        if not needs_parking(self._problem, x):
            self._x, self._cost = x, cost
        elif cost < self._awkward_cost:
            self._awkward, self._awkward_cost = x, cost

    def _is_allowed(self, x: Ints) -> bool:
        changed = np.flatnonzero(x != self._layout.x).tolist()
        undo = [(unit, int(self._layout.x[unit])) for unit in changed]
        for unit in changed:
            self._layout.move(unit, int(x[unit]))
        is_within = self._layout.is_within()
        self._layout.restore(undo)
        return is_within

    def proved(self) -> Proved:
        if self._awkward is None or self._awkward_cost >= self._cost:
            return Proved(x=self._x, bound=self._cost - self._tolerance, others=())
        least = min(self._awkward_cost, self.beaten_below)
        return Proved(x=self._awkward, bound=least, others=(self._x,))


class _Search:
    """Goes through the sets of moves away from one ground."""

    def __init__(self, best: _Best, ground: Ground, moves: Moves, budget: Budget) -> None:
        self._best, self._ground, self._moves, self._budget = best, ground, moves, budget

    def run(self, count: int) -> None:
        """Judge all sets of up to so many moves."""
        self._try_best_of(np.zeros((1, 0), np.intp))
        moves = self._moves
        if count == 0 or not len(moves.unit):
            return
        self._best.judge(len(moves.unit) ** 2)
        self._try_best_of(np.arange(len(moves.unit))[:, None])
        if count == 1:
            return
        tables = Tables(self._ground, moves)
        prices = self._price_pairs(tables)
        if count > 2:
            prices = self._price_triples(tables, prices)
            self._try_triples(tables, prices)

    def _price_pairs(self, tables: Tables) -> Floats:
        """Judge all pairs; return the prices of guards at which the least they cost is most."""
        first, second = tables.later
        cost, guarded = tables.of_pairs(first, second)
        prices = fair_prices(cost, guarded, self._ground.guard_prices)
        self._pairs = np.stack([first, second], axis=1)
        self._priced = cost + prices @ guarded
        promising = _least_of(self._priced, PROMISING)
        self._try_best_of(self._pairs[promising])
        self._try_best_of(self._pairs[self._priced < self._best.beaten_below])
        return prices

    def _price_triples(self, tables: Tables, prices: Floats) -> Floats:
        """Judge the most promising sets of three; return prices that suit them."""
        leading = self._pairs[_least_of(self._priced, LEADING)]
        cost, guarded = tables.longer_by_one(leading)
        most = self._ground.guard_prices
        prices = fair_prices(cost.ravel(), guarded.reshape(len(guarded), cost.size), most)
        priced = cost + np.tensordot(prices, guarded, 1)
        rows, third = np.divmod(_least_of(priced.ravel(), PROMISING), priced.shape[1])
        sets = np.sort(np.column_stack([leading[rows], third]), axis=1)
        self._try_best_of(np.unique(sets[np.isfinite(priced[rows, third])], axis=0))
        return prices

    def _try_triples(self, tables: Tables, prices: Floats) -> None:
        """Judge all sets of three, by the move of the first unit and the pairs that follow it."""
        priced = tables.at(prices)
        kept: list[Ints] = []
        size = 0
        for first in range(len(self._moves.unit)):
            if self._budget.is_spent:
                raise _GivenUpError
            others, judged = priced.worth_adding(first, self._best.beaten_below)
            self._best.judge(judged)
            if len(others):
                kept.append(np.column_stack([np.full(len(others), first), others]))
                size += len(others)
            if size > BATCH:
                self._try_best_of(np.concatenate(kept))
                kept, size = [], 0
        if kept:
            self._try_best_of(np.concatenate(kept))

    def _try_best_of(self, sets: Ints) -> None:
        """Judge sets exactly, `(n, k)` moves, and try those that would be better, best first."""
        for begin in range(0, len(sets), BATCH):
            if self._budget.is_spent:
                raise _GivenUpError
            batch = sets[begin : begin + BATCH]
            self._best.judge(EXACTLY * len(batch))
            cost = self._ground.least_costs(self._moves, batch)
            better = np.flatnonzero(cost < self._best.beaten_below)
            for row in better[np.argsort(cost[better], kind="stable")].tolist():
                if cost[row] >= self._best.beaten_below:
                    break
                self._best.try_on(self._moves.made_from(self._ground.x, batch[row]))


def _least_of(values: Floats, count: int) -> Ints:
    """Where the least values are, in no order."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.argpartition(values, count)[:count]
