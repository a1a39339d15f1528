"""Prices of having a unit on a host: the terms of a cost that are linear in the placement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.problem import PlacementProblem


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

    def fall(self, units: Ints, here: Ints | int, there: Ints | int, start: Ints) -> Floats:
        """By how much the price falls when each of `units` goes from `here` to `there`."""
        kind = self.kind[units]
        now = self.factor[units] * self.matrix[kind, here]
        then = self.factor[units] * self.matrix[kind, there]
        if self.when_moved:
            now = np.where(start[units] == here, 0.0, now)
            then = np.where(start[units] == there, 0.0, then)
        return np.asarray(now - then, float)


def everywhere(problem: PlacementProblem, goal: str, factor: Floats, host_cost: Floats) -> Linear:
    """A price that depends on the host alone: `factor[u] * host_cost[h]`."""
    kind = np.zeros(problem.unit_count, np.intp)
    return Linear(goal=goal, factor=factor, kind=kind, matrix=host_cost[None, :])
