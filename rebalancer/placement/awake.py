"""Which hosts stay on: an integer program over hosts, and a bound on what power can cost.

The hosts that stay must together have what all VMs need, and what is saved is weighed against
what emptying costs. Hosts may be unequal: load is sent to those that draw least for it, as far
as it fits there, in sums. Those that hold a VM that cannot move stay on. Who goes where is not
asked. So every placement has such a choice of hosts, and the cost of the best choice bounds the
cost of every placement; and not every choice has a placement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.curves import Switch
from rebalancer.placement.layout import Layout, Scale
from rebalancer.placement.model import Model, Row
from rebalancer.placement.objectives import Tier
from rebalancer.placement.prices import Linear
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource

SECONDS = 5.0
"""For the choice of hosts, and again for the bound; nearly always milliseconds."""
GAP = 1e-5
ROUNDING = 1e-9
"""What sums may miss of what is needed, relative to the largest of its parts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Emptying:
    """What emptying each host, or leaving it on, would come to; arrays `(H,)`."""

    possible: Bools
    """Whether something is on it, all of that can move, and being empty saves anything."""
    saved: Floats
    """What the host costs while it is in use."""
    price: Floats
    """What moving all its units costs at least, each to where it is cheapest."""
    relief: Floats
    """What moving some of its units could save at most while it stays on; never above 0."""
    moves: Ints
    """How many more units count as moved when it is emptied."""
    thinning: Floats
    """Price of moving a bit off it, per core expected, while it stays on; no move costs less."""

    @property
    def order(self) -> Ints:
        """The hosts that can be emptied, those that gain most first."""
        order = np.argsort(self.price - self.saved, kind="stable")
        return np.asarray(order[self.possible[order]], np.intp)


def switches(scale: Scale) -> list[tuple[float, Switch]]:
    """What being in use costs, with factors; nothing where no goal asks for few hosts."""
    return [(factor, curve) for factor, curve in scale.curves if isinstance(curve, Switch)]


def is_exact(scale: Scale) -> bool:
    """Whether a program asks of the hosts that stay on what is wanted, and no more.

    Where some of them may fail it asks for enough whichever these are, so that what it proves
    does not hold for every choice of hosts.
    """
    return all(not cover.failures for _, switch in switches(scale) for cover in switch.covers)


def emptying_of(layout: Layout, budget: Budget, targets: Bools) -> Emptying:
    """Judge every host by itself; its units may go to `targets`, `(H,)`.

    Prices leave out what a core costs wherever it is, which the program sends where it is least.
    """
    problem, hosts = layout.problem, layout.problem.host_count
    saved = np.zeros(hosts)
    for factor, switch in switches(layout.scale):
        saved += factor * switch.cost_when_used
    possible = (layout.load[Resource.VMS] > 0.5) & problem.scored & (saved > 0)
    price, relief, thinning = np.zeros(hosts), np.zeros(hosts), np.zeros(hosts)
    moves = np.zeros(hosts, np.intp)
    linears = prices_of_moving(layout)
    # Of the hundreds of hosts that may be empty there is nothing to say.
    for host in (host for host in range(hosts) if layout.members[host]):
        units = np.array(sorted(layout.members[host]), np.intp)
        allowed = _could_go(layout, units, host) & targets
        prices = prices_of(layout, units, linears)
        rise = np.where(allowed, prices, np.inf).min(axis=1, initial=np.inf) - prices[:, host]
        relief[host] = float(np.minimum(rise, 0.0).sum())
        cores = problem.needs[Resource.CORES, units]
        busy = cores > 0
        thinning[host] = max(0.0, (rise[busy] / cores[busy]).min(initial=np.inf))
        active = problem.needs[Resource.VMS, units] > 0
        possible[host] &= bool(np.isfinite(rise[active]).all())
        if possible[host]:
            price[host] = float(np.minimum(rise[~active], 0.0).sum() + rise[active].sum())
            moves[host] = int(_counts_when_moved(layout, units[active], budget).sum())
    return Emptying(
        possible=possible,
        saved=saved,
        price=price,
        relief=relief,
        moves=moves,
        thinning=np.where(np.isfinite(thinning), thinning, 0.0),
    )


def _is_per_core(layout: Layout, linear: Linear) -> bool:
    """Whether the term is so much per core expected, the same for all units on a host."""
    needs = layout.problem.needs[Resource.CORES]
    return (
        len(linear.matrix) == 1 and not linear.when_moved and np.array_equal(linear.factor, needs)
    )


def prices_of_moving(layout: Layout) -> list[tuple[float, Linear]]:
    """The linear terms, with factors, that are not just so much per core wherever that is."""
    return [term for term in layout.scale.linears if not _is_per_core(layout, term[1])]


def _price_per_core(layout: Layout) -> Floats:
    """What one core expected costs on each host, `(H,)`."""
    price = np.zeros(layout.problem.host_count)
    for factor, linear in layout.scale.linears:
        if _is_per_core(layout, linear):
            price += factor * linear.matrix[0]
    return price


def _could_go(layout: Layout, units: Ints, host: int) -> Bools:
    """Where each of the units could be, however full it is there, `(n, H)`."""
    problem = layout.problem
    could: Bools = problem.candidates.of(units) & problem.movable[units, None]
    home = problem.start[units]
    could[np.arange(len(units)), home] = problem.movable[units] & ~problem.drains[home]
    could[:, host] = False
    return could


def _counts_when_moved(layout: Layout, units: Ints, budget: Budget) -> Bools:
    at_home = layout.x[units] == layout.problem.start[units]
    return np.asarray(at_home if budget.exempt is None else at_home & ~budget.exempt[units], bool)


def prices_of(
    layout: Layout, units: Ints, linears: Sequence[tuple[float, Linear]] | None = None
) -> Floats:
    """What the linear terms charge for each of `units` on each host, `(n, H)`."""
    total = np.zeros((len(units), layout.problem.host_count))
    for factor, linear in layout.scale.linears if linears is None else linears:
        total += factor * linear.of(units, layout.problem.start)
    return total


def choose(layout: Layout, emptying: Emptying, budget: Budget) -> Bools:
    """Choose the hosts to empty, `(H,)`; none where no answer is found in time.

    Only hosts that are in use take what the others hold.
    """
    used = layout.load[Resource.VMS] > 0.5
    program = _Program(layout, emptying, used, budget, is_bound=False)
    return program.solve(emptying.saved - emptying.price)[0]


def power_bound(problem: PlacementProblem, tier: Tier, must_leave: Bools, budget: Budget) -> float:
    """What the tier costs at least, whoever goes where; minus infinity if there is no telling.

    What prices come to where units start, and on top the least
    Σ_h (saved + relief)[h]·y[h] + price[h]·(1 - y[h]) + core[h]·cores[h] + thinning[h]·gone[h],
    other terms of the tier being 0 at best. `must_leave` marks units that every placement to be
    compared with moves to hosts that are up.
    """
    layout = Layout(problem, problem.start, Scale(tiers=((1.0, tier),)))
    emptying = emptying_of(layout, budget, np.ones(problem.host_count, bool))
    used = layout.load[Resource.VMS] > 0.5
    on = emptying.relief + emptying.saved * used
    off = np.where(emptying.possible, emptying.price, on)
    program = _Program(layout, emptying, used | problem.receives, budget, is_bound=True)
    program.arriving = must_leave & ~problem.scored[problem.start]
    _, best = program.solve(np.where(used, on - off, emptying.saved))
    return _elsewhere(layout, program.arriving) + float(off.sum()) + best


def _elsewhere(layout: Layout, arriving: Bools) -> float:
    """What prices come to that the program does not ask about: units where they are now."""
    problem, per_core = layout.problem, _price_per_core(layout)
    prices = 0.0
    for factor, linear in prices_of_moving(layout):
        prices += factor * float(linear.at(layout.x, problem.start).sum())
    others = ~problem.scored[layout.x] & ~arriving
    return prices + float(problem.needs[Resource.CORES, others].sum()) * float(per_core.min())


class _Program:
    """Columns y[h] for the hosts that may be off, with what those that are on must be for."""

    def __init__(
        self,
        layout: Layout,
        emptying: Emptying,
        available: Bools,
        budget: Budget,
        *,
        is_bound: bool,
    ) -> None:
        """`available` hosts may be on, `(H,)`. A bound asks for less where it is not certain."""
        self._layout = layout
        self._emptying = emptying
        self._budget = budget
        self._used = layout.load[Resource.VMS] > 0.5
        self._free = available & layout.problem.scored & (emptying.possible | ~self._used)
        self._is_bound = is_bound
        self.arriving = np.zeros(layout.problem.unit_count, bool)
        """`(U,)`: units that come to these hosts from others in any case."""

    def solve(self, costs: Floats) -> tuple[Bools, float]:
        """Minimise Σ costs[h]·y[h] + what cores cost: hosts in use that are off then, the sum."""
        chosen = np.zeros(len(self._free), bool)
        left = self._budget.left()
        if left <= 0:
            return chosen, -np.inf
        model = Model("awake")
        self._columns = {
            host: model.column(
                float(costs[host]), high=1.0, is_integer=True, start=float(self._used[host])
            )
            for host in np.flatnonzero(self._free).tolist()
        }
        for rows in (self._capacity(), self._covers(), self._moves(), self._spreads()):
            model.add(rows)
        model.add(self._cores(model))
        workers, seconds = self._budget.workers, min(SECONDS, left)
        solution = workers.solve(model, seconds, gap_ratio=GAP) if model.costs else None
        if solution is None:
            return chosen, -np.inf if model.costs else model.constant
        off = [h for h, column in self._columns.items() if solution.values[column] < 0.5]
        chosen[off] = self._used[off]
        return chosen, solution.bound

    def _cores(self, model: Model) -> Iterator[Row]:
        """Cores go where they draw least: Σ_h cores[h] = all, cores[h] ≤ room[h]·y[h].

        Those that are gone from a host that stays on, gone[h] ≥ now[h]·y[h] - cores[h], had to
        be moved off it.
        """
        problem, load = self._layout.problem, self._layout.load
        price = _price_per_core(self._layout)
        needs = problem.needs[Resource.CORES]
        moving = problem.scored[self._layout.x] | self.arriving
        total = float(needs[moving].sum())
        hosts = np.flatnonzero(problem.scored & (self._used | self._free)).tolist()
        if not hosts or total <= 0:
            return
        if np.ptp(price[hosts]) <= ROUNDING * price[hosts].max():
            model.constant += float(price[hosts].min()) * total
            return
        now = np.bincount(self._layout.x, needs, problem.host_count)
        room = np.where(problem.receives, self._layout.limits[Resource.CPU], load[Resource.CPU])
        room = np.maximum(now, np.minimum(total, room * _most_per_peak(problem)))
        columns = []
        for host in hosts:
            cores = model.column(float(price[host]) * total, high=float(room[host]) / total)
            gone = model.column(float(self._emptying.thinning[host]) * total)
            columns.append(cores)
            y = self._columns.get(host)
            share, most = float(now[host]) / total, float(room[host]) / total
            if y is None:
                yield Row(
                    name=f"gone {host}", columns=[gone, cores], coefficients=[1, 1], low=share
                )
                continue
            yield Row(
                name=f"gone {host}",
                columns=[gone, cores, y],
                coefficients=[1.0, 1.0, -share],
                low=0.0,
            )
            yield Row(name=f"cores {host}", columns=[cores, y], coefficients=[1.0, -most], high=0.0)
        ones = [1.0] * len(columns)
        yield Row(name="cores of all", columns=columns, coefficients=ones, low=1 - 1e-9)

    def _capacity(self) -> Iterator[Row]:
        """Those on have room for everything: Σ_h limit[h, r]·y[h] ≥ Σ_h load[h, r]  for all r.

        A host that may not receive has room for nothing but what is on it.
        """
        layout, problem = self._layout, self._layout.problem
        room = np.where(problem.receives, layout.limits, layout.load[: len(LIMITED)])
        for resource in LIMITED:
            needed = layout.load[resource, problem.scored & self._used].sum()
            needed += problem.needs[resource, self.arriving].sum()
            fixed = problem.scored & self._used & ~self._free
            needed -= room[resource, fixed].sum()
            yield self._at_least(f"{resource.name} of all", room[resource], float(needed))

    def _covers(self) -> Iterator[Row]:
        """They are enough for all that has to be awake: Σ_h capacity[h]·y[h] ≥ least."""
        fixed = self._used & ~self._free
        for _, switch in switches(self._layout.scale):
            for cover in switch.covers:
                have = float(cover.capacity[fixed | cover.always].sum())
                enough = cover.least if self._is_bound else cover.enough
                needed = enough(self._used) - have
                yield self._at_least(f"awake for {cover.name}", cover.capacity, needed)

    def _moves(self) -> Iterator[Row]:
        """At most so many units more are away from their start: Σ_h moves[h]·(1 - y[h]) ≤ left."""
        if self._budget.moves is not None:
            left = max(0, self._budget.moves - self._budget.moves_of(self._layout))
            moves = self._emptying.moves * self._free
            yield self._at_least("migrations", moves.astype(float), float(moves.sum() - left))

    def _spreads(self) -> Iterator[Row]:
        """The largest group that is kept apart has hosts for it: Σ_h y[h] ≥ members / at most."""
        active = self._layout.problem.needs[Resource.VMS]
        apart = [
            sum(min(count, active[unit]) for unit, count in group.members.items()) / group.at_most
            for group in self._layout.problem.spreads
            if group.hard and not group.excess(self._layout.x)
        ]
        if apart:
            # Members may be on hosts that are outside the policy, or that drain.
            needed = np.ceil(max(apart)) - float((self._used & ~self._free).sum())
            yield self._at_least("kept apart", np.ones(len(self._free)), needed)

    def _at_least(self, name: str, amount: Floats, needed: float) -> Row:
        """Σ_h amount[h]·y[h] ≥ needed, both relative to the largest amount."""
        largest = max(ROUNDING, float(amount.max()))
        return Row(
            name=name,
            columns=list(self._columns.values()),
            coefficients=[float(amount[host]) / largest for host in self._columns],
            low=float(needed) / largest - ROUNDING,
        )


def _most_per_peak(problem: PlacementProblem) -> float:
    """The most cores expected of any unit for each core that it needs at its peak."""
    cores, peak = problem.needs[Resource.CORES], problem.needs[Resource.CPU]
    return float(np.divide(cores, peak, out=np.zeros_like(cores), where=peak > 0).max(initial=1.0))
