"""What a snapshot file holds, key by key, and how its entries become the nouns of `cluster`.

Every key but the identity, the capacity of a host and the host of a VM may be left out; the
defaults here are those of the nouns. Whether the entries fit together (a VM's host, a link's
sites) is judged in `snapshot_faults`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, AwareDatetime, Field

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import (
    Host,
    HostId,
    HostState,
    HugepagePool,
    Mode,
    NumaNode,
    Snapshot,
    UsageHistory,
    Vm,
    VmId,
    VmState,
)
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.files import NO_CONTROL_CHARACTERS, ByHour, FileModel, Price, PriceByHour


def _in_utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is too near the end of all time") from error


# No control characters: names end up on terminals and in the journal.
Name = Annotated[str, Field(min_length=1, max_length=500, pattern=NO_CONTROL_CHARACTERS)]
Text = Annotated[str, Field(max_length=10_000)]
Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Amount = Annotated[float, Field(ge=0, le=1e18)]
Positive = Annotated[float, Field(gt=0, le=1e18)]
CoreCount = Annotated[float, Field(ge=0, le=1e6)]
ByteCount = Annotated[int, Field(ge=0, le=2**60)]
NodeNumber = Annotated[int, Field(ge=0, le=100_000)]
DeviceCount = Annotated[int, Field(ge=0, le=100_000)]


class SiteEntry(FileModel):
    """One of `sites`."""

    name: Name
    energy_price_per_kwh: Price | None = None
    energy_price_per_kwh_by_hour: PriceByHour = ()
    carbon_g_per_kwh: Amount | None = None
    carbon_g_per_kwh_by_hour: ByHour = ()
    latency_ms: dict[Name, Amount] = Field(default_factory=dict)

    def site(self) -> Site:
        """Return the noun."""
        return Site(
            name=self.name,
            energy_price_per_kwh=self.energy_price_per_kwh,
            energy_price_per_kwh_by_hour=self.energy_price_per_kwh_by_hour,
            carbon_g_per_kwh=self.carbon_g_per_kwh,
            carbon_g_per_kwh_by_hour=self.carbon_g_per_kwh_by_hour,
            latency_seconds={to: _shifted(ms, -3) for to, ms in self.latency_ms.items()},
        )


class LinkEntry(FileModel):
    """One of `links`."""

    name: Name
    bytes_per_second: Positive
    between: tuple[Name, Name]
    price_per_gib: Amount = 0.0
    carbon_g_per_gib: Amount = 0.0

    def link(self) -> Link:
        """Return the noun."""
        return Link(
            name=self.name,
            bytes_per_second=self.bytes_per_second,
            between=self.between,
            price_per_gib=self.price_per_gib,
            carbon_g_per_gib=self.carbon_g_per_gib,
        )


class RackEntry(FileModel):
    """One of `racks`."""

    name: Name
    uplink_bytes_per_second: Positive

    def rack(self) -> Rack:
        """Return the noun."""
        return Rack(name=self.name, uplink_bytes_per_second=self.uplink_bytes_per_second)


class HugepagePoolEntry(FileModel):
    """One of `hugepages`."""

    page_bytes: Annotated[ByteCount, Field(gt=0)]
    total_pages: ByteCount
    free_pages: ByteCount

    def pool(self) -> HugepagePool:
        """Return the noun."""
        return HugepagePool(
            page_bytes=self.page_bytes,
            total_pages=self.total_pages,
            free_pages=self.free_pages,
        )


class NumaNodeEntry(FileModel):
    """One of `numa_nodes`."""

    cpu_cores: CoreCount
    memory_bytes: ByteCount
    number: NodeNumber | None = None
    hugepages: tuple[HugepagePoolEntry, ...] = ()
    host_nodes: tuple[NodeNumber, ...] = ()

    def numa_node(self) -> NumaNode:
        """Return the noun."""
        return NumaNode(
            cpu_cores=self.cpu_cores,
            memory_bytes=self.memory_bytes,
            number=self.number,
            hugepages=tuple(pool.pool() for pool in self.hugepages),
            host_nodes=self.host_nodes,
        )


class HostEntry(FileModel):
    """One of `hosts`. `id` or `name` may be left out, and is then the other one."""

    id: Name | None = None
    name: Name | None = None
    cpu_cores: CoreCount
    memory_bytes: ByteCount
    site: Name | None = None
    rack: Name | None = None
    state: HostState = HostState.UP
    state_reason: Text = ""
    reserved_memory_bytes: ByteCount = 0
    cpu_used_cores: CoreCount | None = None
    cpu_model: Name | None = None
    cpu_models: tuple[Name, ...] | None = None
    cpu_features: frozenset[Name] | None = None
    arch: Name | None = None
    machine_types: tuple[Name, ...] | None = None
    nic_bytes_per_second: Positive = 1.25e9
    labels: dict[Name, Text] = Field(default_factory=dict)
    storage: frozenset[Name] | None = None
    networks: frozenset[Name] | None = None
    idle_watts: Amount | None = None
    max_watts: Amount | None = None
    numa_nodes: tuple[NumaNodeEntry, ...] | None = None
    hugepages: tuple[HugepagePoolEntry, ...] = ()
    disk_pools: dict[Name, ByteCount] | None = None
    disk_files: frozenset[Name] = frozenset()
    devices: dict[Name, DeviceCount] = Field(default_factory=dict)
    tsc_hertz: Positive | None = None
    tsc_scales: bool = False

    def host(self) -> Host:
        """Return the noun."""
        nodes = self.numa_nodes
        return Host(
            id=HostId(_either(self.id, self.name)),
            name=_either(self.name, self.id),
            cpu_cores=self.cpu_cores,
            memory_bytes=self.memory_bytes,
            site=self.site,
            rack=self.rack,
            state=self.state,
            state_reason=self.state_reason,
            reserved_memory_bytes=self.reserved_memory_bytes,
            cpu_used_cores=self.cpu_used_cores,
            cpu_model=self.cpu_model,
            cpu_models=self.cpu_models,
            cpu_features=self.cpu_features,
            arch=self.arch,
            machine_types=self.machine_types,
            nic_bytes_per_second=self.nic_bytes_per_second,
            labels=self.labels,
            storage=self.storage,
            networks=self.networks,
            idle_watts=self.idle_watts,
            max_watts=self.max_watts,
            numa_nodes=None if nodes is None else tuple(node.numa_node() for node in nodes),
            hugepages=tuple(pool.pool() for pool in self.hugepages),
            disk_pools=self.disk_pools,
            disk_files=self.disk_files,
            devices=self.devices,
            tsc_hertz=self.tsc_hertz,
            tsc_scales=self.tsc_scales,
        )


class LocalDiskEntry(FileModel):
    """One of `local_disks`."""

    target: Name
    capacity_bytes: ByteCount
    path: Text = ""
    format: Text = ""
    allocated_bytes: ByteCount | None = None
    obstacle: Text = ""

    def disk(self) -> LocalDisk:
        """Return the noun."""
        return LocalDisk(
            target=self.target,
            capacity_bytes=self.capacity_bytes,
            path=self.path,
            format=self.format,
            allocated_bytes=self.allocated_bytes,
            obstacle=self.obstacle,
        )


class VmEntry(FileModel):
    """One of `vms`. `id` or `name` may be left out, and is then the other one."""

    id: Name | None = None
    name: Name | None = None
    host: Name
    memory_bytes: Annotated[ByteCount, Field(gt=0)]
    vcpus: Annotated[int, Field(ge=1, le=100_000)] = 1
    state: VmState = VmState.RUNNING
    cpu_used_cores: CoreCount = 0.0
    resident_bytes: ByteCount | None = None
    dirty_bytes_per_second: Amount | None = None
    dirty_error_bytes_per_second: Amount = 0.0
    working_set_bytes: ByteCount | None = None
    labels: dict[Name, Text] = Field(default_factory=dict)
    storage: frozenset[Name] = frozenset()
    networks: frozenset[Name] = frozenset()
    local_disk_bytes: ByteCount = 0
    local_disks: tuple[LocalDiskEntry, ...] = ()
    disk_write_bytes_per_second: Amount | None = None
    cpu_model: Name | None = None
    cpu_features: frozenset[Name] = frozenset()
    arch: Name | None = None
    machine_type: Name | None = None
    numa_nodes: tuple[NumaNodeEntry, ...] = ()
    hugepage_bytes: Annotated[ByteCount, Field(gt=0)] | None = None
    devices: dict[Name, DeviceCount] = Field(default_factory=dict)
    tsc_hertz: Positive | None = None
    pinned_cpus: frozenset[NodeNumber] = frozenset()
    movable: bool = True
    blockers: tuple[Text, ...] = ()
    is_migrating: bool = False
    migrating_to: Name | None = None
    migrating_bytes_per_second: Amount | None = None
    autostart: bool = False
    persistent: bool = True
    allowed_modes: frozenset[Mode] | None = None
    max_downtime_seconds: Amount | None = None

    def vm(self) -> Vm:
        """Return the noun."""
        return Vm(
            id=VmId(_either(self.id, self.name)),
            name=_either(self.name, self.id),
            host=HostId(self.host),
            memory_bytes=self.memory_bytes,
            vcpus=self.vcpus,
            state=self.state,
            cpu_used_cores=self.cpu_used_cores,
            resident_bytes=self.resident_bytes,
            dirty_bytes_per_second=self.dirty_bytes_per_second,
            dirty_error_bytes_per_second=self.dirty_error_bytes_per_second,
            working_set_bytes=self.working_set_bytes,
            labels=self.labels,
            storage=self.storage,
            networks=self.networks,
            local_disk_bytes=self.local_disk_bytes,
            local_disks=tuple(disk.disk() for disk in self.local_disks),
            disk_write_bytes_per_second=self.disk_write_bytes_per_second,
            cpu_model=self.cpu_model,
            cpu_features=self.cpu_features,
            arch=self.arch,
            machine_type=self.machine_type,
            numa_nodes=tuple(node.numa_node() for node in self.numa_nodes),
            hugepage_bytes=self.hugepage_bytes,
            devices=self.devices,
            tsc_hertz=self.tsc_hertz,
            pinned_cpus=self.pinned_cpus,
            movable=self.movable,
            blockers=self.blockers,
            is_migrating=self.is_migrating,
            migrating_to=HostId(self.migrating_to) if self.migrating_to else None,
            migrating_bytes_per_second=self.migrating_bytes_per_second,
            autostart=self.autostart,
            persistent=self.persistent,
            allowed_modes=self.allowed_modes,
            max_downtime_seconds=self.max_downtime_seconds,
        )


type Series = tuple[CoreCount | None, ...]


class UsageEntry(FileModel):
    """`usage`: past use on one grid; a missing sample is null."""

    start: Instant
    interval_seconds: Positive
    vm_cpu_cores: dict[Name, Series] = Field(default_factory=dict)
    host_cpu_cores: dict[Name, Series] = Field(default_factory=dict)

    def history(self) -> UsageHistory:
        """Return the noun."""
        return UsageHistory(
            start=self.start,
            interval_seconds=self.interval_seconds,
            vm_cpu_cores={VmId(vm): _array(s) for vm, s in self.vm_cpu_cores.items()},
            host_cpu_cores={HostId(host): _array(s) for host, s in self.host_cpu_cores.items()},
        )


class SnapshotModel(FileModel):
    """The whole file."""

    schema_version: Literal[1]
    cluster: Name
    taken_at: Instant
    sites: tuple[SiteEntry, ...] = ()
    links: tuple[LinkEntry, ...] = ()
    racks: tuple[RackEntry, ...] = ()
    hosts: tuple[HostEntry, ...]
    vms: tuple[VmEntry, ...]
    usage: UsageEntry | None = None

    def snapshot(self) -> Snapshot:
        """Return the noun."""
        return Snapshot(
            cluster=self.cluster,
            taken_at=self.taken_at,
            hosts=tuple(entry.host() for entry in self.hosts),
            vms=tuple(entry.vm() for entry in self.vms),
            sites=tuple(entry.site() for entry in self.sites),
            links=tuple(entry.link() for entry in self.links),
            racks=tuple(entry.rack() for entry in self.racks),
            usage=self.usage.history() if self.usage else None,
        )


def milliseconds(seconds: float) -> float:
    """Return seconds as the file writes them; 0.009 s is 9 ms and not 9.000000000000002."""
    return _shifted(seconds, 3)


def _shifted(number: float, places: int) -> float:
    """Move the decimal point, which multiplying by a power of ten does not quite do."""
    return float(Decimal(repr(number)).scaleb(places))


def _either(one: str | None, other: str | None) -> str:
    found = one if one is not None else other
    assert found is not None, "an entry without id and name is a fault of the file"
    return found


def _array(series: Series) -> NDArray[np.float64]:
    return np.array(series, dtype=np.float64)  # None becomes NaN
