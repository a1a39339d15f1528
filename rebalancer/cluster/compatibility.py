"""Whether a VM could run on a host at all, whatever else runs there.

Everything here is a fact of the two machines. Capacity, rules and budgets depend on the rest
of the cluster and are judged in `violations`.
"""

from __future__ import annotations

from collections.abc import Iterator

from rebalancer.cluster.inventory import Host, Vm

HOST_CPU = "host-passthrough"


def misfits(vm: Vm, source: Host, target: Host) -> tuple[str, ...]:
    """Say in words everything that keeps `vm`, now on `source`, from running on `target`.

    Nothing keeps a VM from running where it is.
    """
    return () if target.id == source.id else tuple(_misfits(vm, source, target))


def _misfits(vm: Vm, source: Host, host: Host) -> Iterator[str]:
    if vm.local_disk_bytes:
        yield f"{vm.local_disk_bytes} bytes of its disks are reached by its present host only"
    if vm.arch and host.arch and vm.arch != host.arch:
        yield f"its architecture is {vm.arch}, the host's is {host.arch}"
    yield from _cpu_misfits(vm, source, host)
    types = host.machine_types
    if vm.machine_type and types is not None and vm.machine_type not in types:
        yield f"the host's QEMU does not offer machine type {vm.machine_type}"
    if host.storage is not None and (missing := sorted(vm.storage - host.storage)):
        yield f"the host does not reach storage {', '.join(missing)}"
    if host.networks is not None and (missing := sorted(vm.networks - host.networks)):
        yield f"the host has no network {', '.join(missing)}"
    if vm.memory_bytes > host.guest_memory_bytes:
        yield (
            f"it needs {vm.memory_bytes} bytes of memory, "
            f"the host has {host.guest_memory_bytes} bytes for guests"
        )
    if vm.vcpus > host.cpu_cores and vm.numa_nodes:
        yield f"it has {vm.vcpus} pinned vCPUs, the host {host.cpu_cores:g} cores"
    yield from _memory_misfits(vm, host)


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


def _memory_misfits(vm: Vm, host: Host) -> Iterator[str]:
    if vm.hugepage_bytes is not None:
        pool = next((p for p in host.hugepages if p.page_bytes == vm.hugepage_bytes), None)
        if pool is None:
            yield f"the host has no huge pages of {vm.hugepage_bytes} bytes"
        elif pool.total_pages * pool.page_bytes < vm.memory_bytes:
            yield f"the host's huge pages of {vm.hugepage_bytes} bytes are too few for it"
    if vm.numa_nodes and host.numa_nodes is not None:
        largest = max((node.memory_bytes for node in host.numa_nodes), default=0)
        if any(node.memory_bytes > largest for node in vm.numa_nodes):
            yield "one of its NUMA nodes is larger than any of the host's"
