"""Observes libvirt hosts over read-only connections, all of them at once.

The only module of `collect` that knows libvirt. It can be imported without libvirt-python; what
needs that says how to install it. Nothing in here can change a host: connections are read-only,
except those of `connect_for_probe`, which `dirty_rate_probe` opens when it is asked to.
"""

from __future__ import annotations

import contextlib
import functools
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.collect.assemble import ask_again_about, assemble, corrected
from rebalancer.collect.domain_jobs import running_jobs
from rebalancer.collect.host_reader import Stopwatch, read_host
from rebalancer.collect.hypervisor import (
    DirtyRateConnection,
    DomainRecord,
    HypervisorConnection,
    HypervisorError,
    Job,
    JobOperation,
    Stats,
)
from rebalancer.collect.observations import HostReport, LibvirtHost, NoReport
from rebalancer.collect.patience import Abandoned, Patience
from rebalancer.errors import ObservationError, UsageError

__all__ = ["LibvirtHost", "LibvirtSource", "connect_for_probe", "connect_read_only"]

_NOT_ASKED = {HostState.ASLEEP, HostState.DOWN}
_ERRORS_SHOWN = 5
_MOST_CELLS = 64
_LEAST_AT_ONCE, _MOST_AT_ONCE = 16, 256
_OTHER_FILES, _FILES_OF_A_HOST = 200, 4
"""A connection is a socket and its wake-up pipe, or two pipes to an ssh and its errors."""
_MIB = 2**20


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
            _libvirt()  # one clear error beats one for each host
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


def connect_for_probe(uri: str) -> DirtyRateConnection:
    """Connect to a host with the right to start measurements, which libvirt asks for."""
    with _translated():
        return _LibvirtConnection(_opened(_libvirt().open, uri))


def connect_for_check(uri: str) -> _LibvirtConnection:
    """Connect to a host, read-only, to ask what `host_check` wants to know."""
    with _translated():
        return _LibvirtConnection(_opened(_libvirt().openReadOnly, uri))


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def connect_read_only(uri: str) -> HypervisorConnection:
    """Connect to a host, read-only; raise `HypervisorError` when that fails."""
    with _translated():
        return _LibvirtConnection(_opened(_libvirt().openReadOnly, uri))


@functools.cache
def _libvirt() -> Any:  # noqa: ANN401 (libvirt-python has no types)
    try:
        import libvirt
    except ImportError as error:
        raise UsageError(
            "libvirt hosts cannot be observed without libvirt-python; "
            "install it with: pip install 'vm-rebalancer[libvirt]'"
        ) from error
    # Otherwise libvirt prints each error as well, in the middle of our tables.
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    # Keepalive needs an event loop; asking for a second one (by the driver) does no harm.
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_events, args=(libvirt,), name="libvirt", daemon=True).start()
    return libvirt


def _run_events(libvirt: Any) -> None:  # noqa: ANN401 (libvirt-python has no types)
    # The loop blocks in poll() while nothing happens: a timer keeps it turning, as libvirt asks.
    libvirt.virEventAddTimeout(1000, lambda _timer, _opaque: None, None)
    while libvirt.virEventRunDefaultImpl() == 0:
        pass


def _opened(open_: Callable[[str], Any], uri: str) -> Any:  # noqa: ANN401 (as above)
    connection = open_(uri)
    with contextlib.suppress(_libvirt().libvirtError):  # local drivers have none
        # A host that lost power never closes its connections: 20 s after that we do.
        connection.setKeepAlive(5, 3)
    return connection


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _libvirt().libvirtError as error:
        raise HypervisorError(str(error)) from error


class _LibvirtConnection:
    """libvirt behind our own port: its units, flags and errors end here."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 (libvirt-python has no types)
        self._connection = connection
        self._api = _libvirt()

    def hostname(self) -> str:
        with _translated():
            return str(self._connection.getHostname())

    def versions(self) -> tuple[int, int | None]:
        with _translated():
            libvirt = int(self._connection.getLibVersion())
        try:
            return libvirt, int(self._connection.getVersion())
        except self._api.libvirtError:
            return libvirt, None

    def cpu_count(self) -> int:
        with _translated():
            return int(self._connection.getInfo()[2])

    def memory_bytes(self) -> int:
        # getInfo() tells the memory of NUMA node 0 only, on some machines
        with _translated():
            return (
                int(
                    self._connection.getMemoryStats(self._api.VIR_NODE_MEMORY_STATS_ALL_CELLS)[
                        "total"
                    ]
                )
                * 1024
            )

    def cpu_busy_seconds(self) -> float:
        with _translated():
            times = self._connection.getCPUStats(self._api.VIR_NODE_CPU_STATS_ALL_CPUS)
        return float(sum(times.get(kind, 0) for kind in ("user", "kernel", "intr"))) * 1e-9

    def capabilities_xml(self) -> str:
        with _translated():
            return str(self._connection.getCapabilities())

    def cpu_model_names(self, arch: str) -> Sequence[str]:
        with _translated():
            return [str(name) for name in self._connection.getCPUModelNames(arch)]

    def expanded_cpu_xml(self, cpu_xml: str) -> str:
        with _translated():
            flags = self._api.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
            return str(self._connection.baselineCPU([cpu_xml], flags))

    def free_pages(self, page_bytes: Sequence[int]) -> Mapping[int, int]:
        nodes = self.free_pages_by_node(page_bytes).values()
        return {size: sum(counts.get(size, 0) for counts in nodes) for size in page_bytes}

    def free_pages_by_node(self, page_bytes: Sequence[int]) -> Mapping[int, Mapping[int, int]]:
        sizes_kib = [size // 1024 for size in page_bytes]
        with _translated():
            cells = self._connection.getFreePages(sizes_kib, 0, _MOST_CELLS)
        return {
            int(cell): {size * 1024: int(count) for size, count in counts.items()}
            for cell, counts in cells.items()
        }

    def pool_xmls(self) -> Sequence[str]:
        with _translated():
            flags = self._api.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
            pools = self._connection.listAllStoragePools(flags)
            return [pool.XMLDesc(0) for pool in pools]

    def files_in(self, pool: str) -> Sequence[str]:
        with _translated():
            names: Sequence[str] = self._connection.storagePoolLookupByName(pool).listVolumes()
            return names

    def network_xmls(self) -> Sequence[str]:
        with _translated():
            flags = self._api.VIR_CONNECT_LIST_NETWORKS_ACTIVE
            networks = self._connection.listAllNetworks(flags)
            return [network.XMLDesc(0) for network in networks]

    def interface_names(self) -> Sequence[str]:
        with _translated():
            flags = self._api.VIR_CONNECT_LIST_INTERFACES_ACTIVE
            interfaces = self._connection.listAllInterfaces(flags)
            return [str(interface.name()) for interface in interfaces]

    def domains(self) -> Sequence[DomainRecord]:
        api = self._api
        with _translated():
            domains = {domain.UUIDString(): domain for domain in self._list(0)}
            # One list for each property is faster than asking every domain for each.
            active = self._uuids(api.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            persistent = self._uuids(api.VIR_CONNECT_LIST_DOMAINS_PERSISTENT)
            autostart = self._uuids(api.VIR_CONNECT_LIST_DOMAINS_AUTOSTART)
            saved = self._uuids(api.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
            snapshots = self._uuids(api.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)
            checkpoints = self._uuids(api.VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT)
        jobs = _jobs([domain for uuid, domain in domains.items() if uuid in active])
        return [
            DomainRecord(
                uuid=uuid,
                name=domain.name(),
                is_active=uuid in active,
                xml=xml,
                autostart=uuid in autostart,
                persistent=uuid in persistent,
                has_snapshots=uuid in snapshots,
                has_checkpoints=uuid in checkpoints,
                has_saved_state=uuid in saved,
                job=jobs.get(uuid),
            )
            for uuid, domain in domains.items()
            if (xml := _definition(domain)) != ""
        ]

    def stats(self, *, with_details: bool) -> Mapping[str, Stats]:
        api = self._api
        wanted = api.VIR_DOMAIN_STATS_STATE | api.VIR_DOMAIN_STATS_CPU_TOTAL
        if with_details:
            wanted |= api.VIR_DOMAIN_STATS_BALLOON | api.VIR_DOMAIN_STATS_VCPU
            wanted |= api.VIR_DOMAIN_STATS_BLOCK
        # One VM that hangs must not keep the others from being told.
        flags = api.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        with _translated():
            found = self._connection.getAllDomainStats(wanted, flags)
            return {domain.UUIDString(): stats for domain, stats in found}

    def disk_bytes(self, uuid: str, target: str) -> int:
        with _translated():
            return int(self._connection.lookupByUUIDString(uuid).blockInfo(target)[0])

    def busy_with_jobs(self) -> frozenset[str]:
        with _translated():
            return frozenset(_jobs(self._list(self._api.VIR_CONNECT_LIST_DOMAINS_ACTIVE)))

    def start_dirty_rate(self, uuid: str, seconds: int) -> None:
        with _translated():
            self._connection.lookupByUUIDString(uuid).startDirtyRateCalc(seconds, 0)

    def dirty_bytes_per_second(self, uuid: str) -> float | None:
        with _translated():
            domain = self._connection.lookupByUUIDString(uuid)
            wanted = self._api.VIR_DOMAIN_STATS_DIRTYRATE
            found = self._connection.domainListGetStats([domain], wanted, 0)
        stats = found[0][1] if found else {}
        if stats.get("dirtyrate.calc_status") != self._api.VIR_DOMAIN_DIRTYRATE_MEASURED:
            return None
        return float(stats["dirtyrate.megabytes_per_second"]) * _MIB

    def close(self) -> None:
        with contextlib.suppress(_libvirt().libvirtError):
            self._connection.close()

    def _list(self, flags: int) -> list[Any]:
        return list(self._connection.listAllDomains(flags))

    def _uuids(self, flags: int) -> frozenset[str]:
        return frozenset(domain.UUIDString() for domain in self._list(flags))


def _definition(domain: Any) -> str | None:  # noqa: ANN401 (libvirt-python has no types)
    """Return a domain's XML, `None` when libvirt does not tell it, empty when it is gone."""
    error_type = _libvirt().libvirtError
    try:
        return str(domain.XMLDesc(0))
    except error_type as error:
        return "" if error.get_error_code() == _libvirt().VIR_ERR_NO_DOMAIN else None


def _jobs(domains: Sequence[Any]) -> Mapping[str, Job]:
    """Return the jobs that run on active domains, by UUID."""
    return running_jobs(
        {domain.UUIDString(): functools.partial(_job, domain) for domain in domains}
    )


def _job(domain: Any) -> Job | None:  # noqa: ANN401 (libvirt-python has no types)
    """Return what runs on a domain; `None` when nothing does."""
    try:
        stats = domain.jobStats(0)
    except _libvirt().libvirtError:
        return None  # it is gone, or its driver knows no jobs
    if not stats.get("type"):
        return None
    number = stats.get("operation", 0)
    operation = JobOperation(number) if number in set(JobOperation) else JobOperation.UNKNOWN
    # libvirt fills these in when the first pass has begun; 0 says that it has not.
    rate = float(stats.get("memory_bps", 0)) + float(stats.get("disk_bps", 0))
    is_leaving = operation is JobOperation.MIGRATION_OUT
    return Job(operation=operation, bytes_per_second=rate if is_leaving and rate > 0 else None)
