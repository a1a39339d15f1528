"""`python -m tests.faults`."""

from tests.faults.run import main

if __name__ == "__main__":
    raise SystemExit(main())
