"""`python -m rebalancer` is the `rebalancer` command."""

import sys

from rebalancer.service.cli import main

if __name__ == "__main__":
    sys.exit(main())
