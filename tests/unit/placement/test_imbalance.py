"""How uneven a cluster is."""

from __future__ import annotations

import pytest

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostState, Snapshot, VmState
from rebalancer.cluster.policy import Policy, Trigger
from rebalancer.cluster.selection import HostSelector
from rebalancer.placement.imbalance import Imbalance, imbalance
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm


def measured(snapshot: Snapshot, policy: Policy | None = None) -> Imbalance:
    return imbalance(snapshot, Demand.as_measured(snapshot), policy or a_policy())


def test_the_spread_is_the_largest_distance_from_the_mean() -> None:
    vms = [a_vm("a", on="h1", cpu_used_cores=8.0, memory_bytes=32 * GIB)]

    found = measured(a_snapshot(vms=vms))

    assert found.spread_cpu_ratio == pytest.approx(0.25)
    assert found.spread_memory_ratio == pytest.approx(0.25)
    assert found.hottest_ratio == pytest.approx(0.5)
    assert found.hot_hosts == ()


def test_hosts_above_the_policys_ratio_are_hot_hottest_first() -> None:
    vms = [
        a_vm("a", on="h1", cpu_used_cores=13.0),
        a_vm("b", on="h2", memory_bytes=60 * GIB),
        a_vm("c", on="h3", cpu_used_cores=12.0),
    ]
    hosts = [a_host("h1"), a_host("h2"), a_host("h3")]

    found = measured(a_snapshot(hosts, vms), a_policy(trigger=Trigger(hot_ratio=0.8)))

    assert found.hot_hosts == ("h2", "h1")


def test_unequal_hosts_that_are_equally_full_are_even() -> None:
    hosts = [a_host("h1", cpu_cores=8.0), a_host("h2", cpu_cores=16.0)]
    vms = [a_vm("a", on="h1", cpu_used_cores=2.0), a_vm("b", on="h2", cpu_used_cores=4.0)]

    assert measured(a_snapshot(hosts, vms)).spread_cpu_ratio == pytest.approx(0.0)


def test_the_hosts_own_use_counts() -> None:
    hosts = [a_host("h1", cpu_used_cores=8.0), a_host("h2")]

    assert measured(a_snapshot(hosts)).hottest_ratio == pytest.approx(0.5)


def test_only_hosts_that_are_up_and_in_the_policy_count() -> None:
    hosts = [
        a_host("h1", site="tokyo"),
        a_host("h2", site="tokyo", state=HostState.DRAINING),
        a_host("h3"),
    ]
    vms = [a_vm(f"vm{k}", on=f"h{k}", cpu_used_cores=10.0) for k in (2, 3)]
    vms += [a_vm("off", on="h1", state=VmState.SHUTOFF, memory_bytes=64 * GIB)]

    found = measured(a_snapshot(hosts, vms), a_policy(applies=HostSelector(sites=("tokyo",))))

    assert found.hottest_ratio == 0.0


def test_a_cluster_without_hosts_is_even() -> None:
    found = measured(a_snapshot([a_host("h1", state=HostState.DOWN)]))

    assert found.spread_cpu_ratio == 0.0
    assert found.hot_hosts == ()
