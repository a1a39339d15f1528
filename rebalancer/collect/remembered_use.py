"""Past use that is kept from one look to the next, so that only what is new is asked for.

A week of two thousand VMs is four million samples. To read them every five minutes, most of them
again, would be most of what a daemon does.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import batched

import numpy as np
from numpy.typing import NDArray

from rebalancer.cluster.inventory import HostId, UsageHistory, VmId
from rebalancer.collect.sources import UsageSource

RECENT_SECONDS = 3600.0
"""So much is asked for again each time: samples may come late."""
WHOLE_AFTER = timedelta(hours=6)
"""After so long all of it is: somebody may have mended what is older."""

_SAME_SECONDS = 1e-3
_ROWS_TOGETHER = 64
"""Of a week every five minutes that is a megabyte, which the system gets back as soon as it is let
go. Rows by themselves would leave holes in the heap, between things that stay."""

type Cores = NDArray[np.float64]


def rows_of[K: Hashable](keys: Iterable[K], samples: int) -> Iterator[tuple[K, Cores]]:
    """Yield a row of unknown samples for each key, some of them together in memory."""
    for some in batched(keys, _ROWS_TOGETHER):
        yield from zip(some, np.full((len(some), samples), np.nan), strict=True)


class UseMemory:
    """What a source told last. It outlives sources, as each look at the cluster has its own."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._kept: _Kept | None = None
        self._alone = threading.Lock()

    def of(self, source: UsageSource) -> UsageSource:
        """Return a source that tells the same, and asks `source` for what is not known yet.

        What a source that is not equal to it told (other queries, another server) is forgotten.
        """
        return _Remembered(memory=self, source=source)

    def history(
        self, source: UsageSource, vms: Collection[VmId], start: datetime, end: datetime
    ) -> UsageHistory:
        """Ask for what is not known, and keep all of it. Raises what `source` does."""
        with self._alone:
            if self._kept is not None and not self._kept.goes_on(source, vms, start, end):
                self._kept = None  # before all is read anew, so as not to have it twice
            if self._kept is None:
                kept = _Kept.of(source, source.history(vms, start, end), end)
            else:
                new = source.history(vms, self._kept.sure_until, end)
                kept, self._kept = self._kept, None  # for it is taken apart
                kept = kept.with_newer(new, start, end)
            self._kept = kept
            return kept.told()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remembered:
    """A source with a memory."""

    memory: UseMemory
    source: UsageSource

    def history(self, vms: Collection[VmId], start: datetime, end: datetime) -> UsageHistory:
        return self.memory.history(self.source, vms, start, end)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Kept:
    """What was told last, and by whom."""

    source: UsageSource
    start: datetime
    end: datetime
    interval_seconds: float
    read_whole_at: datetime
    vms: dict[VmId, Cores]
    hosts: dict[HostId, Cores]

    @classmethod
    def of(cls, source: UsageSource, usage: UsageHistory, end: datetime) -> _Kept:
        """Keep all that was read at once."""
        return cls(
            source=source,
            start=usage.start,
            end=end,
            interval_seconds=usage.interval_seconds,
            read_whole_at=end,
            vms=dict(usage.vm_cpu_cores),
            hosts=dict(usage.host_cpu_cores),
        )

    @property
    def sure_until(self) -> datetime:
        """From here on it is asked for again."""
        samples = math.ceil(RECENT_SECONDS / self.interval_seconds)
        return self.end - timedelta(seconds=samples * self.interval_seconds)

    def told(self) -> UsageHistory:
        """What is known, as a source tells it."""
        return UsageHistory(
            start=self.start,
            interval_seconds=self.interval_seconds,
            vm_cpu_cores=dict(self.vms),
            host_cpu_cores=dict(self.hosts),
        )

    def goes_on(
        self, source: UsageSource, vms: Collection[VmId], start: datetime, end: datetime
    ) -> bool:
        """Whether it holds what is wanted now, but for the newest samples."""
        return (
            source == self.source
            and self.start <= start <= self.sure_until
            and self._is_on_grid(start)
            and self._is_on_grid(self.end)
            and self.end <= end < self.read_whole_at + WHOLE_AFTER
            and all(vm in self.vms for vm in vms)
        )

    def with_newer(self, new: UsageHistory, start: datetime, end: datetime) -> _Kept:
        """Put new samples behind what is kept from `start` on, which is used up by that."""
        known = slice(self._steps(start), self._steps(new.start))
        return replace(
            self,
            start=start,
            end=end,
            vms=_joined(self.vms, new.vm_cpu_cores, known),
            hosts=_joined(self.hosts, new.host_cpu_cores, known),
        )

    def _steps(self, instant: datetime) -> int:
        return round((instant - self.start).total_seconds() / self.interval_seconds)

    def _is_on_grid(self, instant: datetime) -> bool:
        apart = (instant - self.start).total_seconds() - self._steps(
            instant
        ) * self.interval_seconds
        return abs(apart) < _SAME_SECONDS


def _joined[K: Hashable](
    old: dict[K, Cores], new: Mapping[K, Cores], known: slice
) -> dict[K, Cores]:
    """The rows of `new` with what is known of them before; empties `old` on the way.

    In the order of `old`, so that its rows are let go together as they were made.
    """
    before = known.stop - known.start
    samples = before + next((row.size for row in new.values()), 0)
    joined = {}
    for key, row in rows_of([*(key for key in old if key in new)], samples):
        row[:before] = old.pop(key)[known]
        row[before:] = new[key]
        joined[key] = row
    return joined
