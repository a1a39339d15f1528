"""What hosts could give each other: sets of up to two units, for many pairs of hosts at once.

A *side* is one of two hosts as seen from the other. Arrays over all sets of all sides, one side
after the other; how many sets each has is in `counts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import Layout

UNITS_AT_MOST = 32
"""Of each host; the cheapest to move where there are more. They make 529 sets."""
_SECOND, _FIRST = np.tril_indices(UNITS_AT_MOST, -1)
"""All pairs of numbers, those of the smallest numbers first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offers:
    """Sets of units that sides could give away, the empty one first of each side."""

    counts: Ints
    """`(S,)`: how many sets each side has."""
    first: Ints
    second: Ints
    """`(n,)` each: the units of each set; −1 for none."""
    needs: Floats
    """`(R, n)`"""
    price: Floats
    """`(n,)`: what linear terms rise by."""
    away: Ints
    """`(n,)`: units that are away from their start then, less those that are so now."""

    def units(self, index: int) -> tuple[int, ...]:
        """The units of one of the sets."""
        both = int(self.first[index]), int(self.second[index])
        return tuple(unit for unit in both if unit >= 0)


class Sides:
    """The units that sides could give away one by one, cheapest first."""

    def __init__(self, layout: Layout, units: Sequence[Ints], here: Ints, there: Ints) -> None:
        """Sides are hosts `here` with their `units` to choose from, which would go `there`."""
        self.layout = layout
        self._here, self._there = here, there
        held = np.array([len(some) for some in units], np.intp)
        flat = np.concatenate(units)
        source, target = np.repeat(here, held), np.repeat(there, held)
        price = _prices_of_going(layout, flat, source, target)
        price[~_may_go(layout, flat, source, target)] = np.inf
        is_there = np.arange(max(2, int(held.max(initial=0)))) < held[:, None]
        padded = np.full(is_there.shape, np.inf)
        padded[is_there] = price
        unit = np.zeros(is_there.shape, np.intp)
        unit[is_there] = flat
        order = np.argsort(padded, axis=1, kind="stable")
        self._price = np.take_along_axis(padded, order, axis=1)
        """`(S, n)`: infinite where there is no unit, or it may not go."""
        self._unit = np.take_along_axis(unit, order, axis=1)
        self.refund = np.minimum(self._price[:, :2], 0.0).sum(axis=1)
        """What prices fall by at most, as a negative number; `(S,)`."""

    def offers(self, price_limit: Floats, budget: Budget) -> Offers:
        """All sets of up to two units, or, of too many, the cheapest; none above the limits."""
        price, sides = self._price, np.arange(len(self._price))
        lowest = np.minimum(price[:, :1], 0.0)
        single = np.minimum((price + lowest < price_limit[:, None]).sum(axis=1), UNITS_AT_MOST)
        pairs = single * (single - 1) // 2
        side_of_single, alone = _ragged(single)
        side_of_pair, pair = _ragged(pairs)
        # What is cheapest comes first: the pairs among the first few are the first few pairs.
        first, second = _FIRST[pair], _SECOND[pair]
        both = price[side_of_pair, first] + price[side_of_pair, second]
        affordable = both < price_limit[side_of_pair]
        side_of_pair, first, second = (
            side_of_pair[affordable], first[affordable], second[affordable]
        )  # fmt: skip
        none, ones = np.full(len(sides), -1), np.full(len(alone), -1)
        side = np.concatenate([sides, side_of_single, side_of_pair])
        order = np.argsort(side, kind="stable")
        side = side[order]
        first = np.concatenate([none, alone, first])[order]
        second = np.concatenate([none, ones, second])[order]
        problem = self.layout.problem
        away = self._away(budget)
        needs = np.zeros((len(problem.needs), len(side)))
        price_of, away_of = np.zeros(len(side)), np.zeros(len(side), np.intp)
        units = []
        for member in (first, second):
            is_one = np.flatnonzero(member >= 0)
            where = side[is_one], member[is_one]
            unit = self._unit[where]
            needs[:, is_one] += problem.needs[:, unit]
            price_of[is_one] += price[where]
            away_of[is_one] += away[where]
            units.append(np.full(len(side), -1))
            units[-1][is_one] = unit
        return Offers(
            counts=np.bincount(side, minlength=len(sides)),
            first=units[0],
            second=units[1],
            needs=needs,
            price=price_of,
            away=away_of,
        )

    def _away(self, budget: Budget) -> Ints:
        """By how much each unit that goes changes the number of those away; `(S, n)`."""
        start = self.layout.problem.start[self._unit]
        away = (start != self._there[:, None]).astype(np.intp) - (start != self._here[:, None])
        if budget.exempt is not None:
            away[budget.exempt[self._unit]] = 0
        return np.asarray(away, np.intp)


def _ragged(counts: Ints) -> tuple[Ints, Ints]:
    """Rows of different lengths one after the other: the row, and the place in it."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)


def _may_go(layout: Layout, units: Ints, source: Ints, target: Ints) -> Bools:
    """Whether each of `units`, on its `source`, could be on its `target`; room, groups aside."""
    problem, candidates = layout.problem, layout.problem.candidates
    kind = candidates.kind[units]
    may = candidates.allowed[kind, target]
    may &= candidates.largest_bytes[units] <= candidates.guest_bytes[target]
    may |= problem.start[units] == target
    may &= candidates.broken[kind, target] <= candidates.broken[kind, source]
    return np.asarray(may & problem.movable[units] & ~problem.drains[target], bool)


def _prices_of_going(layout: Layout, units: Ints, source: Ints, target: Ints) -> Floats:
    """What linear terms rise by when each of `units` goes from its `source` to its `target`."""
    rise = np.zeros(len(units))
    for factor, linear in layout.linears:
        rise -= factor * linear.fall(units, source, target, layout.problem.start)
    return rise
