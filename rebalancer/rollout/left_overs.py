"""Old disks: files that VMs with local disks left on the hosts they came from, and proof of it.

They are never deleted unasked. An operator who asks gets a file deleted if the journal says that
we moved its disk away from there, and everything that can be asked agrees (`why_it_stays`).
Pure: what is known is read from the journal, what is there is told by the hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from rebalancer.cluster.amounts import bytes_text
from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import HostId, VmId, VmState
from rebalancer.rollout.left_over_commands import DiskFile, NoDiskFile
from rebalancer.rollout.records import MigrationRow
from rebalancer.rollout.sightings import Absent, DomainView, HostView, Sighting

CLOCKS_AGREE_WITHIN = timedelta(seconds=60)
"""The source's QEMU closes its files a moment after the target resumed; and the host's clock is
compared with ours. A host whose clock is ahead by more keeps its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOver:
    """One file that a migration left behind, as the journal has it."""

    vm: VmId
    vm_name: str
    host: HostId
    """Where it lies."""
    disk: LocalDisk
    moved_to: HostId
    left_at: datetime
    """When the migration was over, by our clock."""
    rollout: int
    migration: str

    @property
    def place(self) -> tuple[HostId, str]:
        """Host and path: there is one file of that name at a time."""
        return self.host, self.disk.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """That a file is gone, as the journal has it."""

    host: HostId
    path: str
    at: datetime


def left_overs(moved: Iterable[MigrationRow], removed: Iterable[Removed]) -> tuple[LeftOver, ...]:
    """Say which files must still be where their VMs left them.

    `moved` are migrations that completed, oldest first. What came to a host by a later one is no
    left-over there any more: nothing is ever written over, so the old file had been deleted.
    """
    found: dict[tuple[HostId, str], LeftOver] = {}
    for row in moved:
        migration = row.migration
        assert row.changed_at is not None
        for disk in migration.disks:
            found.pop((migration.target, disk.path), None)
            left = LeftOver(
                vm=migration.vm,
                vm_name=migration.vm_name,
                host=migration.source,
                disk=disk,
                moved_to=migration.target,
                left_at=row.changed_at,
                rollout=row.rollout,
                migration=migration.id,
            )
            found[left.place] = left
    for gone in removed:
        left_there = found.get((gone.host, gone.path))
        if left_there is not None and gone.at >= left_there.left_at:
            del found[left_there.place]
    return tuple(sorted(found.values(), key=lambda left: (left.host, left.disk.path)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What hosts say of a left-over, all of it asked just now."""

    sighting: Sighting
    """Of its VM, on every host."""
    file: DiskFile | NoDiskFile | str
    """What lies there; a text: why the host does not tell."""
    kept: DiskFile | NoDiskFile | str | None
    """The file of the same path where the VM runs; `None`: it runs nowhere, or on several."""

    @property
    def runs_on(self) -> HostId | None:
        """The one host on which it is active."""
        active = self.sighting.active_on
        return active[0] if len(active) == 1 else None


def why_it_stays(left: LeftOver, found: Findings) -> tuple[str, ...]:
    """Every reason why a left-over must not be deleted. Empty: all is proved."""
    return (*_vm_reasons(left, found), *_file_reasons(left, found), *_twin_reasons(left, found))


def _vm_reasons(left: LeftOver, found: Findings) -> Iterator[str]:
    for host in found.sighting.unreachable:
        yield f"{host} does not answer, and may have the VM"
    active = found.sighting.active_on
    if not active:
        yield f"{left.vm_name} runs nowhere, so this may be the only good copy of its disk"
    elif len(active) > 1:
        yield f"{left.vm_name} is active on {' and '.join(active)}"
    for host, view in found.sighting.views.items():
        if host == left.host:
            if isinstance(view, DomainView):
                yield f"{host} knows {left.vm_name}, and may start it from this file"
        elif isinstance(view, DomainView) and view.is_active:
            yield from _not_well(left, host, view)


def _not_well(left: LeftOver, host: HostId, view: DomainView) -> Iterator[str]:
    if view.state is not VmState.RUNNING:
        yield f"{left.vm_name} is {view.state} on {host}"
    if view.job is not None:
        yield f"a job runs on {left.vm_name} ({view.job})"


def _file_reasons(left: LeftOver, found: Findings) -> Iterator[str]:
    file = found.file
    if isinstance(file, str):
        yield f"{left.host} does not tell what lies there: {file}"
        return
    if isinstance(file, NoDiskFile):
        return
    yield from why_not_this_file(left, file)


def why_not_this_file(left: LeftOver, file: DiskFile) -> Iterator[str]:
    """What speaks against deleting this very file: it is used, or is not the one that was left."""
    if file.users:
        yield f"{', '.join(file.users)} on {left.host} would lose it"
    if file.capacity_bytes != left.disk.capacity_bytes:
        yield (
            f"it has {bytes_text(file.capacity_bytes)}, "
            f"{bytes_text(left.disk.capacity_bytes)} were left"
        )
    if file.format != left.disk.format:
        yield f"its format is {file.format or 'not known'}, {left.disk.format} was left"
    if file.changed_at is None:
        yield "it is not known when it was written to last"
    elif file.changed_at > left.left_at + CLOCKS_AGREE_WITHIN:
        yield (
            f"it was written to at {file.changed_at:%Y-%m-%d %H:%M:%S} UTC, after it was left "
            f"({left.left_at:%H:%M:%S}), or the clock of {left.host} is ahead"
        )


def _twin_reasons(left: LeftOver, found: Findings) -> Iterator[str]:
    """The VM must have the same disk, in another file, where it runs."""
    there, here = found.runs_on, found.file
    if there is None or isinstance(here, NoDiskFile | str):
        return
    kept = found.kept
    name = PurePosixPath(left.disk.path).name
    if isinstance(kept, str):
        yield f"{there} does not tell what its own {name} is: {kept}"
    elif kept is None or isinstance(kept, NoDiskFile) or left.vm not in kept.vms:
        yield f"{left.vm_name} does not use a file {left.disk.path} on {there}, where it runs"
    elif kept.capacity_bytes < left.disk.capacity_bytes:
        yield f"its disk on {there} has {bytes_text(kept.capacity_bytes)} only"
    elif kept.changed_at is not None and kept.changed_at == here.changed_at:
        yield f"{there} shows a file with the same time stamp: it may be one and the same"


def why_not_remove_now(there: HostView, kept: HostView) -> Iterator[str]:
    """What a driver finds against it in the two hosts' last word before it deletes."""
    if not isinstance(there, Absent):
        yield "the host with the old disk knows the VM, or did not answer"
    if not isinstance(kept, DomainView) or kept.state is not VmState.RUNNING:
        yield "the VM does not run on the host to which its disk was moved"
    elif kept.job is not None:
        yield f"a job runs on it ({kept.job})"
