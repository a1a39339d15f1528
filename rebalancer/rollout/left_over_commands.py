"""What a driver is asked about old disks: what lies there, and to delete what is proved to be old.

An old disk is a file that a migration with local disks left on its source (`left_overs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from rebalancer.cluster.inventory import HostId, VmId


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFile:
    """A file in a storage pool, as its host's libvirt describes it."""

    capacity_bytes: int
    """The size of the disk, as a guest would see it."""
    allocated_bytes: int
    """What it takes up, and what deleting it would give back."""
    format: str
    changed_at: datetime | None
    """When anything was written to it last, by its host's clock. `None`: not told."""
    vms: tuple[VmId, ...] = ()
    """VMs of the host whose definitions name it, now or from their next start on."""
    users: tuple[str, ...] = ()
    """The same VMs by name, and images in pools of the host that are based on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoDiskFile:
    """The host answered: its pool has no such file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAtFile:
    """Ask a host what it has at `path`. Replies with a `DiskFile` or a `NoDiskFile`."""

    changes: ClassVar[bool] = False
    vm: VmId
    host: HostId
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveLeftOver:
    """Delete the old disk of `vm` on `host`, which it left for `keep`, where it runs.

    The driver asks both hosts itself immediately before, and refuses unless `host` does not know
    the VM, it is active on `keep` with no job, and the file is what `seen` says: of that size,
    not written to since, and named by nothing.
    """

    changes: ClassVar[bool] = True
    vm: VmId
    host: HostId
    path: str
    keep: HostId
    seen: DiskFile
