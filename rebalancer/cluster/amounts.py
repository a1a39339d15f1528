"""Amounts as people read them, with a unit and three digits."""

from __future__ import annotations

import math

UNKNOWN = "?"

_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def bytes_text(count: float) -> str:
    """Write a size with binary units and three digits: `1.50 GiB`."""
    if not math.isfinite(count):
        return UNKNOWN
    value, step = float(count), 0
    # 1023.95 and not 1024: otherwise rounding to one digit would print "1024.0 MiB".
    while abs(value) >= 1023.95 and step < len(_BINARY_UNITS) - 1:
        value, step = value / 1024, step + 1
    digits = 0 if step == 0 or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {_BINARY_UNITS[step]}"
