"""Pre-copy as QEMU does it, computed and not simulated.

No pages, only how many bytes are still to be sent each time QEMU looks.
`docs/migration-model.md` derives it and measures it; what a migration costs is made of it in
`cost`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rebalancer.planning.guest import Guest

RATE_SLICE_SECONDS = 0.1
"""QEMU keeps to a bandwidth by filling slices of this length (BUFFER_DELAY); it looks at what
is left once a slice."""

PAGE_BYTES = 4096
PAGE_HEADER_BYTES = 8
WIRE_RATIO = (PAGE_BYTES + PAGE_HEADER_BYTES) / PAGE_BYTES
"""Every page travels with its address and flags."""

CHUNK_BYTES = 1024.0**3
"""QEMU begins to log writes to so much memory when it comes to send it (clear_bitmap_shift = 18,
x 4 KiB; from QEMU 4.1 with Linux 5.2 on): what was written there before goes out as it is then."""
MOST_MOMENTS = 16
"""At so many moments of the first round it is looked how much is still to come."""
_HARDLY = 1e-6
"""Where a working set is all of the memory, it lies everywhere alike."""

MAX_ROUNDS = 500
STALLED_ROUNDS = 5
LEAST_PROGRESS_RATIO = 0.001
"""Pre-copy that gained less than this in the last rounds will not end by itself."""
STALL_MARGIN_RATIO = 0.04
STALL_ROUNDS = 2
"""The rollout helps a transfer that in two rounds did not come 4 % below the least so far."""

type DirtyLaw = Callable[[float, float, float], float]
"""(dirty bytes per second, working set bytes, seconds) -> distinct bytes written meanwhile."""


def cycling_writes(
    dirty_bytes_per_second: float, working_set_bytes: float, seconds: float
) -> float:
    """Distinct bytes written by a guest that goes round its working set: min(W, D·t).

    No guest of steady habits writes more distinct bytes than this in a time longer than the
    one that D was measured over: what it writes twice is counted once. So it is the bound to
    plan with, and for guests that do go round it is exact.
    """
    return min(working_set_bytes, dirty_bytes_per_second * seconds)


def random_writes(dirty_bytes_per_second: float, working_set_bytes: float, seconds: float) -> float:
    """Distinct bytes written by a guest that hits its working set anywhere: W·(1−exp(−D·t/W)).

    Less than `cycling_writes` for the same rate: nothing is planned with it, it is here to be
    compared with.
    """
    if working_set_bytes <= 0:
        return 0.0
    return -working_set_bytes * math.expm1(-dirty_bytes_per_second * seconds / working_set_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precopy:
    """How pre-copy goes as long as nobody steps in."""

    converges: bool
    seconds: float
    """Until the guest is stopped; until it is clear that it never will be, if it is not."""
    sent_bytes: float
    pending_bytes: float
    """Left for the switch-over, or what is left again and again if it does not converge."""
    rounds: int
    stall_seconds: float
    """When two rounds in a row had not come 4 % below the least before them."""
    stall_sent_bytes: float


def precopy(
    guest: Guest,
    bytes_per_second: float,
    max_downtime_seconds: float,
    law: DirtyLaw = cycling_writes,
    *,
    is_written_first: bool = False,
) -> Precopy:
    """Follow QEMU's pre-copy round by round.

    `is_written_first`: the working set lies where QEMU begins to send, and all that is written
    in the first round has to be sent again. Otherwise it lies anywhere.

    QEMU sends slices of R·0.1 s. When less than R·max_downtime is left it looks which pages
    were written meanwhile; if that is still less, it stops the guest and sends the rest, else
    the next round begins with what was left plus what was written:

        V[0] = memory;  n = ceil((V[i] − R·d) / (0.1·R));  r = V[i] − 0.1·R·n
        V[i+1] = r·(1 − u/W) + u,  u = min(W, D·0.1·n)

    (u/W of the hot bytes left over are among those written again.) In round 0 V[1] = r + u, and
    u is only what is written from the moment on that a chunk of memory is begun. After
    migration.c and ram.c of QEMU 7.2.
    """
    rate = bytes_per_second / WIRE_RATIO
    threshold = rate * max_downtime_seconds
    slice_bytes = rate * RATE_SLICE_SECONDS
    hot = max(guest.working_set_bytes, 1.0)
    pending = guest.memory_bytes
    seconds = sent = 0.0
    floor = _Floor()
    while pending > threshold and floor.rounds < MAX_ROUNDS and not floor.is_reached:
        slices = math.ceil((pending - threshold) / slice_bytes)
        moved = min(pending, slices * slice_bytes)
        left = pending - moved
        period = slices * RATE_SLICE_SECONDS
        again = 0.0
        if floor.rounds or is_written_first:
            dirtied = law(guest.dirty_bytes_per_second, guest.working_set_bytes, period)
            again = left * min(1.0, dirtied / hot) if floor.rounds else 0.0
        else:
            dirtied = _written_behind(guest, period, law)
        pending = min(guest.memory_bytes, left + dirtied - again)
        seconds += period
        sent += moved
        floor.see(pending, seconds, sent)
    converges = pending <= threshold
    return Precopy(
        converges=converges,
        seconds=seconds,
        sent_bytes=sent * WIRE_RATIO,
        pending_bytes=(pending if converges else floor.bytes) * WIRE_RATIO,
        rounds=floor.rounds + 1,
        stall_seconds=floor.stall_seconds,
        stall_sent_bytes=floor.stall_sent_bytes * WIRE_RATIO,
    )


def _written_behind(guest: Guest, seconds: float, law: DirtyLaw) -> float:
    """Bytes written in the first round to memory that was begun to be sent before.

    The mean of U(t·(1 − k/n)) over the n chunks, each weighed by how often a working set that
    lies anywhere in one piece lies there: min(p, M − p, W, M − W), p the chunk's middle.
    """
    memory, working_set = max(guest.memory_bytes, 1.0), guest.working_set_bytes
    chunks = max(1, math.ceil(memory / CHUNK_BYTES))
    moments = min(chunks, MOST_MOMENTS)
    # With few chunks each is begun at its first byte; with many the middle of several stands in.
    offset = 0.0 if chunks == moments else 0.5
    written = weight = 0.0
    for moment in range(moments):
        middle = (moment + 0.5) / moments * memory
        often = max(
            memory * _HARDLY, min(middle, memory - middle, working_set, memory - working_set)
        )
        behind = seconds * (1 - (moment + offset) / moments)
        written += often * law(guest.dirty_bytes_per_second, working_set, behind)
        weight += often
    return written / weight


@dataclass(slots=True)
class _Floor:
    """What the rounds of one pre-copy came down to so far, and when it was clear."""

    bytes: float = math.inf
    rounds: int = 0
    stall_seconds: float = 0.0
    stall_sent_bytes: float = 0.0
    _low: float = math.inf
    _since_low: int = 0
    _since_progress: int = 0

    def see(self, pending: float, seconds: float, sent: float) -> None:
        self.rounds += 1
        lower = pending < self._low * (1 - STALL_MARGIN_RATIO)
        self._since_low = 0 if lower else self._since_low + 1
        self._low = pending if lower else self._low
        if self._since_low <= STALL_ROUNDS:
            self.stall_seconds, self.stall_sent_bytes = seconds, sent
        progress = pending < self.bytes * (1 - LEAST_PROGRESS_RATIO)
        self._since_progress = 0 if progress else self._since_progress + 1
        self.bytes = min(self.bytes, pending)

    @property
    def is_reached(self) -> bool:
        return self._since_progress >= STALLED_ROUNDS
