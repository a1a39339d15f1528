"""The linear terms of a tier where nobody knows yet who goes where: what they come to at least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.objectives import Tier
from rebalancer.placement.prices import Linear
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource

UNITS_PRICED_AT_ONCE = 2000
LEAST_NEED = 1e-9
"""Where nobody needs more of a resource, no term can be told in it: squares of it are nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prices:
    """The linear terms of a tier, as far as they matter to who leaves and what hosts carry."""

    leaving: Floats
    """`(U,)`: what it costs at least to be elsewhere, less what staying costs."""
    carrying: Mapping[Resource, Floats]
    """`(H,)`: what one unit of load costs on each host."""
    constant: float
    """What all this costs when all stay and hosts carry nothing."""
    can_leave: Bools
    """`(U,)`: whether the unit could be anywhere else."""


def find_prices(problem: PlacementProblem, tier: Tier) -> Prices:
    """Split the linear terms into prices of loads, where they are that, and of leaving."""
    by_load = [(linear, _as_load(problem, linear)) for linear in tier.linears]
    carrying: dict[Resource, Floats] = {}
    constant = 0.0
    for _, load in by_load:
        if load is not None:
            resource, price = load
            carrying[resource] = carrying.get(resource, 0.0) + price
            constant -= float(price @ own_load(problem, resource))
    leaving, stay, can_leave = _leaving(problem, [one for one, load in by_load if load is None])
    return Prices(leaving=leaving, carrying=carrying, constant=constant + stay, can_leave=can_leave)


def _as_load(problem: PlacementProblem, linear: Linear) -> tuple[Resource, Floats] | None:
    """The term as a price of load, if it asks of each unit what it needs of one resource."""
    if linear.when_moved or len(linear.matrix) > 1 or linear.kind.any():
        return None
    # Energy goes by cores, and VMs that are all alike could be counted in anything.
    for resource in (Resource.CORES, *Resource):
        needs = problem.needs[resource]
        if needs.max(initial=0.0) > LEAST_NEED:
            ratio = float(linear.factor @ needs / (needs @ needs))
            if np.allclose(linear.factor, ratio * needs, rtol=1e-9, atol=1e-12):
                return resource, ratio * linear.matrix[0]
    return None


def own_load(problem: PlacementProblem, resource: Resource) -> Floats:
    """What hosts take up for themselves, `(H,)`: the rest of their load is that of units."""
    guests = np.bincount(problem.start, problem.needs[resource], problem.host_count)
    return np.asarray(problem.start_load[resource] - guests, float)


def most_load(problem: PlacementProblem, resource: Resource) -> Floats:
    """What hosts may carry `(H,)`, or do now; infinity where nothing limits it.

    Cores expected are limited where units are never expected to use more than at their peak.
    """
    limits = problem.limits(problem.start)
    if resource in LIMITED:
        return np.asarray(limits[resource], float)
    peak = problem.needs[Resource.CPU]
    if resource is Resource.CORES and (problem.needs[resource] <= peak).all():
        return np.asarray(own_load(problem, resource) + limits[Resource.CPU], float)
    return np.full(problem.host_count, np.inf)


def _leaving(problem: PlacementProblem, linears: Sequence[Linear]) -> tuple[Floats, float, Bools]:
    """What the cheapest other host costs each unit more, what all cost now, and who can leave."""
    stay = np.zeros(problem.unit_count)
    leave = np.zeros(problem.unit_count)
    can_leave = np.zeros(problem.unit_count, bool)
    for first in range(0, problem.unit_count, UNITS_PRICED_AT_ONCE):
        units: Ints = np.arange(first, min(first + UNITS_PRICED_AT_ONCE, problem.unit_count))
        rows = np.arange(len(units))
        allowed = problem.candidates.of(units)
        allowed[rows, problem.start[units]] = False
        allowed &= problem.movable[units, None]
        price = np.zeros(allowed.shape)
        for linear in linears:
            price += linear.of(units, problem.start)
        stay[units] = price[rows, problem.start[units]]
        leave[units] = np.where(allowed, price, np.inf).min(axis=1, initial=np.inf)
        can_leave[units] = allowed.any(axis=1)
    return np.where(can_leave, leave - stay, 0.0), float(stay.sum()), can_leave
