"""The port through which a rollout changes a cluster, and looks at what became of it.

Every operation is a *command*: a value that can be written to the journal before it is issued.
`issue` returns at once with a ticket; `poll` tells what became of it. No call of a driver
blocks, and no error of a hypervisor is raised: it is a `Failed` reply, and by itself it says
nothing about where the VM is (an exception is not an outcome). Only looking does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, NewType, Protocol

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.rollout.left_over_commands import (
    DiskFile,
    LookAtFile,
    NoDiskFile,
    RemoveLeftOver,
)
from rebalancer.rollout.sightings import Sighting, StateReason, TransferProgress

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
    | RemoveLeftOver
    | Look
    | LookAtFile
    | ReadProgress
    | ReadResult
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """The call has not returned yet."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Returned:
    """The call returned. Only reads carry a value."""

    value: Sighting | TransferProgress | DiskFile | NoDiskFile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The call raised, or did not return in time."""

    text: str
    code: int | None = None
    """libvirt's error number, where there is one."""
    timed_out: bool = False
    """It was given up and may still be going on; its thread is left to itself."""
    is_from_host: bool = False
    """The hypervisor itself said so; otherwise it may be the connection to it that broke."""


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
