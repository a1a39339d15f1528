"""What a driver tells when it looks: a VM as its hosts see it, and how far its migration is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from rebalancer.cluster.inventory import HostId, VmId, VmState


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
