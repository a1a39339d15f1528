"""What a search finds on the way, a line each: `plan --verbose`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from rebalancer.placement.incumbent import Incumbent


def progress_to(console: Console) -> Callable[[Incumbent], None]:
    """Return what prints each placement that is found."""

    def tell(found: Incumbent) -> None:
        console.print(line_of(found, seconds_running()), markup=False, highlight=False)

    return tell


def line_of(found: Incumbent, seconds: float) -> str:
    """Say how good a placement is, `seconds` after the program was started."""
    when = f"{seconds:.1f} s after the start:"
    if found.before == found.after:
        return f"{when} the present placement can be kept"
    return f"{when} {found.moves} VMs to move, objective {found.before:.4g} → {found.after:.4g}"


def seconds_running() -> float:
    """How long this process has been running, by the kernel: imports are part of the wait."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
