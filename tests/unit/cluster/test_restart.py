"""Restarting the VMs of failed hosts one by one."""

from __future__ import annotations

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.policy import BalanceGoal, Headroom, Policy, PowerGoal
from rebalancer.cluster.restart import stranded
from rebalancer.cluster.violations import violations
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm


def test_room_in_pieces_that_are_too_small_is_no_room() -> None:
    free = {"h1": 8.0, "h2": 8.0, "h3": 8.0}
    guests = {"h1": {"big": 10.0}, "h2": {}, "h3": {}}

    (found,) = stranded(free, guests, 1)

    assert (found.failed, found.vms, found.missing_bytes) == (("h1",), ("big",), 10.0)


def test_the_largest_goes_first_to_the_host_that_it_fills_best() -> None:
    free = {"h1": 0.0, "h2": 10.0, "h3": 6.0}
    guests = {"h1": {"a": 6.0, "b": 5.0, "c": 5.0}, "h2": {}, "h3": {}}

    assert list(stranded(free, guests, 1)) == []


def test_a_failed_host_takes_nothing_itself() -> None:
    assert [s.failed for s in stranded({"h1": 99.0}, {"h1": {"a": 1.0}}, 1)] == [("h1",)]


def test_any_two_may_fail_at_once() -> None:
    free = {"h1": 4.0, "h2": 4.0, "h3": 4.0}
    guests = {host: {host: 3.0} for host in free}

    assert list(stranded(free, guests, 1)) == []
    assert len(list(stranded(free, guests, 2))) == 3


def test_where_there_are_too_many_pairs_each_host_fails_with_the_fullest() -> None:
    hosts = [f"h{k:02}" for k in range(40)]
    free = dict.fromkeys(hosts, 1.0)
    guests = {host: {host: 1.0} for host in hosts} | {"h07": {"big": 1.0, "more": 1.0}}

    assert list(stranded(free, guests, 2)) == []
    assert next(stranded(dict.fromkeys(hosts, 0.0), guests, 2)).failed == ("h00", "h07")


def test_nothing_is_asked_of_no_failures() -> None:
    assert list(stranded({}, {"h1": {"a": 1.0}}, 0)) == []


SURVIVING = Headroom(cpu_ratio=0, memory_ratio=0, host_failures=1)


def fragmented() -> Snapshot:
    hosts = [a_host(f"h{k}", memory_bytes=16 * GIB) for k in range(4)]
    vms = [a_vm("big", on="h0", memory_bytes=12 * GIB)]
    vms += [a_vm(f"v{k}", on=f"h{k}", memory_bytes=6 * GIB) for k in (1, 2, 3)]
    return a_snapshot(hosts, vms)


def found(snapshot: Snapshot, policy: Policy) -> list[str]:
    demand = Demand.as_measured(snapshot)
    return [v.text for v in violations(snapshot, policy, demand, snapshot.assignment)]


def test_the_oracle_names_the_vm_and_the_host() -> None:
    assert found(fragmented(), a_policy(headroom=SURVIVING)) == [
        "if h0 failed, no host would have room enough to restart big"
    ]


def test_an_empty_host_is_room_unless_it_may_be_put_to_sleep() -> None:
    hosts = [a_host(f"h{k}", memory_bytes=16 * GIB) for k in range(3)]
    snapshot = a_snapshot(hosts, [a_vm(f"v{k}", on=f"h{k}", memory_bytes=10 * GIB) for k in (0, 1)])

    assert found(snapshot, a_policy(headroom=SURVIVING)) == []
    sleepy = a_policy(headroom=SURVIVING, goals=(PowerGoal(), BalanceGoal(weight=0.1)))
    assert len(found(snapshot, sleepy)) == 2


def test_an_empty_host_that_min_awake_keeps_on_is_room() -> None:
    hosts = [a_host(f"h{k}", memory_bytes=16 * GIB) for k in range(3)]
    snapshot = a_snapshot(hosts, [a_vm("v", on="h0", memory_bytes=10 * GIB)])

    def saving(min_awake: int) -> Policy:
        goals = (PowerGoal(min_awake=min_awake), BalanceGoal(weight=0.1))
        return a_policy(headroom=SURVIVING, goals=goals)

    assert len(found(snapshot, saving(1))) == 1
    assert found(snapshot, saving(2)) == []


def test_while_a_host_drains_nothing_is_asked() -> None:
    snapshot = fragmented()
    hosts = [*snapshot.hosts, a_host("h4", state=HostState.DRAINING)]
    vms = [*snapshot.vms, a_vm("last", on="h4", memory_bytes=GIB)]

    assert found(a_snapshot(hosts, vms), a_policy(headroom=SURVIVING)) == []
