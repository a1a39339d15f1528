"""A connection to one host through libvirt: its units, flags and errors end here.

The only module of `collect` that knows libvirt. It can be imported without libvirt-python; what
needs that says how to install it. Nothing in here can change a host: connections are read-only,
except those of `connect_for_probe`, which `dirty_rate_probe` opens when it is asked to.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rebalancer.collect.domain_jobs import running_jobs
from rebalancer.collect.hypervisor import (
    DirtyRateConnection,
    DomainRecord,
    HypervisorConnection,
    HypervisorError,
    Job,
    JobOperation,
    Stats,
)
from rebalancer.errors import UsageError

_MOST_CELLS = 64
_MIB = 2**20
_UNKNOWN_JOB = Job(operation=JobOperation.UNKNOWN)


def connect_read_only(uri: str) -> HypervisorConnection:
    """Connect to a host, read-only; raise `HypervisorError` when that fails."""
    with _translated():
        return _LibvirtConnection(_opened(libvirt_library().openReadOnly, uri))


def connect_for_probe(uri: str) -> DirtyRateConnection:
    """Connect to a host with the right to start measurements, which libvirt asks for."""
    with _translated():
        return _LibvirtConnection(_opened(libvirt_library().open, uri))


def connect_for_check(uri: str) -> _LibvirtConnection:
    """Connect to a host, read-only, to ask what `host_check` wants to know."""
    with _translated():
        return _LibvirtConnection(_opened(libvirt_library().openReadOnly, uri))


@functools.cache
def libvirt_library() -> Any:  # noqa: ANN401 (libvirt-python has no types)
    """Import libvirt-python and set it up, once; raise `UsageError` where it is not installed."""
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
    with contextlib.suppress(libvirt_library().libvirtError):  # local drivers have none
        # A host that lost power never closes its connections: 20 s after that we do.
        connection.setKeepAlive(5, 3)
    return connection


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except libvirt_library().libvirtError as error:
        raise HypervisorError(str(error)) from error


class _LibvirtConnection:
    """One host, asked through libvirt; see `HypervisorConnection` and `DirtyRateConnection`."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 (libvirt-python has no types)
        self._connection = connection
        self._api = libvirt_library()

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
        with contextlib.suppress(libvirt_library().libvirtError):
            self._connection.close()

    def _list(self, flags: int) -> list[Any]:
        return list(self._connection.listAllDomains(flags))

    def _uuids(self, flags: int) -> frozenset[str]:
        return frozenset(domain.UUIDString() for domain in self._list(flags))


def _definition(domain: Any) -> str | None:  # noqa: ANN401 (libvirt-python has no types)
    """Return a domain's XML, `None` when libvirt does not tell it, empty when it is gone."""
    error_type = libvirt_library().libvirtError
    try:
        return str(domain.XMLDesc(0))
    except error_type as error:
        return "" if error.get_error_code() == libvirt_library().VIR_ERR_NO_DOMAIN else None


def _jobs(domains: Sequence[Any]) -> Mapping[str, Job]:
    """Return the jobs that run on active domains, by UUID."""
    return running_jobs(
        {domain.UUIDString(): functools.partial(_job, domain) for domain in domains}
    )


def _job(domain: Any) -> Job | None:  # noqa: ANN401 (libvirt-python has no types)
    """Return what runs on a domain; `None` when nothing does, an unknown job where that is unclear.

    The target of a migration answers with an error, too (its statistics are the source's), so an
    error is no sign of peace.
    """
    try:
        stats = domain.jobStats(0)
    except libvirt_library().libvirtError as error:
        return None if _says_that_nothing_runs(domain, error) else _UNKNOWN_JOB
    if not stats.get("type"):
        return None
    number = stats.get("operation", 0)
    operation = JobOperation(number) if number in set(JobOperation) else JobOperation.UNKNOWN
    # libvirt fills these in when the first pass has begun; 0 says that it has not.
    rate = float(stats.get("memory_bps", 0)) + float(stats.get("disk_bps", 0))
    is_leaving = operation is JobOperation.MIGRATION_OUT
    return Job(operation=operation, bytes_per_second=rate if is_leaving and rate > 0 else None)


def _says_that_nothing_runs(domain: Any, error: Any) -> bool:  # noqa: ANN401 (as above)
    """Whether an answer means that there is no job: the domain is gone or off, or no driver's."""
    api, code = libvirt_library(), error.get_error_code()
    if code in (api.VIR_ERR_NO_DOMAIN, api.VIR_ERR_NO_SUPPORT):
        return True
    if code != api.VIR_ERR_OPERATION_INVALID:
        return False
    # To a domain that is off, and with some versions to one that is arriving.
    try:
        return not domain.isActive()
    except api.libvirtError as lost:
        return bool(lost.get_error_code() == api.VIR_ERR_NO_DOMAIN)
