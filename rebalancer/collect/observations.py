"""What one host was asked about and what it answered, before hosts are put together.

`host_reader` makes these, `assemble` turns those of all hosts into one snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from rebalancer.cluster.inventory import HostState, HugepagePool, NumaNode, VmState
from rebalancer.collect.domain_xml import DomainFacts
from rebalancer.collect.hypervisor import JobOperation
from rebalancer.collect.storage_identity import Pool

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtHost:
    """A host as the operator configured it. What is `None` is taken from libvirt."""

    name: str
    """Its name and id in snapshots; need not be its host name."""
    uri: str
    """How libvirt is reached from here: `qemu+ssh://root@h1/system`, `qemu+tls://h1/system`."""
    site: str | None = None
    rack: str | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    cpu_cores: float | None = None
    memory_bytes: int | None = None
    reserved_memory_bytes: int | None = None
    """`None`: 5 % but at least 4 GiB of measured memory (at most a quarter of it), and nothing
    of configured memory, which whoever configured it meant for guests."""
    nic_bytes_per_second: float | None = None
    """What the migration network carries. libvirt does not tell it; `None`: 10 Gbit/s."""
    devices: Mapping[str, int] = field(default_factory=dict)
    """How many devices it has of pools that libvirt does not tell, such as virtual GPUs."""
    idle_watts: float | None = None
    max_watts: float | None = None
    storage: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Shared storage that is no libvirt pool: its name, the same on all hosts, and its path."""
    networks: frozenset[str] | None = None
    """All bridges and networks that guests find there, where libvirt cannot list them."""
    cpu_from_guests: bool = False
    """Take the host's CPU use from its guests: for hosts that see more than themselves."""
    state: HostState | None = None
    """What the operator says it is (draining, in maintenance, asleep); `None`: see for yourself.
    A host that is said to be asleep or down is not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What libvirt said about a host. `None` is what it did not say."""

    hostname: str
    host_uuid: str | None
    cpu_cores: float
    memory_bytes: int
    cpu_used_cores: float | None
    arch: str | None = None
    cpu_model: str | None = None
    cpu_models: tuple[str, ...] | None = None
    cpu_features: frozenset[str] | None = None
    machine_types: tuple[str, ...] | None = None
    numa_nodes: tuple[NumaNode, ...] | None = None
    hugepages: tuple[HugepagePool, ...] = ()
    pools: tuple[Pool, ...] | None = None
    networks: frozenset[str] | None = None
    device_pools: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Networks that hand out devices: what each of them has."""
    tsc_hertz: float | None = None
    tsc_scales: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainReport:
    """A VM as one host sees it."""

    uuid: str
    name: str
    state: VmState
    reason: int
    """libvirt's number for why it is in this state; it depends on the state."""
    facts: DomainFacts | None
    """`None` when the definition could not be read."""
    unreadable: str = ""
    """Why not."""
    cpu_used_cores: float = 0.0
    cpu_waited_cores: float = 0.0
    """How much of that it did not get, as its vCPUs waited for a processor; where that counts."""
    vcpus: int | None = None
    """Those in use now; some may be unplugged."""
    memory_bytes: int | None = None
    """The balloon's maximum."""
    resident_bytes: int | None = None
    disk_bytes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of disks by target; those of network disks may be missing."""
    allocated_disk_bytes: Mapping[str, int] = field(default_factory=dict)
    """What their files take up; told of VMs that run."""
    cpu_model_features: frozenset[str] | None = None
    """What its named CPU model implies, as its host spells it out."""
    job: JobOperation | None = None
    job_bytes_per_second: float | None = None
    """What a migration out takes of the network."""
    autostart: bool = False
    persistent: bool = True
    has_snapshots: bool = False
    has_checkpoints: bool = False
    has_saved_state: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """A host that answered."""

    host: LibvirtHost
    facts: HostFacts
    domains: tuple[DomainReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoReport:
    """A host that did not answer, or was not asked. It may well run VMs."""

    host: LibvirtHost
    why: str
    was_asked: bool = True
