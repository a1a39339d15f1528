"""Taking no more memory than is needed, and giving it back between cycles."""

from __future__ import annotations

import ctypes
import functools
import gc
from collections.abc import Callable

_ARENA_MAX, _MMAP_THRESHOLD = -8, -3
"""Their numbers for mallopt(3)."""
_ARENAS = 2
_LARGE_BYTES = 2**18


def keep_small() -> None:
    """Tell the C library, before threads are started, to keep little.

    It would give each of the hundred threads that ask hosts a heap of its own, and keep what
    large arrays took for the next ones.
    """
    try:
        tell = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    tell(_ARENA_MAX, _ARENAS)
    tell(_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Return to the system what a cycle needed and nobody does any more.

    A week of use of two thousand VMs comes in as many arrays, between which smaller things stay;
    without being asked, the C library keeps all of it for the next time.
    """
    gc.collect()
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not glibc
        return lambda _: None
    return trim
