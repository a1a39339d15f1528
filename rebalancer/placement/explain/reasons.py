"""Why VMs move, and what each of the moves is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rebalancer.cluster.explanation import Gain
from rebalancer.cluster.inventory import Host, VmId
from rebalancer.cluster.policy import PowerGoal
from rebalancer.cluster.rules import Violation
from rebalancer.cluster.violations import hard_violations
from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.explain.amounts import WORDS, percent_text
from rebalancer.placement.explain.rises import Rises
from rebalancer.placement.explain.sites import comparison_text
from rebalancer.placement.objectives import Tier, is_necessary
from rebalancer.placement.problem import PlacementProblem, Resource

LEAST_SHOWN = 1e-9
"""Shares of a gain below this are rounding."""


def reasons_of_moves(
    problem: PlacementProblem, tiers: Sequence[Tier], x: Ints
) -> Mapping[VmId, str]:
    """Say for every VM that moves what it is moved for, and what that is worth."""
    moved = np.flatnonzero(x != problem.start)
    if not len(moved):
        return {}
    loads = problem.load(problem.start), problem.load(x)
    mended = _mended(problem, x)
    worth = {gain.vm: gain for gain in gains_of_moves(problem, tiers, x)}
    return {
        vm.id: _reason(problem, tiers, unit, int(x[unit]), loads, mended.get(vm.id))
        + _worth_text(worth.get(vm.id))
        for unit in moved.tolist()
        for vm in problem.units[unit]
    }


def gains_of_moves(problem: PlacementProblem, tiers: Sequence[Tier], x: Ints) -> tuple[Gain, ...]:
    """What each move is worth to the goals: the cost without it less the cost with it.

    Of the first tier of goals that the move makes a difference to; what has to be done anyway
    (draining, repairing) is not weighed. VMs that move as one have one gain, told of each.
    """
    goals = [tier for tier in tiers if not is_necessary(tier)]
    if not goals:
        return ()
    rises = Rises(problem, goals, x)
    found = []
    for unit in np.flatnonzero(x != problem.start).tolist():
        without = rises.at(unit, int(problem.start[unit]))
        by_goal = {goal: rise for goal, rise in without.by_goal.items() if abs(rise) > LEAST_SHOWN}
        found += [
            Gain(vm=vm.id, total=sum(by_goal.values()), by_goal=by_goal)
            for vm in problem.units[unit]
        ]
    return tuple(found)


def _worth_text(gain: Gain | None) -> str:
    """`; gains 0.012 (balance 0.013, movement −0.001)`; empty where it is for something else."""
    if gain is None or gain.total <= LEAST_SHOWN:
        return ""
    return f"; gains {gain.total:.2g}{by_goal_text(gain.by_goal)}"


def by_goal_text(by_goal: Mapping[str, float]) -> str:
    """Write shares of a gain by goal, ` (balance 0.013, movement −0.001)`; of one, its name."""
    shares = {goal: share for goal, share in by_goal.items() if abs(share) > LEAST_SHOWN}
    if len(shares) < 2:
        return "".join(f" ({goal})" for goal in shares)
    largest_first = sorted(shares.items(), key=lambda each: -each[1])
    parts = (f"{goal} {share:.2g}".replace("-", "−", 1) for goal, share in largest_first)
    return f" ({', '.join(parts)})"


def _mended(problem: PlacementProblem, x: Ints) -> Mapping[VmId, Violation]:
    """Hard violations of the start that `x` does not have any more, by VM."""
    after = {(v.rule, v.vms) for v in _violations(problem, x)}
    return {
        vm: violation
        for violation in _violations(problem, problem.start)
        if (violation.rule, violation.vms) not in after
        for vm in violation.vms
    }


def _violations(problem: PlacementProblem, x: Ints) -> tuple[Violation, ...]:
    return hard_violations(problem.snapshot, problem.policy, problem.demand, problem.assignment(x))


def _reason(
    problem: PlacementProblem,
    tiers: Sequence[Tier],
    unit: int,
    target: int,
    loads: tuple[Floats, Floats],
    mended: Violation | None,
) -> str:
    source = int(problem.start[unit])
    here, there = _host(problem, source), _host(problem, target)
    numbers = _numbers(problem, tiers, source, target, loads)
    if problem.drains[source]:
        return f"{here.name} is draining; {numbers}"
    if mended is not None:
        return f"mends {mended.rule}: {mended.text}"
    emptied = loads[1][Resource.VMS, source] < 0.5
    if emptied and any(isinstance(goal, PowerGoal) for goal in problem.policy.goals):
        return f"empties {here.name} so that it can sleep; {numbers}"
    price = _site_prices(tiers, unit)
    is_elsewhere = here.site != there.site
    if price is not None and is_elsewhere and price[target] < price[source] - 1e-12:
        vms = problem.units[unit]
        because = comparison_text(problem, vms, here.site or "", there.site or "")
        return f"site {there.site} is better than {here.site} for it{because}; {numbers}"
    return numbers


def _numbers(
    problem: PlacementProblem,
    tiers: Sequence[Tier],
    source: int,
    target: int,
    loads: tuple[Floats, Floats],
) -> str:
    """Loads of both hosts before and after the whole plan, of the resource that changed most."""
    weighed = {curve.resource for tier in tiers for curve in tier.curves}
    rows = [r for r in (Resource.CORES, Resource.MEMORY) if r in weighed] or [Resource.CORES]
    hosts = [source, target]
    before, after = (load[:, hosts] / problem.size[:, hosts] for load in loads)
    row = max(rows, key=lambda r: float(abs(after[r] - before[r]).max()))
    parts = [
        f"{_host(problem, host).name} {percent_text(was)} → {percent_text(will)}"
        for host, was, will in zip(hosts, before[row], after[row], strict=True)
    ]
    return f"{WORDS[row]} of {', '.join(parts)}"


def _site_prices(tiers: Sequence[Tier], unit: int) -> Floats | None:
    """What the unit costs on each host by the goals about places of the first tier with any."""
    for tier in tiers:
        prices = [
            linear.factor[unit] * linear.matrix[linear.kind[unit]]
            for linear in tier.linears
            if linear.goal == "geography"
        ]
        if prices:
            return np.asarray(sum(prices), float)
    return None


def _host(problem: PlacementProblem, column: int) -> Host:
    return problem.snapshot.host_by_id[problem.host_ids[column]]
