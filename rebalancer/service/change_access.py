"""A cluster that can be changed: what `access` gives to look at, with a driver.

Only `open_for_change` makes a driver.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rebalancer.cluster.inventory import HostId
from rebalancer.collect.remembered_use import UseMemory
from rebalancer.errors import UsageError
from rebalancer.rollout.driver import HypervisorDriver
from rebalancer.rollout.hooks import NO_HOOKS, Hooks
from rebalancer.rollout.libvirt_driver import LibvirtDriver
from rebalancer.rollout.power import CensusTaker, PowerDriver
from rebalancer.service.access import ReadAccess, Where, configured
from rebalancer.service.clock import SteadyClock
from rebalancer.service.config import Settings
from rebalancer.service.configured_rollout import call_limits, host_addresses
from rebalancer.service.hooks import hooks_of
from rebalancer.service.power_switches import census_taker, power_driver
from rebalancer.service.rehearsed_access import scenario_for, simulated
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_power import SimulatedPower


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeAccess:
    """A cluster that can be changed, too."""

    read: ReadAccess
    driver: HypervisorDriver
    hooks: Hooks = NO_HOOKS
    """What the operator wants to be run before and after; nothing in a rehearsal."""
    power: PowerDriver | None = None
    """Switches hosts; `None` where the settings do not let cycles do that."""
    census: CensusTaker | None = None
    """Asks one host what it has, right before it is switched."""
    switchable: frozenset[HostId] = frozenset()
    """Hosts that can be switched beyond those whose settings say how: simulated ones."""

    def close(self) -> None:
        """Let go of hypervisors, and kill hooks that still run."""
        self.hooks.close()
        self.driver.close()


def open_for_change(
    settings: Settings, where: Where, memory: UseMemory | None = None
) -> ChangeAccess:
    """Reach the cluster with a driver."""
    if where.snapshot is not None:
        raise UsageError(
            "a snapshot file cannot be changed: leave --snapshot out for the configured hosts, "
            "or name a --scenario to rehearse on"
        )
    if where.scenario is not None:
        scenario = scenario_for(settings, where.scenario)
        datacentre = scenario.build()
        power = SimulatedPower(datacentre)
        return ChangeAccess(
            read=replace(simulated(scenario, datacentre), has_past=False),
            driver=SimulatedDriver(datacentre),
            power=power,
            census=power.census,
            switchable=frozenset(datacentre.hosts),
        )
    read = configured(settings, memory)
    switches = settings.power.switch
    return ChangeAccess(
        read=read,
        driver=_libvirt_driver(settings),
        hooks=hooks_of(settings),
        power=power_driver(settings, read.clock) if switches else None,
        census=census_taker(settings) if switches else None,
    )


def _libvirt_driver(settings: Settings) -> LibvirtDriver:
    return LibvirtDriver(
        host_addresses(settings),
        clock=SteadyClock(),  # it measures how long calls take
        limits=call_limits(settings),
        tls=settings.rollout.tls,
        parallel_connections=settings.rollout.parallel_connections,
    )
