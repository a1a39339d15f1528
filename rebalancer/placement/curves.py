"""Costs of a host as functions of its load: convex ones, and the switch of an idle host.

Models are linear, so each convex curve also gives its tangents: a straight line that is
nowhere above it. Enough of them are as good as the curve; any number of them gives a bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.problem import Resource

HOT_STEEPNESS = 4.0
"""How much more a per cent of load above `hot` counts than one of distance from the mean."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deviation:
    """Squared distance from the mean level, and more of it above `hot`."""

    goal: str
    resource: Resource
    weight: Floats
    """`(H,)`"""
    size: Floats
    """`(H,)`"""
    level: float
    hot: float

    def cost(self, load: Floats, hosts: Ints) -> Floats:
        """The cost of `hosts` under `load`; the arrays are broadcast against each other."""
        ratio = load / self.size[hosts]
        squared = np.square(ratio - self.level)
        if np.max(ratio, initial=0.0) > self.hot:
            squared += HOT_STEEPNESS * np.square(np.maximum(ratio - self.hot, 0.0))
        return np.asarray(self.weight[hosts] * squared)

    def tangent(self, load: Floats, hosts: Ints) -> tuple[Floats, Floats]:
        """Slope and value at load 0 of the line that touches the curve at `load`."""
        ratio = load / self.size[hosts]
        hot = np.maximum(ratio - self.hot, 0.0)
        slope = 2 * (ratio - self.level + HOT_STEEPNESS * hot) * self.weight[hosts]
        slope = slope / self.size[hosts]
        return slope, self.cost(load, hosts) - slope * load


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Excess:
    """Load beyond a limit."""

    goal: str
    resource: Resource
    weight: Floats
    """`(H,)`: cost of one unit of load too much."""
    limit: Floats
    """`(H,)`"""

    def cost(self, load: Floats, hosts: Ints) -> Floats:
        """The cost of `hosts` under `load`; the arrays are broadcast against each other."""
        return self.weight[hosts] * np.maximum(load - self.limit[hosts], 0.0)

    def tangent(self, load: Floats, hosts: Ints) -> tuple[Floats, Floats]:
        """Slope and value at load 0 of the line that touches the curve at `load`."""
        slope = np.where(load > self.limit[hosts], self.weight[hosts], 0.0)
        return slope, -slope * self.limit[hosts]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cover:
    """What hosts in use must have together: Σ capacity - the `failures` largest ≥ needed."""

    name: str
    capacity: Floats
    """`(H,)`"""
    needed: float
    failures: int
    always: Bools
    """`(H,)`: hosts that count whether or not anything is on them."""

    def surplus(self, used: Bools) -> float:
        """What the hosts in use, `(H,)`, have beyond what is needed."""
        have = self.capacity[used | self.always]
        largest = np.sort(have)[max(0, len(have) - self.failures) :].sum()
        return float(have.sum() - largest) - self.needed

    def enough(self, used: Bools) -> float:
        """A sum of capacities that is enough whichever they are, or what hosts in use have now."""
        largest = np.sort(self.capacity)[len(self.capacity) - self.failures :].sum()
        return min(self.needed + float(largest), float(self.capacity[used | self.always].sum()))

    def least(self, used: Bools) -> float:
        """A sum of capacities below which no hosts have enough, or what hosts in use have now."""
        there = np.sort(self.capacity[self.capacity > 0])
        smallest = float(there[: self.failures].sum())
        return min(self.needed + smallest, float(self.capacity[used | self.always].sum()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Switch:
    """What a host costs as soon as anything is on it. Not convex: models need a binary."""

    goal: str
    resource: Resource
    cost_when_used: Floats
    """`(H,)`"""
    covers: tuple[Cover, ...] = ()
    """What the hosts in use must have together; where they would not, a host is not emptied."""

    def cost(self, load: Floats, hosts: Ints) -> Floats:
        """The cost of `hosts` under `load`; the arrays are broadcast against each other."""
        return np.where(load > 0.5, self.cost_when_used[hosts], 0.0)

    def may_empty(self, used: Bools, host: int) -> bool:
        """Whether the hosts in use, `(H,)`, still have what they need without this one."""
        without = used.copy()
        without[host] = False
        return all(cover.surplus(without) >= 0 for cover in self.covers)

    def replaces(self, host: int) -> Bools:
        """Hosts that have no less than `host` of anything, `(H,)`: they may take its place."""
        alike = [cover.capacity >= cover.capacity[host] for cover in self.covers]
        return (
            np.asarray(np.all(alike, axis=0), bool)
            if alike
            else np.ones(len(self.cost_when_used), bool)
        )


type Curve = Deviation | Excess | Switch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Guard:
    """What the cluster as a whole may not lose: `price · max(0, Σ_h curve[h](load[h]) − allowed)`.

    It weighs nothing until the sum over all hosts passes `allowed`, and then much: so that
    what is not being balanced, memory say, does not pay for what is. Convex, like its curve.
    """

    goal: str
    curve: Deviation
    """Its `hot` is infinite: a sum of squared distances from the level, nothing else."""
    allowed: float
    price: float

    @property
    def resource(self) -> Resource:
        """What it watches the load of."""
        return self.curve.resource

    def cost_of(self, total: Floats | float) -> Floats:
        """The cost when the curve comes to `total` over all hosts."""
        return np.asarray(self.price * np.maximum(total - self.allowed, 0.0))

    def cost(self, load: Floats) -> float:
        """The cost when the hosts carry `load`, `(H,)`."""
        return float(self.cost_of(self.curve.cost(load, np.arange(len(load))).sum()))
