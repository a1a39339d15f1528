"""What `collect` asks of a connection to one hypervisor, and in what numbers it answers.

The seam between libvirt and everything that can be tested without it. `libvirt_connection` has the
implementation; tests have one that answers, fails and hangs as they wish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class HypervisorError(Exception):
    """A hypervisor answered a call with an error, or could not be reached."""


class DomainState(IntEnum):
    """`virDomainState`. Numbers that libvirt's ABI fixes, so they hold without libvirt too."""

    NOSTATE = 0
    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTDOWN = 4
    """It is being shut down, and runs until it is."""
    SHUTOFF = 5
    CRASHED = 6
    PMSUSPENDED = 7


class RunningReason(IntEnum):
    """Some of `virDomainRunningReason`."""

    MIGRATED = 2
    MIGRATION_CANCELED = 6
    POSTCOPY = 10
    POSTCOPY_FAILED = 11


class PausedReason(IntEnum):
    """Some of `virDomainPausedReason`."""

    MIGRATION = 2
    IO_ERROR = 5
    STARTING_UP = 11
    POSTCOPY = 12
    POSTCOPY_FAILED = 13


class ShutoffReason(IntEnum):
    """Some of `virDomainShutoffReason`."""

    MIGRATED = 4


class JobOperation(IntEnum):
    """`virDomainJobOperation`."""

    UNKNOWN = 0
    START = 1
    SAVE = 2
    RESTORE = 3
    MIGRATION_IN = 4
    MIGRATION_OUT = 5
    SNAPSHOT = 6
    SNAPSHOT_REVERT = 7
    DUMP = 8
    BACKUP = 9
    SNAPSHOT_DELETE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that runs on a domain."""

    operation: JobOperation
    """`UNKNOWN` when libvirt did not say which, or not whether there is one at all."""
    bytes_per_second: float | None = None
    """What it takes of the network, if it is a migration out and libvirt says so."""


type Stats = Mapping[str, int | float | bool | str]
"""Statistics of one domain under libvirt's names, such as `cpu.time` (in nanoseconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRecord:
    """A domain as one host knows it, unread."""

    uuid: str
    name: str
    is_active: bool
    xml: str | None
    """`None` when libvirt would not tell, or no longer could."""
    autostart: bool = False
    persistent: bool = True
    has_snapshots: bool = False
    has_checkpoints: bool = False
    has_saved_state: bool = False
    job: Job | None = None
    """What runs on it."""


class HypervisorConnection(Protocol):
    """A read-only connection to one host. Every call may hang, or raise `HypervisorError`."""

    def hostname(self) -> str:
        """What the host calls itself."""
        ...

    def cpu_count(self) -> int:
        """Logical CPUs that are online."""
        ...

    def memory_bytes(self) -> int:
        """All memory of the machine."""
        ...

    def cpu_busy_seconds(self) -> float:
        """CPU time used since the host booted, summed over its CPUs."""
        ...

    def capabilities_xml(self) -> str:
        """Architecture, CPU, topology, machine types."""
        ...

    def cpu_model_names(self, arch: str) -> Sequence[str]:
        """CPU models that guests may be given by name."""
        ...

    def expanded_cpu_xml(self, cpu_xml: str) -> str:
        """The same CPU with every feature that its model implies spelt out."""
        ...

    def free_pages(self, page_bytes: Sequence[int]) -> Mapping[int, int]:
        """How many pages of these sizes are free."""
        ...

    def free_pages_by_node(self, page_bytes: Sequence[int]) -> Mapping[int, Mapping[int, int]]:
        """The same for each NUMA node by its number."""
        ...

    def pool_xmls(self) -> Sequence[str]:
        """Active storage pools."""
        ...

    def files_in(self, pool: str) -> Sequence[str]:
        """Names of the files in an active pool, as of its last refresh."""
        ...

    def network_xmls(self) -> Sequence[str]:
        """Active libvirt networks."""
        ...

    def interface_names(self) -> Sequence[str]:
        """Bridges and other interfaces of the host that are up."""
        ...

    def domains(self) -> Sequence[DomainRecord]:
        """All domains, active or only defined."""
        ...

    def stats(self, *, with_details: bool) -> Mapping[str, Stats]:
        """Statistics by UUID: state and CPU time, with details also memory, vCPUs and disks."""
        ...

    def disk_bytes(self, uuid: str, target: str) -> int:
        """The size of a disk that the statistics do not have."""
        ...

    def close(self) -> None:
        """Let go of the host."""
        ...


class DirtyRateConnection(Protocol):
    """A connection that may start measurements. Every call may hang, or raise."""

    def stats(self, *, with_details: bool) -> Mapping[str, Stats]:
        """Statistics by UUID, as above."""
        ...

    def busy_with_jobs(self) -> frozenset[str]:
        """UUIDs of active domains that something is being done with."""
        ...

    def start_dirty_rate(self, uuid: str, seconds: int) -> None:
        """Begin to watch sampled pages for so long."""
        ...

    def dirty_bytes_per_second(self, uuid: str) -> float | None:
        """The result of the measurement; `None` while it goes on."""
        ...

    def close(self) -> None:
        """Let go of the host."""
        ...
