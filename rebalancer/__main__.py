"""`python -m rebalancer` is the `rebalancer` command."""

import sys

from rebalancer.errors import ExitCode


def program() -> int:
    """Load the command, which takes a moment, and run it; an interruption leaves no trace of it."""
    try:
        from rebalancer.service import cli

        return cli.program()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(program())
