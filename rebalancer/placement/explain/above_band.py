"""Hosts that stay above the band of the relieve goal, each with what keeps it there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rebalancer.cluster.plan import AboveBand
from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.band import Band, find_band, gains_within_band
from rebalancer.placement.curves import Excess
from rebalancer.placement.explain.amounts import percent_text
from rebalancer.placement.layout import IMPOSSIBLE, Layout, Scale
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import PlacementProblem, Resource

VMS_NAMED = 3
_WORDS = {Resource.CORES: "CPU", Resource.MEMORY: "memory"}


def hosts_above_band(
    problem: PlacementProblem, tiers: Sequence[Tier], x: Ints
) -> tuple[AboveBand, ...]:
    """Every host that `x` leaves above its band, the furthest above first."""
    band = find_band(*tiers)
    if band is None:
        return ()
    load = problem.load(x)
    over = band.over(problem, load)
    layout = Layout(problem, x, Scale(tiers=()))
    return tuple(
        _above(problem, layout, band, curve, load, host)
        for host in band.above(problem, load).tolist()
        for row, curve in enumerate(band.curves)
        if over[row, host] > 0
    )


def _above(
    problem: PlacementProblem, layout: Layout, band: Band, curve: Excess, load: Floats, host: int
) -> AboveBand:
    size = float(problem.size[curve.resource, host])
    host_id = problem.host_ids[host]
    return AboveBand(
        host=host_id,
        name=problem.snapshot.host_by_id[host_id].name,
        resource=_WORDS[curve.resource],
        ratio=float(load[curve.resource, host]) / size,
        band_ratio=float(curve.limit[host]) / size,
        reasons=tuple(_reasons(problem, layout, band, curve, host)),
    )


def _reasons(
    problem: PlacementProblem, layout: Layout, band: Band, curve: Excess, host: int
) -> Iterator[str]:
    """What its load consists of, by why it stays: its own, fixed VMs, VMs with nowhere to go."""
    needs, size = problem.needs[curve.resource], float(problem.size[curve.resource, host])
    units = np.array([u for u in sorted(layout.members[host]) if needs[u] > 0], np.intp)
    own = float(layout.load[curve.resource, host] - needs[units].sum()) / size
    if own > 0.005:
        yield f"{percent_text(own)} is the host's own use"
    fixed = units[~problem.movable[units]]
    if len(fixed):
        used = percent_text(needs[fixed].sum() / size)
        yield f"{used} is used by {_named(problem, fixed)}, not movable"
    movable = units[problem.movable[units]]
    places = gains_within_band(layout, band, movable, host) > -IMPOSSIBLE
    for unit in movable[_is_too_large(problem, curve, movable)].tolist():
        alone = percent_text(float(needs[unit]) / size)
        yield f"{_named(problem, [unit])} alone uses {alone}, too much for any other host"
    stuck = movable[~places.any(axis=1) & ~_is_too_large(problem, curve, movable)]
    if len(stuck):
        yield f"no other host has room within its band for {_named(problem, stuck)}"
    if len(free := movable[places.any(axis=1)]):
        yield (
            f"{_named(problem, free)} could go, within what the limits of the policy allow; "
            "that was found to be worth less than what moves"
        )


def _is_too_large(problem: PlacementProblem, curve: Excess, units: Ints) -> Bools:
    room = np.where(problem.candidates.of(units), curve.limit, -np.inf).max(axis=1, initial=-np.inf)
    return np.asarray(problem.needs[curve.resource, units] > room, bool)


def _named(problem: PlacementProblem, units: Sequence[int] | Ints) -> str:
    names = [vm.name for unit in units for vm in problem.units[unit]]
    more = f" and {len(names) - VMS_NAMED} more" if len(names) > VMS_NAMED else ""
    return ", ".join(names[:VMS_NAMED]) + more
