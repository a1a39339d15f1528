"""Whether a VM could run on a host at all, whatever else runs there.

Everything here is a fact of the two machines. Capacity, rules and budgets depend on the rest
of the cluster and are judged in `violations`.
"""

from __future__ import annotations

from collections.abc import Iterator

from rebalancer.cluster.amounts import bytes_text
from rebalancer.cluster.disks import copy_obstacles
from rebalancer.cluster.inventory import Host, NumaNode, Vm, VmState

HOST_CPU = "host-passthrough"

TSC_TOLERANCE = 250e-6
"""Frequencies closer than this are the same to KVM and libvirt (250 parts per million)."""


def misfits(vm: Vm, source: Host, target: Host, *, copies_disks: bool = False) -> tuple[str, ...]:
    """Say in words everything that keeps `vm`, now on `source`, from running on `target`.

    Nothing keeps a VM from running where it is. `copies_disks`: disks that only its present host
    reaches may be copied to the target.
    """
    return () if target.id == source.id else tuple(_misfits(vm, source, target, copies_disks))


def _misfits(vm: Vm, source: Host, host: Host, copies_disks: bool) -> Iterator[str]:
    if vm.local_disk_bytes:
        yield from _disk_misfits(vm, host, copies_disks)
    if vm.arch and host.arch and vm.arch != host.arch:
        yield f"its architecture is {vm.arch}, the host's is {host.arch}"
    yield from _cpu_misfits(vm, source, host)
    yield from _clock_misfits(vm, host)
    types = host.machine_types
    if vm.machine_type and types is not None and vm.machine_type not in types:
        yield f"the host's QEMU does not offer machine type {vm.machine_type}"
    if host.storage is not None and (missing := sorted(vm.storage - host.storage)):
        yield f"the host does not reach storage {', '.join(missing)}"
    if host.networks is not None and (missing := sorted(vm.networks - host.networks)):
        yield f"the host has no network {', '.join(missing)}"
    if vm.memory_bytes > host.guest_memory_bytes and not host.is_of_unknown_size:
        yield (
            f"it needs {bytes_text(vm.memory_bytes)} of memory, "
            f"the host has {bytes_text(max(0, host.guest_memory_bytes))} for guests"
        )
    if vm.vcpus > host.cpu_cores and vm.numa_nodes:
        yield f"it has {vm.vcpus} pinned vCPUs, the host {host.cpu_cores:g} cores"
    yield from _memory_misfits(vm, host)


def _disk_misfits(vm: Vm, host: Host, copies_disks: bool) -> Iterator[str]:
    against = list(copy_obstacles(vm.local_disks, vm.local_disk_bytes, host.disk_pools))
    against += [
        f"{disk.path} is there already, and is not written over; `rebalancer leftovers` tells "
        "whether it is an old disk of this VM"
        for disk in vm.local_disks
        if disk.path in host.disk_files
    ]
    if vm.state not in (VmState.RUNNING, VmState.PAUSED):
        against.append(f"it is {vm.state}, and local disks are copied only while a VM runs")
    if copies_disks:
        yield from against
        return
    size = bytes_text(vm.local_disk_bytes)
    # What would not help is not advised.
    way_out = "" if against else "; `migration: {local_disks: true}` would let them be copied"
    yield f"{size} of its disks are reached by its present host only{way_out}"


def _cpu_misfits(vm: Vm, source: Host, host: Host) -> Iterator[str]:
    if vm.cpu_model == HOST_CPU:
        # A passed-through CPU is only found again on the same model, so here an unknown
        # model does rule the host out: the guest would meet instructions it does not have.
        if source.cpu_model is None or source.cpu_model != host.cpu_model:
            ours, theirs = source.cpu_model or "unknown", host.cpu_model or "unknown"
            yield f"it sees its host's own CPU ({ours}), this host's is {theirs}"
    elif vm.cpu_model and host.cpu_models is not None and vm.cpu_model not in host.cpu_models:
        yield f"the host cannot give it a {vm.cpu_model} CPU"
    if host.cpu_features is not None and (missing := sorted(vm.cpu_features - host.cpu_features)):
        yield f"the host's CPU lacks {', '.join(missing)}"


def _clock_misfits(vm: Vm, host: Host) -> Iterator[str]:
    """A guest whose time stamp counter has a fixed frequency wants it on the target, too."""
    wanted = vm.tsc_hertz
    if wanted is None or host.tsc_hertz is None or host.tsc_scales:
        return
    if abs(host.tsc_hertz - wanted) > wanted * TSC_TOLERANCE:
        yield (
            f"its time stamp counter runs at {wanted:,.0f} Hz, the host's at "
            f"{host.tsc_hertz:,.0f} Hz and cannot be scaled"
        )


def _memory_misfits(vm: Vm, host: Host) -> Iterator[str]:
    if vm.hugepage_bytes is not None:
        pool = next((p for p in host.hugepages if p.page_bytes == vm.hugepage_bytes), None)
        if pool is None:
            yield f"the host has no huge pages of {bytes_text(vm.hugepage_bytes)}"
        elif pool.total_pages * pool.page_bytes < vm.memory_bytes:
            yield f"the host's huge pages of {bytes_text(vm.hugepage_bytes)} are too few for it"
    for name, count in sorted(vm.devices.items()):
        if count > (there := host.devices.get(name, 0)):
            yield f"it takes {count} device{'' if count == 1 else 's'} {name}, the host has {there}"
    cpus = sum(node.cpu_cores for node in host.numa_nodes or ())
    if vm.pinned_cpus and host.numa_nodes is not None and max(vm.pinned_cpus) >= cpus:
        yield f"it is pinned to CPU {max(vm.pinned_cpus)}, the host has {cpus:g} CPUs from 0 on"
    if vm.numa_nodes and host.numa_nodes is not None:
        yield from _numa_misfits(vm.numa_nodes, host.numa_nodes)


def _numa_misfits(cells: tuple[NumaNode, ...], nodes: tuple[NumaNode, ...]) -> Iterator[str]:
    """Nodes that cells are bound to must be there; the other cells need a node each."""
    there = {n if node.number is None else node.number for n, node in enumerate(nodes)}
    bound = {number for cell in cells for number in cell.host_nodes}
    if missing := sorted(bound - there):
        yield f"it is bound to NUMA node {', '.join(map(str, missing))}, which the host has not"
    free = sorted((cell.memory_bytes for cell in cells if not cell.host_nodes), reverse=True)
    largest = sorted((node.memory_bytes for node in nodes), reverse=True)
    if len(free) > len(largest):
        yield f"it has {len(free)} NUMA nodes of its own, the host {len(largest)}"
    elif any(need > have for need, have in zip(free, largest, strict=False)):
        yield "one of its NUMA nodes is larger than any of the host's that is left for it"
    cores = max((node.cpu_cores for node in nodes), default=0)
    if any(len(cell.host_nodes) <= 1 and cell.cpu_cores > cores for cell in cells):
        yield "one of its NUMA nodes has more vCPUs than any of the host's has CPUs"
