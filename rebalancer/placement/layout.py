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
from rebalancer.placement.curves import Curve, Guard, Switch
from rebalancer.placement.groups import Group, SpreadGroup
from rebalancer.placement.objectives import Tier
from rebalancer.placement.prices import Linear
from rebalancer.placement.problem import LIMITED, SLACK, PlacementProblem, Resource
from rebalancer.placement.standing import GuardStanding, Standing
from rebalancer.placement.tally import Tally

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

    @property
    def guards(self) -> list[tuple[float, Guard]]:
        """Guards with their factors."""
        return [(factor, guard) for factor, tier in self.tiers for guard in tier.guards]

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


class Layout:
    """Where every unit is, with everything that follows from it."""

    def __init__(
        self, problem: PlacementProblem, x: Ints, scale: Scale, *, on_the_way: bool = False
    ) -> None:
        """Begin with placement `x`, which becomes the measure of what must not get worse.

        On the way from one placement to another the rules that are final (together, presence) do
        not count.
        """
        self.problem = problem
        self.scale = scale
        self.x = x.copy()
        self.load = problem.load(x)
        self.limits = problem.limits(x) + SLACK
        self.pool_load = problem.pools.load(x)
        self.pool_limits = problem.pools.limits(x) + SLACK
        allowance = None if on_the_way else problem.allowance
        self._spending = allowance.spending(problem.start, x) if allowance else None
        self.members: list[set[int]] = [set() for _ in problem.host_ids]
        for unit, host in enumerate(x.tolist()):
            self.members[host].add(unit)
        self._hosts = np.arange(problem.host_count)
        self.linears = scale.linears
        self._weighed = [Standing(factor, curve, self.load) for factor, curve in scale.curves]
        guarded = [GuardStanding(factor, guard, self.load) for factor, guard in scale.guards]
        self.standings = [*self._weighed, *guarded]
        self.switches = [c for _, c in scale.curves if isinstance(c, Switch)]
        self._tallies = [
            self._tally(group)
            for group in problem.groups
            if isinstance(group, SpreadGroup) or not on_the_way
        ]
        self._groups_of: dict[int, list[tuple[Tally, int]]] = defaultdict(list)
        for tally in self._tallies:
            for unit, multiplicity in tally.group.members.items():
                self._groups_of[unit].append((tally, multiplicity))
        memory = self.load[Resource.MEMORY]
        self.is_up = problem.is_up
        on_those = float(memory[problem.is_up].sum())
        self.arrivals_bytes = max(0.0, problem.survivable_bytes - on_those)
        """Memory that may still come from hosts that are not up, to survive host failures."""

    def _tally(self, group: Group) -> Tally:
        counts = group.counts(self.x)
        limit: Ints | float = (
            np.maximum(counts, group.at_most)
            if isinstance(group, SpreadGroup)
            else group.excess_of(counts)
        )
        return Tally(group=group, weight=self.scale.weight_of(group), counts=counts, limit=limit)

    def host_cost(self) -> Floats:
        """What the load of each host costs, `(H,)`."""
        costs = np.zeros(self.problem.host_count)
        for standing in self._weighed:
            costs += standing.factor * standing.costs
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
        if self.problem.pools.pools:
            taken = self.problem.pools.needs[:, unit]
            self.pool_load[:, source] -= taken
            self.pool_load[:, host] += taken
        if self._spending is not None:
            self._spending.move(unit, source, host)
        if self.is_up[host] and not self.is_up[source]:
            self.arrivals_bytes -= needs[Resource.MEMORY]
        elif self.is_up[source] and not self.is_up[host]:
            self.arrivals_bytes += needs[Resource.MEMORY]
        both = np.array([source, host])
        for standing in self.standings:
            standing.update(both)
        for tally, multiplicity in self._groups_of.get(unit, ()):
            tally.counts[tally.group.domain[source]] -= multiplicity
            tally.counts[tally.group.domain[host]] += multiplicity

    def gains_of_moving(self, units: Ints, source: int, hosts: Ints | None = None) -> Floats:
        """What is gained by moving each of `units`, all on `source`, to each host: `(n, H)`.

        Minus infinity where the move is not allowed. Gains are falls of the cost. With `hosts`,
        only these are looked at.
        """
        targets = self._hosts if hosts is None else hosts
        allowed = self.allowed(units, source)[:, targets]
        gain = np.zeros(allowed.shape)
        needs = self.problem.needs
        for standing in self.standings:
            need = needs[standing.curve.resource, units][:, None]
            left = standing.rise(-need, np.array(source))
            gain += standing.gain(left + standing.rise(need, targets))
        for factor, linear in self.linears:
            price = linear.of(units, self.problem.start)
            gain += factor * (price[:, [source]] - price[:, targets])
        for row, unit in enumerate(units.tolist()):
            for tally, multiplicity in self._groups_of.get(unit, ()):
                may, cost = tally.verdict(multiplicity, source)
                allowed[row] &= may[targets]
                gain[row] -= cost[targets]
        gain[~allowed] = -IMPOSSIBLE
        return gain

    def inviting(self, units: Ints, count: int) -> Ints:
        """The hosts that a unit like `units` costs least on, and those that they started on."""
        cost = np.zeros(self.problem.host_count)
        for standing in self.standings:
            mean = self.problem.needs[standing.curve.resource, units].mean()
            cost -= standing.gain(standing.rise(mean, self._hosts))
        cheapest = np.argpartition(cost, count)[:count]
        return np.union1d(cheapest, self.problem.start[units])

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
        if problem.pools.pools:
            allowed &= problem.pools.allowed(units, self.pool_load, self.pool_limits)
        if self._spending is not None:
            allowed &= self._spending.allowed(units, source)
        if not self.is_up[source]:
            fits = problem.needs[Resource.MEMORY, units] <= self.arrivals_bytes + SLACK
            allowed &= fits[:, None] | ~self.is_up
        allowed[:, source] = False
        for switch in self.switches:
            last = problem.needs[Resource.VMS, units] >= self.load[Resource.VMS, source] - 0.5
            used = self.load[Resource.VMS] > 0.5
            if problem.scored[source] and last.any() and not switch.may_empty(used, source):
                mends = broken < broken[:, [source]]
                allowed &= ~last[:, None] | mends | (~used & switch.replaces(source))
        return allowed

    def is_within(self) -> bool:
        """Whether no limit, cap or group is worse than it was when the layout was made."""
        return bool(
            (self.load[: len(LIMITED)] <= self.limits).all()
            and (self.pool_load <= self.pool_limits).all()
            and (self._spending is None or self._spending.is_within)
            and self.arrivals_bytes >= -SLACK
            and all(tally.within() for tally in self._tallies)
        )

    def admits(self, unit: int, host: int) -> bool:
        """Whether `host` could take the unit as things are: its load, and groups, allow it."""
        problem = self.problem
        for resource in LIMITED:
            need = problem.needs[resource, unit]
            if self.load[resource, host] + need > self.limits[resource, host]:
                return False
        if any(self._pools_short(unit, host)):
            return False
        source = int(self.x[unit])
        return all(
            tally.verdict(multiplicity, source)[0][host]
            for tally, multiplicity in self._groups_of.get(unit, ())
        )

    def _pools_short(self, unit: int, host: int) -> Iterator[str]:
        for number, pool in enumerate(self.problem.pools.pools):
            need = self.problem.pools.needs[number, unit]
            after = self.pool_load[number, host] + need
            if need > 0 and after > self.pool_limits[number, host]:
                yield f"no room for its {pool.text}"

    def broken_rules(self, unit: int, host: int) -> Iterator[str]:
        """Say what else than room keeps the unit off `host`: pools, groups, and spare memory."""
        source = int(self.x[unit])
        yield from self._pools_short(unit, host)
        for tally, multiplicity in self._groups_of.get(unit, ()):
            if not tally.verdict(multiplicity, source)[0][host]:
                yield f"{tally.group.rule} {tally.group.objection}"
        need = self.problem.needs[Resource.MEMORY, unit]
        if self.is_up[host] and not self.is_up[source] and need > self.arrivals_bytes + SLACK:
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
        for number, row in enumerate(problem.pools.needs):
            pool_load, most = self.pool_load[number], self.pool_limits[number]
            more = row[units][:, None] - row[others]
            fits &= pool_load[source] - more <= most[source]
            fits &= pool_load[target] + more <= most[target]
        if self.switches:
            more = mine[Resource.VMS][:, None] - theirs[Resource.VMS]
            fits &= self.load[Resource.VMS, source] - more > 0.5
            fits &= self.load[Resource.VMS, target] + more > 0.5
        for standing in self.standings:
            resource = standing.curve.resource
            more = mine[resource][:, None] - theirs[resource]
            here = standing.rise(-more, np.array(source))
            gain += standing.gain(here + standing.rise(more, target))
        for factor, linear in self.linears:
            mine_price = linear.of(units, problem.start)
            gain += factor * (mine_price[:, [source]] - mine_price[:, target])
            gain += factor * linear.fall(others, target, source, problem.start)
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
        if not all(tally.within() for tally in tallies.values()) or not self._is_paid_for():
            return IMPOSSIBLE
        return sum(tally.cost() for tally in tallies.values()) - before

    def extra_cost(self, moves: Sequence[tuple[int, int]]) -> float:
        """What groups cost more after moves, made at once; infinity where one forbids them."""
        tallies = {
            id(tally): tally for unit, _ in moves for tally, _ in self._groups_of.get(unit, ())
        }
        if not tallies and self._spending is None and not self.problem.pools.pools:
            return 0.0
        before = sum(tally.cost() for tally in tallies.values())
        undo = [(unit, int(self.x[unit])) for unit, _ in moves]
        for unit, host in moves:
            self.move(unit, host)
        within = all(tally.within() for tally in tallies.values())
        within = within and self._is_paid_for() and bool((self.pool_load <= self.pool_limits).all())
        after = sum(tally.cost() for tally in tallies.values())
        self.restore(undo)
        return after - before if within else IMPOSSIBLE

    def _is_paid_for(self) -> bool:
        return self._spending is None or self._spending.is_within

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


def scale_of(tiers: Sequence[Tier], ratio: float) -> Scale:
    """Count each tier `ratio` times the one after it; the last one counts once."""
    factors = [ratio**power for power in range(len(tiers) - 1, -1, -1)]
    return Scale(tiers=tuple(zip(factors, tiers, strict=True)))
