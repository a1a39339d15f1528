"""One domain of one host -> the VM, with everything that keeps it where it is.

A demand that even the present host does not seem to meet (a CPU feature, a network, a storage)
says more about what libvirt tells than about the VM: it is left out, because it would rule out
every target. So is everything about the CPU of a guest whose CPU is made in software.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace

from rebalancer.cluster.compatibility import HOST_CPU
from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import HostId, Vm, VmId, VmState
from rebalancer.collect.device_pools import taken_from
from rebalancer.collect.domain_xml import Disk, DiskImage, DomainFacts
from rebalancer.collect.hypervisor import JobOperation, PausedReason, RunningReason
from rebalancer.collect.observations import DomainReport, HostFacts, HostReport
from rebalancer.collect.storage_identity import storage_of_path

_DEFAULT_HUGEPAGE_BYTES = 2 * 2**20

_JOBS = {
    JobOperation.MIGRATION_OUT: "it is being migrated",
    JobOperation.MIGRATION_IN: "it is being migrated to where it is",
    JobOperation.BACKUP: "a backup of it is running",
    JobOperation.SNAPSHOT: "a snapshot of it is being taken",
    JobOperation.SNAPSHOT_REVERT: "it is being reverted to a snapshot",
    JobOperation.SNAPSHOT_DELETE: "a snapshot of it is being deleted",
    JobOperation.SAVE: "it is being saved",
    JobOperation.RESTORE: "it is being restored",
    JobOperation.DUMP: "its memory is being dumped",
    JobOperation.START: "it is being started",
    JobOperation.UNKNOWN: "libvirt is busy with it, or does not say whether it is",
}

_ODD_REASONS: Mapping[tuple[VmState, int], str] = {
    (VmState.RUNNING, RunningReason.POSTCOPY): "it is in the post-copy phase of a migration",
    (VmState.RUNNING, RunningReason.POSTCOPY_FAILED): "its post-copy migration has failed",
    (VmState.PAUSED, PausedReason.POSTCOPY): "it is in the post-copy phase of a migration",
    (VmState.PAUSED, PausedReason.POSTCOPY_FAILED): "its post-copy migration has failed",
    (VmState.PAUSED, PausedReason.IO_ERROR): "an I/O error of a disk has stopped it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Disks:
    """Where a VM's disks are."""

    storage: frozenset[str]
    local_bytes: int
    local: tuple[LocalDisk, ...]
    obstacles: tuple[str, ...]


def vm_from(at: HostReport, domain: DomainReport, reachable: Set[str] | None) -> Vm:
    """Turn what a host said of a domain into a VM; `reachable` is the host's shared storage."""
    facts = domain.facts
    vm = Vm(
        id=VmId(domain.uuid),
        name=domain.name,
        host=HostId(at.host.name),
        state=domain.state,
        memory_bytes=_memory_bytes(domain, facts),
        vcpus=max(1, domain.vcpus or (facts.vcpus if facts else 1)),
        cpu_used_cores=domain.cpu_used_cores,
        resident_bytes=_resident_bytes(domain, facts),
        autostart=domain.autostart,
        persistent=domain.persistent,
    )
    if facts is None:
        return replace(vm, blockers=(f"its definition cannot be read: {domain.unreadable}",))
    disks = _disks(at, domain, facts, reachable)
    networks = at.host.networks if at.host.networks is not None else at.facts.networks
    is_foreign = facts.is_emulated and facts.arch != at.facts.arch
    return replace(
        vm,
        labels=dict(facts.hints.labels),
        movable=facts.hints.movable,
        allowed_modes=facts.hints.allowed_modes,
        max_downtime_seconds=facts.hints.max_downtime_seconds,
        storage=disks.storage,
        networks=facts.networks if networks is None else facts.networks & networks,
        local_disk_bytes=disks.local_bytes,
        local_disks=disks.local,
        cpu_model=_among(facts.cpu.model, at.facts.cpu_models),
        cpu_features=_cpu_features(domain, facts, at.facts),
        arch=None if is_foreign else facts.arch,
        machine_type=None if is_foreign else _among(facts.machine_type, at.facts.machine_types),
        numa_nodes=facts.numa_nodes,
        hugepage_bytes=_hugepage_bytes(facts, at.facts),
        devices=taken_from(at.facts.device_pools, facts.devices_used, facts.hints.devices),
        tsc_hertz=facts.tsc_hertz,
        pinned_cpus=facts.pinned_cpus,
        blockers=(*_blockers(domain, facts), *disks.obstacles),
    )


def _memory_bytes(domain: DomainReport, facts: DomainFacts | None) -> int:
    return max(1, (facts.memory_bytes if facts else 0) or domain.memory_bytes or 0)


def _resident_bytes(domain: DomainReport, facts: DomainFacts | None) -> int | None:
    """Return how much of its memory the guest has touched, as its process's size tells it.

    The process has more than the guest's memory, and huge pages are not counted with it.
    """
    if domain.resident_bytes is None or facts is None or facts.uses_hugepages:
        return None
    return min(domain.resident_bytes, _memory_bytes(domain, facts))


def _among(name: str | None, offered: Iterable[str] | None) -> str | None:
    """Return the name unless not even the present host offers it."""
    is_known = name is None or offered is None or name == HOST_CPU or name in offered
    return name if is_known else None


def _cpu_features(domain: DomainReport, facts: DomainFacts, host: HostFacts) -> frozenset[str]:
    """Return what the CPU of a target must be able to do.

    KVM adds some features whatever the CPU (`hypervisor`, `x2apic`): those that the present
    host's CPU does not have are of that kind.
    """
    of_host, cpu = host.cpu_features, facts.cpu
    if of_host is None or facts.is_emulated:
        return frozenset()
    if cpu.model == HOST_CPU:
        return of_host - cpu.disabled
    own = (domain.cpu_model_features or frozenset()) | cpu.required
    return _one_for_all(own - cpu.disabled & of_host)


@functools.lru_cache(maxsize=64)
def _one_for_all(features: frozenset[str]) -> frozenset[str]:
    """The same object for equal sets: of thousands of VMs most need the same hundred features."""
    return features


def _hugepage_bytes(facts: DomainFacts, host: HostFacts) -> int | None:
    if not facts.uses_hugepages:
        return None
    if facts.hugepage_bytes is not None:
        return facts.hugepage_bytes
    pools = [pool.page_bytes for pool in host.hugepages]
    return pools[0] if len(pools) == 1 else _DEFAULT_HUGEPAGE_BYTES


def _blockers(domain: DomainReport, facts: DomainFacts) -> Iterator[str]:
    if domain.job is not None:
        yield _JOBS[domain.job]
    if odd := _ODD_REASONS.get((domain.state, domain.reason)):
        yield odd
    if domain.has_snapshots:
        yield "it has snapshots, which libvirt cannot move"
    if domain.has_checkpoints:
        yield "it has backup checkpoints, which would be lost"
    if domain.has_saved_state:
        yield "its memory is saved in a file of its host (managed save)"
    for fault in facts.hints.faults:
        yield f"its rebalancer metadata cannot be understood: {fault}"
    yield from facts.obstacles


def _disks(
    at: HostReport, domain: DomainReport, facts: DomainFacts, reachable: Set[str] | None
) -> _Disks:
    storage: set[str] = set()
    local: list[LocalDisk] = []
    found: list[str] = []
    for disk in facts.disks:
        places = [_storage_of(image, at) for image in disk.images]
        storage |= {place for place in places if place is not None}
        if None not in places:
            continue
        if disk.is_removable:
            found += [] if disk.may_be_dropped else [_medium(disk)]
        elif disk.target in domain.disk_bytes:
            local.append(_local_disk(disk, domain))
        else:
            found.append(f"it has a disk of unknown size, {disk.target}, on its host")
    return _Disks(
        storage=frozenset(storage & (reachable or frozenset())),
        local_bytes=sum(disk.capacity_bytes for disk in local),
        local=tuple(local),
        obstacles=tuple(found),
    )


def _local_disk(disk: Disk, domain: DomainReport) -> LocalDisk:
    return LocalDisk(
        target=disk.target,
        capacity_bytes=domain.disk_bytes[disk.target],
        path=disk.images[0].path or "",
        format=disk.format,
        allocated_bytes=domain.allocated_disk_bytes.get(disk.target),
        obstacle=disk.why_not_copied,
    )


def _medium(disk: Disk) -> str:
    path = disk.images[0].path or "something"
    return f"{path} of its host is in its drive {disk.target}; eject it"


def _storage_of(image: DiskImage, at: HostReport) -> str | None:
    """Return the shared storage that an image is on; `None` when it is on the host's own."""
    pools = at.facts.pools or ()
    if image.network is not None:
        return image.network
    if image.pool is not None:
        return next((pool.identity for pool in pools if pool.name == image.pool), None)
    return storage_of_path(image.path or "", at.host.storage, pools)
