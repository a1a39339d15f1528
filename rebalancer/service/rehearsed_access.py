"""A scenario, reached as configured hosts are: a datacentre in memory, with its own policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rebalancer.cluster.policy import Policy
from rebalancer.service.access import ReadAccess
from rebalancer.service.config import Settings
from rebalancer.service.file_kind import FileKind, expecting
from rebalancer.service.policy_file import parse_policy, read_policy
from rebalancer.service.policy_file import policy_of as read_policy_part
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.scenario import Scenario, read_scenario


def rehearse_for_reading(settings: Settings, file: Path) -> ReadAccess:
    """Build what a scenario describes, to be looked at."""
    scenario = scenario_for(settings, file)
    return replace(simulated(scenario, scenario.build()), has_past=False)


def scenario_for(settings: Settings, file: Path) -> Scenario:
    """Read a scenario; one called like the configured cluster gets another name.

    Locks, drains and pauses go by the cluster's name: a rehearsal must not have those of real
    hosts, nor they its.
    """
    with expecting(FileKind.SCENARIO, file):
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
