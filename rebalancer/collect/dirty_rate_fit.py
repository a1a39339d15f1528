"""Two windows of page sampling -> dirty rate and working set. Pure.

A guest that writes D bytes a second, anywhere in a set of W bytes, has touched
U(t) = W·(1 − exp(−D·t/W)) different bytes after t seconds: at first D·t, in the end W. One
window gives one value of U, and with it D only if the set is large. A second, longer window
tells how far U has already bent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_INDISTINGUISHABLE = 0.6
"""Page sampling (512 pages a GiB) scatters by a third: less of a bend than this is none."""

BYTES_PER_SAMPLE = 1024**3 / 512
"""QEMU looks at 512 pages of each GiB, so that one page stands for 2 MiB (dirtyrate.h)."""

_WHOLE_MIB_ERROR = 0.5 * 1024**2
"""What it found it tells in whole MiB a second, rounded down."""

_SATURATED = 3.0
"""After t = 3·W/D 95 % of the set has been written; beyond, the rate can no longer be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What was seen in one window."""

    seconds: float
    bytes_per_second: float
    """Different bytes written, divided by the length of the window."""

    @property
    def touched_bytes(self) -> float:
        """Different bytes written."""
        return self.seconds * self.bytes_per_second

    @property
    def error_bytes_per_second(self) -> float:
        """One standard error: of n sampled pages that were written, the square root of n.

        Where none was, as if one had been.
        """
        pages = max(1.0, self.touched_bytes / BYTES_PER_SAMPLE)
        sampling = math.sqrt(pages) * BYTES_PER_SAMPLE / self.seconds
        return math.hypot(sampling, _WHOLE_MIB_ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a guest writes."""

    bytes_per_second: float
    """At least this, where the shorter window had already seen the whole set."""
    working_set_bytes: int | None
    """`None` where the windows were too short to see its end."""


def fit_writing(short: Window, long: Window) -> Writing:
    """Find D and W with U(short) and U(long) as they were seen.

    With x = D/W, U(long)/U(short) = (1 − exp(−x·t_long)) / (1 − exp(−x·t_short)) falls from
    t_long/t_short to 1 as x grows, so that x is found by halving.
    """
    assert 0 < short.seconds < long.seconds, "the windows differ in length"
    straight = long.seconds / short.seconds
    fastest = max(short.bytes_per_second, long.bytes_per_second)
    if short.touched_bytes <= 0 or long.touched_bytes <= 0:
        return Writing(bytes_per_second=fastest, working_set_bytes=None)
    bend = long.touched_bytes / short.touched_bytes
    if bend >= _INDISTINGUISHABLE * straight:
        return Writing(bytes_per_second=fastest, working_set_bytes=None)
    most = _SATURATED / short.seconds
    if bend <= _bend(most, short.seconds, long.seconds):
        working_set = max(short.touched_bytes, long.touched_bytes)
        return Writing(
            bytes_per_second=most * working_set, working_set_bytes=math.ceil(working_set)
        )
    rate = _rate_of_bend(bend, most, short.seconds, long.seconds)
    working_set = short.touched_bytes / -math.expm1(-rate * short.seconds)
    return Writing(bytes_per_second=rate * working_set, working_set_bytes=math.ceil(working_set))


def error_of(writing: Writing, short: Window, long: Window) -> float:
    """How uncertain a rate is, in bytes a second: one standard error.

    The long window has seen more pages and goes for both; but where the set's end was seen in
    it, the rate hangs on what the short one saw of the way there.
    """
    if writing.working_set_bytes is None:
        return min(short.error_bytes_per_second, long.error_bytes_per_second)
    seen = max(1.0, short.bytes_per_second)
    return writing.bytes_per_second * min(1.0, short.error_bytes_per_second / seen)


def _bend(rate: float, short_seconds: float, long_seconds: float) -> float:
    """U(long)/U(short) for a guest that writes its set `rate` times a second."""
    return math.expm1(-rate * long_seconds) / math.expm1(-rate * short_seconds)


def _rate_of_bend(bend: float, most: float, short_seconds: float, long_seconds: float) -> float:
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        if _bend(middle, short_seconds, long_seconds) > bend:
            low = middle
        else:
            high = middle
    return high
