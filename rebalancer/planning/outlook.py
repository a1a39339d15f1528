"""The hosts before and after a plan, as its reader sees them."""

from __future__ import annotations

from collections.abc import Mapping

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Assignment, Host, HostId, Snapshot, Vm, VmId
from rebalancer.cluster.plan import HostOutlook


def host_outlooks(
    snapshot: Snapshot, demand: Demand, moved: Mapping[VmId, HostId]
) -> tuple[HostOutlook, ...]:
    """Compare every host's expected load now with that after the VMs in `moved` have moved."""
    before = _members(snapshot, snapshot.assignment)
    after = _members(snapshot, {**snapshot.assignment, **moved})
    return tuple(_outlook(host, demand, before[host.id], after[host.id]) for host in snapshot.hosts)


def _members(snapshot: Snapshot, assignment: Assignment) -> dict[HostId, list[Vm]]:
    members: dict[HostId, list[Vm]] = {host.id: [] for host in snapshot.hosts}
    for vm in snapshot.vms:
        members[assignment[vm.id]].append(vm)
    return members


def _outlook(host: Host, demand: Demand, before: list[Vm], after: list[Vm]) -> HostOutlook:
    return HostOutlook(
        host=host.id,
        name=host.name,
        state=host.state,
        cpu_ratio_before=_cpu_ratio(host, demand, before),
        cpu_ratio_after=_cpu_ratio(host, demand, after),
        memory_ratio_before=_memory_ratio(host, before),
        memory_ratio_after=_memory_ratio(host, after),
        vms_before=len(before),
        vms_after=len(after),
    )


def _cpu_ratio(host: Host, demand: Demand, vms: list[Vm]) -> float | None:
    if host.cpu_cores <= 0:
        return None
    used = sum(demand.vm_cpu_cores[vm.id] for vm in vms if vm.is_active)
    return (used + demand.host_base_cores[host.id]) / host.cpu_cores


def _memory_ratio(host: Host, vms: list[Vm]) -> float | None:
    if host.memory_bytes <= 0:
        return None
    promised = sum(vm.memory_bytes for vm in vms if vm.is_active)
    return promised / max(1, host.guest_memory_bytes)
