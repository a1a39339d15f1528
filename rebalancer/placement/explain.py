"""Why VMs move and why they do not, in words and numbers for the operator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from rebalancer.cluster.compatibility import misfits
from rebalancer.cluster.inventory import Host, Vm, VmId
from rebalancer.cluster.plan import Unmoved
from rebalancer.cluster.policy import PowerGoal
from rebalancer.cluster.rules import Ban, Fence, Pin, Violation
from rebalancer.cluster.violations import LEAVABLE_STATES, hard_violations
from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.layout import Layout, Scale
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource

HOSTS_NAMED = 5
"""Hosts named with one reason; the others are counted."""

_WORDS = {
    Resource.MEMORY: "memory",
    Resource.CPU: "CPU",
    Resource.VCPUS: "vCPUs",
    Resource.CORES: "cpu",
}


def reasons_of_moves(
    problem: PlacementProblem, tiers: Sequence[Tier], x: Ints
) -> Mapping[VmId, str]:
    """Say for every VM that moves what it is moved for."""
    moved = np.flatnonzero(x != problem.start)
    if not len(moved):
        return {}
    loads = problem.load(problem.start), problem.load(x)
    mended = _mended(problem, x)
    return {
        vm.id: _reason(problem, tiers, unit, int(x[unit]), loads, mended.get(vm.id))
        for unit in moved.tolist()
        for vm in problem.units[unit]
    }


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
    if price is not None and price[target] < price[source] - 1e-12:
        return f"site {there.site} is better than {here.site} for it; {numbers}"
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
        f"{_host(problem, host).name} {before[row, k]:.2f} → {after[row, k]:.2f}"
        for k, host in enumerate(hosts)
    ]
    return f"{_WORDS[row]} of {', '.join(parts)}"


def _site_prices(tiers: Sequence[Tier], unit: int) -> Floats | None:
    for tier in tiers:
        for linear in tier.linears:
            if linear.goal == "geography":
                return np.asarray(linear.matrix[linear.kind[unit]], float)
    return None


def find_unmoved(problem: PlacementProblem, x: Ints) -> tuple[Unmoved, ...]:
    """List the VMs that ought to have moved and do not, each with every reason."""
    layout = Layout(problem, x, Scale(tiers=()))
    broken = _still_broken(problem, x)
    return tuple(
        _unmoved(problem, layout, unit, vm, broken.get(vm.id, []))
        for unit, vms in enumerate(problem.units)
        for vm in vms
        if problem.drains[x[unit]] or vm.id in broken
    )


def _unmoved(
    problem: PlacementProblem, layout: Layout, unit: int, vm: Vm, broken: Sequence[str]
) -> Unmoved:
    reasons = (*broken, *_obstacles(problem, layout, unit))
    return Unmoved(
        vm=vm.id,
        vm_name=vm.name,
        reasons=reasons or ("no place was found for it in the time given",),
    )


def _still_broken(problem: PlacementProblem, x: Ints) -> Mapping[VmId, list[str]]:
    """VMs that a hard rule is broken for, with the rule. Limits of hosts are about no one VM."""
    rules = {rule.name for rule in problem.policy.rules}
    found: dict[VmId, list[str]] = {}
    for violation in _violations(problem, x):
        if violation.rule in rules:
            for vm in violation.vms:
                found.setdefault(vm, []).append(f"{violation.rule} stays broken: {violation.text}")
    return found


def _obstacles(problem: PlacementProblem, layout: Layout, unit: int) -> Iterator[str]:
    """Everything that keeps a unit where it is: its own, then those of each possible host."""
    vms = problem.units[unit]
    yield from _own_obstacles(problem, vms)
    by_reason: dict[str, list[str]] = {}
    for column, host_id in enumerate(problem.host_ids):
        host = problem.snapshot.host_by_id[host_id]
        if column == layout.x[unit]:
            continue
        for reason in _obstacles_of(problem, layout, unit, column, host):
            by_reason.setdefault(reason, []).append(host.name)
    for reason, names in by_reason.items():
        yield f"{_listed(names)}: {reason}"


def _own_obstacles(problem: PlacementProblem, vms: Sequence[Vm]) -> Iterator[str]:
    pins = [rule for rule in problem.policy.rules if isinstance(rule, Pin) and rule.hard]
    source = problem.snapshot.host_by_id[vms[0].host]
    for vm in vms:
        whose = "it" if len(vms) == 1 else vm.name
        if not vm.movable:
            yield f"{whose} is marked as not movable"
        yield from (f"{whose}: {blocker}" for blocker in vm.blockers)
        yield from (f"{whose} is pinned by {pin.name}" for pin in pins if pin.vms.matches(vm))
    if len(vms) > 1:
        yield f"it only moves together with {', '.join(vm.name for vm in vms)}"
    if source.state not in LEAVABLE_STATES:
        yield f"{source.name} is {source.state}, nothing is moved off it"
    if not problem.policy.applies.matches(source):
        yield f"policy {problem.policy.name} is not about {source.name}"


def _obstacles_of(
    problem: PlacementProblem, layout: Layout, unit: int, column: int, host: Host
) -> Iterator[str]:
    """Everything that keeps a unit off one host."""
    if not problem.policy.applies.matches(host):
        yield f"policy {problem.policy.name} is not about it"
    if not host.may_receive:
        yield f"it is {host.state}"
        return
    for vm in problem.units[unit]:
        source = problem.snapshot.host_by_id[vm.host]
        yield from misfits(vm, source, host)
        for rule in problem.policy.rules:
            if isinstance(rule, Fence | Ban) and rule.hard and rule.forbids(vm, host):
                yield f"{rule.name} forbids it"
    for resource in LIMITED:
        after = layout.load[resource, column] + problem.needs[resource, unit]
        if after > layout.limits[resource, column]:
            yield f"no room for its {_WORDS[resource]}"
    yield from layout.broken_rules(unit, column)


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - HOSTS_NAMED} more" if len(names) > HOSTS_NAMED else ""
    return ", ".join(names[:HOSTS_NAMED]) + more


def _host(problem: PlacementProblem, column: int) -> Host:
    return problem.snapshot.host_by_id[problem.host_ids[column]]
