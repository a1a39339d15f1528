"""Where a command's cluster comes from: libvirt hosts, a scenario, or a snapshot file.

A command that only looks gets a `ReadAccess`, in which there is nothing to change a host with.
Only `open_for_change` makes a driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.policy import Policy
from rebalancer.collect.dirty_rate_probe import LibvirtDirtyRateProbe
from rebalancer.collect.libvirt_source import LibvirtSource
from rebalancer.collect.remembered_use import UseMemory
from rebalancer.collect.snapshot_file import SnapshotFile
from rebalancer.collect.sources import DirtyRateProbe, InventorySource
from rebalancer.errors import UsageError
from rebalancer.rollout.driver import Clock, HypervisorDriver
from rebalancer.rollout.hooks import NO_HOOKS, Hooks
from rebalancer.rollout.libvirt_driver import LibvirtDriver
from rebalancer.rollout.power import CensusTaker, PowerDriver
from rebalancer.service.clock import SteadyClock, SystemClock
from rebalancer.service.config import Settings
from rebalancer.service.configured import (
    call_limits,
    host_addresses,
    libvirt_hosts,
    links_of,
    migration_uris,
    racks_of,
    sites_of,
    with_history,
)
from rebalancer.service.hooks import hooks_of
from rebalancer.service.policy_file import parse_policy, read_policy
from rebalancer.service.policy_file import policy_of as read_policy_part
from rebalancer.service.power_switches import census_taker, power_driver
from rebalancer.service.power_view import known_asleep, power_marks
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.scenario import Scenario, read_scenario
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_power import SimulatedPower


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """What the operator named; nothing at all means the configured hosts."""

    scenario: Path | None = None
    snapshot: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAccess:
    """A cluster that can be looked at."""

    cluster: str
    host_names: tuple[str, ...]
    """Names known without asking any host."""
    source: InventorySource
    clock: Clock
    uris: Mapping[HostId, str]
    """Where hosts reach each other's hypervisor, for printed commands."""
    own_policy: Policy | None = None
    """A scenario brings its policy with it."""
    probe: Callable[[], DirtyRateProbe] | None = None
    """Opens what measures dirty rates; `None` where there are no guests to measure."""
    facts: InventorySource | None = None
    """Tells the same without the past, while VMs are moved; it may take its time. `None`: the
    source itself answers at once."""
    is_real: bool = True
    """Whether hosts that are drained according to the journal are drained in here too."""
    has_past: bool = True
    """Whether what the journal tells of its VMs has happened to them: a scenario begins anew each
    time, so that what an earlier rehearsal moved has not been moved in it."""

    def for_a_rollout(self) -> ReadAccess:
        """The same, by a clock that nobody can set while VMs are moved."""
        return replace(self, clock=SteadyClock()) if type(self.clock) is SystemClock else self


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


def open_for_reading(
    settings: Settings, where: Where, memory: UseMemory | None = None
) -> ReadAccess:
    """Reach the cluster without any means to change it; `memory` keeps what was used before."""
    if where.scenario is not None and where.snapshot is not None:
        raise UsageError("give --scenario or --snapshot, not both: a plan is for one cluster")
    if where.scenario is not None:
        scenario = _rehearsed(settings, where.scenario)
        return replace(simulated(scenario, scenario.build()), has_past=False)
    if where.snapshot is not None:
        return _saved(where.snapshot)
    return _configured(settings, memory)


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
        scenario = _rehearsed(settings, where.scenario)
        datacentre = scenario.build()
        power = SimulatedPower(datacentre)
        return ChangeAccess(
            read=replace(simulated(scenario, datacentre), has_past=False),
            driver=SimulatedDriver(datacentre),
            power=power,
            census=power.census,
            switchable=frozenset(datacentre.hosts),
        )
    read = _configured(settings, memory)
    switches = settings.power.switch
    return ChangeAccess(
        read=read,
        driver=_libvirt_driver(settings),
        hooks=hooks_of(settings),
        power=power_driver(settings, read.clock) if switches else None,
        census=census_taker(settings) if switches else None,
    )


def _rehearsed(settings: Settings, file: Path) -> Scenario:
    """Read a scenario; one called like the configured cluster gets another name.

    Locks, drains and pauses go by the cluster's name: a rehearsal must not have those of real
    hosts, nor they its.
    """
    scenario = read_scenario(file)
    spec = scenario.datacentre
    if not settings.hosts or spec.cluster != settings.cluster:
        return scenario
    return replace(scenario, datacentre=replace(spec, cluster=f"{spec.cluster} (scenario)"))


def simulated(scenario: Scenario, datacentre: Datacentre) -> ReadAccess:
    """Look at a datacentre that was built from a scenario."""
    source = scenario.source(datacentre)
    return ReadAccess(
        cluster=datacentre.spec.cluster,
        host_names=tuple(host.host.name for host in datacentre.spec.hosts),
        source=source,
        clock=VirtualClock(datacentre),
        uris={},
        own_policy=policy_of(scenario),
        probe=lambda: source,
    )


def policy_of(scenario: Scenario) -> Policy:
    """Read the policy that a scenario names or holds."""
    if isinstance(scenario.policy, Path):
        return read_policy(scenario.policy)
    if scenario.policy_text is not None:
        return read_policy_part(scenario.policy_text)
    return parse_policy(scenario.policy, origin=f"scenario {scenario.name}, policy")


def _saved(file: Path) -> ReadAccess:
    source = SnapshotFile(file)
    snapshot = source.observe()
    return ReadAccess(
        cluster=snapshot.cluster,
        host_names=tuple(host.name for host in snapshot.hosts),
        source=source,
        clock=SystemClock(),
        uris={},
        is_real=False,
    )


def _configured(settings: Settings, memory: UseMemory | None) -> ReadAccess:
    hosts = known_asleep(libvirt_hosts(settings), power_marks(settings, settings.cluster))
    if not hosts:
        raise UsageError(
            "no hosts are configured: list them in a file and name it with --config "
            "(config/rebalancer.yaml explains every key), or look at a --scenario or --snapshot"
        )
    clock = SystemClock()
    source = LibvirtSource(
        hosts,
        cluster=settings.cluster,
        now=clock.now,
        sites=sites_of(settings),
        links=links_of(settings),
        racks=racks_of(settings),
        sampling_seconds=settings.collect.sampling_seconds,
        counts_waiting=settings.collect.count_waiting,
        timeout_seconds=settings.collect.timeout_seconds,
    )
    return ReadAccess(
        cluster=settings.cluster,
        host_names=tuple(host.name for host in hosts),
        source=with_history(settings, source, clock.now, memory),
        facts=source,
        clock=clock,
        uris=migration_uris(settings),
        probe=lambda: LibvirtDirtyRateProbe(
            hosts, now=clock.now, plan=settings.dirty_rates.probe_plan()
        ),
    )


def _libvirt_driver(settings: Settings) -> LibvirtDriver:
    return LibvirtDriver(
        host_addresses(settings),
        clock=SteadyClock(),  # it measures how long calls take
        limits=call_limits(settings),
        tls=settings.rollout.tls,
        parallel_connections=settings.rollout.parallel_connections,
    )
