"""Where placements are searched: the setting `placement.executor` and what there is of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rebalancer.placement.workers import IN_THIS_PROCESS, Workers
from rebalancer.service.config_format import DASK, PlacementSettings
from rebalancer.service.dask_workers import dask_workers
from rebalancer.service.worker_pool import WorkerPool

WORKERS_AT_MOST = 8
"""By default: a round of programs is hardly ever longer, and each process takes some 100 MB."""


@contextmanager
def workers_for(settings: PlacementSettings) -> Iterator[Workers]:
    """Provide what is set; in the end, nothing of it runs any more."""
    workers = _workers(settings)
    try:
        yield workers
    finally:
        workers.close()


def _workers(settings: PlacementSettings) -> Workers:
    if settings.executor == "serial":
        return IN_THIS_PROCESS
    pool = WorkerPool(settings.workers or min(WORKERS_AT_MOST, _processors()))
    if settings.executor.startswith(DASK):
        return dask_workers(settings.executor.removeprefix(DASK), pool)
    return pool


def _processors() -> int:
    """The processors that this process may use, which may be fewer than there are."""
    return len(os.sched_getaffinity(0))
