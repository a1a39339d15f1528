"""Quantities as a reader of a plan wants them: two or three digits and a unit."""

from __future__ import annotations

import math

KIB = 1024.0
MIB = 1024**2
"""The unit in which libvirt is told a bandwidth, per second."""


def in_bytes(quantity: float) -> str:
    """Say an amount of memory: `4.0 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(quantity) < KIB:
            return f"{_digits(quantity)} {unit}"
        quantity /= KIB
    return f"{_digits(quantity)} TiB"


def in_bytes_per_second(rate: float) -> str:
    """Say a bandwidth or dirty rate: `417 MiB/s`."""
    return f"{in_bytes(rate)}/s"


def in_seconds(seconds: float) -> str:
    """Say a time: `0.23 s`, `12 s`, `2 min 05 s`, `1 h 12 min`."""
    if math.isinf(seconds):
        return "any time"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _digits(quantity: float) -> str:
    return f"{quantity:.0f}" if abs(quantity) >= 100 or quantity == 0 else f"{quantity:.3g}"
