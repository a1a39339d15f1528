"""Part or all of a placement problem as an integer program, solved and translated back.

Some units may choose among some hosts, everything else stays as it is. With all units and all
hosts this is the whole problem, and its bound holds for every placement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from rebalancer.placement import constraints
from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.constraints import Setting
from rebalancer.placement.curves import Deviation, Excess, Guard, Switch
from rebalancer.placement.layout import Scale
from rebalancer.placement.model import Model, Row, Solution
from rebalancer.placement.problem import LIMITED, SLACK, PlacementProblem, Resource

STEPS = (0.0, 0.003, 0.01, 0.03, 0.1)
"""Tangents are set at the present load of a host, this far around it, and around the mean."""
CLOSE = 1e-7
"""Difference of model and curve, relative to the cost, from which on a solution is exact."""
ROUNDS = 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What a program came to."""

    x: Ints
    """A placement no worse than the one it began with."""
    bound: float
    """No placement that the program allows costs less; minus infinity if nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Limits:
    """What holds for a solve besides the rows."""

    budget: Budget
    """Its moves and exempt units; and no solve goes on after its end."""
    seconds: float
    gap_ratio: float = 1e-6
    rounds: int = ROUNDS


def choices_of(
    problem: PlacementProblem, x: Ints, units: Iterable[int], hosts: Bools
) -> dict[int, list[int]]:
    """The hosts that each unit could choose, out of `hosts` and the one it is on."""
    found: dict[int, list[int]] = {}
    for unit in units:
        if not problem.movable[unit]:
            continue
        allowed = problem.candidates.hosts_of(unit) & hosts
        home = problem.start[unit]
        allowed[home] = hosts[home] and not problem.drains[home]
        broken = problem.candidates.broken[problem.candidates.kind[unit]]
        allowed &= broken <= broken[x[unit]]
        allowed[x[unit]] = True
        if allowed.sum() > 1:
            found[unit] = np.flatnonzero(allowed).tolist()
    return found


def solve_program(
    problem: PlacementProblem,
    scale: Scale,
    x: Ints,
    choices: dict[int, list[int]],
    limits: Limits,
) -> Answer:
    """Find the cheapest placement that differs from `x` in nothing but `choices`.

    Curves are modelled by tangents, and more of these are added where a solution lies, until
    the model is as good as the curve there.
    """
    program = _Program(problem, scale, x, choices, limits)
    best, cost, bound = x, scale.cost(problem, x), -np.inf
    for _ in range(limits.rounds):
        seconds = min(limits.seconds, limits.budget.left())
        if seconds <= 0 or not choices:
            break
        solution = program.solve(best, seconds)
        if solution is None:
            break
        bound = max(bound, solution.bound)
        candidate = program.placement(solution)
        found = scale.cost(problem, candidate)
        if found < cost and program.admits(candidate):
            best, cost = candidate, found
        if cost - bound <= CLOSE * max(1.0, abs(cost)) or not program.refine(candidate):
            break
    return Answer(x=best, bound=bound)


class _Program:
    def __init__(
        self,
        problem: PlacementProblem,
        scale: Scale,
        x: Ints,
        choices: dict[int, list[int]],
        limits: Limits,
    ) -> None:
        self._problem, self._scale, self._x = problem, scale, x
        self._choices, self._limits = choices, limits
        self._hosts = sorted({host for hosts in choices.values() for host in hosts})
        self._load = problem.load(x)
        fixed = self._load.copy()
        for unit in choices:
            fixed[:, x[unit]] -= problem.needs[:, unit]
        self._fixed = fixed
        self._curves: list[tuple[float, Deviation | Excess]] = [
            (factor, curve) for factor, curve in scale.curves if not isinstance(curve, Switch)
        ]
        self._curves += [(factor, guard.curve) for factor, guard in scale.guards]
        self._points = [self._first_points(curve) for _, curve in self._curves]

    def _first_points(self, curve: Deviation | Excess) -> list[Floats]:
        """Loads at which tangents are known from the beginning."""
        if isinstance(curve, Excess):
            return [curve.limit - 1.0, curve.limit + 1.0]
        now, size = self._load[curve.resource], self._problem.size[curve.resource]
        steps = [sign * step * size for step in STEPS for sign in (1.0, -1.0)]
        return [middle + step for middle in (now, curve.level * size) for step in steps]

    def solve(self, start: Ints, seconds: float) -> Solution | None:
        model = Model("placement")
        columns = {
            unit: {
                host: model.column(high=1.0, is_integer=True, start=float(start[unit] == host))
                for host in hosts
            }
            for unit, hosts in self._choices.items()
        }
        self._columns = columns
        setting = Setting(
            problem=self._problem,
            x=self._x,
            choices=columns,
            fixed_load=self._fixed,
            limits=self._problem.limits(self._x),
        )
        model.add(self._rows(setting, model))
        self._add_prices(model)
        summed = len(self._curves) - len(self._scale.guards)
        weighed = zip(self._curves[:summed], self._points[:summed], strict=True)
        for (factor, curve), points in weighed:
            self._add_curve(setting, model, factor, curve, points)
        guarded = zip(self._scale.guards, self._points[summed:], strict=True)
        for (factor, guard), points in guarded:
            self._add_guard(setting, model, factor, guard, points)
        for factor, switch in self._scale.curves:
            if isinstance(switch, Switch):
                model.add(self._switch_rows(setting, model, factor, switch))
        workers = self._limits.budget.workers
        return workers.solve(model, seconds, gap_ratio=self._limits.gap_ratio)

    def _rows(self, setting: Setting, model: Model) -> Iterator[Row]:
        yield from constraints.assigned_once(setting)
        yield from constraints.memory_promised(setting)
        yield from constraints.cpu_needed(setting)
        yield from constraints.vcpus_promised(setting)
        yield from constraints.pools_kept(setting)
        yield from constraints.survives_host_failures(setting)
        yield from constraints.allowance_kept(setting)
        budget = self._limits.budget
        yield from constraints.moves_capped(setting, budget.moves, budget.exempt)
        for spread in self._problem.spreads:
            if any(unit in setting.choices for unit in spread.members):
                weight = self._scale.weight_of(spread)
                yield from constraints.kept_apart(setting, spread, model, weight)
            else:
                model.constant += self._scale.weight_of(spread) * spread.excess(self._x)
        for together in self._problem.togethers:
            if any(unit in setting.choices for unit in together.members):
                weight = self._scale.weight_of(together)
                yield from constraints.kept_together(setting, together, model, weight)
            else:
                model.constant += self._scale.weight_of(together) * together.excess(self._x)
        for presence in self._problem.presences:
            if any(unit in setting.choices for unit in presence.members):
                weight = self._scale.weight_of(presence)
                yield from constraints.kept_present(setting, presence, model, weight)
            else:
                model.constant += self._scale.weight_of(presence) * presence.excess(self._x)

    def _add_prices(self, model: Model) -> None:
        """Linear terms: a cost on each choice, a constant for units without one."""
        chosen = np.fromiter(self._choices, np.intp, len(self._choices))
        free = np.zeros(self._problem.unit_count, bool)
        free[chosen] = True
        for factor, linear in self._scale.linears:
            model.constant += factor * float(linear.at(self._x, self._problem.start)[~free].sum())
            price = factor * linear.of(chosen, self._problem.start)
            for row, unit in enumerate(chosen.tolist()):
                for host, column in self._columns[unit].items():
                    model.costs[column] += float(price[row, host])

    def _add_curve(
        self,
        setting: Setting,
        model: Model,
        factor: float,
        curve: Deviation | Excess,
        points: list[Floats],
    ) -> None:
        """What the hosts cost one by one: a cost column each, at its price."""
        model.constant += factor * self._untouched(curve)
        for cost in self._cost_columns(setting, model, curve, points):
            model.costs[cost] = factor

    def _add_guard(
        self, setting: Setting, model: Model, factor: float, guard: Guard, points: list[Floats]
    ) -> None:
        """What the hosts come to together: over ≥ Σ_h cost[h] − allowed, over ≥ 0."""
        columns = self._cost_columns(setting, model, guard.curve, points)
        model.add(
            [
                Row(
                    name=f"{guard.goal} {guard.resource.name}",
                    columns=[*columns, model.column(factor * guard.price)],
                    coefficients=[*[1.0] * len(columns), -1.0],
                    high=guard.allowed - self._untouched(guard.curve),
                )
            ]
        )

    def _untouched(self, curve: Deviation | Excess) -> float:
        """What the hosts cost that are no part of any choice."""
        untouched = np.ones(self._problem.host_count, bool)
        untouched[self._hosts] = False
        everywhere = np.arange(self._problem.host_count)
        return float(curve.cost(self._fixed[curve.resource], everywhere)[untouched].sum())

    def _cost_columns(
        self, setting: Setting, model: Model, curve: Deviation | Excess, points: list[Floats]
    ) -> list[int]:
        """A cost column per host, above all tangents, and free so far."""
        columns: list[int] = []
        model.add(self._curve_rows(setting, model, curve, points, columns))
        return columns

    def _curve_rows(
        self,
        setting: Setting,
        model: Model,
        curve: Deviation | Excess,
        points: list[Floats],
        costs: list[int],
    ) -> Iterator[Row]:
        """All tangents of each host: cost[h] ≥ slope·load[h] + level."""
        everywhere = np.arange(self._problem.host_count)
        fixed = self._fixed[curve.resource]
        lines = [curve.tangent(point, everywhere) for point in points]
        for host in self._hosts:
            if curve.weight[host] <= 0:
                continue
            units = setting.on(host)
            needs = self._problem.needs[curve.resource]
            cost = model.column()
            costs.append(cost)
            distinct = {(float(slope[host]), float(level[host])) for slope, level in lines}
            for number, (slope, level) in enumerate(sorted(distinct)):
                yield Row(
                    name=f"{curve.goal} {curve.resource.name} of {host} {number}",
                    columns=[*units.values(), cost],
                    coefficients=[*(slope * float(needs[unit]) for unit in units), -1.0],
                    high=-level - slope * float(fixed[host]),
                )

    def _switch_rows(
        self, setting: Setting, model: Model, factor: float, switch: Switch
    ) -> Iterator[Row]:
        """Host used: x[u, h] ≤ y[h] for all u; load[h, r] ≤ limit[h, r]·y[h]; covers."""
        problem = self._problem
        vms = problem.needs[Resource.VMS]
        used: dict[int, int] = {}
        now = self._load[Resource.VMS] > 0.5
        fixed = self._fixed[Resource.VMS] > 0.5
        for host in np.flatnonzero(problem.scored).tolist():
            if host not in setting.hosts:
                model.constant += factor * float(switch.cost_when_used[host]) * now[host]
                continue
            cost = factor * float(switch.cost_when_used[host])
            y = model.column(cost, low=float(fixed[host]), high=1.0, is_integer=True)
            used[host] = y
            units = {unit: column for unit, column in setting.on(host).items() if vms[unit]}
            for unit, column in units.items():
                yield Row(
                    name=f"{host} used by {unit}",
                    columns=[column, y],
                    coefficients=[1.0, -1.0],
                    high=0.0,
                )
            # Awake but empty does not count: what a host costs goes by what is on it.
            if not fixed[host]:
                yield Row(
                    name=f"{host} used for something",
                    columns=[*units.values(), y],
                    coefficients=[*[1.0] * len(units), -1.0],
                    low=0.0,
                )
            for resource in LIMITED:
                size = float(problem.size[resource, host])
                needs = [float(problem.needs[resource, unit]) / size for unit in units]
                room = setting.limits[resource, host] - self._fixed[resource, host] + SLACK
                yield Row(
                    name=f"{host} used for {resource.name}",
                    columns=[*units.values(), y],
                    coefficients=[*needs, -float(room) / size],
                    high=0.0,
                )
        for cover in switch.covers:
            others = now.copy()
            others[setting.hosts] = False
            elsewhere = float(cover.capacity[others | cover.always].sum())
            least = (cover.enough(now) - elsewhere) / max(1.0, float(cover.capacity.max()))
            if used and least > 0:
                yield Row(
                    name=f"awake for {cover.name}",
                    columns=list(used.values()),
                    coefficients=[
                        float(cover.capacity[host]) / max(1.0, float(cover.capacity.max()))
                        for host in used
                    ],
                    low=least - 1e-9,
                )

    def placement(self, solution: Solution) -> Ints:
        x = self._x.copy()
        for unit, hosts in self._columns.items():
            x[unit] = max(hosts, key=lambda host: solution.values[hosts[host]])
        return x

    def admits(self, x: Ints) -> bool:
        """Whether limits really hold: to a solver a few bytes in a terabyte are nothing."""
        problem = self._problem
        limits = problem.limits(self._x) + SLACK
        if not problem.pools.keeps(x, problem.pools.limits(self._x) + SLACK):
            return False
        if problem.allowance is not None and not problem.allowance.lets(self._x, x):
            return False
        return bool((problem.load(x)[: len(LIMITED)] <= limits).all())

    def refine(self, x: Ints) -> bool:
        """Add tangents at the loads of `x`; say whether that changes the model."""
        everywhere = np.arange(self._problem.host_count)
        load = self._problem.load(x)
        changed = False
        for (_, curve), points in zip(self._curves, self._points, strict=True):
            here = load[curve.resource]
            known = np.max(
                [s * here + level for s, level in (curve.tangent(p, everywhere) for p in points)],
                axis=0,
            )
            error = float((curve.cost(here, everywhere) - known)[self._hosts].sum())
            changed |= error > CLOSE
            points.append(here)
        return changed
