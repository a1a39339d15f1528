"""Exchanges: two hosts give each other up to two units each, the best of all ways to.

Where single moves no longer pay, a unit often has to be *replaced*: by a lighter one with as
much load, by two small ones, by one of equal memory where memory has to stay even. All of these
are exchanges of small sets between two hosts, and so are swaps, and moves, and sending a unit
home in the same breath as another leaves. A pair of hosts with twenty units each has some
40,000 of them, which numpy weighs in about a millisecond.
(After the large-scale exchange neighbourhoods of Ahuja, Ergun, Orlin, Punnen, "A survey of very
large-scale neighborhood search techniques", Discrete Applied Mathematics 123, 2002.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import IMPOSSIBLE, Layout, movable_on
from rebalancer.placement.problem import LIMITED, SLACK, Resource

LEAST_GAIN = 1e-6
"""Gains below this are rounding, not improvements."""
UNITS_AT_MOST = 32
"""Of each host; the cheapest to move where there are more. They make 529 sets."""
PATIENCE = 6
"""Pairs per host that are looked at in vain before the order of pairs is made anew."""
TRIED = 8
"""Best-looking exchanges of two hosts that are tried against spread and together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Offer:
    """Sets of units that one host could give to another, the empty one first."""

    first: Ints
    second: Ints
    """`(n,)` each: the units of each set; −1 for none."""
    needs: Floats
    """`(R, n)`"""
    price: Floats
    """`(n,)`: what linear terms rise by."""
    away: Ints
    """`(n,)`: units that are away from their start then, less those that are so now."""

    def moves(self, index: int, target: int) -> list[tuple[int, int]]:
        """The moves that giving one of the sets is made of."""
        units = int(self.first[index]), int(self.second[index])
        return [(unit, target) for unit in units if unit >= 0]


def exchange_among(layout: Layout, hosts: Ints, budget: Budget, only: Bools | None = None) -> bool:
    """Make exchanges between pairs of hosts, those with most to gain first, until none pays.

    The order is made anew whenever a row of pairs has gained nothing; when that happens at the
    head of a new order, what little may be left is not worth its time.
    """
    changed = np.ones(layout.problem.host_count, np.intp)
    judged = np.zeros((layout.problem.host_count,) * 2, np.intp)
    patience = PATIENCE * len(hosts)
    count, improved = 1, False
    while not budget.is_spent:
        fruitless, before = 0, count
        for one, other in _promising(layout, hosts, judged, changed).tolist():
            if judged[one, other] >= max(changed[one], changed[other]):
                continue
            if fruitless >= patience or budget.is_spent:
                break
            fruitless += 1
            while exchange(layout, one, other, budget, only):
                count += 1
                fruitless = 0
                changed[[one, other]] = count
            judged[one, other] = count
        improved |= count > before
        if count == before:
            break
    return improved


def _promising(layout: Layout, hosts: Ints, judged: Ints, changed: Ints) -> Ints:
    """Pairs of hosts that could gain anything, those that could gain most first: `(n, 2)`."""
    one, other = (hosts[index] for index in np.triu_indices(len(hosts), 1))
    savings = _savings(layout)
    most = most_from_shifting(layout, one, other) + savings[one, other] + savings[other, one]
    open_ = (judged[one, other] < np.maximum(changed[one], changed[other])) & (most > LEAST_GAIN)
    order = np.argsort(-most[open_], kind="stable")
    return np.stack([one[open_][order], other[open_][order]], axis=1)


def exchange(
    layout: Layout, one: int, other: int, budget: Budget, only: Bools | None = None
) -> bool:
    """Make the best exchange between two hosts, if it gains anything."""
    most = float(most_from_shifting(layout, one, other))
    mine, theirs = _Side(layout, one, other, budget, only), _Side(layout, other, one, budget, only)
    gives, takes = mine.offer(most - theirs.best_refund), theirs.offer(most - mine.best_refund)
    gains = gains_of_shifting(layout, one, other, gives.needs[:, :, None] - takes.needs[:, None, :])
    gains -= gives.price[:, None]
    gains -= takes.price
    if budget.moves is not None:
        left = budget.moves - budget.moves_of(layout)
        gains[gives.away[:, None] + takes.away > max(left, 0)] = -IMPOSSIBLE
    for flat in _best(gains):
        row, column = divmod(flat, gains.shape[1])
        moves = gives.moves(row, other) + takes.moves(column, one)
        if gains[row, column] - layout.extra_cost(moves) > LEAST_GAIN:
            for unit, host in moves:
                layout.move(unit, host)
            return True
    return False


def gains_of_shifting(layout: Layout, source: int, target: int, more: Floats) -> Floats:
    """What is gained when `more`, `(R, ...)`, goes from one host to another; prices aside.

    Minus infinity where it does not fit. Groups, pools and allowances are not looked at.
    """
    gain = np.zeros(more.shape[1:])
    fits = np.ones(gain.shape, bool)
    for resource in LIMITED:
        load, limit = layout.load[resource], layout.limits[resource]
        fits &= more[resource] <= limit[target] - load[target]
        fits &= more[resource] >= load[source] - limit[source]
    if not (layout.is_up[source] and layout.is_up[target]):
        fits &= np.abs(more[Resource.MEMORY]) <= layout.arrivals_bytes + SLACK
    if layout.switches:
        # Whether a host is used at all is not decided here.
        vms = layout.load[Resource.VMS]
        fits &= (vms[source] - more[Resource.VMS] > 0.5) == (vms[source] > 0.5)
        fits &= (vms[target] + more[Resource.VMS] > 0.5) == (vms[target] > 0.5)
    for standing in layout.standings:
        shifted = more[standing.curve.resource]
        here = standing.rise(-shifted, np.array(source))
        gain += standing.gain(here + standing.rise(shifted, np.array(target)))
    gain[~fits] = -IMPOSSIBLE
    return gain


def most_from_shifting(layout: Layout, one: Ints | int, other: Ints | int) -> Floats:
    """About the most that shifting load between two hosts can gain: both equally full.

    Exact for hosts of the same size; the arrays are pairs of hosts.
    """
    one, other = np.asarray(one), np.asarray(other)
    gain = np.zeros(one.shape)
    for standing in layout.standings:
        size = layout.problem.size[standing.curve.resource]
        gain += standing.gain(np.minimum(standing.levelled(one, other, size), 0.0))
    return gain


def _savings(layout: Layout) -> Floats:
    """What linear terms can at most fall by when units of host h go to host k: `(H, H)`.

    Prices of moving come back when a unit goes home; others fall where the new host is cheaper.
    """
    start, hosts = layout.problem.start, layout.problem.host_count
    saving = np.zeros((hosts, hosts))
    for factor, linear in layout.linears:
        if linear.when_moved:
            np.add.at(saving, (layout.x, start), factor * linear.at(layout.x, start))
            continue
        amount = np.zeros((hosts, len(linear.matrix)))
        np.add.at(amount, (layout.x, linear.kind), factor * linear.factor)
        for kind in np.flatnonzero((amount > 0).any(axis=0)).tolist():
            price = linear.matrix[kind]
            saving += amount[:, [kind]] * np.maximum(price[:, None] - price, 0.0)
    return saving


def _may_go(layout: Layout, units: Ints, source: int, target: int) -> Bools:
    """Whether each of `units`, all on `source`, could be on `target`; room and groups aside."""
    problem, candidates = layout.problem, layout.problem.candidates
    kind = candidates.kind[units]
    may = candidates.allowed[kind, target]
    may &= candidates.largest_bytes[units] <= candidates.guest_bytes[target]
    may |= problem.start[units] == target
    may &= candidates.broken[kind, target] <= candidates.broken[kind, source]
    return np.asarray(may & problem.movable[units] & ~problem.drains[target], bool)


def _prices_of_going(layout: Layout, units: Ints, source: int, target: int) -> Floats:
    """What linear terms rise by when each of `units` goes from `source` to `target`."""
    rise = np.zeros(len(units))
    for factor, linear in layout.linears:
        rise -= factor * linear.fall(units, source, target, layout.problem.start)
    return rise


def _best(gains: Floats) -> list[int]:
    """The few exchanges that gain most, best first, if any gains anything."""
    flat = gains.ravel()
    paying = np.flatnonzero(flat > LEAST_GAIN)
    if len(paying) > TRIED:
        paying = paying[np.argpartition(-flat[paying], TRIED)[:TRIED]]
    return list(paying[np.argsort(-flat[paying], kind="stable")].tolist())


class _Side:
    """What one of two hosts could give to the other."""

    def __init__(
        self, layout: Layout, source: int, target: int, budget: Budget, only: Bools | None
    ) -> None:
        problem = layout.problem
        units = movable_on(layout, source)
        if only is not None:
            units = units[only[units]]
        self.units = units[_may_go(layout, units, source, target)]
        self.price = _prices_of_going(layout, self.units, source, target)
        self.needs = problem.needs[:, self.units]
        start = problem.start[self.units]
        self.away = (start != target).astype(np.intp) - (start != source)
        if budget.exempt is not None:
            self.away[budget.exempt[self.units]] = 0
        cheapest = np.sort(self.price)[:2]
        self.best_refund = float(np.minimum(cheapest, 0.0).sum())
        """What prices fall by at most, as a negative number."""

    def offer(self, price_limit: float) -> _Offer:
        """All sets of up to two units, or, of too many, the cheapest; none above the limit."""
        lowest = min(0.0, float(self.price.min(initial=0.0)))
        single = np.flatnonzero(self.price + lowest < price_limit)
        if len(single) > UNITS_AT_MOST:
            single = single[np.argsort(self.price[single], kind="stable")[:UNITS_AT_MOST]]
        first, second = _PAIRS[len(single)]
        first, second = single[first], single[second]
        price = self.price
        affordable = price[first] + price[second] < price_limit
        first, second = first[affordable], second[affordable]
        units, needs, away = self.units, self.needs, self.away
        none = np.full(1 + len(single), -1, np.intp)
        return _Offer(
            first=np.concatenate([none[:1], units[single], units[first]]),
            second=np.concatenate([none, units[second]]),
            needs=np.concatenate(
                [np.zeros((len(needs), 1)), needs[:, single], needs[:, first] + needs[:, second]],
                axis=1,
            ),
            price=np.concatenate([[0.0], price[single], price[first] + price[second]]),
            away=np.concatenate([[0], away[single], away[first] + away[second]]),
        )


_PAIRS = [np.triu_indices(count, 1) for count in range(UNITS_AT_MOST + 1)]
"""Indices of all pairs among so many units."""
