"""Quantities as reports print them: always with a unit, never with more digits than they deserve.

The reverse, reading what people write, is in `files.quantities`.
"""

from __future__ import annotations

import math
from datetime import datetime

from rebalancer.cluster.amounts import UNKNOWN as UNKNOWN
from rebalancer.cluster.amounts import bytes_text as bytes_text


def rate_text(bytes_per_second: float) -> str:
    """Write a bandwidth: `119 MiB/s`."""
    return f"{bytes_text(bytes_per_second)}/s" if math.isfinite(bytes_per_second) else UNKNOWN


def seconds_text(seconds: float) -> str:
    """Write a duration: `40 ms`, `2.5 s`, `1 min 30 s`, `2 h 05 min`, `3 d 04 h`."""
    if not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 0:
        return f"-{seconds_text(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, big, small_size, small in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {big} {whole % size // small_size:02d} {small}"
    return f"{whole} s"


def offset_text(seconds: float) -> str:
    """Write an offset from the start of a plan: `+0 s`, `+12 min 07 s`, `+1 h 02 min`."""
    if not math.isfinite(seconds):
        return UNKNOWN
    whole = round(max(0.0, seconds))
    return f"+{seconds_text(whole)}" if whole >= 10 else f"+{whole} s"


def ratio_text(ratio: float, digits: int = 0) -> str:
    """Write a ratio in per cent: `91 %`."""
    return f"{ratio * 100:.{digits}f} %" if math.isfinite(ratio) else UNKNOWN


def at_most_text(ratio: float) -> str:
    """Write an upper limit in per cent, rounded up so that it stays one: `3.1 %`."""
    # The 1e-9 keeps 0.03, which is not a binary fraction, from becoming 3.1 %.
    return ratio_text(math.ceil(ratio * 1000 - 1e-9) / 1000, 1) if ratio > 0 else "0 %"


def at_least_text(ratio: float) -> str:
    """Write a lower limit in per cent, rounded down so that it stays one: `99.9 %`."""
    return ratio_text(math.floor(ratio * 1000 + 1e-9) / 1000, 1) if ratio < 1 else "100 %"


def count_text(count: int, noun: str) -> str:
    """Write a number with its noun in the right number: `1 VM`, `12 VMs`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def when_text(instant: datetime) -> str:
    """Write an instant as ISO 8601 says, to the second: `2026-11-23 12:00:00 UTC`."""
    offset = instant.strftime("%z")
    zone = "UTC" if offset in ("+0000", "") else offset
    return f"{instant:%Y-%m-%d %H:%M:%S} {zone}"


def in_one_line(text: str) -> str:
    """Join the lines of a text: items of a list by semicolons, the first one to what it is of."""
    lines = [" ".join(line.split()).removeprefix("- ") for line in text.splitlines()]
    said = ""
    for line in filter(None, lines):
        gap = "" if not said else " " if said.endswith((":", ".", ";")) else "; "
        said += gap + line
    return said


def one_line(text: str) -> str:
    """Make foreign text harmless: no line breaks, no terminal control characters.

    Names of VMs and messages of hypervisors are written by others, and an escape sequence in
    one of them must not reach an operator's terminal.
    """
    return "".join(char if char.isprintable() else " " for char in text)
