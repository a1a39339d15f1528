"""The relaxation as a linear program: which units leave, and what each host then carries.

    leave[u]      0 to 1, how much of unit u leaves its host
    load[r, h]    what host h carries of resource r in the end, relative to its size

Who goes where is not decided. That what leaves arrives somewhere is asked of all hosts together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.curves import Deviation, Excess, Guard, Switch
from rebalancer.placement.lowest_prices import Prices, most_load, own_load
from rebalancer.placement.model import Model, Rows, Solution
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource

STEPS = (-0.1, -0.03, -0.01, 0.0, 0.01, 0.03, 0.1)
"""Where tangents are known from the beginning: this far from the level of a curve."""
CLOSE = 1e-9
"""A tangent closer to its curve than this is not worth another one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowPrices:
    """What it would be worth to the objective if less was asked; loads by their hosts' sizes."""

    on_host: Floats
    """`(R, H)`: of the load that a host keeps."""
    in_sum: Floats
    """`(R, H)`: of the load that all hosts have together."""
    move: float
    guard: Floats
    """`(G,)`"""


class LeaveReceive:
    """The linear program, and the tangents that it knows by now."""

    def __init__(
        self,
        problem: PlacementProblem,
        tier: Tier,
        prices: Prices,
        *,
        must_leave: Bools,
        moves: int | None,
        exempt: Bools,
    ) -> None:
        self._problem, self._tier = problem, tier
        self._units = np.flatnonzero(prices.can_leave)
        self._hosts = np.arange(problem.host_count)
        self.model = model = Model("bound", constant=prices.constant)
        self._leave = model.columns(
            len(self._units),
            prices.leaving[self._units],
            low=must_leave[self._units].astype(float),
            high=1.0,
        )
        self._load: dict[Resource, Ints] = {}
        self._on_host: dict[Resource, Rows] = {}
        self._in_sum: dict[Resource, Rows] = {}
        self._moves: Rows | None = None
        self._guards: list[Rows] = []
        for resource in _resources(tier, prices):
            self._add_loads(resource, prices.carrying.get(resource))
        if moves is not None:
            counted = self._leave[~exempt[self._units]]
            one = np.zeros(len(counted), np.intp)
            entries = [(one, counted, np.ones(len(counted)))]
            self._moves = Rows.of("moves", entries, high=moves, count=1)
            model.add(self._moves)
        self._curves: list[tuple[Deviation | Excess, Ints]] = []
        for curve in tier.curves:
            if isinstance(curve, Switch):
                self._add_switch(curve)
            else:
                self._add_curve(curve, price=1.0)
        for guard in tier.guards:
            self._add_guard(guard)

    def _add_loads(self, resource: Resource, price: Floats | None) -> None:
        """Loads of all hosts: load[h] ≥ now[h] − Σ_u need[u]·leave[u], and no load is lost.

        Hosts that nothing may be moved to carry just that. A host is promised no more than it
        has, or than it is now.
        """
        problem = self._problem
        size = problem.size[resource]
        now = problem.start_load[resource] / size
        high = most_load(problem, resource) / size + 1e-9
        cost = 0.0 if price is None else price * size
        load = self.model.columns(problem.host_count, cost, low=-np.inf, high=high)
        self._load[resource] = load
        units = self._units[problem.needs[resource, self._units] != 0]
        host = problem.start[units]
        leave = self._leave[problem.needs[resource, self._units] != 0]
        self._on_host[resource] = Rows.of(
            f"{resource.name} on host",
            [
                (self._hosts, load, np.ones(problem.host_count)),
                (host, leave, problem.needs[resource, units] / size[host]),
            ],
            low=now,
            high=np.where(problem.receives, np.inf, now),
            count=problem.host_count,
        )
        share = size / size.mean()
        self._in_sum[resource] = Rows.of(
            f"{resource.name} in sum",
            [(np.zeros(problem.host_count, np.intp), load, share)],
            low=float(now @ share),
            high=float(now @ share),
            count=1,
        )
        self.model.add(self._on_host[resource])
        self.model.add(self._in_sum[resource])

    def _add_curve(self, curve: Deviation | Excess, price: float) -> Ints:
        """A cost column per host, above all tangents: cost[h] ≥ slope·load[h] + level."""
        hosts = np.flatnonzero(curve.weight > 0)
        costs = np.full(self._problem.host_count, -1)
        costs[hosts] = self.model.columns(len(hosts), price)
        self._curves.append((curve, costs))
        for load in self._first_points(curve):
            self._add_tangents(curve, costs, load, hosts)
        return costs[hosts]

    def _first_points(self, curve: Deviation | Excess) -> list[Floats]:
        """Loads at which tangents are known from the beginning: now, and around the level."""
        now = self._problem.start_load[curve.resource]
        if isinstance(curve, Excess):
            return [curve.limit * 2 + 1]
        return [now, *((curve.level + step) * curve.size for step in STEPS)]

    def _add_tangents(
        self, curve: Deviation | Excess, costs: Ints, load: Floats, hosts: Ints
    ) -> None:
        slope, level = curve.tangent(load[hosts], hosts)
        rows = np.arange(len(hosts))
        steep = slope * self._problem.size[curve.resource, hosts]
        self.model.add(
            Rows.of(
                f"{curve.goal} {curve.resource.name}",
                [
                    (rows, self._load[curve.resource][hosts], steep),
                    (rows, costs[hosts], np.full(len(hosts), -1.0)),
                ],
                high=-level,
                count=len(hosts),
            )
        )

    def _add_guard(self, guard: Guard) -> None:
        """What the cluster loses: over ≥ Σ_h cost[h] − allowed."""
        costs = self._add_curve(guard.curve, price=0.0)
        over = self.model.columns(1, guard.price)
        none = np.zeros(len(costs), np.intp)
        self._guards.append(
            Rows.of(
                guard.goal,
                [
                    (none, costs, np.ones(len(costs))),
                    (np.zeros(1, np.intp), over, -np.ones(1)),
                ],
                high=guard.allowed,
                count=1,
            )
        )
        self.model.add(self._guards[-1])

    def refine(self, solution: Solution) -> float:
        """Add tangents where the solution is off its curves; return by how much it is in all."""
        missing = 0.0
        for curve, costs in self._curves:
            hosts = np.flatnonzero(costs >= 0)
            load = solution.values[self._load[curve.resource]]
            load = load * self._problem.size[curve.resource]
            error = curve.cost(load[hosts], hosts) - solution.values[costs[hosts]]
            price = self.model.costs[int(costs[hosts[0]])] if len(hosts) else 0.0
            missing += (price or 1.0) * float(np.maximum(error, 0.0).sum())
            hosts = hosts[error > CLOSE]
            if len(hosts):
                self._add_tangents(curve, costs, load, hosts)
        return missing

    def leaves(self, solution: Solution) -> Floats:
        """How much of each unit leaves, `(U,)`."""
        leaves = np.zeros(self._problem.unit_count)
        leaves[self._units] = solution.values[self._leave]
        return leaves

    def prices(self, solution: Solution) -> RowPrices:
        """What the rows cost that tie hosts together."""
        first: dict[int, int] = {}
        row = 0
        for rows in self.model.rows:
            first[id(rows)] = row
            row += len(rows) if isinstance(rows, Rows) else 1

        def of(rows: Rows) -> Floats:
            return solution.prices[first[id(rows)] :][: len(rows)]

        shape = (len(Resource), self._problem.host_count)
        on_host, in_sum = np.zeros(shape), np.zeros(shape)
        for resource in self._load:
            size = self._problem.size[resource]
            on_host[resource] = of(self._on_host[resource])
            in_sum[resource] = of(self._in_sum[resource])[0] * size / size.mean()
        return RowPrices(
            on_host=on_host,
            in_sum=in_sum,
            move=max(0.0, -float(of(self._moves)[0])) if self._moves else 0.0,
            guard=np.array([max(0.0, -float(of(rows)[0])) for rows in self._guards]),
        )

    def _add_switch(self, switch: Switch) -> None:
        """Host used: used[h] ≥ 1 − leave[u] for all u there, load[h, r] ≤ limit[h, r]·used[h].

        And the hosts used have together what is needed of them.
        """
        problem, model = self._problem, self.model
        hosts = np.flatnonzero(problem.scored)
        counted = problem.needs[Resource.VMS] > 0
        stays = counted.copy()
        stays[self._units] = False
        fixed = np.bincount(problem.start[stays], minlength=problem.host_count) > 0
        used = np.full(problem.host_count, -1)
        used[hosts] = model.columns(
            len(hosts),
            switch.cost_when_used[hosts],
            low=fixed[hosts].astype(float),
            high=1.0,
        )
        self._add_used_while_not_left(used, counted)
        limits = problem.limits(problem.start)
        for resource in LIMITED:
            size = problem.size[resource, hosts]
            rows = np.arange(len(hosts))
            # What runs on the host itself needs no host that is used.
            own = own_load(problem, resource)[hosts]
            model.add(
                Rows.of(
                    f"{resource.name} where used",
                    [
                        (rows, self._load[resource][hosts], np.ones(len(hosts))),
                        (rows, used[hosts], -(limits[resource, hosts] - own) / size),
                    ],
                    high=own / size + 1e-9,
                    count=len(hosts),
                )
            )
        now = (problem.start_load[Resource.VMS] > 0.5) & problem.scored
        for cover in switch.covers:
            unit = max(1e-9, float(cover.capacity.max()))
            elsewhere = float(cover.capacity[cover.always & ~problem.scored].sum())
            model.add(
                Rows.of(
                    cover.name,
                    [(np.zeros(len(hosts), np.intp), used[hosts], cover.capacity[hosts] / unit)],
                    low=(cover.least(now) - elsewhere) / unit - 1e-9,
                    count=1,
                )
            )

    def _add_used_while_not_left(self, used: Ints, counted: Bools) -> None:
        there = counted[self._units] & (used[self._problem.start[self._units]] >= 0)
        units, leave = self._units[there], self._leave[there]
        rows = np.arange(len(units))
        ones = np.ones(len(units))
        self.model.add(
            Rows.of(
                "used while not left",
                [(rows, leave, ones), (rows, used[self._problem.start[units]], ones)],
                low=1.0,
                count=len(units),
            )
        )


def _resources(tier: Tier, prices: Prices) -> list[Resource]:
    """What is limited, and what any term looks at the load of."""
    found = {*LIMITED, *prices.carrying, *(guard.resource for guard in tier.guards)}
    found |= {curve.resource for curve in tier.curves if not isinstance(curve, Switch)}
    return sorted(found)
