"""What the settings say about switching hosts, made into switches, and who asks libvirt."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import TimeoutError as NoAnswerError

from rebalancer.cluster.inventory import HostId
from rebalancer.collect.hypervisor import HypervisorError
from rebalancer.collect.libvirt_connection import connect_read_only
from rebalancer.rollout.background import in_background
from rebalancer.rollout.driver import Clock
from rebalancer.rollout.power import (
    Census,
    CensusTaker,
    NoCensus,
    PowerGauge,
    PowerSwitch,
    SwitchedPower,
)
from rebalancer.rollout.power_command import CommandSwitch, PowerCommands
from rebalancer.rollout.power_redfish import RedfishAddress, RedfishSwitch
from rebalancer.rollout.power_steps import PowerTimes
from rebalancer.service.config_format import HostSettings, Settings
from rebalancer.service.power_format import HostPowerSettings

CALLS_AT_MOST = 4.0
"""One command to a BMC is so many requests, each with the time limit of one."""


def power_driver(settings: Settings, clock: Clock) -> SwitchedPower:
    """Make what switches hosts; only commands and cycles that may act call this."""
    return SwitchedPower(
        _switches(settings), clock, CALLS_AT_MOST * settings.power.call_timeout_seconds
    )


def power_gauge(settings: Settings) -> PowerGauge:
    """Make what only tells whether hosts are on."""
    return PowerGauge(_switches(settings))


def can_switch(settings: Settings) -> frozenset[HostId]:
    """The hosts whose settings say how they are switched."""
    return frozenset(HostId(host.name) for host in settings.hosts if host.power is not None)


def power_times(settings: Settings) -> PowerTimes:
    """Return how long hosts may take."""
    power = settings.power
    return PowerTimes(boot_seconds=power.boot_seconds, shutdown_seconds=power.shutdown_seconds)


def census_taker(settings: Settings) -> CensusTaker:
    """Make what asks single hosts which domains they have, over read-only connections."""
    uris = {HostId(host.name): host.uri for host in settings.hosts}
    limit = settings.collect.timeout_seconds

    def take(host: HostId) -> Census | NoCensus:
        asked = in_background(f"census of {host}", lambda: _census(host, uris[host]))
        try:
            return asked.result(limit)
        except (NoAnswerError, TimeoutError):
            return NoCensus(host=host, why=f"no answer in {limit:.0f} s")
        except HypervisorError as error:
            return NoCensus(host=host, why=f"{uris[host]}: {error}")

    return take


def _census(host: HostId, uri: str) -> Census:
    with contextlib.closing(connect_read_only(uri)) as connection:
        domains = connection.domains()
    return Census(
        host=host,
        active=tuple(domain.name for domain in domains if domain.is_active),
        busy=tuple(domain.name for domain in domains if domain.job is not None),
        autostart=tuple(domain.name for domain in domains if domain.autostart),
    )


def _switches(settings: Settings) -> Mapping[HostId, PowerSwitch]:
    limit = settings.power.call_timeout_seconds
    return {
        HostId(host.name): _switch(host, host.power, limit)
        for host in settings.hosts
        if host.power is not None
    }


def _switch(host: HostSettings, power: HostPowerSettings, limit_seconds: float) -> PowerSwitch:
    if power.redfish is None:
        commands = PowerCommands(
            wake=power.wake_command, sleep=power.sleep_command, state=power.state_command
        )
        return CommandSwitch(HostId(host.name), commands, limit_seconds)
    address = RedfishAddress(
        url=power.redfish,
        user=power.user,
        password_file=power.password_file,
        ca_file=power.ca_file,
        checks_certificate=power.check_certificate,
    )
    return RedfishSwitch(address, limit_seconds)
