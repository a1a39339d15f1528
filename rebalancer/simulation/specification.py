"""What a datacentre is made of at the start, as values."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from rebalancer.cluster.inventory import Host, Snapshot, Vm
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.simulation.faults import Fault
from rebalancer.simulation.memory import MemoryUse, Writes
from rebalancer.simulation.traces import Constant, CpuTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpec:
    """A host at the start."""

    host: Host
    base_cpu: CpuTrace = field(default_factory=lambda: Constant(cores=0.0))
    """What the host uses without any VM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """A VM at the start: what a snapshot would say of it, and how its guest behaves."""

    vm: Vm
    cpu: CpuTrace
    memory: MemoryUse
    dirty_rate_known: bool = True
    """Whether an observation tells the dirty rate, or only a probe does."""
    shutdown_seconds: float = 5.0
    """From being asked to shut down until it is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long hypervisors take for what is not limited by bandwidth.

    The values were seen on real hosts (libvirt 9, QEMU 7.2); keep-alive is libvirt's default
    of 5 probes, 5 s apart, plus the time until the first one.
    """

    call_seconds: float = 0.02
    """From issuing a call until a healthy host answers it."""
    connect_seconds: float = 3.0
    """Until a host that does not answer is given up ("No route to host")."""
    request_seconds: float = 0.5
    """Setting up the target of a migration."""
    switch_over_seconds: float = 0.06
    """Device state, and the target starting, after the last page."""
    teardown_seconds: float = 0.4
    """Cleaning up the source after the switch-over."""
    keepalive_seconds: float = 28.0
    """Until two hosts that hear nothing of each other give up."""
    thaw_seconds: float = 5.0
    """A source that stood still at the switch-over goes on so long after the link is back."""
    post_copy_thaw_seconds: float = 50.0
    """… and a post-copy guest, whose connection backs off for longer."""
    daemon_restart_seconds: float = 2.0
    image_bytes_per_second: float = 200.0 * 1024 * 1024
    """Writing guests' memory to shared storage, and reading it back."""
    boot_seconds: float = 120.0
    """A host from power-on until libvirt answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatacentreSpec:
    """A datacentre at the start, and what is going to go wrong in it."""

    cluster: str
    start: datetime
    hosts: tuple[HostSpec, ...]
    guests: tuple[GuestSpec, ...]
    sites: tuple[Site, ...] = ()
    links: tuple[Link, ...] = ()
    racks: tuple[Rack, ...] = ()
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    memory_overcommit: float = 1.0
    """How much more memory than it has a host will give to guests before it refuses."""
    timings: Timings = field(default_factory=Timings)


def specification_of(
    snapshot: Snapshot, *, faults: Collection[Fault] = (), seed: int = 0
) -> DatacentreSpec:
    """Make a datacentre that looks like `snapshot`, its CPU use constant as measured.

    Unknown dirty rates are taken for zero, and an unknown resident size for all memory.
    """
    guests = tuple(
        GuestSpec(
            vm=vm,
            cpu=Constant(cores=vm.cpu_used_cores),
            memory=memory_use_of(vm),
            dirty_rate_known=vm.dirty_bytes_per_second is not None,
        )
        for vm in snapshot.vms
    )
    return DatacentreSpec(
        cluster=snapshot.cluster,
        start=snapshot.taken_at,
        hosts=tuple(_host_spec_of(host, snapshot) for host in snapshot.hosts),
        guests=guests,
        sites=snapshot.sites,
        links=snapshot.links,
        racks=snapshot.racks,
        faults=tuple(faults),
        seed=seed,
    )


def memory_use_of(vm: Vm, writes: Writes = Writes.RANDOM) -> MemoryUse:
    """Say what the guest does with its memory, going by what is known of the VM."""
    resident = min(
        vm.memory_bytes if vm.resident_bytes is None else vm.resident_bytes, vm.memory_bytes
    )
    rate = vm.dirty_bytes_per_second or 0.0
    working_set = resident if vm.working_set_bytes is None else vm.working_set_bytes
    return MemoryUse(
        memory_bytes=vm.memory_bytes,
        resident_bytes=max(resident, min(working_set, vm.memory_bytes)),
        dirty_bytes_per_second=rate,
        working_set_bytes=min(working_set, vm.memory_bytes) if rate else 0,
        writes=writes,
    )


def _host_spec_of(host: Host, snapshot: Snapshot) -> HostSpec:
    guests = sum(vm.cpu_used_cores for vm in snapshot.vms_by_host[host.id] if vm.is_active)
    unexplained = max(0.0, (host.cpu_used_cores or 0.0) - guests)
    return HostSpec(host=host, base_cpu=Constant(cores=unexplained))
