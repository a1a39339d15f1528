"""One guest's memory on its way: pre-copy round by round on the page bitmap, and post-copy.

This follows what QEMU does (`migration/migration.c`, `migration/ram.c` and
`docs/devel/migration`), page by page. It shares no formula with the planner's prediction on
purpose: each is there to catch the other out. Hosts and what can go wrong on them are not in
here, see `migration`.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from rebalancer.simulation.memory import GuestMemory

TICK_SECONDS = 0.1
"""How often QEMU measures its bandwidth (BUFFER_DELAY), and our longest step."""

_SHORTEST_STEP_SECONDS = 0.05
"""QEMU sends for up to this long before it looks at what is left (MAX_WAIT)."""

_THROTTLE_TRIGGER_RATIO = 0.5
"""Auto-converge: so much of what was sent in a period must have been dirtied again, twice."""
_THROTTLE_FIRST_RATIO = 0.2
_THROTTLE_STEP_RATIO = 0.1
_THROTTLE_MOST_RATIO = 0.99
_PERIOD_SECONDS = 1.0
"""Shorter periods between two looks at the dirty log are not judged."""

_CHUNK_BYTES = 1024**3
"""QEMU re-arms the dirty log chunk by chunk as it gets there (clear_bitmap_shift = 18)."""

_ROUNDING_PAGES = 1e-6


class Phase(StrEnum):
    """Where a memory transfer stands."""

    PRE_COPY = "pre-copy"
    """The guest runs on the source and may dirty again what was sent."""
    SWITCH_OVER = "switch-over"
    """The guest stands still while the rest is sent."""
    POST_COPY = "post-copy"
    """The guest runs on the target while the rest is sent."""
    SENT = "sent"


class MemoryTransfer:
    """The memory of one guest being sent. The caller grants it a rate and lets time pass."""

    def __init__(
        self, memory: GuestMemory, max_downtime_seconds: float, auto_converge: bool = False
    ) -> None:
        """Begin the first round with every page that is not zero."""
        self.memory = memory
        self.max_downtime_seconds = max_downtime_seconds
        self.guest_stopped = False
        self.phase = Phase.PRE_COPY
        self.iteration = 1
        self.sent_bytes = 0.0
        self.elapsed_seconds = 0.0
        self.throttle_ratio = 0.0
        self.bandwidth = 0.0
        """Bytes per second as QEMU measured them last; 0 before the first measurement."""
        self.dirty_bytes_per_second: float | None = None
        """As told by the last look at the dirty log that came long enough after another."""
        self._auto_converge = auto_converge
        self._queue_sent_bytes = 0.0
        self._queue_done = 0
        self._fill_queue(np.flatnonzero(memory.not_zero()))
        self._window_bytes = self._window_seconds = 0.0
        self._period_bytes = self._period_seconds = self._period_dirtied_bytes = 0.0
        self._high_periods = 0

    @property
    def pending_bytes(self) -> float:
        """What is left of this round; what was dirtied meanwhile is not known yet."""
        return len(self._queue) * float(self.memory.page_bytes) - self._queue_sent_bytes

    @property
    def _threshold_bytes(self) -> float:
        """What can be sent within the allowed downtime, going by the measured bandwidth."""
        return self.bandwidth * self.max_downtime_seconds

    def longest_step_seconds(self, rate: float) -> float:
        """Return how much time may pass at `rate` bytes per second before it must be asked again.

        Infinity when nothing at all happens at that rate.
        """
        if self.phase is not Phase.PRE_COPY:
            return self.pending_bytes / rate if rate > 0 else float("inf")
        if rate <= 0 or self.bandwidth == 0:
            return TICK_SECONDS
        left = max(_SHORTEST_STEP_SECONDS, (self.pending_bytes - self._threshold_bytes) / rate)
        is_quiet = self.guest_stopped or self.memory.use.dirty_bytes_per_second == 0
        return left if is_quiet else min(left, TICK_SECONDS)

    def advance(self, seconds: float, rate: float) -> float:
        """Let time pass at `rate` bytes per second; return the bytes that went out."""
        sent = self._send(rate * seconds)
        self.elapsed_seconds += seconds
        if self.phase is Phase.PRE_COPY:
            if not self.guest_stopped:
                self.memory.run(seconds, 1 - self.throttle_ratio)
            self._measure(seconds, sent)
            self._consider_switch_over()
        elif self.pending_bytes <= _ROUNDING_PAGES * self.memory.page_bytes:
            self.phase = Phase.SENT
        return sent

    def begin_post_copy(self) -> None:
        """Find out what is still missing on the target; from now on nothing gets dirty."""
        self._sync()
        self.phase = Phase.POST_COPY

    def _send(self, bytes_allowed: float) -> float:
        sent = min(bytes_allowed, self.pending_bytes)
        self._queue_sent_bytes += sent
        self.sent_bytes += sent
        self._queue_done = int(self._queue_sent_bytes / self.memory.page_bytes + _ROUNDING_PAGES)
        self._rearm_dirty_log()
        return sent

    def _rearm_dirty_log(self) -> None:
        """Forget writes to pages of the chunks just entered: their newest content will go out.

        Writes between that moment and a page's turn count, although they need not.
        """
        while self._chunk_begins[0] < self._queue_done:
            begin = self._chunk_begins.popleft()
            self.memory.forget_written(self._queue[begin : self._chunk_begins[0]])

    def _measure(self, seconds: float, sent: float) -> None:
        self._window_bytes += sent
        self._window_seconds += seconds
        self._period_bytes += sent
        self._period_seconds += seconds
        if self._window_seconds >= TICK_SECONDS * (1 - 1e-9):
            self.bandwidth = self._window_bytes / self._window_seconds
            self._window_bytes = self._window_seconds = 0.0

    def _consider_switch_over(self) -> None:
        """Stop the guest if, dirty log included, little enough is left to send."""
        if self.pending_bytes > self._threshold_bytes:
            return
        self._sync()
        if self.pending_bytes <= self._threshold_bytes:
            self.phase = Phase.SWITCH_OVER if len(self._queue) else Phase.SENT
            self.guest_stopped = True

    def _sync(self) -> None:
        """Take the dirty log into the queue: the next round begins.

        QEMU goes on from where it is in memory and comes back to the beginning later.
        """
        written = self.memory.take_written()
        written_pages = int(np.count_nonzero(written))
        rest = self._queue[self._queue_done :]
        begun = self._queue_sent_bytes - self._queue_done * self.memory.page_bytes
        here = int(rest[0]) if len(rest) else 0
        written[rest] = True
        queue = np.flatnonzero(written)
        # The page that is half sent comes first again, and its other half is all it needs.
        self._fill_queue(np.roll(queue, -int(np.searchsorted(queue, here))))
        self._queue_sent_bytes = max(0.0, begun) if len(rest) else 0.0
        self.iteration += 1
        self._period_dirtied_bytes += written_pages * float(self.memory.page_bytes)
        if self._period_seconds >= _PERIOD_SECONDS:
            self._end_period()

    def _fill_queue(self, pages: NDArray[np.int64]) -> None:
        self._queue = pages
        self._queue_sent_bytes = 0.0
        self._queue_done = 0
        chunks = pages * self.memory.page_bytes // _CHUNK_BYTES
        begins = np.flatnonzero(np.diff(chunks, prepend=-1))
        self._chunk_begins = deque([*begins.tolist(), len(pages)])

    def _end_period(self) -> None:
        self.dirty_bytes_per_second = self._period_dirtied_bytes / self._period_seconds
        if self._period_dirtied_bytes > _THROTTLE_TRIGGER_RATIO * self._period_bytes:
            self._high_periods += 1
        if self._auto_converge and self._high_periods >= 2:
            self._high_periods = 0
            self._throttle_more()
        self._period_bytes = self._period_seconds = self._period_dirtied_bytes = 0.0

    def _throttle_more(self) -> None:
        more = self.throttle_ratio + _THROTTLE_STEP_RATIO
        self.throttle_ratio = min(
            more if self.throttle_ratio else _THROTTLE_FIRST_RATIO, _THROTTLE_MOST_RATIO
        )
