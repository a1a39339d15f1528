"""Relieving hosts that are short of CPU now at the least price: sets of VMs, not one by one.

A search that makes the best move each time takes the VM that mends most, and pays for it. Here a
host that is short is asked for the cheapest sets of VMs that suffice, and of those for which
there is room the one is taken that costs least in all, a host that is opened for it included.
What cannot be mended so is left to the general search. Only where a policy asks for it
(`forecast: {overload: now}`), as its hosts are filled to the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.band import Band, could_leave, covers, gains_within_band
from rebalancer.placement.budget import Budget
from rebalancer.placement.curves import Excess
from rebalancer.placement.layout import IMPOSSIBLE, Layout
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import Resource

SETS_TRIED = 200
"""Sets of VMs that are tried for a host."""
SAME = 1e-9
"""Gains closer than this are equal."""
TO_SPARE = 0.01
"""Of a host's cores: what it is relieved to have left, if that can be had. Use goes on changing
while VMs move, and a host that is brought down to what it has is mostly short again at once."""


def shortage_of(tiers: Sequence[Tier]) -> Band | None:
    """What hosts are short of at this moment and are to be brought down to, if any is."""
    curves = tuple(
        curve
        for tier in tiers
        for curve in tier.curves
        if isinstance(curve, Excess) and curve.resource is Resource.NOW and curve.goal == "repair"
    )
    return Band(curves=curves) if curves else None


def relieve_shortage(layout: Layout, band: Band, budget: Budget) -> None:
    """Take off every host that is short the cheapest VMs that suffice, where they have a place."""
    for host in band.above(layout.problem, layout.load).tolist():
        _go_to(layout, _cheapest_relief(layout, band, host, budget))


def _cheapest_relief(layout: Layout, band: Band, host: int, budget: Budget) -> Ints:
    """The placement after the cheapest set of units has left the host; as it is if none can."""
    spare = -TO_SPARE * layout.problem.size[band.rows, host]
    for slack in (spare, 0.0):
        found = _cheapest_within(layout, band, host, budget, slack)
        if (found != layout.x).any():
            return found
    return layout.x.copy()


def _cheapest_within(
    layout: Layout, band: Band, host: int, budget: Budget, slack: Floats | float
) -> Ints:
    """The same with so much `slack`, which is what the host may stay above the band."""
    before, best, least = layout.x.copy(), layout.x.copy(), np.inf
    units, price = could_leave(layout, host)
    for chosen in islice(covers(layout, band, host, units, price, slack), SETS_TRIED):
        if budget.is_spent or float(price[chosen].sum()) >= least - SAME:
            break
        cost = _place(layout, band, host, units[chosen])
        if cost is not None and cost < least - SAME:
            best, least = layout.x.copy(), cost
        _go_to(layout, before)
    return best


def _place(layout: Layout, band: Band, host: int, units: Ints) -> float | None:
    """Move the units where that costs least; return what it costs besides what it mends.

    `None` if one of them has no place; some may have moved then.
    """
    short, gained = _shortage(layout, band), 0.0
    for unit in units.tolist():
        gains = gains_within_band(layout, band, np.array([unit]), host)[0]
        if gains.max() == -IMPOSSIBLE:
            return None
        target = _roomiest(layout, gains)
        gained += float(gains[target])
        layout.move(unit, target)
    return short - _shortage(layout, band) - gained


def _shortage(layout: Layout, band: Band) -> float:
    """What hosts cost that are short."""
    return sum(
        standing.factor * float(standing.costs.sum())
        for standing in layout.standings
        if any(standing.curve is curve for curve in band.curves)
    )


def _roomiest(layout: Layout, gains: Floats) -> int:
    """Of the hosts where most is gained, the one with the most room: it will be short last."""
    free = layout.limits[Resource.CPU] - layout.load[Resource.CPU]
    return int(np.where(gains >= gains.max() - SAME, free, -np.inf).argmax())


def _go_to(layout: Layout, x: Ints) -> None:
    for unit in np.flatnonzero(layout.x != x).tolist():
        layout.move(unit, int(x[unit]))
