"""Disks on their way to another host: mirrors that catch up with a guest that goes on writing.

One mirror for each disk, all at once, each held to the bandwidth that the migration began with.
Every block of a disk is dirty at first, written or not; a block that is written again is sent
again. Nothing of the planner's prediction is in here.
"""

from __future__ import annotations

from collections.abc import Sequence

_MOST_SECONDS = 1.0
"""A step may be so long: blocks that the guest writes meanwhile count from its end on."""
_IN_STEP_SECONDS = 0.1
"""A mirror is in step when less than this time's worth of blocks is left (QEMU's slices)."""


class DiskCopy:
    """The mirrors of one guest's disks. The caller grants them a rate and lets time pass."""

    def __init__(self, capacities: Sequence[int], write_bytes_per_second: float) -> None:
        """Begin with every block dirty; the guest writes to all disks alike."""
        self._capacities = [float(size) for size in capacities]
        self._dirty = [float(size) for size in capacities]
        self._writes = write_bytes_per_second / max(1, len(capacities))
        self.sent_bytes = 0.0
        self.guest_stopped = False
        self.is_in_step = False

    @property
    def mirrors(self) -> int:
        """How many disks are copied; each may use what the migration was told."""
        return len(self._capacities)

    @property
    def total_bytes(self) -> float:
        """What there is to send in all, as QEMU counts it."""
        return self.sent_bytes + self.pending_bytes

    @property
    def pending_bytes(self) -> float:
        """Dirty blocks of all disks."""
        return sum(self._dirty)

    def longest_step_seconds(self, rate: float) -> float:
        """How much time may pass at `rate` before it must be asked again."""
        if rate <= 0:
            return float("inf")
        left = max(self._dirty) / self._rate_of_each(rate)
        return max(_IN_STEP_SECONDS / 2, min(left, _MOST_SECONDS))

    def advance(self, seconds: float, rate: float) -> float:
        """Let time pass at `rate` bytes per second; return the bytes that went out."""
        allowed = self._rate_of_each(rate) * seconds
        sent = 0.0
        for number, dirty in enumerate(self._dirty):
            out = min(dirty, allowed)
            written = 0.0 if self.guest_stopped else self._writes * seconds
            self._dirty[number] = min(self._capacities[number], dirty - out + written)
            sent += out
        self.sent_bytes += sent
        near = self._rate_of_each(rate) * _IN_STEP_SECONDS
        self.is_in_step = rate > 0 and all(dirty <= near for dirty in self._dirty)
        return sent

    def _rate_of_each(self, rate: float) -> float:
        return rate / max(1, len(self._dirty))
