"""Observes libvirt hosts over read-only connections, all of them at once.

A host that does not answer in time, or says nothing sensible, is unknown; the others are not kept
waiting for it. How one of them is asked is in `libvirt_connection` and `host_reader`.
"""

from __future__ import annotations

import contextlib
import functools
import resource
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.collect.assemble import ask_again_about, assemble, corrected
from rebalancer.collect.host_reader import Stopwatch, read_host
from rebalancer.collect.hypervisor import HypervisorConnection, HypervisorError, Stats
from rebalancer.collect.libvirt_connection import connect_read_only, libvirt_library
from rebalancer.collect.observations import HostReport, LibvirtHost, NoReport
from rebalancer.collect.patience import Abandoned, Patience
from rebalancer.errors import ObservationError

__all__ = ["LibvirtHost", "LibvirtSource"]

_NOT_ASKED = {HostState.ASLEEP, HostState.DOWN}
_ERRORS_SHOWN = 5
_LEAST_AT_ONCE, _MOST_AT_ONCE = 16, 256
_OTHER_FILES, _FILES_OF_A_HOST = 200, 4
"""A connection is a socket and its wake-up pipe, or two pipes to an ssh and its errors."""


class LibvirtSource:
    """A cluster of libvirt hosts, observed anew each time."""

    def __init__(
        self,
        hosts: Sequence[LibvirtHost],
        *,
        cluster: str,
        now: Callable[[], datetime],
        sites: Sequence[Site] = (),
        links: Sequence[Link] = (),
        racks: Sequence[Rack] = (),
        sampling_seconds: float = 4.0,
        counts_waiting: bool = False,
        timeout_seconds: float = 15.0,
        parallel: int | None = None,
        connect: Callable[[str], HypervisorConnection] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """Take the hosts to ask, the window over which CPU use is measured, and a time limit.

        `counts_waiting`: CPU use includes what VMs waited for.

        A host may take `sampling_seconds + timeout_seconds`, then it is unknown. At most
        `parallel` hosts are asked at once, by default as many as file descriptors allow.
        `connect` stands for libvirt in tests.
        """
        names = [host.name for host in hosts]
        assert len(set(names)) == len(names), "hosts are told apart by their names"
        self._hosts = tuple(hosts)
        self._assemble = functools.partial(
            assemble, cluster=cluster, sites=sites, links=links, racks=racks
        )
        self._now = now
        self._sampling_seconds = sampling_seconds
        self._counts_waiting = counts_waiting
        self._timeout_seconds = timeout_seconds
        self._connect = connect or connect_read_only
        self._stopwatch = Stopwatch(monotonic=monotonic, sleep=sleep or _wait)
        self._patience = Patience(monotonic=monotonic, parallel=parallel or _most_at_once())

    def observe(self) -> Snapshot:
        """Ask all hosts; raise `ObservationError` when not one of them answers."""
        if self._connect is connect_read_only:
            libvirt_library()  # one clear error beats one for each host
        reports = self._reports()
        self._refuse_silence(reports)
        return self._assemble(self._after_second_look(reports), taken_at=self._now())

    def _reports(self) -> list[HostReport | NoReport]:
        asked = {host.name: host for host in self._hosts if host.state not in _NOT_ASKED}
        answers = self._patience.run(
            {name: functools.partial(self._ask, host) for name, host in asked.items()},
            timeout_seconds=self._sampling_seconds + self._timeout_seconds,
        )
        return [self._report(host, answers.get(host.name)) for host in self._hosts]

    def _report(
        self, host: LibvirtHost, answer: HostReport | NoReport | Abandoned | None
    ) -> HostReport | NoReport:
        if answer is None:
            return NoReport(host=host, why=f"set to {host.state} by the operator", was_asked=False)
        return NoReport(host=host, why=answer.why) if isinstance(answer, Abandoned) else answer

    def _ask(self, host: LibvirtHost) -> HostReport | NoReport:
        try:
            with contextlib.closing(self._connect(host.uri)) as connection:
                return read_host(
                    host,
                    connection,
                    sampling_seconds=self._sampling_seconds,
                    stopwatch=self._stopwatch,
                    counts_waiting=self._counts_waiting,
                )
        except HypervisorError as error:
            return NoReport(host=host, why=f"{host.uri}: {error}")

    def _refuse_silence(self, reports: Sequence[HostReport | NoReport]) -> None:
        silent = [r for r in reports if isinstance(r, NoReport) and r.was_asked]
        if not silent or any(isinstance(report, HostReport) for report in reports):
            return
        reasons = [f"{report.host.name}: {report.why}" for report in silent[:_ERRORS_SHOWN]]
        more = len(silent) - len(reasons)
        raise ObservationError(
            f"not one of {len(silent)} hosts answered; check libvirtd and the way there:\n"
            + "\n".join([*reasons, *([f"… and {more} more"] if more else [])])
        )

    def _after_second_look(
        self, reports: list[HostReport | NoReport]
    ) -> list[HostReport | NoReport]:
        """Ask again about VMs that seem to run twice.

        Hosts are not sampled at the same instant: a migration that ends between two of them
        looks the same as a VM that runs on both.
        """
        doubtful = ask_again_about(reports)
        errands = {
            report.host.name: functools.partial(self._states, report.host)
            for report in reports
            if isinstance(report, HostReport) and report.host.name in doubtful
        }
        answers = self._patience.run(errands, timeout_seconds=self._timeout_seconds)
        return [
            corrected(report, doubtful[report.host.name], stats)
            if isinstance(report, HostReport)
            and isinstance(stats := answers.get(report.host.name), Mapping)
            else report
            for report in reports
        ]

    def _states(self, host: LibvirtHost) -> Mapping[str, Stats] | None:
        try:
            with contextlib.closing(self._connect(host.uri)) as connection:
                return connection.stats(with_details=False)
        except HypervisorError:
            return None


def _most_at_once() -> int:
    """How many connections this process can have, with some descriptors left for the rest."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_LEAST_AT_ONCE, min(_MOST_AT_ONCE, (soft - _OTHER_FILES) // _FILES_OF_A_HOST))


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)
