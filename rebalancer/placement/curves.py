"""Costs of a host as functions of its load: convex ones, and the switch of an idle host.

Models are linear, so each convex curve also gives its tangents: a straight line that is
nowhere above it. Enough of them are as good as the curve; any number of them gives a bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Floats, Ints
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
        hot = np.maximum(ratio - self.hot, 0.0)
        return self.weight[hosts] * ((ratio - self.level) ** 2 + HOT_STEEPNESS * hot**2)

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
class Switch:
    """What a host costs as soon as anything is on it. Not convex: models need a binary."""

    goal: str
    resource: Resource
    cost_when_used: Floats
    """`(H,)`"""
    least_used: int
    """Emptying hosts saves nothing when fewer than this would be left in use."""

    def cost(self, load: Floats, hosts: Ints) -> Floats:
        """The cost of `hosts` under `load`; the arrays are broadcast against each other."""
        return np.where(load > 0.5, self.cost_when_used[hosts], 0.0)


type Curve = Deviation | Excess | Switch
