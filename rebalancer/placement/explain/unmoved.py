"""VMs that ought to have moved and do not, each with every reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rebalancer.cluster.inventory import Vm, VmId
from rebalancer.cluster.plan import Unmoved
from rebalancer.cluster.violations import hard_violations
from rebalancer.placement.arrays import Ints
from rebalancer.placement.explain.obstacles import Obstacles
from rebalancer.placement.problem import PlacementProblem

NO_OTHER_HOST = "there is no other host"
NOT_FOUND = "no place was found for it in the time given"


def find_unmoved(problem: PlacementProblem, x: Ints) -> tuple[Unmoved, ...]:
    """List the VMs on draining hosts, and those that a hard rule stays broken for."""
    broken = _still_broken(problem, x)
    concerned = [
        unit
        for unit, vms in enumerate(problem.units)
        if problem.drains[x[unit]]
        # What moves and is in a group that stays broken is listed as a step, not here as well.
        or (x[unit] == problem.start[unit] and any(vm.id in broken for vm in vms))
    ]
    if not concerned:
        return ()
    obstacles = Obstacles(problem, x)
    return tuple(
        _unmoved(obstacles, unit, vm, broken.get(vm.id, []), is_alone=problem.host_count == 1)
        for unit in concerned
        for vm in problem.units[unit]
        if problem.drains[x[unit]] or vm.id in broken
    )


def _unmoved(
    obstacles: Obstacles, unit: int, vm: Vm, broken: Sequence[str], *, is_alone: bool
) -> Unmoved:
    against = (*obstacles.own(unit), *obstacles.grouped(unit), *obstacles.company(unit, vm))
    return Unmoved(
        vm=vm.id,
        vm_name=vm.name,
        reasons=(*broken, *against) or (NO_OTHER_HOST if is_alone else NOT_FOUND,),
    )


def _still_broken(problem: PlacementProblem, x: Ints) -> Mapping[VmId, list[str]]:
    """VMs that a hard rule is broken for, with the rule. Limits of hosts are about no one VM."""
    rules = {rule.name for rule in problem.policy.rules}
    found: dict[VmId, list[str]] = {}
    violations = hard_violations(
        problem.snapshot, problem.policy, problem.demand, problem.assignment(x)
    )
    for violation in violations:
        if violation.rule in rules:
            for vm in violation.vms:
                found.setdefault(vm, []).append(f"{violation.rule} stays broken: {violation.text}")
    return found
