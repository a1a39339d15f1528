"""What a cluster consists of at one instant: hosts, VMs, and their past use, at `sites`.

Values only. Who observed them is `collect`'s business, what to do with them everybody else's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import NewType

import numpy as np
from numpy.typing import NDArray

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.sites import Link, Rack, Site

VmId = NewType("VmId", str)
"""A libvirt UUID (any unique text in a hand-made snapshot). Names are for people."""

HostId = NewType("HostId", str)

Assignment = Mapping[VmId, HostId]
"""Which host each VM is on. A VM whose host is unknown is missing from it."""

_NOTHING: Mapping[str, str] = MappingProxyType({})
_NONE: Mapping[str, int] = MappingProxyType({})


class HostState(StrEnum):
    """What a host may be used for. Only `UP` hosts receive VMs."""

    UP = "up"
    DRAINING = "draining"
    """It works, but everything that can leave is to leave."""
    MAINTENANCE = "maintenance"
    ASLEEP = "asleep"
    """Powered off by us to save energy; it can be woken."""
    DOWN = "down"
    UNKNOWN = "unknown"
    """It did not answer. It may well run VMs: unknown is never the same as empty."""


class VmState(StrEnum):
    """The state of a VM as libvirt tells it, without libvirt's transitional states."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTOFF = "shutoff"
    CRASHED = "crashed"
    SUSPENDED = "suspended"
    """The guest put itself to sleep (ACPI S3)."""


ACTIVE_VM_STATES = frozenset({VmState.RUNNING, VmState.PAUSED, VmState.SUSPENDED})
"""States in which a VM holds memory on its host."""


class Mode(StrEnum):
    """How a VM gets from one host to another, mildest first."""

    OFFLINE = "offline"
    """It does not run: only its definition moves."""
    LIVE = "live"
    AUTO_CONVERGE = "auto_converge"
    """Live; the guest's CPUs are throttled until it dirties memory slowly enough."""
    SUSPEND = "suspend"
    """Warm: memory is copied while it runs, then it is paused for the rest."""
    POST_COPY = "post_copy"
    COLD = "cold"
    """Shut down or saved on the source, started on the target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HugepagePool:
    """Huge pages of one size on a host, or on one NUMA node of it."""

    page_bytes: int
    total_pages: int
    free_pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaNode:
    """One NUMA cell of a host, or one that a VM was given."""

    cpu_cores: float
    memory_bytes: int
    number: int | None = None
    """Of a host's: how it is called there. `None`: its place in the list, from 0."""
    hugepages: tuple[HugepagePool, ...] = ()
    """Of a host's: the part of the host's huge pages that is on this node."""
    host_nodes: tuple[int, ...] = ()
    """Of a VM's: the nodes of its host that it is bound to. Empty: any one will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A hypervisor machine.

    Optional facts that are `None` are unknown; an unknown fact never rules a host out.
    """

    id: HostId
    name: str
    cpu_cores: float
    memory_bytes: int
    site: str | None = None
    rack: str | None = None
    state: HostState = HostState.UP
    state_reason: str = ""
    """Why the state is what it is, for people: the connection error of an unknown host, say."""
    reserved_memory_bytes: int = 0
    """Memory that guests must not get: the hypervisor's own."""
    cpu_used_cores: float | None = None
    """Measured use of the whole host. `None`: take the sum over its VMs."""
    cpu_model: str | None = None
    cpu_models: tuple[str, ...] | None = None
    """Models (as in `<cpu><model>`) that a guest may be given here."""
    cpu_features: frozenset[str] | None = None
    arch: str | None = None
    machine_types: tuple[str, ...] | None = None
    nic_bytes_per_second: float = 1.25e9
    """What the migration network carries in each direction; 10 Gbit/s unless known better."""
    labels: Mapping[str, str] = _NOTHING
    storage: frozenset[str] | None = None
    networks: frozenset[str] | None = None
    idle_watts: float | None = None
    max_watts: float | None = None
    numa_nodes: tuple[NumaNode, ...] | None = None
    hugepages: tuple[HugepagePool, ...] = ()
    disk_pools: Mapping[str, int] | None = None
    """Bytes that are free in each folder of its own that a storage pool is active for. `None`:
    nobody can tell; then no disks are copied there."""
    disk_files: frozenset[str] = frozenset()
    """Files in those folders that have the path of some other host's VM's local disk: in the way
    of a copy, be it an old disk of that VM or somebody else's."""
    devices: Mapping[str, int] = _NONE
    """How many devices of each pool there are for VMs: virtual functions of a network card, say,
    or virtual GPUs of one type. Those in use count."""
    tsc_hertz: float | None = None
    """Frequency of its time stamp counter."""
    tsc_scales: bool = False
    """Whether it can give a guest another frequency than its own."""

    @property
    def guest_memory_bytes(self) -> int:
        """What guests may use of the memory."""
        return self.memory_bytes - self.reserved_memory_bytes

    @property
    def may_receive(self) -> bool:
        """Whether a VM may be moved here at all."""
        return self.state is HostState.UP

    @property
    def is_of_unknown_size(self) -> bool:
        """Whether it was never looked at, so that it has no capacity to relate anything to."""
        return not self.may_receive and (self.cpu_cores <= 0 or self.memory_bytes <= 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A virtual machine and what has to be known to move it."""

    id: VmId
    name: str
    host: HostId
    memory_bytes: int
    """What it was promised (the balloon's maximum), which is what a target must have free."""
    vcpus: int = 1
    state: VmState = VmState.RUNNING
    cpu_used_cores: float = 0.0
    resident_bytes: int | None = None
    """Memory that is really backed; what a migration has to send at least. `None`: all of it."""
    dirty_bytes_per_second: float | None = None
    """Unique memory written a second. `None` is unknown, which is not the same as zero."""
    dirty_error_bytes_per_second: float = 0.0
    """How far off that may be, one standard error: a measurement looks at few pages."""
    working_set_bytes: int | None = None
    """The part of memory that is written again and again. `None`: unknown, so all of it."""
    labels: Mapping[str, str] = _NOTHING
    storage: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    local_disk_bytes: int = 0
    """Bytes of disks that only its present host can reach."""
    local_disks: tuple[LocalDisk, ...] = ()
    """Those disks one by one, as far as they are known; they can be copied if all are."""
    disk_write_bytes_per_second: float | None = None
    """What it writes to them. `None` is unknown, which is not the same as zero."""
    cpu_model: str | None = None
    """Model it sees; `host-passthrough` needs a host of the same model."""
    cpu_features: frozenset[str] = frozenset()
    arch: str | None = None
    machine_type: str | None = None
    numa_nodes: tuple[NumaNode, ...] = ()
    hugepage_bytes: int | None = None
    """Size of the huge pages it is backed by, if any."""
    devices: Mapping[str, int] = _NONE
    """How many devices of each pool it takes wherever it runs."""
    tsc_hertz: float | None = None
    """Frequency that its time stamp counter has to have, if that is fixed."""
    pinned_cpus: frozenset[int] = frozenset()
    """Numbers of the host's CPUs that its vCPUs are pinned to."""
    movable: bool = True
    """False where its owner forbids moving it."""
    blockers: tuple[str, ...] = ()
    """Why it cannot be moved alive just now (a passed-through device, a running backup)."""
    is_migrating: bool = False
    """A migration out of its host is under way, whoever began it."""
    migrating_to: HostId | None = None
    """The host on which its incoming copy was seen; `None`: on none that was asked."""
    migrating_bytes_per_second: float | None = None
    """What that migration takes of the network, as the source says; `None`: it does not say."""
    autostart: bool = False
    persistent: bool = True
    allowed_modes: frozenset[Mode] | None = None
    """Its owner's say on modes; `None` leaves it to the policy."""
    max_downtime_seconds: float | None = None
    """Its owner's say on the pause; `None` leaves it to the policy."""

    @property
    def is_active(self) -> bool:
        """Whether it holds CPU and memory of its host."""
        return self.state in ACTIVE_VM_STATES

    @property
    def moved_bytes(self) -> int:
        """What a plan that moves it is counted as moving: its memory if it runs, its own disks."""
        return (self.memory_bytes if self.is_active else 0) + self.local_disk_bytes

    @property
    def can_move(self) -> bool:
        """Whether anything at all may move it just now."""
        return self.movable and not self.blockers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UsageHistory:
    """Past use in cores, on one regular grid. Missing samples are NaN.

    Sample `k` covers the interval that begins `k * interval_seconds` after `start`.
    """

    start: datetime
    interval_seconds: float
    vm_cpu_cores: Mapping[VmId, NDArray[np.float64]]
    host_cpu_cores: Mapping[HostId, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """One consistent observation of a cluster.

    Hosts and VMs are unique by id, and each VM's host is among the hosts; whoever makes a
    snapshot from outside data has checked that (`faults_of` says what is wrong).
    """

    cluster: str
    taken_at: datetime
    hosts: tuple[Host, ...]
    vms: tuple[Vm, ...]
    sites: tuple[Site, ...] = ()
    links: tuple[Link, ...] = ()
    racks: tuple[Rack, ...] = ()
    """Those whose uplinks are known; of others nothing is said, so that they limit nothing."""
    usage: UsageHistory | None = None
    usage_fault: str = ""
    """Why past use is missing or too poor to act on unasked: then a plan may be made, but nobody
    carries it out without being told to. Empty: it is good, or none was to be had."""

    @cached_property
    def host_by_id(self) -> Mapping[HostId, Host]:
        """Hosts by id."""
        return MappingProxyType({host.id: host for host in self.hosts})

    @cached_property
    def vm_by_id(self) -> Mapping[VmId, Vm]:
        """VMs by id."""
        return MappingProxyType({vm.id: vm for vm in self.vms})

    @cached_property
    def site_by_name(self) -> Mapping[str, Site]:
        """Sites by name."""
        return MappingProxyType({site.name: site for site in self.sites})

    @cached_property
    def assignment(self) -> Assignment:
        """Where every VM is now."""
        return MappingProxyType({vm.id: vm.host for vm in self.vms})

    @cached_property
    def vms_by_host(self) -> Mapping[HostId, tuple[Vm, ...]]:
        """The VMs of each host, in the snapshot's order; every host has an entry."""
        found: dict[HostId, list[Vm]] = {host.id: [] for host in self.hosts}
        for vm in self.vms:
            found[vm.host].append(vm)
        return MappingProxyType({host: tuple(vms) for host, vms in found.items()})

    @cached_property
    def positions_by_name(self) -> Mapping[str, tuple[int, ...]]:
        """Places in `vms` of those that are called so, or have this id."""
        found: dict[str, list[int]] = {}
        for position, vm in enumerate(self.vms):
            for name in {vm.name, vm.id}:
                found.setdefault(name, []).append(position)
        return MappingProxyType({name: tuple(places) for name, places in found.items()})

    @cached_property
    def positions_by_label(self) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
        """Places in `vms` of those with a label, by its name and value."""
        found: dict[str, dict[str, list[int]]] = {}
        for position, vm in enumerate(self.vms):
            for name, value in vm.labels.items():
                found.setdefault(name, {}).setdefault(value, []).append(position)
        return MappingProxyType(
            {
                name: MappingProxyType({value: tuple(places) for value, places in values.items()})
                for name, values in found.items()
            }
        )

    @cached_property
    def selections(self) -> dict[object, tuple[Vm, ...]]:
        """What selectors were found to mean here; `selection.members_of` keeps it."""
        return {}

    def domain_of(self, host: Host, over: str) -> str:
        """The failure domain (`host`, `rack` or `site`) that a host lies in.

        A host without a rack or site is a domain of its own: nothing says that it fails
        together with another one.
        """
        named = {"host": host.id, "rack": host.rack, "site": host.site}[over]
        return named if named is not None else f"host {host.id}"

    def links_between(self, source: Host, target: Host) -> tuple[Link, ...]:
        """The links that traffic from one host to another passes, besides their own NICs."""
        if source.site is None or target.site is None or source.site == target.site:
            return ()
        return tuple(link for link in self.links if link.joins(source.site, target.site))

    def uplinks_between(self, source: Host, target: Host) -> tuple[Rack | None, Rack | None]:
        """The racks out of which, and into which, traffic between two hosts goes.

        `None` where that limits nothing: within one rack, or where no uplink is known.
        """
        if source.rack == target.rack:
            return None, None
        known = self._rack_by_name
        return known.get(source.rack or ""), known.get(target.rack or "")

    @cached_property
    def _rack_by_name(self) -> Mapping[str, Rack]:
        return {rack.name: rack for rack in self.racks}

    @cached_property
    def fingerprint(self) -> str:
        """A short text that changes when hosts, their capacity or the placement change.

        Measurements are left out on purpose: a plan does not go stale because a guest's CPU
        use went up by one per cent.
        """
        facts = (
            self.cluster,
            sorted((h.id, h.state, h.cpu_cores, h.memory_bytes, h.site) for h in self.hosts),
            sorted((v.id, v.host, v.state, v.memory_bytes, v.vcpus) for v in self.vms),
        )
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def faults_of(snapshot_hosts: tuple[Host, ...], snapshot_vms: tuple[Vm, ...]) -> Iterator[str]:
    """Say in words everything that keeps hosts and VMs from forming one snapshot."""
    known: set[HostId] = set()
    for host in snapshot_hosts:
        if host.id in known:
            yield f"host id {host.id!r} occurs twice"
        known.add(host.id)
    seen: set[VmId] = set()
    for vm in snapshot_vms:
        if vm.id in seen:
            yield f"VM id {vm.id!r} occurs twice"
        seen.add(vm.id)
        if vm.host not in known:
            yield f"VM {vm.name!r} is on host {vm.host!r}, which is not among the hosts"
