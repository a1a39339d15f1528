"""A placement that is being changed: loads and group counts kept up with every move.

A `Layout` knows what may be done (`limits`, fixed when it is made: nothing may get worse than
it was then) and what it would cost by a `Scale` of tiers. It decides nothing; the searches do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.curves import Curve, Switch
from rebalancer.placement.groups import Group, SpreadGroup
from rebalancer.placement.objectives import Linear, Tier
from rebalancer.placement.problem import LIMITED, SLACK, PlacementProblem, Resource

IMPOSSIBLE = np.inf

TIER_RATIO = 1e4
"""How many times more a tier counts than the next one, in searches that see several."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scale:
    """Tiers with the factor that each counts with, most important first."""

    tiers: tuple[tuple[float, Tier], ...]

    @property
    def linears(self) -> list[tuple[float, Linear]]:
        """Linear terms with their factors."""
        return [(factor, term) for factor, tier in self.tiers for term in tier.linears]

    @property
    def curves(self) -> list[tuple[float, Curve]]:
        """Curves with their factors."""
        return [(factor, curve) for factor, tier in self.tiers for curve in tier.curves]

    def weight_of(self, group: Group) -> float:
        """Cost of one VM too many in a group; 0 where no tier counts it."""
        return sum(
            factor * group.weight
            for factor, tier in self.tiers
            if any(group is one for one in tier.groups)
        )

    def cost(self, problem: PlacementProblem, x: Ints) -> float:
        """The cost of a placement on this scale."""
        return sum(factor * tier.cost(problem, x) for factor, tier in self.tiers)


@dataclass(slots=True, kw_only=True, eq=False)
class _Tally:
    """A group with its VMs per domain, and what it may come to."""

    group: Group
    weight: float
    counts: Ints
    limit: Ints | float
    """Hard spread: VMs per domain. Hard together: VMs outside the largest part."""

    def cost(self) -> float:
        return self.weight * _excess(self.group, self.counts)

    def within(self) -> bool:
        if not self.group.hard:
            return True
        if isinstance(self.group, SpreadGroup):
            return bool((self.counts <= self.limit).all())
        return bool(_excess(self.group, self.counts) <= self.limit)

    def verdict(self, multiplicity: int, source: int) -> tuple[Bools, Floats]:
        """For moving a member off host `source`: allowed and extra cost on each host, `(H,)`."""
        domain, home = self.group.domain, self.group.domain[source]
        counts = self.counts.copy()
        counts[home] -= multiplicity
        if isinstance(self.group, SpreadGroup):
            now = np.maximum(counts - self.group.at_most, 0)
            then = np.maximum(counts + multiplicity - self.group.at_most, 0)
            extra = then - now
            allowed = counts + multiplicity <= self.limit
            cost = extra - extra[home]
        else:
            outside = counts.sum() + multiplicity - np.maximum(counts + multiplicity, counts.max())
            allowed = outside <= self.limit
            cost = outside - _excess(self.group, self.counts)
        if not self.group.hard:
            allowed = np.ones(len(counts), bool)
        allowed[home] = True
        return allowed[domain], self.weight * cost[domain]


class Layout:
    """Where every unit is, with everything that follows from it."""

    def __init__(
        self, problem: PlacementProblem, x: Ints, scale: Scale, *, on_the_way: bool = False
    ) -> None:
        """Begin with placement `x`, which becomes the measure of what must not get worse.

        On the way from one placement to another the rules that are final (together) do not count.
        """
        self.problem = problem
        self.scale = scale
        self.x = x.copy()
        self.load = problem.load(x)
        self.limits = problem.limits(x) + SLACK
        self.members: list[set[int]] = [set() for _ in problem.host_ids]
        for unit, host in enumerate(x.tolist()):
            self.members[host].add(unit)
        self._hosts = np.arange(problem.host_count)
        self._curves = scale.curves
        self._linears = scale.linears
        self._switches = [c for _, c in self._curves if isinstance(c, Switch)]
        self._curve_cost = [self._costs_of(curve) for _, curve in self._curves]
        self._tallies = [
            self._tally(group)
            for group in problem.groups
            if isinstance(group, SpreadGroup) or not on_the_way
        ]
        self._groups_of: dict[int, list[tuple[_Tally, int]]] = defaultdict(list)
        for tally in self._tallies:
            for unit, multiplicity in tally.group.members.items():
                self._groups_of[unit].append((tally, multiplicity))
        memory = self.load[Resource.MEMORY]
        up = np.array([problem.snapshot.host_by_id[h].may_receive for h in problem.host_ids], bool)
        self._up = up
        self._arrivals_bytes = max(0.0, problem.survivable_bytes - float(memory[up].sum()))
        """Memory that may still come from hosts that are not up, to survive host failures."""

    def _tally(self, group: Group) -> _Tally:
        counts = group.counts(self.x)
        limit: Ints | float = (
            np.maximum(counts, group.at_most)
            if isinstance(group, SpreadGroup)
            else _excess(group, counts)
        )
        return _Tally(group=group, weight=self.scale.weight_of(group), counts=counts, limit=limit)

    def _costs_of(self, curve: Curve) -> Floats:
        return curve.cost(self.load[curve.resource], self._hosts)

    def host_cost(self) -> Floats:
        """What the load of each host costs, `(H,)`."""
        costs = np.zeros(self.problem.host_count)
        for (factor, _), cost in zip(self._curves, self._curve_cost, strict=True):
            costs += factor * cost
        return costs

    def move(self, unit: int, host: int) -> None:
        """Put the unit on the host, whatever that breaks."""
        source = int(self.x[unit])
        if source == host:
            return
        self.x[unit] = host
        self.members[source].discard(unit)
        self.members[host].add(unit)
        needs = self.problem.needs[:, unit]
        self.load[:, source] -= needs
        self.load[:, host] += needs
        if self._up[host] and not self._up[source]:
            self._arrivals_bytes -= needs[Resource.MEMORY]
        elif self._up[source] and not self._up[host]:
            self._arrivals_bytes += needs[Resource.MEMORY]
        both = np.array([source, host])
        for (_, curve), cost in zip(self._curves, self._curve_cost, strict=True):
            cost[both] = curve.cost(self.load[curve.resource, both], both)
        for tally, multiplicity in self._groups_of.get(unit, ()):
            tally.counts[tally.group.domain[source]] -= multiplicity
            tally.counts[tally.group.domain[host]] += multiplicity

    def gains_of_moving(self, units: Ints, source: int) -> Floats:
        """What is gained by moving each of `units`, all on `source`, to each host: `(n, H)`.

        Minus infinity where the move is not allowed. Gains are falls of the cost.
        """
        allowed = self.allowed(units, source)
        gain = np.zeros(allowed.shape)
        needs = self.problem.needs
        for (factor, curve), cost in zip(self._curves, self._curve_cost, strict=True):
            need = needs[curve.resource, units][:, None]
            load = self.load[curve.resource]
            after = curve.cost(load[source] - need[:, 0], np.array(source))
            arrived = curve.cost(load + need, self._hosts)
            gain += factor * ((cost[source] - after)[:, None] + cost - arrived)
        for factor, linear in self._linears:
            price = linear.of(units, self.problem.start)
            gain += factor * (price[:, [source]] - price)
        for row, unit in enumerate(units.tolist()):
            for tally, multiplicity in self._groups_of.get(unit, ()):
                may, cost = tally.verdict(multiplicity, source)
                allowed[row] &= may
                gain[row] -= cost
        gain[~allowed] = -IMPOSSIBLE
        return gain

    def allowed(self, units: Ints, source: int) -> Bools:
        """Whether each of `units`, all on `source`, could be on each host, groups aside."""
        problem = self.problem
        allowed = problem.candidates.of(units)
        home = problem.start[units]
        # Nothing ever keeps a unit from going back to where it runs now.
        allowed[np.arange(len(units)), home] = ~problem.drains[home]
        allowed &= problem.movable[units, None]
        broken = problem.candidates.broken[problem.candidates.kind[units]]
        allowed &= broken <= broken[:, [source]]
        for resource in LIMITED:
            after = self.load[resource] + problem.needs[resource, units][:, None]
            allowed &= after <= self.limits[resource]
        if not self._up[source]:
            fits = problem.needs[Resource.MEMORY, units] <= self._arrivals_bytes + SLACK
            allowed &= fits[:, None] | ~self._up
        allowed[:, source] = False
        for switch in self._switches:
            if self._used() <= switch.least_used and problem.scored[source]:
                last = problem.needs[Resource.VMS, units] >= self.load[Resource.VMS, source] - 0.5
                allowed &= ~(last[:, None] & (self.load[Resource.VMS] > 0.5))
        return allowed

    def _used(self) -> int:
        return int((self.load[Resource.VMS, self.problem.scored] > 0.5).sum())

    def admits(self, unit: int, host: int) -> bool:
        """Whether `host` could take the unit as things are: its load, and groups, allow it."""
        problem = self.problem
        for resource in LIMITED:
            need = problem.needs[resource, unit]
            if self.load[resource, host] + need > self.limits[resource, host]:
                return False
        source = int(self.x[unit])
        return all(
            tally.verdict(multiplicity, source)[0][host]
            for tally, multiplicity in self._groups_of.get(unit, ())
        )

    def broken_rules(self, unit: int, host: int) -> Iterator[str]:
        """Say what else than room keeps the unit off `host`: groups, and spare memory."""
        source = int(self.x[unit])
        for tally, multiplicity in self._groups_of.get(unit, ()):
            if not tally.verdict(multiplicity, source)[0][host]:
                yield f"{tally.group.rule} forbids it beside the VMs there"
        need = self.problem.needs[Resource.MEMORY, unit]
        if self._up[host] and not self._up[source] and need > self._arrivals_bytes + SLACK:
            yield "the VMs of a failed host could not be restarted any more (host_failures)"

    def gains_of_swapping(self, units: Ints, source: int, others: Ints) -> Floats:
        """What is gained by each of `units`, all on `source`, changing places with each other.

        `(n, m)` for `others`, which are elsewhere; minus infinity where it does not fit. Spread
        and together are not looked at: `swap` tries them.
        """
        problem = self.problem
        target = self.x[others]
        mine, theirs = problem.needs[:, units], problem.needs[:, others]
        gain = np.zeros((len(units), len(others)))
        fits = self._may_trade(units, source, others)
        for resource in LIMITED:
            more = mine[resource][:, None] - theirs[resource]
            fits &= self.load[resource, source] - more <= self.limits[resource, source]
            fits &= self.load[resource, target] + more <= self.limits[resource, target]
        if any(self._used() <= switch.least_used for switch in self._switches):
            more = mine[Resource.VMS][:, None] - theirs[Resource.VMS]
            fits &= self.load[Resource.VMS, source] - more > 0.5
            fits &= self.load[Resource.VMS, target] + more > 0.5
        for (factor, curve), cost in zip(self._curves, self._curve_cost, strict=True):
            more = mine[curve.resource][:, None] - theirs[curve.resource]
            load = self.load[curve.resource]
            here = curve.cost(load[source] - more, np.array(source))
            there = curve.cost(load[target] + more, target)
            gain += factor * (cost[source] - here + cost[target] - there)
        for factor, linear in self._linears:
            mine_price = linear.of(units, problem.start)
            gain += factor * (mine_price[:, [source]] - mine_price[:, target])
            gain += factor * _prices_of_trading(linear, others, target, source, problem.start)
        gain[~fits] = -IMPOSSIBLE
        return gain

    def _may_trade(self, units: Ints, source: int, others: Ints) -> Bools:
        problem = self.problem
        target = self.x[others]
        go = problem.candidates.of(units)
        go[np.arange(len(units)), problem.start[units]] = True
        come = problem.candidates.allowed[problem.candidates.kind[others], source]
        come &= problem.candidates.largest_bytes[others] <= problem.candidates.guest_bytes[source]
        come |= problem.start[others] == source
        come &= problem.movable[others] & (target != source) & ~problem.drains[source]
        broken = problem.candidates.broken
        mine, theirs = problem.candidates.kind[units], problem.candidates.kind[others]
        no_worse = broken[mine][:, target] <= broken[mine, source][:, None]
        no_worse &= broken[theirs, source] <= broken[theirs, target]
        may = go[:, target] & come & problem.movable[units, None] & no_worse
        return np.asarray(may & ~problem.drains[target], bool)

    def swap(self, unit: int, other: int) -> float:
        """Let two units change places; return what groups cost more, or infinity if forbidden.

        The swap is made in any case; doing it again undoes it.
        """
        tallies = {
            id(tally): tally for one in (unit, other) for tally, _ in self._groups_of.get(one, ())
        }
        before = sum(tally.cost() for tally in tallies.values())
        here, there = int(self.x[unit]), int(self.x[other])
        self.move(unit, there)
        self.move(other, here)
        if not all(tally.within() for tally in tallies.values()):
            return IMPOSSIBLE
        return sum(tally.cost() for tally in tallies.values()) - before

    @contextmanager
    def ignoring(self, group: Group) -> Iterator[None]:
        """Let a group be torn apart for the while that its members move one by one."""
        tally = next(tally for tally in self._tallies if tally.group is group)
        kept = tally.limit, tally.weight
        tally.limit, tally.weight = np.iinfo(np.intp).max, 0.0
        try:
            yield
        finally:
            tally.limit, tally.weight = kept

    def restore(self, places: Iterable[tuple[int, int]]) -> None:
        """Put units back to where they were, given in the order they were moved."""
        for unit, host in reversed(tuple(places)):
            self.move(unit, host)


def movable_on(layout: Layout, host: int) -> Ints:
    """The units on a host that something may move, by index."""
    movable = layout.problem.movable
    return np.array(sorted(u for u in layout.members[host] if movable[u]), np.intp)


def _excess(group: Group, counts: Ints) -> float:
    if isinstance(group, SpreadGroup):
        return float(np.maximum(counts - group.at_most, 0).sum())
    return float(counts.sum() - counts.max())


def _prices_of_trading(linear: Linear, others: Ints, here: Ints, there: int, start: Ints) -> Floats:
    """What a linear term falls by when each of `others` goes from `here` to `there`."""
    matrix, kind = linear.matrix, linear.kind[others]
    now = linear.factor[others] * matrix[kind, here]
    then = linear.factor[others] * matrix[kind, there]
    if linear.when_moved:
        now = np.where(start[others] == here, 0.0, now)
        then = np.where(start[others] == there, 0.0, then)
    return np.asarray(now - then, float)


def scale_of(tiers: Sequence[Tier], ratio: float) -> Scale:
    """Count each tier `ratio` times the one after it; the last one counts once."""
    factors = [ratio**power for power in range(len(tiers) - 1, -1, -1)]
    return Scale(tiers=tuple(zip(factors, tiers, strict=True)))
