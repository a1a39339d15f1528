"""What single moves change and what each two of them add together, in tables.

A move touches two hosts: it takes a unit off one and puts it on the other. What a host's curves
say of two such flips beyond what they say of each is one number, looked up for every two units;
it is added for each host that two moves both touch. What they come to is exact where hosts cost
something by curves and units by prices; of groups only the most is taken that moves could mend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.curves import Deviation, Excess, Guard, Switch
from rebalancer.placement.groups import PresenceGroup
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import LIMITED, SLACK, PlacementProblem

HALVINGS = 30
"""Steps in which the price of a guard is closed in on."""
ROUNDS = 2
"""Times that the prices of several guards are looked at in turn."""
TOUCHING = 3
"""Moves that may touch a host, in sets of three."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moves:
    """Single moves, ordered by unit: which unit goes from where to where, `(P,)` each."""

    unit: Ints
    source: Ints
    target: Ints

    def made_from(self, x: Ints, chosen: Ints) -> Ints:
        """The placement after some of the moves."""
        after = x.copy()
        after[self.unit[chosen]] = self.target[chosen]
        return after


class Ground:
    """A placement that moves are made from, and what it costs."""

    def __init__(self, problem: PlacementProblem, tier: Tier, x: Ints) -> None:
        """Begin with placement `x`, and the limits that it keeps."""
        self.problem, self.tier, self.x = problem, tier, x
        self.load = problem.load(x)
        self._limits = problem.limits(x) * (1 + 1e-12) + 2 * SLACK
        self._hosts = np.arange(problem.host_count)
        self.curves = [c for c in tier.curves if not isinstance(c, Switch)]
        self.guards: Sequence[Guard] = tier.guards
        self.guard_prices = np.array([guard.price for guard in tier.guards])
        self.fixed_cost = sum(float(linear.at(x, problem.start).sum()) for linear in tier.linears)
        self.fixed_cost += sum(g.weight * g.excess(x) for g in tier.groups)
        self.cost = self.fixed_cost + sum(self.summed(curve) for curve in self.curves)
        over = [self.summed(guard.curve) - guard.allowed for guard in tier.guards]
        self.over = np.array(over, float)
        """`(G,)`: what each guarded sum is above what is allowed."""

    def summed(self, curve: Deviation | Excess) -> float:
        """What a curve comes to over all hosts."""
        return float(curve.cost(self.load[curve.resource], self._hosts).sum())

    def prices_of(self, moves: Moves) -> Floats:
        """What moves change of all that does not go by load, at least: `(P,)`."""
        change = np.zeros(len(moves.unit))
        for linear in self.tier.linears:
            change -= linear.fall(moves.unit, moves.source, moves.target, self.problem.start)
        for group in self.tier.groups:
            if group.excess(self.x) <= 0:
                continue  # It cannot become less.
            most = np.zeros(self.problem.unit_count)
            for unit, vms in group.members.items():
                most[unit] = 1 if isinstance(group, PresenceGroup) else vms
            crosses = group.domain[moves.source] != group.domain[moves.target]
            change -= np.where(crosses, group.weight * most[moves.unit], 0.0)
        return change

    def least_costs(self, moves: Moves, sets: Ints) -> Floats:
        """What sets of moves cost at least, `(n,)` for `(n, k)`; infinity beyond a limit."""
        found = np.full(len(sets), np.inf)
        within = np.ones(len(sets), bool)
        for resource in LIMITED:
            after = self._loads(moves, sets, resource)
            within &= (after <= self._limits[resource]).all(axis=1)
        sets = sets[within]
        cost = self.fixed_cost + self.prices_of(moves)[sets].sum(axis=1)
        loads = {
            resource: self._loads(moves, sets, resource)
            for resource in {c.resource for c in self.curves} | {g.resource for g in self.guards}
        }
        for curve in self.curves:
            cost += curve.cost(loads[curve.resource], self._hosts).sum(axis=1)
        for guard in self.guards:
            cost += guard.cost_of(guard.curve.cost(loads[guard.resource], self._hosts).sum(axis=1))
        found[within] = cost
        return found

    def _loads(self, moves: Moves, sets: Ints, resource: int) -> Floats:
        after = np.tile(self.load[resource], (len(sets), 1))
        rows = np.arange(len(sets))
        for chosen in sets.T:
            need = self.problem.needs[resource, moves.unit[chosen]]
            after[rows, moves.source[chosen]] -= need
            after[rows, moves.target[chosen]] += need
        return after


class Tables:
    """Costs of single moves and of what two of them add, and the same of guarded sums."""

    def __init__(self, ground: Ground, moves: Moves) -> None:
        """Put all pairs of moves into tables."""
        self.ground, self.moves = ground, moves
        problem = ground.problem
        hosts = np.arange(problem.host_count)
        self._sign = np.where(ground.x == hosts[:, None], -1.0, 1.0)
        singles = np.zeros((1 + len(ground.guards), problem.host_count, problem.unit_count))
        pairs = np.zeros((*singles.shape, problem.unit_count))
        for row, curve in self._rows():
            single, pair = self._flips(curve, hosts, ground.load[curve.resource])
            singles[row] += single
            pairs[row] += pair
        unit, source, target = moves.unit, moves.source, moves.target
        self.single = singles[:, source, unit] + singles[:, target, unit]
        self.single[0] += ground.prices_of(moves)
        """`(1 + G, P)`: of the cost, and of each guarded sum."""
        at_source = source[:, None] == source
        at_source |= source[:, None] == target
        at_target = target[:, None] == target
        at_target |= target[:, None] == source
        self.pair = np.zeros((len(singles), len(unit), len(unit)))
        for row, table in enumerate(pairs):
            mine, yours = unit[:, None], unit[None, :]
            self.pair[row] += np.where(at_source, table[source[:, None], mine, yours], 0.0)
            self.pair[row] += np.where(at_target, table[target[:, None], mine, yours], 0.0)
        self.pair[0][unit[:, None] == unit] = np.inf

    def _rows(self) -> Iterator[tuple[int, Deviation | Excess]]:
        """Each curve, with the row of the tables that it belongs to."""
        for curve in self.ground.curves:
            yield 0, curve
        for number, guard in enumerate(self.ground.guards):
            yield 1 + number, guard.curve

    def _flips(self, curve: Deviation | Excess, hosts: Ints, load: Floats) -> tuple[Floats, Floats]:
        """What each unit changes on each of the hosts, `(n, U)`, and each two more, `(n, U, U)`."""
        change = self._sign[hosts] * self.ground.problem.needs[curve.resource]
        here = load[:, None]
        now = curve.cost(here, hosts[:, None])
        single = curve.cost(here + change, hosts[:, None]) - now
        both = curve.cost(
            here[:, :, None] + change[:, :, None] + change[:, None, :], hosts[:, None, None]
        )
        return single, both - now[:, :, None] - single[:, :, None] - single[:, None, :]

    @property
    def later(self) -> tuple[Ints, Ints]:
        """All pairs of moves of different units, each once."""
        first, second = np.nonzero(self.moves.unit[:, None] < self.moves.unit)
        return first, second

    def of_pairs(self, first: Ints, second: Ints) -> tuple[Floats, Floats]:
        """What pairs cost, guards aside, and what guarded sums are above what is allowed."""
        change = self.single[:, first] + self.single[:, second] + self.pair[:, first, second]
        return self.ground.cost + change[0], self.ground.over[:, None] + change[1:]

    def longer_by_one(self, pairs: Ints) -> tuple[Floats, Floats]:
        """The same with each third move, `(n, P)` and `(G, n, P)`; hosts of all three aside."""
        first, second = pairs.T
        cost, guarded = self.of_pairs(first, second)
        change = self.single[:, None, :] + self.pair[:, first] + self.pair[:, second]
        return cost[:, None] + change[0], guarded[:, :, None] + change[1:]

    def at(self, prices: Floats) -> PricedTables:
        """The tables with guarded sums counted at prices, `(G,)`."""
        weights = np.concatenate([[1.0], prices])
        pair = self.pair[0]
        for price, table in zip(prices, self.pair[1:], strict=True):
            pair = pair + price * table if price else pair
        return PricedTables(
            cost=self.ground.cost + float(prices @ self.ground.over),
            single=weights @ self.single,
            pair=pair,
            tables=self,
        )

    def bends(self, first: int) -> Iterator[tuple[Ints, Floats]]:
        """What the first of three moves changes of what two others add, where it does.

        Moves by index that touch one of its hosts, and a table for them. Guards are squares, so
        only curves may bend.
        """
        unit = int(self.moves.unit[first])
        for host in (int(self.moves.source[first]), int(self.moves.target[first])):
            changed = None
            for curve in self.ground.curves:
                if not self._may_bend(curve, host):
                    continue
                hosts, now = np.array([host]), self.ground.load[curve.resource, [host]]
                change = self._sign[host, unit] * self.ground.problem.needs[curve.resource, unit]
                before = self._flips(curve, hosts, now)[1][0]
                after = self._flips(curve, hosts, now + change)[1][0]
                changed = after - before if changed is None else changed + after - before
            if changed is not None:
                touching = np.flatnonzero((self.moves.source == host) | (self.moves.target == host))
                units = self.moves.unit[touching]
                yield touching, changed[units[:, None], units]

    def _may_bend(self, curve: Deviation | Excess, host: int) -> bool:
        """Whether some three flips lead over a kink of the curve."""
        change = np.sort(self._sign[host] * self.ground.problem.needs[curve.resource])
        now = float(self.ground.load[curve.resource, host])
        lowest = now + float(np.minimum(change[:TOUCHING], 0.0).sum())
        highest = now + float(np.maximum(change[-TOUCHING:], 0.0).sum())
        if isinstance(curve, Excess):
            kink = float(curve.limit[host])
        else:
            kink = curve.hot * float(curve.size[host])
        return bool(curve.weight[host] != 0 and lowest < kink < highest)


class PricedTables:
    """Tables in which everything is one cost; no set costs less than they say."""

    def __init__(self, tables: Tables, cost: float, single: Floats, pair: Floats) -> None:
        """Begin with what no move costs, `(P,)` and `(P, P)`; infinite for one unit twice."""
        self._tables, self._cost, self._single, self._pair = tables, cost, single, pair
        unit = tables.moves.unit
        self._least = pair.min(axis=1)
        self._after = np.searchsorted(unit, unit, side="right")

    def worth_adding(self, first: int, below: float) -> tuple[Ints, int]:
        """The pairs of moves of later units, `(n, 2)`, that with the first could cost less.

        And the number of pairs that were looked at.
        """
        begin = int(self._after[first])
        room = below - self._cost - float(self._single[first])
        with_first = self._single + self._pair[first]
        bends = list(self._tables.bends(first))
        least = self._least + sum(min(0.0, float(table.min())) for _, table in bends)
        moves = np.arange(begin, len(self._single))
        for _ in range(2):
            if len(moves) < 2:
                return np.zeros((0, 2), np.intp), 0
            mine = with_first[moves]
            moves = moves[mine + least[moves] + mine.min() < room]
        mine = with_first[moves]
        cost = self._pair[np.ix_(moves, moves)] + mine[:, None] + mine
        for touching, table in bends:
            there, here = np.isin(moves, touching), np.searchsorted(touching, moves)
            rows = here[there]
            cost[np.ix_(there, there)] += table[np.ix_(rows, rows)]
        one, other = np.nonzero(cost < room)
        once = one < other
        return np.stack([moves[one[once]], moves[other[once]]], axis=1), len(moves) ** 2


def fair_prices(cost: Floats, guarded: Floats, most: Floats) -> Floats:
    """Prices up to `most`, `(G,)`, at which the least of cost and guarded sums is about greatest.

    `cost` is `(n,)` and `guarded` `(G, n)`, less what is allowed. The least is concave in each.
    """
    is_open = np.isfinite(cost)
    cost, guarded = cost[is_open], guarded[:, is_open]
    prices = np.zeros(len(most))
    if not len(cost):
        return prices
    for _ in range(ROUNDS if len(most) > 1 else 1):
        for number, price in enumerate(most.tolist()):
            others = cost + prices @ guarded - prices[number] * guarded[number]
            prices[number] = _fair(others, guarded[number], price)
    return prices


def _fair(cost: Floats, guarded: Floats, most: float) -> float:
    low, high = 0.0, most
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # Where the least one is beyond what is allowed, its price is too low.
        if guarded[int((cost + middle * guarded).argmin())] > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
