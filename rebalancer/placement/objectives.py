"""The goals as costs: one function per goal, smaller is better.

A cost is a sum of terms of four kinds, so that search, model and bound can each treat them in
their own way: a `Linear` price for having a unit on a host, a `Curve` over the load of a host,
and the VMs too many of spread and together groups. Goals of one tier are added up with their
weights; between tiers nothing is traded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rebalancer.cluster.inventory import Host, Site, Vm
from rebalancer.cluster.policy import (
    BalanceGoal,
    DrainGoal,
    GeographyCriterion,
    GeographyGoal,
    MovementGoal,
    PowerGoal,
    Trigger,
)
from rebalancer.cluster.rules import Pin
from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.curves import Curve, Deviation, Excess, Switch
from rebalancer.placement.groups import Group, SpreadGroup, TogetherGroup
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource

DRAIN_TIER = -2
"""Draining goes before everything else, whatever tiers a policy names."""
REPAIR_TIER = -1

TOLERANCE = 1e-6
"""Costs that differ by less are the same."""

MOVE_PRICE = 0.1
"""Cost, at weight 1, of moving as much memory as a mean host has.

The unit of the balance goal is a host whose load differs from the mean by its whole capacity,
squared. So with weight 0.1 a VM of 1/100 of a host's memory has to earn 1e-4: it takes 1 % of
load from a host that is about half a per cent above another one, or less from a hotter one.
"""
MOVE_OVERHEAD_BYTES = 2**28
"""Added to the bytes of each move: device state, connections, and the risk of moving at all."""
ASSUMED_DIRTY_RATIO = 0.1
"""Share of a link that a VM dirties when it was not measured."""
LARGEST_RESEND_RATIO = 3.0
"""A VM that dirties as fast as its link carries is throttled or suspended, not sent for ever."""

BASE_WATTS, IDLE_WATTS_PER_CORE, BUSY_WATTS_PER_CORE = 30.0, 3.3, 6.5
"""Draw of a typical two-socket server, for hosts whose watts are unknown."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Linear:
    """A price for having unit u on host h: `factor[u] * matrix[kind[u], h]`."""

    goal: str
    factor: Floats
    kind: Ints
    matrix: Floats
    when_moved: bool = False
    """Whether it is free on the host that the unit starts on."""

    def of(self, units: Ints, start: Ints) -> Floats:
        """The price of each of `units` on each host, `(n, H)`."""
        rows = self.factor[units, None] * self.matrix[self.kind[units]]
        if self.when_moved:
            rows[np.arange(len(units)), start[units]] = 0.0
        return rows

    def at(self, x: Ints, start: Ints) -> Floats:
        """The price of each unit where `x` has it, `(U,)`."""
        prices = self.factor * self.matrix[self.kind, x]
        return np.where(x == start, 0.0, prices) if self.when_moved else prices


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tier:
    """The goals that are weighed against each other; an earlier tier always goes first."""

    number: int
    linears: tuple[Linear, ...] = ()
    curves: tuple[Curve, ...] = ()
    spreads: tuple[SpreadGroup, ...] = ()
    togethers: tuple[TogetherGroup, ...] = ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The spread and together groups that count in this tier."""
        return (*self.spreads, *self.togethers)

    def terms(self, problem: PlacementProblem, x: Ints) -> Mapping[str, float]:
        """The cost of a placement by goal."""
        found: defaultdict[str, float] = defaultdict(float)
        load = problem.load(x)
        hosts = np.arange(problem.host_count)
        for linear in self.linears:
            found[linear.goal] += float(linear.at(x, problem.start).sum())
        for curve in self.curves:
            found[curve.goal] += float(curve.cost(load[curve.resource], hosts).sum())
        for group in self.groups:
            found["repair" if group.hard else "rules"] += group.weight * group.excess(x)
        return dict(found)

    def cost(self, problem: PlacementProblem, x: Ints) -> float:
        """The cost of a placement."""
        return sum(self.terms(problem, x).values())


def is_necessary(tier: Tier) -> bool:
    """Whether the tier is about what has to happen: draining, mending what is broken."""
    return tier.number in (DRAIN_TIER, REPAIR_TIER)


def deciding_tier(
    problem: PlacementProblem, tiers: Iterable[Tier], before: Ints, after: Ints
) -> tuple[Tier | None, float]:
    """The most important tier that the two placements differ in, and by how much it rises."""
    for tier in tiers:
        rise = tier.cost(problem, after) - tier.cost(problem, before)
        if abs(rise) > TOLERANCE:
            return tier, rise
    return None, 0.0


def find_tiers(problem: PlacementProblem) -> tuple[Tier, ...]:
    """Everything that the policy asks for, most important tier first."""
    tiers = [*_drain_tier(problem), *_repair_tier(problem)]
    goals: defaultdict[int, list[Linear | Curve]] = defaultdict(list)
    for goal in problem.policy.goals:
        if not isinstance(goal, DrainGoal):
            goals[goal.tier].extend(_terms_of(problem, goal))
    first = min(goals, default=1)
    goals[first].extend(soft_rules(problem))
    for number in sorted(goals):
        tiers.append(
            Tier(
                number=number,
                linears=tuple(term for term in goals[number] if isinstance(term, Linear)),
                curves=tuple(term for term in goals[number] if not isinstance(term, Linear)),
                spreads=_soft(problem.spreads) if number == first else (),
                togethers=_soft(problem.togethers) if number == first else (),
            )
        )
    return tuple(tiers)


def _terms_of(
    problem: PlacementProblem, goal: BalanceGoal | PowerGoal | GeographyGoal | MovementGoal
) -> Iterator[Linear | Curve]:
    match goal:
        case BalanceGoal():
            return balance(problem, goal)
        case PowerGoal():
            return power(problem, goal)
        case GeographyGoal():
            return geography(problem, goal)
        case MovementGoal():
            return movement(problem, goal)


def balance(problem: PlacementProblem, goal: BalanceGoal) -> Iterator[Curve]:
    """Even out relative load: Σ_h Σ_r w[r]·((u - ū[r])² + 4·max(0, u - hot)²).

    u is the load of host h relative to its size, ū[r] that of the cluster as a whole, so hosts
    of unequal size are balanced when they are equally full. Only hosts that are up count.
    """
    trigger = problem.policy.trigger or Trigger()
    for resource, weight in (
        (Resource.CORES, goal.cpu_weight),
        (Resource.MEMORY, goal.memory_weight),
    ):
        if weight * goal.weight > 0 and problem.scored.any():
            yield Deviation(
                goal="balance",
                resource=resource,
                weight=weight * goal.weight * problem.scored.astype(float),
                size=problem.size[resource],
                level=mean_level(problem, resource),
                hot=trigger.hot_ratio,
            )


def mean_level(problem: PlacementProblem, resource: Resource) -> float:
    """Load of the cluster relative to its size, everything on draining hosts moved off."""
    load = problem.start_load[resource, problem.scored | problem.drains].sum()
    return float(load / problem.size[resource, problem.scored].sum())


def power(problem: PlacementProblem, goal: PowerGoal) -> Iterator[Linear | Curve]:
    """Use few watts: Σ_h idle[h]·y[h] + Σ_v cores[v]·busy[h(v)], in watts of a mean full host.

    y[h] is 1 where anything runs. Watts of a host rise linearly with its CPU use (Fan, Weber,
    Barroso, ISCA 2007, doi:10.1145/1250662.1250665).
    """
    hosts = [problem.snapshot.host_by_id[host] for host in problem.host_ids]
    idle = np.array([idle_watts(host) for host in hosts])
    full = np.array([max_watts(host) for host in hosts])
    if not problem.scored.any():
        return
    unit = goal.weight / max(1.0, float(full[problem.scored].mean()))
    yield Switch(
        goal="power",
        resource=Resource.VMS,
        cost_when_used=unit * idle * problem.scored,
        least_used=goal.min_awake,
    )
    per_core = np.maximum(0.0, full - idle) / problem.size[Resource.CORES]
    yield _everywhere(problem, "power", problem.needs[Resource.CORES], unit * per_core)


def idle_watts(host: Host) -> float:
    """Watts of the host when it is on and idle."""
    if host.idle_watts is not None:
        return host.idle_watts
    return BASE_WATTS + IDLE_WATTS_PER_CORE * host.cpu_cores


def max_watts(host: Host) -> float:
    """Watts of the host when all its cores are busy."""
    if host.max_watts is not None:
        return host.max_watts
    return idle_watts(host) + BUSY_WATTS_PER_CORE * host.cpu_cores


def geography(problem: PlacementProblem, goal: GeographyGoal) -> Iterator[Linear]:
    """Prefer good sites: Σ_v share[v]·worth[site of v], worth relative to the worst site's.

    `share` is the VM's part of a mean host: of its cores where energy is the criterion, of its
    VMs where latency is, so that a cluster's cost is of the order of its number of hosts. A
    site whose worth is unknown is as bad as the worst one.
    """
    hosts = [problem.snapshot.host_by_id[host] for host in problem.host_ids]
    worth = [_worth(problem.snapshot.site_by_name.get(host.site or ""), goal) for host in hosts]
    known = [value for value in worth if value is not None]
    if not known or max(known) <= 0 or not problem.scored.any():
        return
    cost = np.array([max(known) if value is None else value for value in worth]) / max(known)
    latency = goal.criterion is GeographyCriterion.LATENCY
    needs = problem.needs[Resource.VMS if latency else Resource.CORES]
    mean = max(1e-9, needs.sum() / problem.scored.sum())
    yield _everywhere(problem, "geography", needs / mean, goal.weight * cost)


def _worth(site: Site | None, goal: GeographyGoal) -> float | None:
    if site is None:
        return None
    match goal.criterion:
        case GeographyCriterion.LATENCY:
            return 0.0 if site.name == goal.users else site.latency_seconds.get(goal.users or "")
        case GeographyCriterion.ENERGY_PRICE:
            return site.energy_price_per_kwh
        case GeographyCriterion.CARBON:
            return site.carbon_g_per_kwh


def movement(problem: PlacementProblem, goal: MovementGoal) -> Iterator[Linear]:
    """Move little: Σ over moved VMs of bytes[v]·stretch / memory of a mean host.

    Bytes are memory, more for what is dirtied meanwhile; `stretch` is how much longer they
    take over the links between two sites than over a NIC.
    """
    hosts = [problem.snapshot.host_by_id[host] for host in problem.host_ids]
    if not problem.scored.any():
        return
    nic = max(1.0, float(np.mean([host.nic_bytes_per_second for host in hosts])))
    bytes_moved = np.array([sum(_bytes(vm, nic) for vm in unit) for unit in problem.units])
    host_bytes = float(problem.size[Resource.MEMORY, problem.scored].mean())
    kind, stretch = _stretch(problem, hosts)
    yield Linear(
        goal="movement",
        factor=goal.weight * MOVE_PRICE * bytes_moved / host_bytes,
        kind=kind[problem.start],
        matrix=stretch,
        when_moved=True,
    )


def _bytes(vm: Vm, nic_bytes_per_second: float) -> float:
    """About what a migration of the VM sends; `planning` predicts it in detail."""
    if not vm.is_active:
        return MOVE_OVERHEAD_BYTES
    dirty = vm.dirty_bytes_per_second
    share = ASSUMED_DIRTY_RATIO if dirty is None else dirty / nic_bytes_per_second
    resent = min(LARGEST_RESEND_RATIO, share / max(1e-9, 1 - share) if share < 1 else np.inf)
    return MOVE_OVERHEAD_BYTES + vm.memory_bytes * (1 + resent)


def _stretch(problem: PlacementProblem, hosts: list[Host]) -> tuple[Ints, Floats]:
    """Site of each host `(H,)`, and from each site to each host: time over that within it."""
    sites: dict[str | None, int] = {}
    kind = np.array([sites.setdefault(host.site, len(sites)) for host in hosts], np.intp)
    stretch = np.ones((len(sites), len(hosts)))
    example = {host.site: host for host in hosts}
    for name, index in sites.items():
        for column, host in enumerate(hosts):
            if links := problem.snapshot.links_between(example[name], host):
                slowest = min(link.bytes_per_second for link in links)
                stretch[index, column] = max(1.0, host.nic_bytes_per_second / slowest)
    return kind, stretch


def soft_rules(problem: PlacementProblem) -> Iterator[Linear]:
    """What soft rules about single VMs cost: the weight of fence and ban there, of pin if moved."""
    soft = problem.candidates.soft_cost
    if soft.any():
        yield Linear(
            goal="rules",
            factor=np.ones(problem.unit_count),
            kind=problem.candidates.kind,
            matrix=soft,
        )
    pins = [rule for rule in problem.policy.rules if isinstance(rule, Pin) and not rule.hard]
    if pins:
        price = [
            sum(pin.weight for vm in unit for pin in pins if pin.vms.matches(vm))
            for unit in problem.units
        ]
        none = np.zeros(problem.unit_count, np.intp)
        everywhere = np.ones((1, problem.host_count))
        yield Linear(
            goal="rules",
            factor=np.array(price, float),
            kind=none,
            matrix=everywhere,
            when_moved=True,
        )


def _drain_tier(problem: PlacementProblem) -> Iterator[Tier]:
    """Empty the draining hosts: the number of VMs that are left on one."""
    if problem.drains[problem.start].any():
        vms = np.array([len(unit) for unit in problem.units], float)
        left = _everywhere(problem, "drain", vms, problem.drains.astype(float))
        yield Tier(number=DRAIN_TIER, linears=(left,))


def _repair_tier(problem: PlacementProblem) -> Iterator[Tier]:
    """Mend what is broken at the start: rules by VM, limits by the share they are passed by."""
    curves = tuple(
        Excess(
            goal="repair",
            resource=resource,
            limit=problem.capacity[resource],
            weight=1.0 / problem.size[resource],
        )
        for resource in LIMITED
        if (problem.start_load[resource] > problem.capacity[resource] + 1e-6).any()
    )
    candidates = problem.candidates
    broken = Linear(
        goal="repair",
        factor=np.ones(problem.unit_count),
        kind=candidates.kind,
        matrix=candidates.broken,
    )
    spreads = tuple(g for g in problem.spreads if g.hard and g.excess(problem.start))
    togethers = tuple(g for g in problem.togethers if g.hard and g.excess(problem.start))
    linears = (broken,) if broken.at(problem.start, problem.start).any() else ()
    if curves or linears or spreads or togethers:
        yield Tier(
            number=REPAIR_TIER,
            linears=linears,
            curves=curves,
            spreads=spreads,
            togethers=togethers,
        )


def _soft[G: Group](groups: tuple[G, ...]) -> tuple[G, ...]:
    return tuple(group for group in groups if not group.hard)


def _everywhere(problem: PlacementProblem, goal: str, factor: Floats, host_cost: Floats) -> Linear:
    kind = np.zeros(problem.unit_count, np.intp)
    return Linear(goal=goal, factor=factor, kind=kind, matrix=host_cost[None, :])
