"""One connection -> what there is to know about its host and VMs, with CPU use over a window.

What a host must tell, or it is unknown: its CPUs, memory, capabilities and domains. Everything
else (pools, networks, CPU features) is an unknown fact when the host cannot tell it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from rebalancer.cluster.inventory import HugepagePool, NumaNode
from rebalancer.collect.device_pools import read_device_pool
from rebalancer.collect.domain_reader import read_domains, with_sample
from rebalancer.collect.host_xml import (
    Capabilities,
    cpu_features,
    network_names,
    read_capabilities,
)
from rebalancer.collect.hypervisor import HypervisorConnection, HypervisorError, Stats
from rebalancer.collect.observations import DomainReport, HostFacts, HostReport, LibvirtHost
from rebalancer.collect.storage_identity import Pool, read_pool
from rebalancer.collect.xml_text import UnreadableXmlError


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopwatch:
    """How a window of time is measured and waited for."""

    monotonic: Callable[[], float]
    sleep: Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """CPU counters at one instant."""

    at_seconds: float
    host_busy_seconds: float | None
    """`None` where it is not asked for, or not told."""
    stats: Mapping[str, Stats]


def read_host(
    host: LibvirtHost,
    connection: HypervisorConnection,
    *,
    sampling_seconds: float,
    stopwatch: Stopwatch,
    counts_waiting: bool = False,
) -> HostReport:
    """Ask a host for everything; raise `HypervisorError` when it cannot tell the essentials.

    Whatever is slow is asked between the two samples, where it costs no extra time.
    `counts_waiting`: use is what VMs would have used, had they not waited for a processor.
    """
    first = _sample(host, connection, stopwatch, with_details=True)
    facts = _host_facts(connection)
    if not (host.memory_bytes or facts.memory_bytes) or not (host.cpu_cores or facts.cpu_cores):
        raise HypervisorError("it does not tell its CPUs or memory; set them in its configuration")
    domains = read_domains(connection, facts.arch, first.stats)
    elapsed_seconds = stopwatch.monotonic() - first.at_seconds
    stopwatch.sleep(max(0.0, sampling_seconds - elapsed_seconds))
    second = _sample(host, connection, stopwatch, with_details=counts_waiting)
    domains += _arrived_since(connection, facts, second, domains)
    sampled = tuple(_with_samples(domains, first, second, counts_waiting=counts_waiting))
    used = _cpu_used_cores(first, second)
    if used is not None:
        used += sum(report.cpu_waited_cores for report in sampled)
    return HostReport(host=host, facts=replace(facts, cpu_used_cores=used), domains=sampled)


def _sample(
    host: LibvirtHost, connection: HypervisorConnection, stopwatch: Stopwatch, *, with_details: bool
) -> Sample:
    stats = connection.stats(with_details=with_details)
    busy = None if host.cpu_from_guests else _if_told(connection.cpu_busy_seconds)
    return Sample(at_seconds=stopwatch.monotonic(), host_busy_seconds=busy, stats=stats)


def _arrived_since(
    connection: HypervisorConnection,
    facts: HostFacts,
    second: Sample,
    known: Iterable[DomainReport],
) -> tuple[DomainReport, ...]:
    """Read the VMs that came during the window: their old host no longer has them either."""
    new = second.stats.keys() - {report.uuid for report in known}
    if not new:
        return ()
    read = read_domains(connection, facts.arch, second.stats)
    return tuple(report for report in read if report.uuid in new)


def _with_samples(
    domains: Iterable[DomainReport], first: Sample, second: Sample, *, counts_waiting: bool
) -> Iterable[DomainReport]:
    """Yield the domains that are still there, as they were at the second sample."""
    elapsed_seconds = second.at_seconds - first.at_seconds
    for report in domains:
        if (after := second.stats.get(report.uuid)) is not None:
            before = first.stats.get(report.uuid, {})
            yield with_sample(report, before, after, elapsed_seconds, counts_waiting=counts_waiting)


def _cpu_used_cores(first: Sample, second: Sample) -> float | None:
    """Return the host's CPU use over the window; `None` when it cannot be told."""
    before, after = first.host_busy_seconds, second.host_busy_seconds
    elapsed_seconds = second.at_seconds - first.at_seconds
    if before is None or after is None or after < before or elapsed_seconds <= 0:
        return None
    return (after - before) / elapsed_seconds


def _host_facts(connection: HypervisorConnection) -> HostFacts:
    try:
        capabilities = read_capabilities(connection.capabilities_xml())
    except UnreadableXmlError as error:
        raise HypervisorError(f"its capabilities cannot be read: {error}") from error
    pools = _if_told(connection.pool_xmls)
    return HostFacts(
        hostname=connection.hostname(),
        host_uuid=capabilities.host_uuid,
        cpu_cores=float(connection.cpu_count()),
        memory_bytes=_memory_bytes(connection, capabilities),
        cpu_used_cores=None,
        arch=capabilities.arch,
        cpu_model=capabilities.cpu_model,
        cpu_models=_cpu_models(connection, capabilities),
        cpu_features=_cpu_features(connection, capabilities),
        machine_types=capabilities.machine_types or None,
        numa_nodes=_numa_nodes(connection, capabilities) or None,
        hugepages=_hugepages(connection, capabilities),
        pools=None if pools is None else tuple(_pools(connection, pools)),
        networks=_networks(connection),
        device_pools=_device_pools(connection),
        tsc_hertz=capabilities.tsc_hertz,
        tsc_scales=capabilities.tsc_scales,
    )


def _memory_bytes(connection: HypervisorConnection, capabilities: Capabilities) -> int:
    """Return the memory of the machine, from its NUMA nodes where it does not tell the sum."""
    measured = _if_told(connection.memory_bytes)
    return measured or sum(node.memory_bytes for node in capabilities.numa_nodes)


def _cpu_models(
    connection: HypervisorConnection, capabilities: Capabilities
) -> tuple[str, ...] | None:
    """Return the models that can be named here; what the CPU can do is in its features.

    Which of them KVM can really give is in the domain capabilities, and those libvirt keeps
    from read-only connections (since CVE-2019-10167).
    """
    arch = capabilities.arch
    names = _if_told(lambda: connection.cpu_model_names(arch)) if arch else None
    return tuple(sorted(names)) if names else None


def _cpu_features(
    connection: HypervisorConnection, capabilities: Capabilities
) -> frozenset[str] | None:
    cpu_xml = capabilities.cpu_xml
    if not capabilities.cpu_model or not cpu_xml:
        return None
    try:
        expanded = _if_told(lambda: connection.expanded_cpu_xml(cpu_xml))
        return cpu_features(expanded) if expanded else None
    except UnreadableXmlError:
        return None


def _hugepages(
    connection: HypervisorConnection, capabilities: Capabilities
) -> tuple[HugepagePool, ...]:
    sizes = [size for size, _ in capabilities.hugepages]
    free = (_if_told(lambda: connection.free_pages(sizes)) or {}) if sizes else {}
    return tuple(
        HugepagePool(
            page_bytes=size, total_pages=total, free_pages=min(total, free.get(size, total))
        )
        for size, total in capabilities.hugepages
    )


def _numa_nodes(
    connection: HypervisorConnection, capabilities: Capabilities
) -> tuple[NumaNode, ...]:
    """The nodes with how many of their huge pages are free, where any are set aside."""
    sizes = [size for size, _ in capabilities.hugepages]
    free = (_if_told(lambda: connection.free_pages_by_node(sizes)) or {}) if sizes else {}
    return tuple(
        replace(
            node,
            hugepages=tuple(
                replace(pages, free_pages=min(pages.total_pages, counts.get(pages.page_bytes, 0)))
                if (counts := free.get(place if node.number is None else node.number))
                else pages
                for pages in node.hugepages
            ),
        )
        for place, node in enumerate(capabilities.numa_nodes)
    )


def _pools(connection: HypervisorConnection, xmls: Iterable[str]) -> Iterator[Pool]:
    """Read storage pools, and what is in those that are folders of files."""
    for pool in _readable(read_pool, xmls):
        if pool.free_bytes is None:
            yield pool
            continue
        names = _if_told(functools.partial(connection.files_in, pool.name))
        yield replace(pool, files=frozenset(names or ()))


def _device_pools(connection: HypervisorConnection) -> Mapping[str, frozenset[str]]:
    found = _readable(read_device_pool, _if_told(connection.network_xmls) or ())
    return dict(pool for pool in found if pool is not None)


def _networks(connection: HypervisorConnection) -> frozenset[str] | None:
    """Return all that guests could be plugged into; `None` when one part of it is not told."""
    networks, interfaces = (
        _if_told(connection.network_xmls),
        _if_told(connection.interface_names),
    )
    if networks is None or interfaces is None:
        return None
    return frozenset(interfaces).union(*_readable(network_names, networks))


def _readable[T](read: Callable[[str], T], xmls: Iterable[str]) -> Iterable[T]:
    for xml in xmls:
        try:
            yield read(xml)
        except UnreadableXmlError:
            continue


def _if_told[T](call: Callable[[], T]) -> T | None:
    """Ask for something that a host need not be able to tell (a driver may be missing)."""
    try:
        return call()
    except HypervisorError:
        return None
