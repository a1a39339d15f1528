"""Exchanges: two hosts give each other up to two units each, the best of all ways to.

Where single moves no longer pay, a unit often has to be *replaced*: by a lighter one with as
much load, by two small ones, by one of equal memory where memory has to stay even. All of these
are exchanges of small sets between two hosts, and so are swaps, and moves, and sending a unit
home in the same breath as another leaves. A pair of hosts with twenty units each has some
40,000 of them; what they could gain at most leaves a few dozen that have to be weighed. So many
pairs are weighed at once, in arrays over all their sets (`offers`).
(After the large-scale exchange neighbourhoods of Ahuja, Ergun, Orlin, Punnen, "A survey of very
large-scale neighborhood search techniques", Discrete Applied Mathematics 123, 2002.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import IMPOSSIBLE, Layout, movable_on
from rebalancer.placement.offers import Offers, Sides
from rebalancer.placement.problem import LIMITED, SLACK, Resource

LEAST_GAIN = 1e-6
"""Gains below this are rounding, not improvements."""
PATIENCE = 6
"""Pairs per host that are looked at in vain before the order of pairs is made anew."""
TRIED = 8
"""Best-looking exchanges of two hosts that are tried against spread and together."""
PAIRS_AT_ONCE = 64
"""Pairs weighed together: enough that what each array operation costs in itself is shared."""
WEIGHED_AT_ONCE = 60_000
"""Exchanges, at most, unless a single pair has more: these arrays have to stay in the cache."""


def exchange_among(
    layout: Layout,
    hosts: Ints,
    budget: Budget,
    only: Bools | None = None,
    *,
    weighings: int | None = None,
) -> bool:
    """Make exchanges between pairs of hosts, those with most to gain first, until none pays.

    The order is made anew whenever a row of pairs has gained nothing; when that happens at the
    head of a new order, what little may be left is not worth its time. Where a rough answer will
    do, blocks of pairs are weighed `weighings` times at most.
    """
    if not layout.problem.unit_count:
        return False
    search = _Search(layout=layout, budget=budget, only=only)
    patience = PATIENCE * len(hosts)
    improved = False
    while not budget.is_spent:
        fruitless, before = 0, search.count
        pairs = search.promising(hosts)
        for first in range(0, len(pairs), PAIRS_AT_ONCE):
            if fruitless >= patience or budget.is_spent:
                break
            block = pairs[first : first + PAIRS_AT_ONCE]
            while len(left := search.unjudged(block)) and not budget.is_spent:
                if search.weighings == weighings:
                    return search.count > 1
                done = search.improve(left)
                fruitless = 0 if done is None else fruitless + done
        improved |= search.count > before
        if search.count == before:
            break
    return improved


@dataclass(slots=True, kw_only=True, eq=False)
class _Search:
    """Which pairs of hosts have been weighed since either of them changed."""

    layout: Layout
    budget: Budget
    only: Bools | None
    count: int = 1
    """Rounds of exchanges made, and one."""
    weighings: int = 0
    """Times that pairs were weighed."""
    changed: Ints = field(init=False)
    """`(H,)`: the round that a host changed in."""
    judged: Ints = field(init=False)
    """`(H, H)`: the round that a pair was weighed after."""
    _movable: dict[int, Ints] = field(default_factory=dict)

    def __post_init__(self) -> None:
        hosts = self.layout.problem.host_count
        self.changed = np.ones(hosts, np.intp)
        self.judged = np.zeros((hosts, hosts), np.intp)

    def promising(self, hosts: Ints) -> Ints:
        """Pairs of hosts that could gain anything, those that could gain most first: `(n, 2)`."""
        one, other = (hosts[index] for index in np.triu_indices(len(hosts), 1))
        unjudged = self.judged[one, other] < np.maximum(self.changed[one], self.changed[other])
        one, other = one[unjudged], other[unjudged]
        savings = _savings(self.layout)
        most = most_from_shifting(self.layout, one, other)
        most += savings[one, other] + savings[other, one]
        order = np.argsort(-most, kind="stable")[: int((most > LEAST_GAIN).sum())]
        return np.stack([one[order], other[order]], axis=1)

    def unjudged(self, pairs: Ints) -> Ints:
        """Those of the pairs that have to be weighed."""
        one, other = pairs.T
        latest = np.maximum(self.changed[one], self.changed[other])
        return np.asarray(pairs[self.judged[one, other] < latest], np.intp)

    def improve(self, pairs: Ints) -> int | None:
        """Weigh pairs and make the best exchanges of any, on different hosts.

        Return how many pairs were weighed in vain, or `None` if anything was exchanged. The
        last ones of many are not weighed where all together would be too much.
        """
        weighed = self._weighed(pairs)
        self.weighings += 1
        one, other = weighed.pairs.T
        self.judged[one, other] = self.count
        if not (touched := self._make(weighed)):
            return len(one)
        self.count += 1
        self.changed[touched] = self.count
        for host in touched:
            del self._movable[host]
        return None

    def _weighed(self, pairs: Ints) -> _Weighed:
        layout, (one, other) = self.layout, pairs.T
        most = most_from_shifting(layout, one, other)
        here, there = pairs.ravel(), pairs[:, ::-1].ravel()
        sides = Sides(layout, [self._units_of(host) for host in here.tolist()], here, there)
        limit = np.stack([most - sides.refund[1::2], most - sides.refund[::2]], axis=1)
        offers = sides.offers(limit.ravel(), self.budget)
        gives, takes = offers.counts[::2], offers.counts[1::2]
        count = max(1, int(np.searchsorted(np.cumsum(gives * takes), WEIGHED_AT_ONCE)))
        pair, give, take = _combined(offers, count)
        affordable = offers.price[give] + offers.price[take] < most[pair]
        pair, give, take = pair[affordable], give[affordable], take[affordable]
        return _Weighed(pairs=pairs[:count], pair=pair, give=give, take=take, offers=offers)

    def _units_of(self, host: int) -> Ints:
        if host not in self._movable:
            units = movable_on(self.layout, host)
            self._movable[host] = units if self.only is None else units[self.only[units]]
        return self._movable[host]

    def _make(self, weighed: _Weighed) -> list[int]:
        """Make what gains most, and what else gains on other hosts; return all these hosts."""
        layout, touched = self.layout, set[int]()
        gains = self._gains(weighed)
        for index in _best_of_each(gains, weighed.pair):
            one, other = weighed.pairs[weighed.pair[index]].tolist()
            if one in touched or other in touched:
                continue
            gain = gains[index]
            if touched:
                # Sums over all hosts have changed: guards, and how many moves are left.
                gain = self._gains(weighed.only(index))[0]
            moves = weighed.moves(index)
            if gain > LEAST_GAIN and gain - layout.extra_cost(moves) > LEAST_GAIN:
                for unit, host in moves:
                    layout.move(unit, host)
                touched |= {one, other}
        return sorted(touched)

    def _gains(self, weighed: _Weighed) -> Floats:
        """What each exchange gains, but for what groups cost; `(n,)`."""
        offers, give, take = weighed.offers, weighed.give, weighed.take
        one, other = weighed.pairs[weighed.pair].T
        gains = _gains_of_curves(
            self.layout,
            one,
            other,
            give.shape,
            lambda r: offers.needs[r][give] - offers.needs[r][take],
        )
        gains -= offers.price[give] + offers.price[take]
        # Few gain anything. Only of these it has to be known whether they fit.
        some = np.flatnonzero(gains > LEAST_GAIN)
        give, take, one, other = give[some], take[some], one[some], other[some]
        fits = _fits(self.layout, one, other, offers.needs[:, give] - offers.needs[:, take])
        if self.budget.moves is not None:
            left = self.budget.moves - self.budget.moves_of(self.layout)
            fits &= offers.away[give] + offers.away[take] <= max(left, 0)
        gains[some[~fits]] = -IMPOSSIBLE
        return gains


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Weighed:
    """Exchanges between pairs of hosts, by numbers of the sets that are given and taken."""

    pairs: Ints
    """`(P, 2)`"""
    pair: Ints
    """`(n,)`: which of the pairs."""
    give: Ints
    take: Ints
    offers: Offers

    def only(self, index: int) -> _Weighed:
        """One of the exchanges."""
        part = slice(index, index + 1)
        return _Weighed(
            pairs=self.pairs,
            pair=self.pair[part],
            give=self.give[part],
            take=self.take[part],
            offers=self.offers,
        )

    def moves(self, index: int) -> list[tuple[int, int]]:
        """The moves that one of the exchanges is made of."""
        one, other = self.pairs[self.pair[index]].tolist()
        given, taken = int(self.give[index]), int(self.take[index])
        return [
            *((unit, other) for unit in self.offers.units(given)),
            *((unit, one) for unit in self.offers.units(taken)),
        ]


def _combined(offers: Offers, pairs: int) -> tuple[Ints, Ints, Ints]:
    """Each set of a host with each of the other, for the first pairs: pair, give, take."""
    gives, takes = offers.counts[: 2 * pairs : 2], offers.counts[1 : 2 * pairs : 2]
    begins = np.concatenate([[0], np.cumsum(offers.counts)])
    size = gives * takes
    pair = np.repeat(np.arange(pairs), size)
    within = np.arange(len(pair)) - np.repeat(np.cumsum(size) - size, size)
    give, take = np.divmod(within, takes[pair])
    return pair, begins[2 * pair] + give, begins[2 * pair + 1] + take


def _best_of_each(gains: Floats, pair: Ints) -> Iterator[int]:
    """The few exchanges of each pair that gain most, if any gains anything: the best first."""
    paying = np.flatnonzero(gains > LEAST_GAIN)
    by_pair = paying[np.lexsort((-gains[paying], pair[paying]))]
    _, begins, counts = np.unique(pair[by_pair], return_index=True, return_counts=True)
    few = by_pair[np.arange(len(by_pair)) - np.repeat(begins, counts) < TRIED]
    yield from few[np.argsort(-gains[few], kind="stable")].tolist()


def gains_of_shifting(
    layout: Layout, source: Ints | int, target: Ints | int, more: Floats
) -> Floats:
    """What is gained when `more`, `(R, n)`, goes from one host to another; prices aside.

    The hosts are two, or `(n,)` each. Minus infinity where it does not fit. Groups, pools and
    allowances are not looked at.
    """
    source, target = np.asarray(source), np.asarray(target)
    gains = _gains_of_curves(layout, source, target, more.shape[1:], more.__getitem__)
    gains[~_fits(layout, source, target, more)] = -IMPOSSIBLE
    return gains


def _gains_of_curves(
    layout: Layout,
    source: Ints,
    target: Ints,
    shape: tuple[int, ...],
    more: Callable[[Resource], Floats],
) -> Floats:
    """What curves and guards fall by; `more` says how much of a resource goes."""
    gain = np.zeros(shape)
    for resource in sorted({standing.curve.resource for standing in layout.standings}):
        shifted = more(resource)
        for standing in layout.standings:
            if standing.curve.resource == resource:
                here = standing.rise(-shifted, source)
                gain += standing.gain(here + standing.rise(shifted, target))
    return gain


def _fits(layout: Layout, source: Ints, target: Ints, more: Floats) -> Bools:
    """Whether hosts have room when `more`, `(R, n)`, goes from one to another."""
    fits = np.ones(more.shape[1:], bool)
    for resource in LIMITED:
        load, limit = layout.load[resource], layout.limits[resource]
        fits &= more[resource] <= limit[target] - load[target]
        fits &= more[resource] >= load[source] - limit[source]
    if not layout.is_up.all():
        few = np.abs(more[Resource.MEMORY]) <= layout.arrivals_bytes + SLACK
        fits &= few | (layout.is_up[source] & layout.is_up[target])
    if layout.switches:
        # Whether a host is used at all is not decided here.
        vms = layout.load[Resource.VMS]
        fits &= (vms[source] - more[Resource.VMS] > 0.5) == (vms[source] > 0.5)
        fits &= (vms[target] + more[Resource.VMS] > 0.5) == (vms[target] > 0.5)
    return fits


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
