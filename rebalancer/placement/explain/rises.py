"""What the objective changes by when one unit is somewhere else, goal by goal.

Whether it may be there is not asked: that is told by `obstacles`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.curves import Guard
from rebalancer.placement.groups import Group
from rebalancer.placement.objectives import TOLERANCE, Tier
from rebalancer.placement.problem import PlacementProblem

MOVING = "movement"
"""The goal that is a price: what it rises by is paid for what the others fall by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the tier that decides rises by."""

    tier: int
    by_goal: Mapping[str, float]

    @property
    def total(self) -> float:
        """The rise over all goals; less than 0 is better."""
        return sum(self.by_goal.values())

    @property
    def benefit(self) -> float:
        """What the goals other than movement fall by."""
        return -sum(rise for goal, rise in self.by_goal.items() if goal != MOVING)

    @property
    def price(self) -> float:
        """What movement rises by."""
        return self.by_goal.get(MOVING, 0.0)


class Rises:
    """Compares a placement with those in which one unit is elsewhere."""

    def __init__(self, problem: PlacementProblem, tiers: Sequence[Tier], x: Ints) -> None:
        """Measure placement `x` by `tiers`, the most important first."""
        self._problem = problem
        self._tiers = tuple(tiers)
        self._x = x
        self._load = problem.load(x)

    def by_goal(self, tier: Tier, unit: int, hosts: Ints) -> dict[str, Floats]:
        """What each goal of `tier` rises by when the unit is on each of `hosts`, `(n,)`."""
        here = int(self._x[unit])
        one, found = np.array([unit]), defaultdict[str, Floats](lambda: np.zeros(len(hosts)))
        for linear in tier.linears:
            price = linear.of(one, self._problem.start)[0]
            found[linear.goal] += price[hosts] - price[here]
        for curve in tier.curves:
            need = float(self._problem.needs[curve.resource, unit])
            load = self._load[curve.resource]
            found[curve.goal] += _shift(curve.cost, load, need, here, hosts)
        for guard in tier.guards:
            found[guard.goal] += self._guarded(guard, unit, here, hosts)
        for group in tier.groups:
            if unit in group.members:
                name = "repair" if group.hard else "rules"
                found[name] += group.weight * self._torn(group, unit, hosts)
        return dict(found)

    def at(self, unit: int, host: int) -> Change:
        """The change when the unit is on `host`, in the first tier that differs."""
        change = Change(tier=0, by_goal={})
        for tier in self._tiers:
            rises = self.by_goal(tier, unit, np.array([host]))
            change = Change(
                tier=tier.number, by_goal={goal: float(rise[0]) for goal, rise in rises.items()}
            )
            if abs(change.total) > TOLERANCE:
                break
        return change

    def order(self, unit: int, hosts: Ints) -> Ints:
        """Sort hosts by what is gained there, best first; earlier tiers first, then by index."""
        keys = [
            np.round(np.asarray(sum(self.by_goal(tier, unit, hosts).values())) / TOLERANCE)
            + np.zeros(len(hosts))
            for tier in self._tiers
        ]
        return np.asarray(hosts[np.lexsort(keys[::-1])] if keys else hosts, np.intp)

    def _guarded(self, guard: Guard, unit: int, here: int, hosts: Ints) -> Floats:
        load = self._load[guard.resource]
        need = float(self._problem.needs[guard.resource, unit])
        total = float(guard.curve.cost(load, np.arange(len(load))).sum())
        then = guard.cost_of(total + _shift(guard.curve.cost, load, need, here, hosts))
        return np.asarray(then - guard.cost_of(total), float)

    def _torn(self, group: Group, unit: int, hosts: Ints) -> Floats:
        now, known = group.excess(self._x), dict[int, float]()
        for host in hosts.tolist():
            domain = int(group.domain[host])
            if domain not in known:
                elsewhere = self._x.copy()
                elsewhere[unit] = host
                known[domain] = group.excess(elsewhere) - now
        return np.array([known[int(group.domain[host])] for host in hosts.tolist()])


def _shift(cost: object, load: Floats, need: float, here: int, hosts: Ints) -> Floats:
    """What a cost over the hosts' loads rises by when a need goes from one host to others."""
    assert callable(cost)
    at = np.array([here])
    left = cost(load[at] - need, at) - cost(load[at], at)
    arrived = cost(load[hosts] + need, hosts) - cost(load[hosts], hosts)
    return np.where(hosts == here, 0.0, left + arrived)
