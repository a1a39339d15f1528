"""What relief costs at least: bounds that hold for every placement, found host by host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.band import ROUNDING, Band, could_leave, covers, find_band, lack
from rebalancer.placement.covering import cheapest_covers
from rebalancer.placement.curves import Excess
from rebalancer.placement.layout import Layout, Scale
from rebalancer.placement.objectives import TOLERANCE, Tier
from rebalancer.placement.problem import LIMITED, SLACK, PlacementProblem

SETS = 30
"""Sets of units that are looked at for what making room for them costs."""


def relief_bound(problem: PlacementProblem, tiers: Sequence[Tier], x: Ints) -> float:
    """What the last of the tiers costs at least, as far as relief tells; else minus infinity.

    `tiers` ends with the tier of the band, or with one right after it that has a price on moves.
    Then it holds for the placements that are as good as `x` in the tier of the band, provided
    that none is better than `x` there.
    """
    *earlier, last = tiers
    if (band := find_band(last)) is not None:
        return least_excess(problem, band)
    band = find_band(earlier[-1]) if len(earlier) == 1 else None
    if band is None or not _is_band_alone(earlier[0]):
        return -np.inf
    if not all(linear.when_moved for linear in last.linears):
        return -np.inf
    if earlier[0].cost(problem, x) > least_excess(problem, band) + TOLERANCE:
        return -np.inf
    return least_price(problem, Scale(tiers=((1.0, last),)), band)


def _is_band_alone(tier: Tier) -> bool:
    """Whether nothing in the tier is weighed against being above the band."""
    band = find_band(tier)
    is_all = band is not None and len(band.curves) == len(tier.curves)
    return is_all and not (tier.linears or tier.guards or tier.groups)


def least_price(problem: PlacementProblem, scale: Scale, band: Band) -> float:
    """What it costs to be above the band by no more than `least_excess`, loads left aside.

    Σ_h the cheapest set of units that brings host h down to its band, or to what it is above it
    because of what cannot move and of units that are too large for any host: each placement
    with the least excess takes such a set off each host, and no move is paid for twice. For one
    host, the one where it is most, what others have to be paid to make room for it comes on top.
    """
    layout = Layout(problem, problem.start, scale)
    slack = _stays_above(problem, band) + TOLERANCE * problem.size[band.rows]
    sets_of = {
        host: _cheapest_sets(layout, band, host, slack[:, host])
        for host in band.above(problem, layout.load).tolist()
    }
    paid = {host: sets[0][0] for host, sets in sets_of.items() if sets}
    extra = [
        _with_room(layout, band, slack, paid, sets_of[host]) - least for host, least in paid.items()
    ]
    return sum(paid.values()) + max(extra, default=0.0)


def _cheapest_sets(
    layout: Layout, band: Band, host: int, slack: Floats
) -> list[tuple[float, Ints]]:
    """Sets of units that bring the host into its band, with their prices, cheapest first."""
    units, price = could_leave(layout, host)
    found = islice(covers(layout, band, host, units, price, slack), SETS)
    return [(float(price[chosen].sum()), units[chosen]) for chosen in found]


def _with_room(
    layout: Layout,
    band: Band,
    slack: Floats,
    paid: Mapping[int, float],
    sets: Sequence[tuple[float, Ints]],
) -> float:
    """The cheapest of some sets if, for the unit with least room, that is paid for, too.

    No more than the price of the last set, as those that come after it are not looked at.
    """
    least = sets[-1][0]
    for price, units in sets:
        if price >= least:
            break
        room = [_room_price(layout, band, slack, paid, unit) for unit in units.tolist()]
        least = min(least, price + max(room, default=0.0))
    return least


def _room_price(
    layout: Layout, band: Band, slack: Floats, paid: Mapping[int, float], unit: int
) -> float:
    """What others cost at least that have to leave a host before the unit can be there.

    `paid` is what leaves each host above its band in any case; only what is more counts.
    """
    problem = layout.problem
    could = problem.candidates.hosts_of(unit)
    could[layout.x[unit]] = False
    rows = [*LIMITED, *band.rows]
    tolerance = np.concatenate([np.full((len(LIMITED), problem.host_count), SLACK), slack])
    least = np.inf
    for target in np.flatnonzero(could).tolist():
        missing = np.maximum(lack(layout, band, unit, target) - tolerance[:, target], 0.0)
        if not missing.any():
            return 0.0
        known = paid.get(target, 0.0)
        guests, price = could_leave(layout, target)
        sets = cheapest_covers(problem.needs[rows][:, guests], price, missing, most=least + known)
        if (chosen := next(sets, None)) is not None:
            least = min(least, max(0.0, float(price[chosen].sum()) - known))
    return least if np.isfinite(least) else 0.0


def least_excess(problem: PlacementProblem, band: Band) -> float:
    """What hosts are above their band by in any placement, as the tier of the band counts it.

    Σ_h what its immovable units and its own use are above the band, and Σ_u what a unit, alone
    with those, lifts the host above the band where it does so least.
    """
    return sum(
        float((curve.weight * _fixed_excess(problem, curve)).sum())
        + float(_lift(problem, curve).min(axis=1, initial=np.inf).sum())
        for curve in band.curves
    )


def _stays_above(problem: PlacementProblem, band: Band) -> Floats:
    """What each host may be above its band by although nothing is wrong, `(B, H)`, in loads."""
    rows = []
    for curve in band.curves:
        units = _too_large(problem, curve)
        start = problem.start[units]
        lift = _lift(problem, curve)
        here = lift[np.arange(len(units)), start]
        # One that is better off on another host is not an excuse for this one.
        is_least = here <= lift.min(axis=1, initial=np.inf) + ROUNDING
        load = np.where(is_least, here, 0.0) / np.where(here > 0, curve.weight[start], 1.0)
        rows.append(_fixed_excess(problem, curve) + np.bincount(start, load, problem.host_count))
    return np.array(rows)


def _fixed(problem: PlacementProblem, curve: Excess) -> Floats:
    """Load that no move takes off each host, `(H,)`."""
    movable = np.where(problem.movable, problem.needs[curve.resource], 0.0)
    gone = np.bincount(problem.start, movable, problem.host_count)
    return np.asarray(problem.start_load[curve.resource] - gone, float)


def _fixed_excess(problem: PlacementProblem, curve: Excess) -> Floats:
    return np.asarray(np.maximum(_fixed(problem, curve) - curve.limit, 0.0), float)


def _too_large(problem: PlacementProblem, curve: Excess) -> Ints:
    """Movable units that lift some host above its band by themselves."""
    room = curve.limit - np.minimum(_fixed(problem, curve), curve.limit)
    is_large = problem.needs[curve.resource] > room[curve.weight > 0].min(initial=np.inf)
    return np.flatnonzero(problem.movable & is_large)


def _lift(problem: PlacementProblem, curve: Excess) -> Floats:
    """What each such unit costs on each host if it is alone there with what is fixed, `(n, H)`.

    Infinite where it cannot be.
    """
    units = _too_large(problem, curve)
    room = curve.limit - np.minimum(_fixed(problem, curve), curve.limit)
    could = problem.candidates.of(units)
    could[np.arange(len(units)), problem.start[units]] = True
    lift = np.maximum(problem.needs[curve.resource, units][:, None] - room, 0.0)
    return np.where(could, curve.weight * lift, np.inf)
