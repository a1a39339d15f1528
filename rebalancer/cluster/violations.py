"""The oracle: everything that an assignment breaks, found without a solver.

It judges what the placement answers, what each step of a plan leads to, and what a rollout is
about to do. A violation that is there at the start may stay, it must not grow: `worsened`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set

from rebalancer.cluster.amounts import bytes_text
from rebalancer.cluster.compatibility import misfits
from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Assignment, Host, HostId, HostState, Snapshot, Vm, VmId
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.pools import Pool, need_of, pools_of, shortages
from rebalancer.cluster.restart import counted_on, stranded
from rebalancer.cluster.rules import Violation

# Sums of measured cores are compared with this much slack, so that the order in which floats
# were added never decides; memory and vCPUs are integers and get none beyond it.
SLACK_CORES = 1e-6

LEAVABLE_STATES = frozenset({HostState.UP, HostState.DRAINING})
"""States of hosts that VMs may be moved off: of any other it is not known what runs there."""

RESTART_RULE = "host failures one by one"
"""What a plan must not make worse in the end. On the way only the sum is kept: while VMs are
moved one after the other, the largest may for minutes have room on no single host."""


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
    """Those of `after` whose rule is broken more than it was in `before`.

    A VM on another forbidden host than before is worse, whatever else was mended.
    """
    after = tuple(after)
    allowed, found = _severities(before), _severities(after)
    return tuple(v for v in after if found[_key(v)] > allowed[_key(v)] + SLACK_CORES)


def _severities(found: Iterable[Violation]) -> dict[tuple[str, str], float]:
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for violation in found:
        sums[_key(violation)] += violation.severity
    return sums


def _key(violation: Violation) -> tuple[str, str]:
    return violation.rule, violation.breach


def overspent(
    snapshot: Snapshot, policy: Policy, assignment: Assignment, exempt: Set[VmId]
) -> tuple[Violation, ...]:
    """Find the caps on one plan that moving to `assignment` passes, the exempt VMs not counted."""
    limits, spent = policy.limits, _spent(snapshot, assignment, exempt)
    looked_after = sum(policy.applies.matches(snapshot.host_by_id[vm.host]) for vm in snapshot.vms)
    caps: list[tuple[str, float, float | None]] = [
        ("migrations", spent["moves", ""], limits.most_migrations(looked_after)),
        ("bytes moved", spent["bytes", ""], limits.moved_bytes),
        ("moves between sites", spent["moves", "sites"], limits.moves_between_sites),
        ("bytes moved between sites", spent["bytes", "sites"], limits.bytes_between_sites),
    ]
    for host in snapshot.hosts:
        caps.append((f"moves off {host.name}", spent["off", host.id], limits.moves_out_of_host))
        caps.append((f"moves onto {host.name}", spent["onto", host.id], limits.moves_into_host))
    return tuple(
        Violation(
            rule=f"limit of {what}",
            text=f"{used:,.6g} {what}, the policy allows {most:,.6g}",
            severity=used - most,
        )
        for what, used, most in caps
        if most is not None and used > most
    )


def _spent(
    snapshot: Snapshot, assignment: Assignment, exempt: Set[VmId]
) -> dict[tuple[str, str], float]:
    """What moves come to, by what is counted and where."""
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for vm in snapshot.vms:
        target = snapshot.host_by_id[assignment.get(vm.id, vm.host)]
        if target.id == vm.host or vm.id in exempt:
            continue
        size = float(vm.moved_bytes)
        crosses = snapshot.domain_of(snapshot.host_by_id[vm.host], "site") != snapshot.domain_of(
            target, "site"
        )
        for kind, amount in (("moves", 1.0), ("bytes", size)):
            spent[kind, ""] += amount
            if crosses:
                spent[kind, "sites"] += amount
        spent["off", vm.host] += 1
        spent["onto", target.id] += 1
    return spent


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
    pools = pools_of(snapshot)
    for host in snapshot.hosts:
        yield from _overfull(host, members[host.id], policy, demand)
        if pools:
            yield from _short_of(host, members[host.id], pools, snapshot, policy)
    in_sum = tuple(_failures_not_survived(snapshot, policy, members))
    yield from in_sum or _stranded(snapshot, policy, members)


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
    yield from misfits(vm, source, target, copies_disks=policy.migration.local_disks)
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
    if host.is_of_unknown_size:
        return  # Nothing is moved there, and what it is too small for nobody can tell.
    vms = tuple(vm.id for vm in members)
    cores = sum(demand.vm_cpu_peak_cores[vm.id] for vm in members)
    uses = (
        (
            "memory",
            float(sum(vm.memory_bytes for vm in members)),
            memory_capacity_bytes(host, policy),
            " of memory",
            bytes_text,
        ),
        (
            "cpu",
            cores + demand.host_base_cores[host.id] + demand.host_margin_cores if members else 0.0,
            cpu_capacity_cores(host, policy),
            " cores of CPU",
            _count_text,
        ),
        (
            "vcpus",
            float(sum(vm.vcpus for vm in members)),
            vcpu_capacity(host, policy),
            " vCPUs",
            _count_text,
        ),
    )
    for what, used, capacity, unit, write in uses:
        if used > capacity + SLACK_CORES:
            yield Violation(
                rule=f"{what} of {host.id}",
                text=f"{host.name} would need {write(used)}{unit} and may use "
                f"{write(max(0.0, capacity))}",
                vms=vms,
                hosts=(host.id,),
                severity=(used - capacity) / max(capacity, 1.0),
            )


def _count_text(count: float) -> str:
    return f"{count:,.6g}"


def _hosts(count: int) -> str:
    return "1 host is" if count == 1 else f"{count} hosts are"


def _short_of(
    host: Host, members: list[Vm], pools: tuple[Pool, ...], snapshot: Snapshot, policy: Policy
) -> Iterator[Violation]:
    """Huge pages, devices and the like taken beyond what there is; severity is what is missing."""
    for short in shortages(host, members, pools, snapshot, policy):
        yield Violation(
            rule=f"{short.pool.text} of {host.id}",
            text=f"{host.name} would need {short.pool.amount_text(short.used)} of its "
            f"{short.pool.text} and has {short.pool.amount_text(short.capacity)}",
            vms=tuple(vm.id for vm in members if need_of(vm, short.pool)),
            hosts=(host.id,),
            severity=(short.used - short.capacity) / max(short.capacity, 1.0),
        )


def _failures_not_survived(
    snapshot: Snapshot, policy: Policy, members: dict[HostId, list[Vm]]
) -> Iterator[Violation]:
    """Memory for the VMs of any `host_failures` hosts must be free on the others.

    Summed over hosts: Σ_v mem[v] ≤ Σ_h cap[h] - the largest `host_failures` capacities, over
    hosts that are up.
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
    if used and failures >= len(up):
        # Nothing is left to restart anything on: an amount would say nothing.
        yield Violation(
            rule="host failures",
            text=f"host_failures is {failures}, and {_hosts(len(up))} up: after losing so many "
            "there is none to restart VMs on; a cluster can survive the loss of "
            f"{max(0, len(up) - 1)} at most",
            severity=used,
        )
        return
    if used > left:
        lost = "1 host" if failures == 1 else f"{failures} hosts"
        yield Violation(
            rule="host failures",
            text=f"after losing {lost} {bytes_text(used - left)} of memory "
            "would be missing to restart their VMs",
            severity=(used - left) / max(left, 1.0),
        )


def _stranded(
    snapshot: Snapshot, policy: Policy, members: dict[HostId, list[Vm]]
) -> Iterator[Violation]:
    """Each VM of failed hosts must find a host with room for it, whichever hosts fail.

    Only asked where there is room in sum, which moves between hosts that are up never change.
    Where the policy empties hosts to save power, an empty one is taken for one that sleeps, but
    for those that `min_awake` keeps on.
    While a host drains nothing is asked: whoever drains it wants it empty more than anything.
    """
    failures = policy.headroom.host_failures
    drains = any(
        host.state is HostState.DRAINING
        and policy.applies.matches(host)
        and snapshot.vms_by_host[host.id]
        for host in snapshot.hosts
    )
    if failures == 0 or drains:
        return
    up = {host.id: host for host in snapshot.hosts if host.may_receive}
    guests: dict[str, dict[str, float]] = {
        host: {vm.id: float(vm.memory_bytes) for vm in members[host]} for host in up
    }
    free: dict[str, float] = {
        host.id: memory_capacity_bytes(host, policy) - sum(guests[host.id].values())
        for host in up.values()
    }
    free = counted_on(free, {host for host in up if guests[host]}, policy)
    for each in stranded(free, guests, failures):
        names = ", ".join(snapshot.vm_by_id[VmId(vm)].name for vm in each.vms[:3])
        more = f" and {len(each.vms) - 3} more" if len(each.vms) > 3 else ""
        failed = " and ".join(up[HostId(host)].name for host in each.failed)
        yield Violation(
            rule=RESTART_RULE,
            text=f"if {failed} failed, no host would have room enough to restart {names}{more}",
            vms=tuple(VmId(vm) for vm in each.vms),
            hosts=tuple(HostId(host) for host in each.failed),
            severity=each.missing_bytes / 2**30,
        )
