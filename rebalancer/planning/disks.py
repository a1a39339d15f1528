"""Copying a VM's local disks ahead of its memory: what that adds to a migration.

libvirt has QEMU mirror the disks to the target first, over NBD, and begins with the memory when
the copies are in step; from then on every write goes to both. Each disk has a mirror of its own,
all at once, and each is held to the bandwidth that libvirt was told. So it is told 1/N of the
grant as long as N disks are copied.

A mirror passes over the whole disk as the guest sees it: what was never written costs its share
of the bandwidth like the rest (QEMU limits the pace, not the wire, on which zeros are next to
nothing). What the guest writes meanwhile is sent once more. `docs/migration-model.md` has the
measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rebalancer.cluster.inventory import Mode, Vm, VmState
from rebalancer.cluster.plan import Confidence
from rebalancer.planning.cost import Estimate, Line
from rebalancer.planning.network import whole_mib
from rebalancer.planning.wording import MIB, in_bytes, in_bytes_per_second, in_seconds

COPYING_MODES = frozenset({Mode.LIVE, Mode.AUTO_CONVERGE, Mode.SUSPEND})
"""Those in which a migration that fails leaves the source's disks and memory untouched."""

DEFAULT_WRITE_BYTES_PER_SECOND = 5.0 * MIB
DEFAULT_WRITE_SHARE_PER_SECOND = 0.001
"""Unknown is not zero: 5 MiB/s all day is a busy database. But no guest is assumed to write more
than a thousandth of its disks a second, which keeps small disks small."""

FILE_SECONDS = 1.0
"""For each disk: its file is made on the target, and a mirror connected. 1 to 2 s were seen for
one (libvirt 9.0, QEMU 7.2); nothing flows meanwhile."""

WRITE_SAFETY = 2.0
"""Nobody measures how fast disks are written, so the band reaches to twice as much."""

MOST_WRITES_RATIO = 0.9
"""A mirror that has to send more than this of its bandwidth anew may never be in step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCopy:
    """What copying all local disks of a VM takes, on one line."""

    seconds: float
    """Until the copies are in step; infinity if they may never be."""
    upper_seconds: float
    """The same for a guest that writes twice as fast, without any other uncertainty."""
    setup_seconds: float
    """Before that, to make the files."""
    sent_bytes: float
    """As QEMU counts them: the whole disks, and what was written meanwhile."""
    is_measured: bool
    """Whether the write rate is known."""

    @property
    def is_done_some_time(self) -> bool:
        """Whether it ends although the guest writes, twice as fast as it is said to."""
        return math.isfinite(self.upper_seconds)


def write_bytes_per_second(vm: Vm) -> float:
    """What a VM writes to its local disks, assumed where nobody measured it."""
    if vm.state is not VmState.RUNNING:
        return 0.0
    if vm.disk_write_bytes_per_second is not None:
        return vm.disk_write_bytes_per_second
    share = DEFAULT_WRITE_SHARE_PER_SECOND * vm.local_disk_bytes
    return min(DEFAULT_WRITE_BYTES_PER_SECOND, share)


def bandwidth_of_each(bytes_per_second: float, disks: int) -> float:
    """What each of so many mirrors gets of a grant: whole MiB/s, as libvirt is told."""
    return max(float(MIB), whole_mib(bytes_per_second / max(1, disks)))


def copy_of(vm: Vm, line: Line) -> DiskCopy | None:
    """Predict the copy of a VM's local disks; `None` if it has none.

    T = C/(r − w): C the size of the largest disk, r the bandwidth of each mirror, w what the
    guest writes, all of it to that disk for the worst case.
    """
    if not vm.local_disks:
        return None
    writes = write_bytes_per_second(vm)
    sizes = [disk.capacity_bytes for disk in vm.local_disks]
    granted = bandwidth_of_each(line.bytes_per_second, len(sizes))
    rate = granted * line.habits.efficiency_ratio
    seconds = _seconds(max(sizes), rate, writes)
    return DiskCopy(
        seconds=seconds,
        upper_seconds=_seconds(max(sizes), rate, WRITE_SAFETY * writes),
        setup_seconds=FILE_SECONDS * len(sizes),
        sent_bytes=sum(sizes) + writes * (seconds if math.isfinite(seconds) else 0.0),
        is_measured=vm.disk_write_bytes_per_second is not None,
    )


def _seconds(size_bytes: float, rate: float, writes: float) -> float:
    return size_bytes / (rate - writes) if writes <= MOST_WRITES_RATIO * rate else math.inf


def with_disks(memory: Estimate, copied: DiskCopy, line: Line) -> Estimate:
    """What a migration takes whose disks are copied before its memory.

    The pause stays what it is: when the guest stops, the copies are in step.
    """
    safety = line.habits.safety(memory.rounds)
    expected = copied.setup_seconds + copied.seconds
    upper = safety.setup_ratio * copied.setup_seconds + safety.transfer_ratio * copied.upper_seconds
    return replace(
        memory,
        duration_seconds=expected + memory.duration_seconds,
        duration_upper_seconds=upper + memory.duration_upper_seconds,
        transfer_bytes=copied.sent_bytes + memory.transfer_bytes,
        confidence=memory.confidence if copied.is_measured else Confidence.LOW,
        stall_seconds=expected + memory.stall_seconds,
    )


def why_they_stay(vm: Vm, line: Line, mode: Mode) -> str:
    """Why the local disks of a VM would not come along in this mode; empty if they would."""
    if not vm.local_disks:
        return ""
    if mode not in COPYING_MODES:
        return "its local disks are copied only while it runs on where it is"
    copied = copy_of(vm, line)
    if copied is None or copied.is_done_some_time:
        return ""
    return (
        f"it writes {in_bytes_per_second(write_bytes_per_second(vm))} to its local disks, "
        f"too much for a copy at {in_bytes_per_second(line.bytes_per_second)} to catch up"
    )


def told_first(vm: Vm, line: Line) -> str:
    """The beginning of a sentence about a migration: what is copied before the memory."""
    copied = copy_of(vm, line)
    if copied is None:
        return ""
    count = len(vm.local_disks)
    what = f"its local disk {vm.local_disks[0].target}" if count == 1 else f"{count} local disks"
    assumed = "" if copied.is_measured else " (assumed)"
    writes = in_bytes_per_second(write_bytes_per_second(vm))
    return (
        f"{what}, {in_bytes(vm.local_disk_bytes)}, written at {writes}{assumed}, "
        f"{'is' if count == 1 else 'are'} copied first, in about {in_seconds(copied.seconds)}; "
    )
