"""What finished copies of local disks teach: what a target takes, and what guests write."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.planning.disks import FILE_SECONDS, assumed_writes, bandwidth_of_each
from rebalancer.planning.habits import SETUP_SECONDS
from rebalancer.planning.parts import DiskPace

NEWEST = 20
NEWEST_OF_A_VM = 3
LEAST_SECONDS = 5.0
"""The end of a copy is seen to a second: shorter ones say nothing of a rate."""
LEAST_COPIES = 2
HELD_UP_BELOW = 0.85
"""A copy at less than this share of what it was granted was held up by something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSample:
    """One finished copy."""

    vm: VmId
    target: HostId
    disks: tuple[LocalDisk, ...]
    granted_bytes_per_second: float
    seconds: float
    """From the request until the copies were in step."""
    sent_bytes: float | None
    """Of disks, until the end of the migration; what was written meanwhile is in it."""
    job_seconds: float | None

    @property
    def copying_seconds(self) -> float:
        """Without what passes before the first byte."""
        return self.seconds - SETUP_SECONDS - FILE_SECONDS * len(self.disks)

    @property
    def size_bytes(self) -> int:
        """Of all disks."""
        return sum(disk.capacity_bytes for disk in self.disks)

    @property
    def bytes_per_second(self) -> float:
        """What the target took, of all disks while all were copied, and what was written."""
        largest = max(disk.capacity_bytes for disk in self.disks)
        return len(self.disks) * largest / self.copying_seconds + assumed_writes(self.size_bytes)

    @property
    def was_held_up(self) -> bool:
        """Whether something else than its bandwidth limited it."""
        each = bandwidth_of_each(self.granted_bytes_per_second, len(self.disks))
        return self.bytes_per_second < HELD_UP_BELOW * len(self.disks) * each


def disk_paces(copies: Sequence[DiskSample]) -> Mapping[tuple[HostId, str], DiskPace]:
    """What each folder of each target takes, the newest copy first.

    The median of the copies that were held up, if they are most of them; else whatever is
    granted. Links that are busy otherwise look the same, and count the same.
    """
    own: dict[tuple[HostId, str], list[DiskSample]] = defaultdict(list)
    for copy in copies:
        if copy.copying_seconds < LEAST_SECONDS:
            continue
        for folder in {disk.folder for disk in copy.disks}:
            if len(own[copy.target, folder]) < NEWEST:
                own[copy.target, folder].append(copy)
    return {where: _pace(found) for where, found in own.items()}


def _pace(copies: Sequence[DiskSample]) -> DiskPace:
    held_up = [copy.bytes_per_second for copy in copies if copy.was_held_up]
    if len(held_up) < LEAST_COPIES or 2 * len(held_up) <= len(copies):
        return DiskPace(learned_from=len(copies))
    return DiskPace(most_bytes_per_second=median(held_up), learned_from=len(copies))


def writes_at_least(copies: Sequence[DiskSample]) -> Mapping[VmId, float]:
    """Bytes a second that VMs wrote at least to their disks, the newest copy first.

    What was sent beyond the size of the disks was written meanwhile. What is written twice
    before it is sent is sent once, so it is a lower bound; VMs of which nothing was sent twice
    are left out.
    """
    found: dict[VmId, list[float]] = defaultdict(list)
    for copy in copies:
        if copy.sent_bytes is None or not copy.job_seconds:
            continue
        rate = max(0.0, copy.sent_bytes - copy.size_bytes) / copy.job_seconds
        if len(found[copy.vm]) < NEWEST_OF_A_VM:
            found[copy.vm].append(rate)
    return {vm: median(rates) for vm, rates in found.items() if median(rates) > 0}
