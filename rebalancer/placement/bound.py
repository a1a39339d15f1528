"""How good any placement can be at all: a bound, found without deciding who goes where.

The relaxation keeps only which units *leave* (one number from 0 to 1 each) and how much each
host *receives* of each resource; that what leaves arrives somewhere is asked in sum. Every
placement gives such numbers, so the least cost over them bounds the cost of every placement.
It has U + 4·H columns instead of U·H, and its solution names the units that are worth moving.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.curves import Deviation, Excess, Switch
from rebalancer.placement.local_search import Budget
from rebalancer.placement.model import Model, Row, Solution
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource

ROUNDS = 6
"""Times that tangents are added where the last solution was; the error falls fourfold or more."""
CLOSE_RATIO = 1e-3
"""Curves and tangents may differ by this share of the bound."""
UNITS_PRICED_AT_ONCE = 2000
_RESOURCES = (Resource.MEMORY, Resource.CPU, Resource.VCPUS, Resource.CORES)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relaxation:
    """What the relaxation came to."""

    bound: float
    """No placement costs less."""
    leaves: Floats
    """`(U,)`: how much of each unit leaves its host; 0 or 1 for all but a few."""


def relax(
    problem: PlacementProblem, tier: Tier, *, must_leave: Bools, budget: Budget
) -> Relaxation | None:
    """Bound the cost of a tier over all placements; `None` if time is up before anything is known.

    `must_leave` marks units that every placement to be compared with moves, such as those that
    a drain can free.
    """
    relaxation = _Relaxation(problem, tier, must_leave, budget.moves, budget.exempt)
    best: Relaxation | None = None
    for _ in range(ROUNDS):
        if budget.is_spent:
            break
        solution = relaxation.model().solve(budget.left())
        if solution is None or not solution.is_optimal:
            break
        best = Relaxation(
            bound=relaxation.bound_of(solution), leaves=relaxation.leaves_of(solution)
        )
        if not relaxation.refine(solution):
            break
    return best


class _Relaxation:
    """The model, made anew in each round with the tangents known by then."""

    def __init__(
        self,
        problem: PlacementProblem,
        tier: Tier,
        must_leave: Bools,
        moves: int | None,
        exempt: Bools | None,
    ) -> None:
        self._problem = problem
        self._tier = tier
        self._moves = moves
        self._exempt = np.zeros(problem.unit_count, bool) if exempt is None else exempt
        self._must_leave = must_leave
        self._scale = problem.size[:, problem.scored].mean(axis=1)
        self._prices, self._constant, can_leave = _prices(problem, tier)
        self._units = np.flatnonzero(can_leave)
        self._curves = [c for c in tier.curves if not isinstance(c, Switch)]
        self._switches = [c for c in tier.curves if isinstance(c, Switch)]
        self._points: list[list[Floats]] = [self._first_points(c) for c in self._curves]

    def _first_points(self, curve: Deviation | Excess) -> list[Floats]:
        """Loads at which tangents are known from the beginning: now, and around the mean."""
        now = self._problem.start_load[curve.resource]
        size = self._problem.size[curve.resource]
        if isinstance(curve, Excess):
            return [np.zeros_like(now), curve.limit * 2 + 1]
        around = [curve.level + step for step in (-0.1, -0.03, -0.01, 0.0, 0.01, 0.03, 0.1)]
        return [now, *(ratio * size for ratio in around)]

    def model(self) -> Model:
        """The linear program with the tangents known so far."""
        problem = self._problem
        self._built = model = Model("bound", constant=self._constant)
        self._leave = {
            unit: model.column(self._prices[unit], low=float(self._must_leave[unit]), high=1.0)
            for unit in self._units.tolist()
        }
        self._receive = {
            (resource, host): model.column()
            for resource in _RESOURCES
            for host in np.flatnonzero(problem.receives).tolist()
        }
        model.add(self._conservation())
        model.add(self._capacity())
        model.add(self._move_cap())
        for number, curve in enumerate(self._curves):
            self._add_curve(number, curve)
        for switch in self._switches:
            self._add_switch(switch)
        return model

    def bound_of(self, solution: Solution) -> float:
        """The bound, less what the solver's tolerances could have added to it."""
        return solution.bound - 1e-7 * max(1.0, abs(solution.bound))

    def leaves_of(self, solution: Solution) -> Floats:
        """How much of each unit leaves."""
        leaves = np.zeros(self._problem.unit_count)
        for unit, column in self._leave.items():
            leaves[unit] = solution.values[column]
        return leaves

    def refine(self, solution: Solution) -> bool:
        """Add tangents where the solution is; say whether another round is worth it."""
        hosts = np.arange(self._problem.host_count)
        error = 0.0
        for number, curve in enumerate(self._curves):
            load = self._load(solution, curve.resource)
            slopes = [curve.tangent(point, hosts) for point in self._points[number]]
            known = np.max([slope * load + level for slope, level in slopes], axis=0)
            error += float((curve.cost(load, hosts) - known).sum())
            self._points[number].append(load)
        return error > CLOSE_RATIO * max(1e-6, abs(solution.bound))

    def _load(self, solution: Solution, resource: Resource) -> Floats:
        load: Floats = self._problem.start_load[resource].copy()
        for unit, column in self._leave.items():
            need = self._problem.needs[resource, unit]
            load[self._problem.start[unit]] -= need * solution.values[column]
        for (r, host), column in self._receive.items():
            if r == resource:
                load[host] += solution.values[column] * self._scale[resource]
        return load

    def _sum(self, resource: Resource, host: int) -> tuple[list[int], list[float], float]:
        """The load of a host as columns, coefficients and what stays, in mean host sizes."""
        here = [u for u in self._on(host) if self._problem.needs[resource, u]]
        columns = [self._leave[unit] for unit in here]
        scale = float(self._scale[resource])
        coefficients = [-float(self._problem.needs[resource, unit]) / scale for unit in here]
        if (resource, host) in self._receive:
            columns.append(self._receive[resource, host])
            coefficients.append(1.0)
        return columns, coefficients, float(self._problem.start_load[resource, host]) / scale

    def _on(self, host: int) -> list[int]:
        start = self._problem.start[self._units]
        return [int(unit) for unit in self._units[start == host]]

    def _conservation(self) -> Iterator[Row]:
        """What leaves arrives: Σ_h receive[h, r] = Σ_u need[u, r]·leave[u]  for all r."""
        for resource in _RESOURCES:
            scale = self._scale[resource]
            arriving = [c for (r, _), c in self._receive.items() if r == resource]
            needs = [self._problem.needs[resource, unit] / scale for unit in self._leave]
            yield Row(
                name=f"{resource.name} leaves and arrives",
                columns=[*arriving, *self._leave.values()],
                coefficients=[*[1.0] * len(arriving), *(-need for need in needs)],
                low=0.0,
                high=0.0,
            )

    def _capacity(self) -> Iterator[Row]:
        """No host is promised more than it has, or than it is now: load[h, r] ≤ limit[h, r]."""
        limits = self._problem.limits(self._problem.start)
        for resource in LIMITED:
            for host in np.flatnonzero(self._problem.receives).tolist():
                columns, coefficients, stays = self._sum(resource, host)
                if resource is Resource.CPU:
                    stays = float(self._problem.start_load[resource, host])
                    stays /= float(self._scale[resource])
                yield Row(
                    name=f"{resource.name} of {host}",
                    columns=columns,
                    coefficients=coefficients,
                    high=float(limits[resource, host] / self._scale[resource]) - stays + 1e-9,
                )

    def _move_cap(self) -> Iterator[Row]:
        """At most so many moves that are not exempt: Σ_u leave[u] ≤ migrations."""
        if self._moves is not None:
            counted = [c for unit, c in self._leave.items() if not self._exempt[unit]]
            yield Row(
                name="migrations",
                columns=counted,
                coefficients=[1.0] * len(counted),
                high=float(self._moves),
            )

    def _add_curve(self, number: int, curve: Deviation | Excess) -> None:
        """A cost column per host above all tangents: cost[h] ≥ slope·load[h] + level."""
        hosts = np.arange(self._problem.host_count)
        lines = [curve.tangent(point, hosts) for point in self._points[number]]
        scale = float(self._scale[curve.resource])
        for host in np.flatnonzero(curve.weight > 0).tolist():
            cost = self._built.column(1.0)
            columns, coefficients, stays = self._sum(curve.resource, host)
            for index, (slope, level) in enumerate(lines):
                steep = float(slope[host]) * scale
                self._built.add(
                    [
                        Row(
                            name=f"{curve.goal} {curve.resource.name} of {host} {index}",
                            columns=[*columns, cost],
                            coefficients=[*(steep * value for value in coefficients), -1.0],
                            high=-float(level[host]) - steep * stays,
                        )
                    ]
                )

    def _add_switch(self, switch: Switch) -> None:
        """Host used: y[h] ≥ 1 - leave[u] for all u there, and y[h] ≥ load[h, r] / limit[h, r]."""
        problem, limits = self._problem, self._problem.limits(self._problem.start)
        for host in np.flatnonzero(problem.scored).tolist():
            here = np.flatnonzero(problem.start == host)
            counted = here[problem.needs[Resource.VMS, here] > 0]
            fixed = bool(np.setdiff1d(counted, self._units).size)
            used = self._built.column(
                float(switch.cost_when_used[host]), low=float(fixed), high=1.0
            )
            self._built.add(
                Row(
                    name=f"{host} used by {unit}",
                    columns=[self._leave[unit], used],
                    coefficients=[1.0, 1.0],
                    low=1.0,
                )
                for unit in counted.tolist()
                if unit in self._leave
            )
            for resource in LIMITED:
                columns, coefficients, stays = self._sum(resource, host)
                limit = float(limits[resource, host] / self._scale[resource])
                self._built.add(
                    [
                        Row(
                            name=f"{host} used for {resource.name}",
                            columns=[*columns, used],
                            coefficients=[*coefficients, -max(limit, 1e-9)],
                            high=-stays + 1e-9,
                        )
                    ]
                )


def _prices(problem: PlacementProblem, tier: Tier) -> tuple[Floats, float, Bools]:
    """What leaving costs each unit at least `(U,)`, what staying costs all, and who can leave."""
    stay = np.zeros(problem.unit_count)
    leave = np.zeros(problem.unit_count)
    can_leave = np.zeros(problem.unit_count, bool)
    for first in range(0, problem.unit_count, UNITS_PRICED_AT_ONCE):
        units: Ints = np.arange(first, min(first + UNITS_PRICED_AT_ONCE, problem.unit_count))
        allowed = problem.candidates.of(units)
        allowed[np.arange(len(units)), problem.start[units]] = False
        allowed &= problem.movable[units, None]
        price = np.zeros(allowed.shape)
        for linear in tier.linears:
            price += linear.of(units, problem.start)
        stay[units] = price[np.arange(len(units)), problem.start[units]]
        leave[units] = np.where(allowed, price, np.inf).min(axis=1, initial=np.inf)
        can_leave[units] = allowed.any(axis=1)
    return np.where(can_leave, leave - stay, 0.0), float(stay.sum()), can_leave
