"""The band that hosts are to be brought down to: who is above it, and what would have to leave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.covering import cheapest_covers
from rebalancer.placement.curves import Excess
from rebalancer.placement.layout import IMPOSSIBLE, Layout, movable_on
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import LIMITED, PlacementProblem

ROUNDING = 1e-9
"""Of a host's size: loads this close to the band are at the band."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Band:
    """What hosts are to be brought down to: `limit` of each resource, for the hosts it counts."""

    curves: tuple[Excess, ...]

    @property
    def rows(self) -> list[int]:
        """The resources that have a band."""
        return [int(curve.resource) for curve in self.curves]

    def over(self, problem: PlacementProblem, load: Floats) -> Floats:
        """What each host is above its band by, `(B, H)`, for each resource with a band."""
        return np.array(
            [
                np.where(
                    curve.weight > 0,
                    load[curve.resource] - curve.limit - ROUNDING * problem.size[curve.resource],
                    -np.inf,
                )
                for curve in self.curves
            ]
        )

    def above(self, problem: PlacementProblem, load: Floats) -> Ints:
        """Hosts above their band, the furthest above first."""
        over = self.over(problem, load)
        share = np.max([over[k] / problem.size[row] for k, row in enumerate(self.rows)], axis=0)
        hosts = np.argsort(-share, kind="stable")
        return np.asarray(hosts[share[hosts] > 0], np.intp)


def find_band(*tiers: Tier) -> Band | None:
    """The band that tiers ask for, if they do."""
    curves = tuple(
        curve
        for tier in tiers
        for curve in tier.curves
        if isinstance(curve, Excess) and curve.goal == "relieve"
    )
    return Band(curves=curves) if curves else None


def could_leave(layout: Layout, host: int) -> tuple[Ints, Floats]:
    """Units that could be elsewhere, whatever is there now, with what moving each costs least."""
    problem = layout.problem
    units = movable_on(layout, host)
    elsewhere = problem.candidates.of(units)
    elsewhere[:, host] = False
    price = _least_prices(layout, units, host, elsewhere)
    return units[np.isfinite(price)], price[np.isfinite(price)]


def covers(
    layout: Layout, band: Band, host: int, units: Ints, price: Floats, slack: Floats | float = 0.0
) -> Iterator[Ints]:
    """Sets of `units`, by place in it, that bring the host into its band; cheapest first.

    `slack` is what it may stay above it, `(B,)`.
    """
    problem = layout.problem
    needs = problem.needs[band.rows][:, units]
    # As much as can be had, if that is less; a little less still, since sums are rounded.
    most = (1 - ROUNDING) * needs.sum(axis=1)
    over = band.over(problem, layout.load)[:, host] - slack
    return cheapest_covers(needs, price, np.minimum(over, most))


def gains_within_band(layout: Layout, band: Band, units: Ints, host: int) -> Floats:
    """What moving each unit to each host gains; minus infinity where that lifts it too high."""
    problem = layout.problem
    gains = layout.gains_of_moving(units, host)
    over = band.over(problem, layout.load)
    for row, room in zip(band.rows, -over, strict=True):
        gains[problem.needs[row, units][:, None] > room] = -IMPOSSIBLE
    return gains


def _least_prices(layout: Layout, units: Ints, host: int, elsewhere: Bools) -> Floats:
    """What moving each unit off the host costs where it costs least, loads left aside."""
    problem = layout.problem
    prices = np.zeros(elsewhere.shape)
    for factor, linear in layout.scale.linears:
        there = linear.of(units, problem.start)
        prices += factor * (there - there[:, [host]])
    least = np.where(elsewhere, prices, np.inf).min(axis=1, initial=np.inf)
    return np.asarray(np.maximum(least, 0.0), float)


def lack(layout: Layout, band: Band, unit: int, target: int) -> Floats:
    """What the target is short of to take the unit: limited resources, then those of the band."""
    problem = layout.problem
    limited = [
        layout.load[row, target] + problem.needs[row, unit] - layout.limits[row, target]
        for row in LIMITED
    ]
    banded = band.over(problem, layout.load)[:, target] + problem.needs[band.rows, unit]
    return np.maximum([*limited, *banded], 0.0)
