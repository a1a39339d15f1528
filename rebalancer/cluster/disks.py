"""Disks that only their VM's present host can reach, and whether another host can take copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from rebalancer.cluster.amounts import bytes_text

COPIED_FORMATS = frozenset({"qcow2", "raw"})
"""Of files that are made anew on the target and filled there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDisk:
    """One disk of a VM that no other host can reach."""

    target: str
    """What the definition calls it: `vda`."""
    capacity_bytes: int
    """Its size as the guest sees it."""
    path: str = ""
    """Its file; the copy has the same path on the other host."""
    format: str = ""
    allocated_bytes: int | None = None
    """What its file takes up. `None`: unknown."""
    obstacle: str = ""
    """Why it cannot be copied, whatever the target, as the end of a sentence about it."""

    @property
    def folder(self) -> str:
        """Where its file is, and its copy would be."""
        return str(PurePosixPath(self.path).parent) if self.path else ""

    @property
    def identity(self) -> tuple[str, str, str, int]:
        """What must be as it was planned with; how much of it is written may change."""
        return self.target, self.path, self.format, self.capacity_bytes


def folder_needs(disks: Iterable[LocalDisk]) -> Mapping[str, int]:
    """Bytes that copies of `disks` may come to need in each folder.

    Their whole size: a copy may take up more than its source did, and its guest goes on writing.
    """
    needs: dict[str, int] = defaultdict(int)
    for disk in disks:
        needs[disk.folder] += disk.capacity_bytes
    return needs


def copy_obstacles(
    disks: Iterable[LocalDisk], local_bytes: int, free_bytes: Mapping[str, int] | None
) -> Iterator[str]:
    """Say everything that keeps a VM's local disks from being copied to a host.

    `local_bytes` is what they are known to come to, `free_bytes` is what is free in each folder
    for disks of that host. What is not known keeps them where they are.
    """
    disks = tuple(disks)
    if sum(disk.capacity_bytes for disk in disks) != local_bytes:
        yield f"its local disks, {bytes_text(local_bytes)}, are not known one by one"
        return
    for disk in disks:
        if why := _why_not_copied(disk):
            yield f"its local disk {disk.target} cannot be copied: {why}"
    for folder, needed in sorted(folder_needs(disks).items()):
        if not folder:
            continue
        if free_bytes is None or folder not in free_bytes:
            yield f"the host has no active storage pool (dir or fs) for {folder}"
        elif free_bytes[folder] < needed:
            yield (
                f"{folder} has {bytes_text(max(0, free_bytes[folder]))} free there, "
                f"its local disks may need {bytes_text(needed)}"
            )


def _why_not_copied(disk: LocalDisk) -> str:
    if disk.obstacle:
        return disk.obstacle
    if not PurePosixPath(disk.path).is_absolute():
        return "it is not known where it is"
    if disk.format not in COPIED_FORMATS:
        return (
            f"its format is {disk.format or 'not known'}, not {' or '.join(sorted(COPIED_FORMATS))}"
        )
    return ""
