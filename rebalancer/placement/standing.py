"""What curves and guards come to as things stand, kept up with every move.

Both are sums over hosts of a function of their load; they differ in what a rise of it costs. A
curve's costs as much wherever it happens, a guard's nothing until the sum passes what is allowed.
"""

from __future__ import annotations

import numpy as np

from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.curves import Curve, Guard


class Standing:
    """A curve and what it comes to on each host."""

    def __init__(self, factor: float, curve: Curve, loads: Floats) -> None:
        """Begin with the loads `(R, H)` of a placement."""
        self.factor = factor
        self.curve = curve
        self.load = loads[curve.resource]
        """`(H,)`: the row that the curve looks at, changed by whoever owns it."""
        self.costs = curve.cost(self.load, np.arange(len(self.load)))
        """`(H,)`, without the factor."""

    def update(self, hosts: Ints) -> None:
        """Take in that the load of `hosts`, all different, has changed."""
        self.costs[hosts] = self.curve.cost(self.load[hosts], hosts)

    def gain(self, rise: Floats) -> Floats:
        """What is gained, where less than 0 lost, when the sum over hosts rises by `rise`."""
        return np.asarray(-self.factor * rise)

    def rise(self, more: Floats, hosts: Ints) -> Floats:
        """By how much `hosts` rise when they get `more` load; the arrays are broadcast."""
        return self.curve.cost(self.load[hosts] + more, hosts) - self.costs[hosts]

    def levelled(self, one: Ints, other: Ints, size: Floats) -> Floats:
        """By how much pairs of hosts rise when both become equally full; `size` is `(H,)`."""
        level = (self.load[one] + self.load[other]) / (size[one] + size[other])
        rise = self.curve.cost(level * size[one], one) - self.costs[one]
        return rise + self.curve.cost(level * size[other], other) - self.costs[other]


class GuardStanding(Standing):
    """A guard and what its sum comes to."""

    def __init__(self, factor: float, guard: Guard, loads: Floats) -> None:
        """Begin with the loads `(R, H)` of a placement."""
        super().__init__(factor, guard.curve, loads)
        self.guard = guard
        self.total = float(self.costs.sum())

    def update(self, hosts: Ints) -> None:
        """Take in that the load of `hosts`, all different, has changed."""
        before = float(self.costs[hosts].sum())
        super().update(hosts)
        self.total += float(self.costs[hosts].sum()) - before

    def gain(self, rise: Floats) -> Floats:
        """What is gained, where less than 0 lost, when the sum over hosts rises by `rise`."""
        cost = self.guard.cost_of
        return np.asarray(self.factor * (cost(self.total) - cost(self.total + rise)))
