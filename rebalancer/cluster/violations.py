"""The oracle: everything that an assignment breaks, found without a solver.

It judges what the placement answers, what each step of a plan leads to, and what a rollout is
about to do. A violation that is there at the start may stay, it must not grow: `worsened`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from rebalancer.cluster.compatibility import misfits
from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Assignment, Host, HostId, HostState, Snapshot, Vm
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Violation

# Sums of measured cores are compared with this much slack, so that the order in which floats
# were added never decides; memory and vCPUs are integers and get none beyond it.
SLACK_CORES = 1e-6

LEAVABLE_STATES = frozenset({HostState.UP, HostState.DRAINING})
"""States of hosts that VMs may be moved off: of any other it is not known what runs there."""


def cpu_capacity_cores(host: Host, policy: Policy) -> float:
    """Cores that forecast demand may fill: what the host has, less the headroom."""
    return host.cpu_cores * (1 - policy.headroom.cpu_ratio)


def memory_capacity_bytes(host: Host, policy: Policy) -> float:
    """Bytes that VMs may be promised: what guests may use, overcommitted, less the headroom."""
    return host.guest_memory_bytes * policy.overcommit.memory * (1 - policy.headroom.memory_ratio)


def vcpu_capacity(host: Host, policy: Policy) -> float:
    """Virtual CPUs that a host may promise."""
    return host.cpu_cores * policy.overcommit.cpu


def violations(
    snapshot: Snapshot, policy: Policy, demand: Demand, assignment: Assignment
) -> tuple[Violation, ...]:
    """Find everything that `assignment` breaks, hard and soft rules included."""
    return tuple(_violations(snapshot, policy, demand, assignment))


def hard_violations(
    snapshot: Snapshot, policy: Policy, demand: Demand, assignment: Assignment
) -> tuple[Violation, ...]:
    """Find what `assignment` breaks and must not: all but the soft rules."""
    soft = {rule.name for rule in policy.rules if not rule.hard}
    found = _violations(snapshot, policy, demand, assignment)
    return tuple(violation for violation in found if violation.rule not in soft)


def worsened(before: Iterable[Violation], after: Iterable[Violation]) -> tuple[Violation, ...]:
    """Those of `after` whose rule is broken more than it was in `before`."""
    allowed: dict[str, float] = defaultdict(float)
    for violation in before:
        allowed[violation.rule] += violation.severity
    found: dict[str, float] = defaultdict(float)
    after = tuple(after)
    for violation in after:
        found[violation.rule] += violation.severity
    return tuple(
        violation
        for violation in after
        if found[violation.rule] > allowed[violation.rule] + SLACK_CORES
    )


def _violations(
    snapshot: Snapshot, policy: Policy, demand: Demand, assignment: Assignment
) -> Iterator[Violation]:
    for rule in policy.rules:
        yield from rule.violations(snapshot, assignment)
    yield from _moved_wrongly(snapshot, policy, assignment)
    members: dict[HostId, list[Vm]] = defaultdict(list)
    for vm in snapshot.vms:
        if vm.is_active and vm.id in assignment:
            members[assignment[vm.id]].append(vm)
    for host in snapshot.hosts:
        yield from _overfull(host, members[host.id], policy, demand)
    yield from _failures_not_survived(snapshot, policy, members)


def _moved_wrongly(
    snapshot: Snapshot, policy: Policy, assignment: Assignment
) -> Iterator[Violation]:
    """VMs that would move although they cannot, or to where they cannot run."""
    for vm in snapshot.vms:
        source = snapshot.host_by_id[vm.host]
        target = snapshot.host_by_id[assignment.get(vm.id, vm.host)]
        if target.id == source.id:
            continue
        for reason in _bars(vm, source, target, policy):
            yield Violation(
                rule=f"placement of {vm.id}",
                text=f"{vm.name} cannot go to {target.name}: {reason}",
                vms=(vm.id,),
                hosts=(target.id,),
            )


def _bars(vm: Vm, source: Host, target: Host, policy: Policy) -> Iterator[str]:
    """Everything, capacity and rules aside, that forbids moving `vm` to `target`."""
    yield from misfits(vm, source, target)
    if not vm.movable:
        yield "it is marked as not movable"
    yield from vm.blockers
    if source.state not in LEAVABLE_STATES:
        yield f"nothing is moved off {source.name}, which is {source.state}"
    if not target.may_receive:
        yield f"{target.name} is {target.state}"
    for host in (source, target):
        if not policy.applies.matches(host):
            yield f"policy {policy.name} is not about {host.name}"


def _overfull(host: Host, members: list[Vm], policy: Policy, demand: Demand) -> Iterator[Violation]:
    """Memory, CPU and vCPUs promised beyond capacity; severity is the share too much."""
    vms = tuple(vm.id for vm in members)
    cores = sum(demand.vm_cpu_peak_cores[vm.id] for vm in members)
    uses = (
        (
            "memory",
            float(sum(vm.memory_bytes for vm in members)),
            memory_capacity_bytes(host, policy),
            "bytes of memory",
        ),
        (
            "cpu",
            cores + demand.host_base_cores[host.id] if members else 0.0,
            cpu_capacity_cores(host, policy),
            "cores of CPU",
        ),
        ("vcpus", float(sum(vm.vcpus for vm in members)), vcpu_capacity(host, policy), "vCPUs"),
    )
    for what, used, capacity, unit in uses:
        if used > capacity + SLACK_CORES:
            yield Violation(
                rule=f"{what} of {host.id}",
                text=f"{host.name} would need {used:,.6g} {unit} and may use {capacity:,.6g}",
                vms=vms,
                hosts=(host.id,),
                severity=(used - capacity) / max(capacity, 1.0),
            )


def _failures_not_survived(
    snapshot: Snapshot, policy: Policy, members: dict[HostId, list[Vm]]
) -> Iterator[Violation]:
    """Memory for the VMs of any `host_failures` hosts must be free on the others.

    Summed over hosts: Σ_v mem[v] ≤ Σ_h cap[h] - the largest `host_failures` capacities, over
    hosts that are up. (That the VMs of the failed hosts also fit one by one is not asked.)
    """
    failures = policy.headroom.host_failures
    if failures == 0:
        return
    up = sorted(
        (memory_capacity_bytes(host, policy) for host in snapshot.hosts if host.may_receive),
        reverse=True,
    )
    used = sum(
        vm.memory_bytes for host in snapshot.hosts if host.may_receive for vm in members[host.id]
    )
    left = sum(up[failures:])
    if used > left:
        yield Violation(
            rule="host failures",
            text=f"after losing {failures} host(s) {used - left:,.0f} bytes of memory "
            "would be missing to restart their VMs",
            severity=(used - left) / max(left, 1.0),
        )
