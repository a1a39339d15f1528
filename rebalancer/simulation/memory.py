"""A guest's memory as pages, and the guest writing to them.

Pages are real ones for small guests and blocks of up to a few MiB for large ones, so that a
guest of 1 TiB costs as little as one of 1 GiB. Memory exists only while a VM is migrated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

SMALLEST_PAGE_BYTES = 4096
MOST_PAGES = 16_384
"""A block of 1 MiB for 16 GiB: fine against the 100 MiB or so that a switch-over sends."""


class Writes(StrEnum):
    """In what order a guest writes to its working set."""

    CYCLIC = "cyclic"
    """From one end to the other and again, so that every write in a pass hits a new page."""
    RANDOM = "random"
    """Anywhere, so that part of the writes hit pages that are dirty already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """What a guest does with its memory."""

    memory_bytes: int
    resident_bytes: int
    """Memory that is not all zeros; only this is sent."""
    dirty_bytes_per_second: float = 0.0
    """Bytes of pages written a second; a page that is written twice counts twice."""
    working_set_bytes: int = 0
    """The part that these writes go to; it is part of the resident memory."""
    writes: Writes = Writes.CYCLIC

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit into each other."""
        if not 0 <= self.working_set_bytes <= self.resident_bytes <= self.memory_bytes:
            raise ValueError(
                f"working set ({self.working_set_bytes}) ≤ resident ({self.resident_bytes}) ≤ "
                f"memory ({self.memory_bytes}) does not hold"
            )


def page_bytes_for(memory_bytes: int) -> int:
    """Return the smallest power of two from 4 KiB on that cuts memory into few enough pages."""
    page_bytes = SMALLEST_PAGE_BYTES
    while memory_bytes > page_bytes * MOST_PAGES:
        page_bytes *= 2
    return page_bytes


class GuestMemory:
    """Pages of one guest: which are not zero, and which were written since last asked."""

    def __init__(
        self, use: MemoryUse, rng: np.random.Generator, page_bytes: int | None = None
    ) -> None:
        """Lay out the memory; the working set, and the next write in it, begin anywhere."""
        self.use = use
        self.pace = 1.0
        """How many times as fast as usual the guest writes just now."""
        self.page_bytes = page_bytes or page_bytes_for(use.memory_bytes)
        self.pages = -(-use.memory_bytes // self.page_bytes)
        self.resident_pages = -(-use.resident_bytes // self.page_bytes)
        self._hot_pages = -(-use.working_set_bytes // self.page_bytes)
        self._hot_begin = int(rng.integers(0, self.resident_pages - self._hot_pages + 1))
        self._written = np.zeros(self.pages, dtype=np.bool_)
        self._rng = rng
        self._cursor = int(rng.integers(0, max(1, self._hot_pages)))
        self._owed_pages = 0.0

    def not_zero(self) -> NDArray[np.bool_]:
        """Return a mask of the pages that hold anything, shape (pages,)."""
        mask = np.zeros(self.pages, dtype=np.bool_)
        mask[: self.resident_pages] = True
        return mask

    def run(self, seconds: float, speed: float = 1.0) -> None:
        """Let the guest write for a while, at `speed` times its dirty rate."""
        if self._hot_pages == 0:
            return
        rate = self.use.dirty_bytes_per_second * self.pace * speed
        self._owed_pages += rate * seconds / self.page_bytes
        count = int(self._owed_pages)
        self._owed_pages -= count
        if self.use.writes is Writes.RANDOM:
            self._write_anywhere(count)
        else:
            self._write_on(count)

    def take_written(self) -> NDArray[np.bool_]:
        """Return which pages were written since the last call, and forget it."""
        written = self._written
        self._written = np.zeros(self.pages, dtype=np.bool_)
        return written

    def forget_written(self, pages: NDArray[np.int64]) -> None:
        """Clear the marks of pages that are being sent: their newest content goes out."""
        self._written[pages] = False

    def _write_anywhere(self, count: int) -> None:
        # Beyond some 40 writes a page none is left out, so more need not be drawn.
        drawn = min(count, 40 * self._hot_pages)
        hit = self._rng.integers(0, self._hot_pages, drawn)
        self._written[self._hot_begin + hit] = True

    def _write_on(self, count: int) -> None:
        first, last = self._cursor, self._cursor + min(count, self._hot_pages)
        self._mark(first, min(last, self._hot_pages))
        self._mark(0, last - self._hot_pages)
        self._cursor = (self._cursor + count) % self._hot_pages

    def _mark(self, first: int, last: int) -> None:
        if last > first:
            self._written[self._hot_begin + first : self._hot_begin + last] = True
