"""The port through which a rollout changes a cluster, and looks at what became of it.

Every operation is a *command*: a value that can be written to the journal before it is issued.
`issue` returns at once with a ticket; `poll` tells what became of it. No call of a driver
blocks, and no error of a hypervisor is raised: it is a `Failed` reply, and by itself it says
nothing about where the VM is (an exception is not an outcome). Only looking does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, NewType, Protocol

from rebalancer.cluster.inventory import HostId, VmId, VmState

Ticket = NewType("Ticket", int)

IMAGE_FOLDER = "rebalancer-saved"
"""The folder on shared storage in which guests' saved memories are kept."""


class Clock(Protocol):
    """Time as the rollout knows it: real, or the simulation's."""

    def now(self) -> datetime:
        """The present instant, aware, UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrate:
    """Move a running VM peer to peer, so that the transfer survives the controller.

    Returns when the hypervisor's call does: minutes, possibly. Its reply does not tell where
    the VM is.
    """

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    target: HostId
    bytes_per_second: float
    max_downtime_seconds: float
    persistent: bool
    auto_converge: bool = False
    post_copy: bool = False
    disks: tuple[str, ...] = ()
    """Disks (`vda`) to be copied first, into files that `CreateDisk` made on the target. Each
    of them gets `bytes_per_second` to itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateDisk:
    """Make the empty file on `host` that a disk is to be copied into.

    Refused where anything of that name is there, or no room for all of it.
    """

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    path: str
    format: str
    capacity_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDisk:
    """Delete the file on `host` that `CreateDisk` made for a migration that failed.

    The driver looks at both hypervisors itself immediately before, and refuses unless the VM
    is active on `keep`, no job is on it, `host` does not know it, and no VM there names the file.
    """

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    path: str
    keep: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveDefinition:
    """Move the definition of a VM that does not run."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    target: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """Call off the migration of `vm` out of `host`; legal before the switch-over only."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Stop the guest's CPUs: the end of a suspend-to-finish migration, or a stale copy."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Let a paused guest run on."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMaxDowntime:
    """Change the pause that a running migration may end with."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBandwidth:
    """Change what a running migration may use of the link."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    bytes_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchToPostCopy:
    """Let the VM run on the target now and fetch the rest; nothing can call that off."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutDown:
    """Ask the guest to shut down. The reply means it was asked, not that it is off."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """Stop the guest and write its memory to a file on shared storage; `host` then has it off.

    Returns when it is written: minutes, possibly.
    """

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    storage: str
    """What hosts call the storage."""
    file: str
    """The name of the file there, which no other save has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Read the memory back that `Save` wrote; the guest is active on `host` then, and stands still.

    Whoever issues it has seen that the VM is active nowhere. As its CPUs do not run, that can be
    done again; `Resume` is what can be done only once.
    """

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    storage: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardImage:
    """Delete the file that `Save` wrote; that it is gone already is as good."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    storage: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDefinition:
    """Define the VM on `target` as it is defined on `host`, autostart off, not started."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    target: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start a defined VM. Whoever issues it has seen that it is active nowhere."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class Undefine:
    """Forget the definition of a VM that is not active on `host`."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class EndStaleCopy:
    """End the paused copy of `vm` on `host`, which is older than the one that runs on `keep`.

    No other command ends a process. The driver looks at both hypervisors itself immediately
    before, and refuses unless they say just what is said here: that copy is paused for
    `stale_reason`, the other one runs for `kept_reason`, and no job is on either. Definitions
    are not touched.
    """

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    keep: HostId
    stale_reason: StateReason
    kept_reason: StateReason
    proof: int
    """The record of the journal that proves which copy is the older one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAutostart:
    """Whether the host starts the VM when it boots."""

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Ask each host, by UUID, what it knows of the VM. Replies with a `Sighting`."""

    changes: ClassVar[bool] = False
    vm: VmId
    hosts: tuple[HostId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadProgress:
    """Read the statistics of the migration out of `host`. Replies with a `TransferProgress`."""

    changes: ClassVar[bool] = False
    vm: VmId
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResult:
    """Read the statistics of the finished migration. Replies with a `TransferProgress`.

    libvirt keeps them on the target (on the source only after a failed one).
    """

    changes: ClassVar[bool] = False
    vm: VmId
    host: HostId


type Command = (
    Migrate
    | CreateDisk
    | RemoveDisk
    | MoveDefinition
    | Abort
    | Pause
    | Resume
    | SetMaxDowntime
    | SetBandwidth
    | SwitchToPostCopy
    | ShutDown
    | Save
    | Restore
    | DiscardImage
    | CopyDefinition
    | Start
    | Undefine
    | EndStaleCopy
    | SetAutostart
    | Look
    | ReadProgress
    | ReadResult
)


class StateReason(StrEnum):
    """Why a domain is in its state, as far as a migration must know."""

    MIGRATED = "migrated"
    """Running: it arrived here. Shut off: it left."""
    MIGRATION = "migration"
    """Paused: it is the incoming copy, or stands still for the switch-over."""
    MIGRATION_CANCELED = "migration canceled"
    STARTING_UP = "starting up"
    POST_COPY = "post-copy"
    POST_COPY_FAILED = "post-copy failed"
    IO_ERROR = "I/O error"
    USER = "user"
    CRASHED = "crashed"
    SAVED = "saved"
    """Shut off: its memory was written to a file, and nobody started it since."""
    OTHER = "other"


class JobKind(StrEnum):
    """A job that libvirt runs on a domain."""

    MIGRATION_OUT = "migration out"
    MIGRATION_IN = "migration in"
    SAVE = "save"
    RESTORE = "restore"
    OTHER = "other"
    """Somebody's dump, backup or snapshot: never ours to touch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainView:
    """A VM as one host sees it."""

    state: VmState
    reason: StateReason
    job: JobKind | None
    persistent: bool
    """Whether the host has its definition, so that it would survive being stopped."""
    memory_bytes: int
    autostart: bool = False

    @property
    def is_active(self) -> bool:
        """Whether it has a process there, running or not."""
        return self.state in (VmState.RUNNING, VmState.PAUSED, VmState.SUSPENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The host answered: it does not know the VM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """The host did not answer, so nothing is known."""

    why: str


type HostView = DomainView | Absent | Unreachable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sighting:
    """What every host that was asked said about one VM."""

    vm: VmId
    views: Mapping[HostId, HostView]
    seen_at: datetime

    @property
    def unreachable(self) -> tuple[HostId, ...]:
        """Hosts that did not answer."""
        return tuple(h for h, view in self.views.items() if isinstance(view, Unreachable))

    @property
    def active_on(self) -> tuple[HostId, ...]:
        """Hosts where it has a process."""
        return tuple(
            h for h, view in self.views.items() if isinstance(view, DomainView) and view.is_active
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProgress:
    """Statistics of a migration job."""

    total_bytes: float
    remaining_bytes: float
    transferred_bytes: float
    iteration: int
    dirty_bytes_per_second: float | None = None
    bytes_per_second: float | None = None
    elapsed_seconds: float | None = None
    downtime_seconds: float | None = None
    disk_total_bytes: float = 0.0
    """The part of `total_bytes` that disks make up; 0 where none are copied."""
    disk_remaining_bytes: float = 0.0
    disk_transferred_bytes: float = 0.0

    @property
    def is_copying_disks(self) -> bool:
        """Whether disks are being copied, and memory is not yet."""
        return 0 < self.disk_total_bytes >= self.total_bytes

    @property
    def remaining_memory_bytes(self) -> float:
        """What is left of the memory."""
        return max(0.0, self.remaining_bytes - self.disk_remaining_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """The call has not returned yet."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Returned:
    """The call returned. Only reads carry a value."""

    value: Sighting | TransferProgress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The call raised, or did not return in time."""

    text: str
    code: int | None = None
    """libvirt's error number, where there is one."""
    timed_out: bool = False
    """It was given up and may still be going on; its thread is left to itself."""


type Reply = Pending | Returned | Failed


class HypervisorDriver(Protocol):
    """Issues commands to hypervisors. One rollout at a time uses it, from one thread."""

    def issue(self, command: Command) -> Ticket:
        """Begin `command` and return at once; any failure comes as its reply."""
        ...

    def poll(self, ticket: Ticket) -> Reply:
        """Tell what became of a command; after `Returned` or `Failed` the ticket is spent."""
        ...

    def close(self) -> None:
        """Let go of connections; what is being transferred goes on."""
        ...
