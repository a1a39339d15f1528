"""Measures how fast guests write to their memory, when somebody asks for it.

The measurement reads guest memory twice and is the one thing in `collect` that is not done over
a read-only connection: libvirt wants the right to write for `virDomainStartDirtyRateCalc`. It
changes nothing, but a dry run does not do it unless it was told to (`--probe`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import statistics
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import batched

from rebalancer.cluster.inventory import VmId
from rebalancer.collect.dirty_rate_fit import Window, error_of, fit_writing
from rebalancer.collect.hypervisor import DirtyRateConnection, DomainState, HypervisorError
from rebalancer.collect.libvirt_connection import connect_for_probe
from rebalancer.collect.observations import LibvirtHost
from rebalancer.collect.patience import Abandoned, Patience
from rebalancer.collect.sources import DirtyRate

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_MOST_POLLS = 25
"""A result is there 0.1 s after its window on a quiet host; 5 s later it never comes."""

type _Found = dict[VmId, DirtyRate]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePlan:
    """How a guest is measured. Page sampling scatters, so one window is never enough."""

    short_seconds: int = 1
    short_windows: int = 3
    """Their median counts."""
    long_seconds: int = 4
    """Long enough to see whether the guest writes the same pages again."""
    at_once_per_host: int = 2
    budget_seconds: float = 120.0
    """After so long no host begins with more guests."""

    @property
    def batch_seconds(self) -> float:
        """How long a batch of guests takes at least."""
        return self.short_seconds * self.short_windows + self.long_seconds

    def seconds_for(self, guests_of_one_host: int) -> float:
        """About how long so many guests of one host take, at the most that is allowed."""
        batches = -(-guests_of_one_host // self.at_once_per_host)
        return min(batches * self.batch_seconds, self.budget_seconds + self.batch_seconds)


class LibvirtDirtyRateProbe:
    """Measures dirty rates by page sampling on libvirt hosts (libvirt 7.2 or newer).

    Opens read-write connections, for the time of the measurement only.
    """

    def __init__(
        self,
        hosts: Sequence[LibvirtHost],
        *,
        now: Callable[[], datetime],
        plan: ProbePlan | None = None,
        timeout_seconds: float = 15.0,
        connect: Callable[[str], DirtyRateConnection] = connect_for_probe,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """Take the hosts on which VMs are looked for, and what a host may take beyond the plan."""
        self._hosts = tuple(hosts)
        self._now = now
        self._plan = plan or ProbePlan()
        self._timeout_seconds = timeout_seconds
        self._connect = connect
        self._sleep = sleep or _wait
        self._patience = Patience(monotonic=time.monotonic)

    def probe(self, vms: Collection[VmId]) -> Mapping[VmId, DirtyRate]:
        """Measure running VMs that nothing is being done with; leave out those it could not.

        The first ones come first, as time may not be enough for all.
        """
        if not vms:
            return {}
        wanted = tuple(vms)
        found: dict[str, _Found] = {host.name: {} for host in self._hosts}
        errands = {
            host.name: functools.partial(self._probe_host, host, wanted, found[host.name])
            for host in self._hosts
        }
        # However its VMs are spread, no host has more of them to measure than there are.
        longest = 2 * self._plan.seconds_for(len(wanted)) + self._timeout_seconds
        for name, result in self._patience.run(errands, timeout_seconds=longest).items():
            if isinstance(result, Abandoned):
                log.warning("dirty_rates_not_measured", extra={"host": name, "why": result.why})
        # Copied: a host that was given up may still be writing into its own.
        return {vm: rate for rates in found.values() for vm, rate in list(rates.items())}

    def _probe_host(self, host: LibvirtHost, wanted: Sequence[VmId], found: _Found) -> None:
        enough = time.monotonic() + self._plan.budget_seconds
        try:
            with contextlib.closing(self._connect(host.uri)) as connection:
                running = _running(connection)
                present = [vm for vm in wanted if vm in running]
                for batch in batched(present, self._plan.at_once_per_host, strict=False):
                    if time.monotonic() > enough:
                        left = len(present) - len(found)
                        log.warning(
                            "dirty_rates_out_of_time", extra={"host": host.name, "left": left}
                        )
                        break
                    found.update(self._probe_batch(connection, batch))
        except HypervisorError as error:
            log.warning("dirty_rates_not_measured", extra={"host": host.name, "why": str(error)})

    def _probe_batch(self, connection: DirtyRateConnection, vms: Sequence[VmId]) -> _Found:
        """Measure a few guests beside each other."""
        plan = self._plan
        shorts = [
            self._windows(connection, vms, plan.short_seconds) for _ in range(plan.short_windows)
        ]
        longs = self._windows(connection, vms, plan.long_seconds)
        rates = {}
        for vm in vms:
            seen = [windows[vm] for windows in shorts if vm in windows]
            if seen and vm in longs:
                rates[vm] = self._rate(seen, longs[vm])
        return rates

    def _rate(self, shorts: Sequence[float], long: float) -> DirtyRate:
        plan = self._plan
        short = Window(seconds=plan.short_seconds, bytes_per_second=statistics.median(shorts))
        whole = Window(seconds=plan.long_seconds, bytes_per_second=long)
        writing = fit_writing(short, whole)
        return DirtyRate(
            bytes_per_second=writing.bytes_per_second,
            working_set_bytes=writing.working_set_bytes,
            measured_at=self._now(),
            error_bytes_per_second=error_of(writing, short, whole),
        )

    def _windows(
        self, connection: DirtyRateConnection, vms: Sequence[VmId], seconds: int
    ) -> dict[VmId, float]:
        """Watch all of `vms` for so long; return the bytes per second of those that were seen."""
        watched = {
            vm for vm in set(vms) & _running(connection) if _started(connection, vm, seconds)
        }
        seen: dict[VmId, float] = {}
        if watched:
            self._sleep(seconds)
        for _ in range(_MOST_POLLS):
            for vm in sorted(watched):
                rate = _result(connection, vm)
                if rate is not None:
                    seen[vm] = rate
            watched -= seen.keys()
            if not watched:
                break
            self._sleep(_POLL_SECONDS)
        return seen


def _running(connection: DirtyRateConnection) -> set[VmId]:
    """Return the VMs that run, and that no migration, backup or save is going on for."""
    stats, busy = connection.stats(with_details=False), connection.busy_with_jobs()
    running = {
        uuid for uuid, each in stats.items() if each.get("state.state") == DomainState.RUNNING
    }
    return {VmId(uuid) for uuid in running - busy}


def _started(connection: DirtyRateConnection, vm: VmId, seconds: int) -> bool:
    try:
        connection.start_dirty_rate(vm, seconds)
    except HypervisorError as error:
        log.warning("dirty_rate_not_measured", extra={"vm": vm, "why": str(error)})
        return False
    return True


def _result(connection: DirtyRateConnection, vm: VmId) -> float | None:
    try:
        return connection.dirty_bytes_per_second(vm)
    except HypervisorError:
        return None  # it is gone, or it has not got that far


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)
