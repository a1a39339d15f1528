"""Files for the copies of local disks: made on the target beforehand, removed only if it is safe.

A file is ours to remove only if a hypervisor said that this very migration made it, the migration
failed, and the VM runs on its source with its own disks. Everything else is left where it is and
named: what stays on the source after a success, and what nobody knows who made.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rebalancer.cluster.amounts import bytes_text
from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import Migration, MigrationState
from rebalancer.rollout.calls import VAGUE_CODES
from rebalancer.rollout.driver import Command, CreateDisk, Failed, RemoveDisk, Returned
from rebalancer.rollout.sightings import Absent, DomainView, HostView


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFiles:
    """What hypervisors said of the files that a migration asked for, by path."""

    made: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    """Certainly not made by this migration; one of that name may be there."""
    removed: frozenset[str] = frozenset()

    @property
    def left(self) -> tuple[str, ...]:
        """Those that this migration made, and that are still there."""
        return tuple(sorted(self.made - self.removed))

    def doubtful(self, issued: Sequence[Command]) -> tuple[str, ...]:
        """Those of which nobody knows whether this migration made them."""
        asked = {command.path for command in issued if isinstance(command, CreateDisk)}
        return tuple(sorted(asked - self.made - self.refused))

    def told(self, command: CreateDisk | RemoveDisk, reply: Returned | Failed) -> DiskFiles:
        """Take in a reply. An error that a broken connection may have brought says nothing."""
        path = frozenset({command.path})
        match command, reply:
            case CreateDisk(), Returned():
                return replace(self, made=self.made | path)
            case CreateDisk(), Failed(timed_out=False, code=code) if code not in VAGUE_CODES:
                return replace(self, refused=self.refused | path)
            case RemoveDisk(), Returned():
                return replace(self, removed=self.removed | path)
        return self


NO_FILES = DiskFiles()


def next_file(migration: Migration, files: DiskFiles) -> CreateDisk | None:
    """The next file to be made on the target; `None` when all are there."""
    for disk in migration.disks:
        if disk.path not in files.made:
            return CreateDisk(
                vm=migration.vm,
                host=migration.target,
                path=disk.path,
                format=disk.format,
                capacity_bytes=disk.capacity_bytes,
            )
    return None


def removal(migration: Migration, files: DiskFiles) -> RemoveDisk | None:
    """What takes the next left-over file off the target again; `None` when none is there."""
    for path in files.left:
        return RemoveDisk(vm=migration.vm, host=migration.target, path=path, keep=migration.source)
    return None


def why_not_remove(there: HostView, kept: HostView) -> Iterator[str]:
    """What speaks against deleting a copy on one host, for the sake of the VM on another."""
    if not isinstance(there, Absent):
        yield "the host with the copy knows the VM, or did not answer"
    if not isinstance(kept, DomainView) or not kept.is_active:
        yield "the VM is not active on the host that keeps its disks"
    elif kept.job is not None:
        yield f"a job runs on it ({kept.job})"


def left_behind(
    migration: Migration, files: DiskFiles, issued: Sequence[Command], state: MigrationState
) -> str:
    """Name the files that a migration leaves behind, for its outcome; empty if there are none."""
    if not migration.disks:
        return ""
    return " ".join(_left_behind(migration, files, issued, state))


def _left_behind(
    migration: Migration, files: DiskFiles, issued: Sequence[Command], state: MigrationState
) -> Iterator[str]:
    if state is MigrationState.COMPLETE:
        old = ", ".join(
            f"{disk.path} ({bytes_text(disk.capacity_bytes)})" for disk in migration.disks
        )
        yield (
            f"Its old disks stay on {migration.source}, and are not deleted: {old}. When you have "
            "seen that it works: rebalancer leftovers --remove --yes "
            f"{shlex.quote(migration.vm_name)}"
        )
        return
    is_open = state in (MigrationState.FAILED_DOWN, MigrationState.UNKNOWN)
    if is_open:
        copies = f", {', '.join(files.left)}," if files.left else ""
        yield (
            f"Its disks are those on {migration.source}, unless it has run on {migration.target}: "
            f"then those there{copies} are newer. Delete neither before that is known"
        )
    elif files.left:
        yield (
            f"Files made for copies of its disks stay on {migration.target}: "
            f"{', '.join(files.left)}. Once it runs on {migration.source}, "
            f"{_delete(migration.target, files.left)}"
        )
    if doubtful := files.doubtful(issued):
        yield (
            f"Nobody knows whether {', '.join(doubtful)} on {migration.target} was made for it: "
            "look whose it is before you delete it"
        )


def _delete(host: HostId, paths: Sequence[str]) -> str:
    commands = " && ".join(f"virsh vol-delete {shlex.quote(path)}" for path in paths)
    return f"delete them on {host}: {commands}"
