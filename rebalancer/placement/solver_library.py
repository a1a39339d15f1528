"""PuLP and HiGHS, as every process loads them: quietly, and without what none of them needs."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

__all__ = ["highspy", "pulp"]


def _load_when_used(name: str) -> None:
    """Let `import NAME` return at once; whatever is then looked up in it loads it.

    `importlib.util.LazyLoader` cannot do that: the second import of a module looks at its
    `__spec__`, which loads it (seen with CPython 3.13).
    """

    def look_up(attribute: str) -> Any:  # noqa: ANN401  whatever is in there
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stand_in = ModuleType(name)
    stand_in.__getattr__ = look_up  # type: ignore[method-assign]
    sys.modules.setdefault(name, stand_in)


# PuLP 4 imports what reads the logs of CBC, CPLEX and others. That costs a tenth of a second in
# each process, the solver's workers included, and of HiGHS there are no logs to be read. It may go
# when PuLP imports it where it is used (`pulp/core/lp_stats.py`).
_load_when_used("orloge")

import highspy  # noqa: E402
import pulp  # noqa: E402


def _hear_the_greeting() -> None:
    """Make a first solver where nobody reads, since from 1.16 on HiGHS prints its banner then.

    It does so once for each process, on standard output and before it could be told to be quiet;
    there it would stand in front of a plan's JSON. Imports come before threads do, so that
    nothing else can be written in the meantime.
    """
    try:
        kept = os.dup(1)
    except OSError:  # whoever started us has closed it: it can be read by nobody
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    solver: Any = highspy.Highs
    try:
        os.dup2(nowhere, 1)
        solver()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


_hear_the_greeting()
