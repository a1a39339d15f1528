"""`python -m rebalancer` is the `rebalancer` command."""

import sys

from rebalancer.service.cli import program

if __name__ == "__main__":
    sys.exit(program())
