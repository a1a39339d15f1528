"""The best moves that were not made, and hosts that take nobody, with every reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rebalancer.cluster.explanation import RejectedHost, RejectedMove
from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.explain.amounts import WORDS, amount_text
from rebalancer.placement.explain.obstacles import Obstacles, state_text
from rebalancer.placement.explain.rises import MOVING, Rises
from rebalancer.placement.explain.spent import Besides, limits_in_the_way
from rebalancer.placement.layout import TIER_RATIO, Layout, scale_of
from rebalancer.placement.objectives import Tier, is_necessary
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource

MOVES_SHOWN = 5
UNITS_LOOKED_AT = 300
"""Units on the hosts that cost most: where more is to be gained than elsewhere."""
LEAST_BENEFIT = 1e-6


def rejected_moves(
    problem: PlacementProblem, tiers: Sequence[Tier], x: Ints, besides: Besides
) -> tuple[RejectedMove, ...]:
    """Find the moves that would serve the goals most and are not made: one for each VM, at most.

    Of VMs that stay where they are, and in the first tier of goals. Single moves only: that a
    swap would pay is not seen here.
    """
    goals = [tier for tier in tiers if not is_necessary(tier)]
    if not goals or not problem.receives.any():
        return ()
    rises, hosts = Rises(problem, goals, x), np.flatnonzero(problem.scored)
    best: list[tuple[float, int, int, float, float]] = []
    for unit in _units_on_costly_hosts(problem, goals[0], x):
        by_goal = rises.by_goal(goals[0], unit, hosts)
        price = by_goal.pop(MOVING, np.zeros(len(hosts)))
        benefit = -np.asarray(sum(by_goal.values(), np.zeros(len(hosts))))
        net = np.where(hosts == x[unit], -np.inf, benefit - price)
        k = int(net.argmax())
        if benefit[k] > LEAST_BENEFIT:
            best.append((float(net[k]), unit, int(hosts[k]), float(benefit[k]), float(price[k])))
    best.sort(key=lambda each: (-each[0], each[1]))
    why = Objections(problem, goals, x, besides)
    return tuple(
        _rejected(problem, unit, host, benefit, price, why.against(unit, host, benefit, price))
        for _, unit, host, benefit, price in best[:MOVES_SHOWN]
    )


def _rejected(
    problem: PlacementProblem,
    unit: int,
    host: int,
    benefit: float,
    price: float,
    reasons: tuple[str, ...],
) -> RejectedMove:
    vms = problem.units[unit]
    return RejectedMove(
        vm=vms[0].id,
        vm_name=", ".join(vm.name for vm in vms),
        source=vms[0].host,
        target=problem.host_ids[host],
        benefit=benefit,
        price=price,
        reasons=reasons,
    )


class Objections:
    """Says why a move is not made."""

    def __init__(
        self, problem: PlacementProblem, goals: Sequence[Tier], x: Ints, besides: Besides
    ) -> None:
        """Take the placement that does not make the move."""
        self._problem, self._x, self._besides = problem, x, besides
        self._obstacles = Obstacles(problem, x)
        self._layout = Layout(problem, x, scale_of(goals, TIER_RATIO))
        self._moved = int((x != problem.start).sum())

    def against(self, unit: int, host: int, benefit: float, price: float) -> tuple[str, ...]:
        """Every reason; never none."""
        there = (obstacle.full_text for obstacle in self._obstacles.at(unit, host))
        reasons = [*self._obstacles.own(unit), *there]
        if benefit <= price:
            reasons.append("moving it costs more than it gains")
        if not reasons and not self._is_allowed(unit, host):
            reasons.append("it would empty the last host in use that the policy wants awake")
        reasons += limits_in_the_way(self._problem, self._besides, self._x, unit, host)
        return tuple(reasons) or (self._left_over(),)

    def _is_allowed(self, unit: int, host: int) -> bool:
        here = int(self._layout.x[unit])
        gains = self._layout.gains_of_moving(np.array([unit]), here)
        return bool(gains[0, host] > -np.inf)

    def _left_over(self) -> str:
        trigger = self._problem.policy.trigger
        if trigger is not None and self._moved == 0:
            least = f"{100 * trigger.min_gain_ratio:.0f} %"
            return f"the plan as a whole would gain less than the least that is asked for, {least}"
        return "it was not found in the time given, or could not be put in order with the others"


def _units_on_costly_hosts(problem: PlacementProblem, tier: Tier, x: Ints) -> list[int]:
    """Units that stay, those on the hosts that cost most first."""
    cost = _cost_of_hosts(problem, tier, x)
    stays = np.flatnonzero((x == problem.start) & problem.scored[x])
    order = np.lexsort((stays, -cost[x[stays]]))
    return [int(unit) for unit in stays[order][:UNITS_LOOKED_AT]]


def _cost_of_hosts(problem: PlacementProblem, tier: Tier, x: Ints) -> Floats:
    load, hosts = problem.load(x), np.arange(problem.host_count)
    cost = np.zeros(problem.host_count)
    for curve in tier.curves:
        cost += curve.cost(load[curve.resource], hosts)
    for linear in tier.linears:
        cost += np.bincount(x, linear.at(x, problem.start), problem.host_count)
    return cost


def rejected_hosts(problem: PlacementProblem, x: Ints) -> tuple[RejectedHost, ...]:
    """List the hosts that nothing may be moved to: by what they are, or as they are full."""
    load, limits = problem.load(x), problem.limits(x)
    found = []
    for column, host_id in enumerate(problem.host_ids):
        if reasons := tuple(_against(problem, column, load, limits)):
            name = problem.snapshot.host_by_id[host_id].name
            found.append(RejectedHost(host=host_id, name=name, reasons=reasons))
    return tuple(found)


def _against(problem: PlacementProblem, column: int, load: Floats, limits: Floats) -> list[str]:
    host = problem.snapshot.host_by_id[problem.host_ids[column]]
    reasons = []
    if not problem.policy.applies.matches(host):
        reasons.append(f"policy {problem.policy.name} is not about it")
    if not host.may_receive:
        why = f": {host.state_reason}" if host.state_reason else ""
        reasons.append(f"it {state_text(host)}{why}")
    if reasons:
        return reasons
    if problem.capacity[Resource.CPU, column] < 0:
        reasons.append("its own use of CPU is more than it may be loaded with")
    for resource in LIMITED:
        needs = problem.needs[resource][problem.needs[resource] > 0]
        free = max(0.0, float(limits[resource, column] - load[resource, column]))
        if len(needs) and free < needs.min():
            reasons.append(
                f"its {WORDS[resource]} is used up: {amount_text(resource, free)} free, "
                f"the smallest VM needs {amount_text(resource, float(needs.min()))}"
            )
    return reasons
