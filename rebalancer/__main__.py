"""`python -m rebalancer` is the `rebalancer` command."""

import os
import sys
import threading
from contextlib import suppress

from rebalancer.errors import ExitCode


def program() -> int:
    """Load the command, which takes a moment, and run it; an interruption leaves no trace of it."""
    try:
        from rebalancer.service import cli

        code = cli.program()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    return _ended(code)


def _ended(code: int) -> int:
    """End the process at once if threads are left that nobody can end, else return the code.

    libvirt's event loop calls into Python every second. When that happens while the interpreter is
    being taken apart, the process crashes, and a drain that went well ends like one that failed.
    Files, locks and the journal are closed by then: whoever opens one closes it.
    """
    if threading.active_count() > 1:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, full, or none at all
                stream.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(program())
