"""What the settings mean to a rollout: how hosts are reached, patience, how much may fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.policy import Policy
from rebalancer.rollout.executor import Settings as ExecutorSettings
from rebalancer.rollout.libvirt_connections import CallLimits, HostAddress
from rebalancer.rollout.steps import FailureBudget
from rebalancer.rollout.track import Times
from rebalancer.service.config_format import Settings


def host_addresses(settings: Settings) -> Mapping[HostId, HostAddress]:
    """Return how the driver and the hosts reach each host."""
    return {
        HostId(host.name): HostAddress(
            uri=host.uri,
            peer_uri=host.peer_uri,
            migration_uri=host.migration_uri,
            storage=host.storage,
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


def rollout_times(settings: Settings) -> Times:
    """Return how long a rollout waits for what."""
    return Times(shutdown_seconds=settings.rollout.shutdown_timeout_seconds)


def rollout_settings(
    settings: Settings, policy: Policy, uris: Mapping[HostId, str]
) -> ExecutorSettings:
    """Return what the policy and the settings say about rollouts."""
    return replace(
        ExecutorSettings.of(policy),
        budget=failure_budget(settings),
        times=rollout_times(settings),
        uri_of=lambda host: uris.get(host, host),
    )


def failure_budget(settings: Settings) -> FailureBudget:
    """Return how many migrations may fail before a rollout starts no more."""
    rollout = settings.rollout
    return FailureBudget(failures=rollout.failure_budget, ratio=rollout.failure_share)
