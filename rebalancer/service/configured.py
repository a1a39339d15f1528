"""What the settings mean to those who look: hosts to observe, links between sites, past use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from urllib.parse import urlsplit

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.collect.observations import LibvirtHost
from rebalancer.collect.past_use import InventoryWithHistory, Requirement
from rebalancer.collect.prometheus_source import PrometheusSource, UsageQueries
from rebalancer.collect.remembered_use import UseMemory
from rebalancer.collect.sources import InventorySource
from rebalancer.service.config_format import HostSettings, Settings


def libvirt_hosts(settings: Settings) -> tuple[LibvirtHost, ...]:
    """Return the hosts as `collect` wants them; their names are their ids."""
    return tuple(_libvirt_host(host) for host in settings.hosts)


def migration_uris(settings: Settings) -> Mapping[HostId, str]:
    """Return where hosts reach each other's libvirt when they migrate, for printed commands."""
    return {HostId(host.name): host.peer_uri or host.uri for host in settings.hosts}


def sites_of(settings: Settings) -> tuple[Site, ...]:
    """Return the configured sites; one that only a host names is there without further facts."""
    described = {entry.name: entry.site() for entry in settings.sites}
    named = (host.site for host in settings.hosts if host.site is not None)
    return tuple((described | {n: Site(name=n) for n in named if n not in described}).values())


def links_of(settings: Settings) -> tuple[Link, ...]:
    """Return the configured links between sites."""
    return tuple(entry.link() for entry in settings.links)


def racks_of(settings: Settings) -> tuple[Rack, ...]:
    """Return the racks whose uplinks are configured."""
    return tuple(entry.rack() for entry in settings.racks)


def with_history(
    settings: Settings,
    inventory: InventorySource,
    now: Callable[[], datetime],
    memory: UseMemory | None = None,
) -> InventorySource:
    """Add past use to what `inventory` sees, where a Prometheus is configured.

    With a `memory` it is asked only for what that does not hold yet.
    """
    asked = settings.prometheus
    if asked.url is None:
        return inventory
    from_guests = {HostId(host.name) for host in settings.hosts if host.cpu_from_guests}
    named = prometheus_names(settings)
    server = PrometheusSource(
        url=asked.url,
        hosts={name: host for name, host in named.items() if host not in from_guests},
        queries=UsageQueries(
            vm_cpu=asked.vm_cpu_query,
            vm_label=asked.vm_label,
            host_cpu=asked.host_cpu_query,
            host_label=asked.host_label,
        ),
        step_seconds=asked.step_seconds,
        timeout_seconds=asked.timeout_seconds,
    )
    return InventoryWithHistory(
        inventory=inventory,
        usage=server if memory is None else memory.of(server),
        now=now,
        history_seconds=asked.history_seconds,
        step_seconds=asked.step_seconds,
        requirement=Requirement(
            max_age_seconds=asked.max_age_seconds, min_ratio=asked.min_coverage
        ),
        asks_hosts=asked.host_cpu_query is not None,
        hosts_from_guests=from_guests,
    )


def prometheus_names(settings: Settings) -> Mapping[str, HostId]:
    """Return every name that a Prometheus may call a host by, surest last."""
    found: dict[str, HostId] = {}
    for host in settings.hosts:
        for uri in (host.peer_uri, host.uri):
            if uri is not None and (name := _host_in(uri)):
                found[name] = HostId(host.name)
    found |= {host.name: HostId(host.name) for host in settings.hosts}
    stated = {host.prometheus_name: HostId(host.name) for host in settings.hosts}
    return found | {name: host for name, host in stated.items() if name is not None}


def _host_in(uri: str) -> str:
    try:
        return urlsplit(uri).hostname or ""
    except ValueError:  # brackets that are not closed, say: libvirt will tell
        return ""


def _libvirt_host(host: HostSettings) -> LibvirtHost:
    return LibvirtHost(
        name=host.name,
        uri=host.uri,
        site=host.site,
        rack=host.rack,
        labels=host.labels,
        state=host.state,
        cpu_cores=host.cpu_cores,
        memory_bytes=host.memory,
        reserved_memory_bytes=host.reserved_memory,
        nic_bytes_per_second=host.nic_bytes_per_second,
        storage=host.storage,
        networks=None if host.networks is None else frozenset(host.networks),
        devices=host.devices,
        cpu_from_guests=host.cpu_from_guests,
        idle_watts=host.idle_watts,
        max_watts=host.max_watts,
    )
