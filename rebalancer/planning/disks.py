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
from rebalancer.cluster.prediction import Confidence, Part, PredictedPart
from rebalancer.planning.cost import Estimate, Line
from rebalancer.planning.network import whole_mib
from rebalancer.planning.parts import ASSUMED_DISKS, DiskPace
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
    held_to_bytes_per_second: float | None = None
    """What the target takes of all disks together, where that is less than what is granted."""
    learned_from: int = 0
    """So many copies to this target taught it."""

    @property
    def is_done_some_time(self) -> bool:
        """Whether it ends although the guest writes, twice as fast as it is said to."""
        return math.isfinite(self.upper_seconds)


def write_bytes_per_second(vm: Vm, pace: DiskPace = ASSUMED_DISKS) -> float:
    """What a VM writes to its local disks, assumed where nobody measured it.

    What it was seen to write while they were copied before raises what is assumed, and never
    lowers it: it may have been a quiet hour.
    """
    if vm.state is not VmState.RUNNING:
        return 0.0
    if vm.disk_write_bytes_per_second is not None:
        return vm.disk_write_bytes_per_second
    return max(assumed_writes(vm.local_disk_bytes), pace.least_writes_bytes_per_second)


def assumed_writes(size_bytes: float) -> float:
    """Bytes a second that a guest is assumed to write to disks of so many bytes."""
    return min(DEFAULT_WRITE_BYTES_PER_SECOND, DEFAULT_WRITE_SHARE_PER_SECOND * size_bytes)


def bandwidth_of_each(bytes_per_second: float, disks: int) -> float:
    """What each of so many mirrors gets of a grant: whole MiB/s, as libvirt is told."""
    return max(float(MIB), whole_mib(bytes_per_second / max(1, disks)))


def copy_of(vm: Vm, line: Line, pace: DiskPace = ASSUMED_DISKS) -> DiskCopy | None:
    """Predict the copy of a VM's local disks; `None` if it has none.

    T = C/(r − w): C the size of the largest disk, r the bandwidth of each mirror, or its share
    of what the target takes (`pace`) where that is less, w what the guest writes, all of it to
    that disk for the worst case.
    """
    if not vm.local_disks:
        return None
    writes = write_bytes_per_second(vm, pace)
    sizes = [disk.capacity_bytes for disk in vm.local_disks]
    granted = bandwidth_of_each(line.bytes_per_second, len(sizes)) * line.habits.efficiency_ratio
    rate = min(granted, pace.most_bytes_per_second / len(sizes))
    seconds = _seconds(max(sizes), rate, writes)
    return DiskCopy(
        seconds=seconds,
        upper_seconds=_seconds(max(sizes), rate, WRITE_SAFETY * writes),
        setup_seconds=FILE_SECONDS * len(sizes),
        sent_bytes=sum(sizes) + writes * (seconds if math.isfinite(seconds) else 0.0),
        is_measured=vm.disk_write_bytes_per_second is not None,
        held_to_bytes_per_second=pace.most_bytes_per_second if rate < granted else None,
        learned_from=pace.learned_from,
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
        parts=(
            PredictedPart(
                part=Part.DISKS,
                # It is measured from the request, as the start of the target is.
                seconds=line.habits.setup_seconds + expected,
                upper_seconds=safety.setup_ratio * line.habits.setup_seconds + upper,
                ideal_seconds=copied.seconds,
                learned_from=copied.learned_from,
            ),
        ),
    )


def why_they_stay(vm: Vm, line: Line, mode: Mode, pace: DiskPace = ASSUMED_DISKS) -> str:
    """Why the local disks of a VM would not come along in this mode; empty if they would."""
    if not vm.local_disks:
        return ""
    if mode not in COPYING_MODES:
        return "its local disks are copied only while it runs on where it is"
    copied = copy_of(vm, line, pace)
    if copied is None or copied.is_done_some_time:
        return ""
    rate = copied.held_to_bytes_per_second or line.bytes_per_second
    return (
        f"it writes {in_bytes_per_second(write_bytes_per_second(vm, pace))} to its local disks, "
        f"too much for a copy at {in_bytes_per_second(rate)} to catch up"
    )


def told_first(vm: Vm, line: Line, pace: DiskPace = ASSUMED_DISKS) -> str:
    """The beginning of a sentence about a migration: what is copied before the memory."""
    copied = copy_of(vm, line, pace)
    if copied is None:
        return ""
    count = len(vm.local_disks)
    what = f"its local disk {vm.local_disks[0].target}" if count == 1 else f"{count} local disks"
    assumed = "" if copied.is_measured else " (assumed)"
    writes = in_bytes_per_second(write_bytes_per_second(vm, pace))
    held = copied.held_to_bytes_per_second
    slow = f" (no copy there went faster than {in_bytes_per_second(held)})" if held else ""
    return (
        f"{what}, {in_bytes(vm.local_disk_bytes)}, written at {writes}{assumed}, "
        f"{'is' if count == 1 else 'are'} copied first, in about "
        f"{in_seconds(copied.seconds)}{slow}; "
    )
