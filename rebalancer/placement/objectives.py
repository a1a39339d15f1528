"""The goals as costs: one function per goal, smaller is better.

A cost is a sum of terms of five kinds, so that search, model and bound can each treat them in
their own way: a `Linear` price for having a unit on a host, a `Curve` over the load of a host,
a `Guard` on what hosts come to together, and the VMs too many of spread and together groups.
Goals of one tier are added up with their weights; between tiers nothing is traded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rebalancer.cluster.policy import (
    BalancedResource,
    BalanceGoal,
    DrainGoal,
    GeographyGoal,
    MovementGoal,
    OverloadMeasure,
    PowerGoal,
    RelieveGoal,
    Trigger,
)
from rebalancer.cluster.rules import Pin
from rebalancer.cluster.violations import cpu_capacity_cores
from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.curves import Curve, Deviation, Excess, Guard
from rebalancer.placement.geography import geography
from rebalancer.placement.groups import Group, PresenceGroup, SpreadGroup, TogetherGroup
from rebalancer.placement.movement import movement
from rebalancer.placement.power import power
from rebalancer.placement.prices import Linear, everywhere
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource

DRAIN_TIER = -2
"""Draining goes before everything else, whatever tiers a policy names."""
REPAIR_TIER = -1

TOLERANCE = 1e-6
"""Costs that differ by less are the same."""

GUARD_PRICE = 100.0
"""What is lost of the evenness of what is guarded counts so many times what is gained of CPU's.
High enough for the guard to hold in nearly every plan; not infinite, or hot hosts could not be
relieved where memory happens to be perfectly even."""
RESOURCE_OF = {BalancedResource.CPU: Resource.CORES, BalancedResource.MEMORY: Resource.MEMORY}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tier:
    """The goals that are weighed against each other; an earlier tier always goes first."""

    number: int
    linears: tuple[Linear, ...] = ()
    curves: tuple[Curve, ...] = ()
    guards: tuple[Guard, ...] = ()
    spreads: tuple[SpreadGroup, ...] = ()
    togethers: tuple[TogetherGroup, ...] = ()
    presences: tuple[PresenceGroup, ...] = ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The spread, together and presence groups that count in this tier."""
        return (*self.spreads, *self.togethers, *self.presences)

    def terms(self, problem: PlacementProblem, x: Ints) -> Mapping[str, float]:
        """The cost of a placement by goal."""
        found: defaultdict[str, float] = defaultdict(float)
        load = problem.load(x)
        hosts = np.arange(problem.host_count)
        for linear in self.linears:
            found[linear.goal] += float(linear.at(x, problem.start).sum())
        for curve in self.curves:
            found[curve.goal] += float(curve.cost(load[curve.resource], hosts).sum())
        for guard in self.guards:
            found[guard.goal] += guard.cost(load[guard.resource])
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
    goals: defaultdict[int, list[Linear | Curve | Guard]] = defaultdict(list)
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
                curves=tuple(
                    term for term in goals[number] if not isinstance(term, Linear | Guard)
                ),
                guards=tuple(term for term in goals[number] if isinstance(term, Guard)),
                spreads=_soft(problem.spreads) if number == first else (),
                togethers=_soft(problem.togethers) if number == first else (),
                presences=_soft(problem.presences) if number == first else (),
            )
        )
    return tuple(tiers)


def _terms_of(
    problem: PlacementProblem,
    goal: BalanceGoal | RelieveGoal | PowerGoal | GeographyGoal | MovementGoal,
) -> Iterator[Linear | Curve | Guard]:
    match goal:
        case BalanceGoal():
            return balance(problem, goal)
        case RelieveGoal():
            return relieve(problem, goal)
        case PowerGoal():
            return power(problem, goal)
        case GeographyGoal():
            return geography(problem, goal)
        case MovementGoal():
            return movement(problem, goal)


def balance(problem: PlacementProblem, goal: BalanceGoal) -> Iterator[Curve | Guard]:
    """Even out relative load: Σ_h Σ_r w[r]·((u - ū[r])² + 4·max(0, u - hot)²).

    u is the load of host h relative to its size, ū[r] that of the cluster as a whole, so hosts
    of unequal size are balanced when they are equally full. Only hosts that are up count.
    What is guarded is not made less even on the way.
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

    for guarded in sorted(goal.guard):
        if goal.weight > 0 and problem.scored.any():
            yield guard(problem, RESOURCE_OF[guarded], goal.weight)


def guard(problem: PlacementProblem, resource: Resource, weight: float) -> Guard:
    """Keep a resource as even as it is: price · max(0, Σ_h (u - ū)² − its sum at the start).

    ū is the mean of all u at the start, so the sum is the variance of u at the start, and never
    less than it afterwards: within the guard the standard deviation of u does not rise.
    """
    size = problem.size[resource]
    now = (problem.start_load[resource] / size)[problem.scored]
    leaves_draining = mean_level(problem, resource) - float(
        problem.start_load[resource, problem.scored].sum() / size[problem.scored].sum()
    )
    return Guard(
        goal="guard",
        curve=Deviation(
            goal="guard",
            resource=resource,
            weight=problem.scored.astype(float),
            size=size,
            level=float(now.mean()) + leaves_draining,
            hot=np.inf,
        ),
        allowed=float(((now - now.mean()) ** 2).sum()),
        price=GUARD_PRICE * weight,
    )


def mean_level(problem: PlacementProblem, resource: Resource) -> float:
    """Load of the cluster relative to its size, everything on draining hosts moved off."""
    load = problem.start_load[resource, problem.scored | problem.drains].sum()
    return float(load / problem.size[resource, problem.scored].sum())


def relieve(problem: PlacementProblem, goal: RelieveGoal) -> Iterator[Excess]:
    """Take load off hosts above the band, and off no others: Σ_h Σ_r max(0, u[h, r] − band[r]).

    u is the load of host h relative to its size. A host within the band costs nothing, however
    far below it others are, and a target that is lifted above it costs as much as is gained.
    """
    for resource, ratio in (
        (Resource.CORES, goal.cpu_ratio),
        (Resource.MEMORY, goal.memory_ratio),
    ):
        if ratio is not None and goal.weight > 0 and problem.scored.any():
            yield Excess(
                goal="relieve",
                resource=resource,
                weight=goal.weight * problem.scored / problem.size[resource],
                limit=ratio * problem.size[resource],
            )


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
        left = everywhere(problem, "drain", vms, problem.drains.astype(float))
        yield Tier(number=DRAIN_TIER, linears=(left,))


def _repair_tier(problem: PlacementProblem) -> Iterator[Tier]:
    """Mend what is broken at the start: rules by VM, limits by the share they are passed by."""
    curves = tuple(
        Excess(
            goal="repair",
            resource=resource,
            limit=limit,
            weight=1.0 / problem.size[resource],
        )
        for resource, limit in repaired_limits(problem)
        if (problem.start_load[resource] > limit + 1e-6).any()
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
    presences = tuple(g for g in problem.presences if g.hard and g.excess(problem.start))
    if curves or linears or spreads or togethers or presences:
        yield Tier(
            number=REPAIR_TIER,
            linears=linears,
            curves=curves,
            spreads=spreads,
            togethers=togethers,
            presences=presences,
        )


def repaired_limits(problem: PlacementProblem) -> Iterator[tuple[Resource, Floats]]:
    """What hosts are brought down to at once when they hold more, `(H,)` for each resource.

    Where the policy asks for it, a host is short of CPU by what is used now, and not by a peak
    that may never come: of that there is no margin to keep.
    """
    for resource in LIMITED:
        if resource is Resource.CPU and problem.policy.forecast.overload is OverloadMeasure.NOW:
            hosts = [problem.snapshot.host_by_id[host] for host in problem.host_ids]
            cores = [cpu_capacity_cores(host, problem.policy) for host in hosts]
            yield Resource.NOW, np.array(cores, float)
        else:
            yield resource, problem.capacity[resource]


def _soft[G: Group](groups: tuple[G, ...]) -> tuple[G, ...]:
    return tuple(group for group in groups if not group.hard)
