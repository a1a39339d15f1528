"""What the settings mean to the stages: hosts to observe, links between sites, patience."""

from __future__ import annotations

from collections.abc import Mapping

from rebalancer.cluster.inventory import HostId, Link, Site
from rebalancer.collect.observations import LibvirtHost
from rebalancer.rollout.libvirt_driver import CallLimits, HostAddress
from rebalancer.rollout.steps import FailureBudget
from rebalancer.rollout.track import Times
from rebalancer.service.config_format import HostSettings, Settings


def libvirt_hosts(settings: Settings) -> tuple[LibvirtHost, ...]:
    """Return the hosts as `collect` wants them; their names are their ids."""
    return tuple(_libvirt_host(host) for host in settings.hosts)


def migration_uris(settings: Settings) -> Mapping[HostId, str]:
    """Return where hosts reach each other's libvirt when they migrate, for printed commands."""
    return {HostId(host.name): host.peer_uri or host.uri for host in settings.hosts}


def host_addresses(settings: Settings) -> Mapping[HostId, HostAddress]:
    """Return how the driver and the hosts reach each host."""
    return {
        HostId(host.name): HostAddress(
            uri=host.uri, peer_uri=host.peer_uri, migration_uri=host.migration_uri
        )
        for host in settings.hosts
    }


def call_limits(settings: Settings) -> CallLimits:
    """Return how long calls to libvirt may take."""
    return CallLimits(
        call_seconds=settings.rollout.call_timeout_seconds,
        look_seconds=min(CallLimits().look_seconds, settings.rollout.call_timeout_seconds),
        abort_seconds=settings.rollout.abort_timeout_seconds,
    )


def sites_of(settings: Settings) -> tuple[Site, ...]:
    """Return the configured sites; one that only a host names is there without further facts."""
    described = {entry.name: entry.site() for entry in settings.sites}
    named = (host.site for host in settings.hosts if host.site is not None)
    return tuple((described | {n: Site(name=n) for n in named if n not in described}).values())


def links_of(settings: Settings) -> tuple[Link, ...]:
    """Return the configured links between sites."""
    return tuple(entry.link() for entry in settings.links)


def rollout_times(settings: Settings) -> Times:
    """Return how long a rollout waits for what."""
    return Times(shutdown_seconds=settings.rollout.shutdown_timeout_seconds)


def failure_budget(settings: Settings) -> FailureBudget:
    """Return how many migrations may fail before a rollout starts no more."""
    rollout = settings.rollout
    return FailureBudget(failures=rollout.failure_budget, ratio=rollout.failure_share)


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
        cpu_from_guests=host.cpu_from_guests,
        idle_watts=host.idle_watts,
        max_watts=host.max_watts,
    )
