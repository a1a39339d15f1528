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
from rebalancer.collect.sources import SelectiveUsageSource, UsageSource
from rebalancer.errors import ObservationError

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

    def of(self, source: SelectiveUsageSource) -> UsageSource:
        """Return a source that tells the same, and asks `source` for what is not known yet.

        What a source that is not equal to it told (other queries, another server) is forgotten.
        """
        return _Remembered(memory=self, source=source)

    def history(
        self,
        source: SelectiveUsageSource,
        vms: Collection[VmId],
        start: datetime,
        end: datetime,
    ) -> UsageHistory:
        """Ask for what is not known, and keep all of it. Raises what `source` does."""
        with self._alone:
            goes_on = self._kept is not None and self._kept.goes_on(source, start, end)
            older = self._older(source, vms, start) if goes_on else None
            if self._kept is None or older is None:
                self._kept = None  # before all is read anew, so as not to have it twice
                kept = _Kept.of(source, source.history(vms, start, end), end)
            else:
                new = source.history(vms, self._kept.sure_until, end)
                kept, self._kept = self._kept, None  # for it is taken apart
                kept = kept.with_newer(new, older, start, end)
            self._kept = kept
            return kept.told()

    def _older(
        self, source: SelectiveUsageSource, vms: Collection[VmId], start: datetime
    ) -> Mapping[VmId, Cores] | None:
        """What VMs that are new here used before that which is asked for in any case.

        `None` where it is not to be had for them alone.
        """
        assert self._kept is not None
        strangers = [vm for vm in vms if vm not in self._kept.vms]
        if not strangers:
            return {}
        try:
            told = source.history_of_few(strangers, start, self._kept.sure_until)
        except ObservationError:
            # A server may mind this question alone. If it is the server, that is told by the next.
            return None
        return told.vm_cpu_cores if told is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remembered:
    """A source with a memory."""

    memory: UseMemory
    source: SelectiveUsageSource

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

    def goes_on(self, source: UsageSource, start: datetime, end: datetime) -> bool:
        """Whether it holds what is wanted now of the VMs in it, but for the newest samples."""
        return (
            source == self.source
            and self.start <= start <= self.sure_until
            and self._is_on_grid(start)
            and self._is_on_grid(self.end)
            and self.end <= end < self.read_whole_at + WHOLE_AFTER
        )

    def with_newer(
        self, new: UsageHistory, older: Mapping[VmId, Cores], start: datetime, end: datetime
    ) -> _Kept:
        """Put new samples behind what is kept from `start` on, which is used up by that.

        `older` has what comes before the new samples of VMs that are not in here.
        """
        known = slice(self._steps(start), self._steps(new.start))
        return replace(
            self,
            start=start,
            end=end,
            vms=_joined(self.vms, older, new.vm_cpu_cores, known),
            hosts=_joined(self.hosts, {}, new.host_cpu_cores, known),
        )

    def _steps(self, instant: datetime) -> int:
        return round((instant - self.start).total_seconds() / self.interval_seconds)

    def _is_on_grid(self, instant: datetime) -> bool:
        apart = (instant - self.start).total_seconds() - self._steps(
            instant
        ) * self.interval_seconds
        return abs(apart) < _SAME_SECONDS


def _joined[K: Hashable](
    old: dict[K, Cores], older: Mapping[K, Cores], new: Mapping[K, Cores], known: slice
) -> dict[K, Cores]:
    """The rows of `new` with what is known of them before; empties `old` on the way.

    That is `known` of the row in `old`, or all of the one in `older`. In the order of `old`, so
    that its rows are let go together as they were made.
    """
    before = known.stop - known.start
    samples = before + next((row.size for row in new.values()), 0)
    joined = {}
    keys = [*(key for key in old if key in new), *(key for key in older if key in new)]
    for key, row in rows_of(keys, samples):
        row[:before] = older[key] if key in older else old.pop(key)[known]
        row[before:] = new[key]
        joined[key] = row
    return joined
