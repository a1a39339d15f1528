"""In which groups hosts are drained one group after the other."""

from __future__ import annotations

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.policy import Headroom
from rebalancer.forecast.demand import forecast_demand
from rebalancer.service.maintenance import Grouping, maintenance_groups
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm


def grouped(hosts: str, most: int, *, vms_on_each: int, failures: int = 0, of: int = 4) -> Grouping:
    names = [f"h{number}" for number in range(1, of + 1)]
    snapshot = a_snapshot(
        hosts=[a_host(name) for name in names],
        vms=[
            a_vm(f"{name}-{number}", on=name, memory_bytes=16 * GIB)
            for name in names
            for number in range(vms_on_each)
        ],
    )
    policy = a_policy(headroom=Headroom(cpu_ratio=0, memory_ratio=0, host_failures=failures))
    named = [HostId(name) for name in hosts.split()]
    return maintenance_groups(snapshot, named, most, policy, forecast_demand(snapshot))


def test_groups_are_as_large_as_was_asked_for_and_in_the_order_of_the_names() -> None:
    assert grouped("h3 h1 h2", 2, vms_on_each=1).groups == (("h3", "h1"), ("h2",))


def test_a_group_is_closed_early_if_the_others_could_not_run_everything() -> None:
    """Eight VMs of 16 GiB fit on two hosts of 64 GiB and not on one."""
    assert grouped("h1 h2 h3", 3, vms_on_each=2).groups == (("h1", "h2"), ("h3",))


def test_two_hosts_are_never_drained_together_whose_loss_breaks_the_reserve_for_failures() -> None:
    assert grouped("h1 h2", 2, vms_on_each=2, failures=1).groups == (("h1",), ("h2",))


def test_a_host_that_the_cluster_cannot_do_without_is_named_with_what_is_short() -> None:
    found = grouped("h1 h2", 2, vms_on_each=3, failures=1)

    assert found.groups == ()
    assert found.needed.keys() == {"h1", "h2"}
    assert "host_failures: 1, memory" in found.needed[HostId("h1")]


def test_a_host_that_is_named_twice_is_drained_once() -> None:
    assert grouped("h1 h1", 1, vms_on_each=1).groups == (("h1",),)
