"""Hosts that a policy evacuates are draining to every stage; others are as they were."""

from __future__ import annotations

from rebalancer.cluster.inventory import HostState
from rebalancer.cluster.policy import DrainGoal, MovementGoal
from rebalancer.cluster.selection import HostSelector
from rebalancer.service.evacuation import with_evacuation
from tests.builders import a_host, a_policy, a_snapshot

TOKYO = DrainGoal(evacuate=HostSelector(sites=("tokyo",)))
HOSTS = [
    a_host("t1", site="tokyo"),
    a_host("t2", site="tokyo", state=HostState.DOWN),
    a_host("o1", site="osaka"),
]


def test_the_hosts_of_an_evacuated_site_drain() -> None:
    seen = with_evacuation(a_snapshot(HOSTS), a_policy(goals=(TOKYO, MovementGoal())))

    assert [host.state for host in seen.hosts] == [
        HostState.DRAINING,
        HostState.DOWN,
        HostState.UP,
    ]
    assert seen.hosts[0].state_reason == "evacuated by policy test"


def test_a_policy_evacuates_no_host_that_it_is_not_about() -> None:
    policy = a_policy(goals=(TOKYO,), applies=HostSelector(sites=("osaka",)))

    assert with_evacuation(a_snapshot(HOSTS), policy).hosts == tuple(HOSTS)


def test_without_evacuation_nothing_changes() -> None:
    snapshot = a_snapshot(HOSTS)

    assert with_evacuation(snapshot, a_policy(goals=(DrainGoal(),))) is snapshot
