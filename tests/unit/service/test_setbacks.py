"""What failed is not tried again at once, and not for ever put off either."""

from __future__ import annotations

from datetime import datetime, timedelta

from rebalancer.cluster.inventory import HostId, HostState, VmId
from rebalancer.cluster.plan import Priority
from rebalancer.rollout.records import Move, Setback
from rebalancer.service.setbacks import (
    FIRST_REST_SECONDS,
    LONGEST_REST_SECONDS,
    QUARANTINE_SECONDS,
    resting_vms,
    suspect_hosts,
    with_rests,
)
from tests.builders import NOON, a_host, a_snapshot, a_vm


def before(seconds: float) -> datetime:
    return NOON - timedelta(seconds=seconds)


def failed(vm: str = "db", seconds_ago: float = 60, to: str = "h2", off: str = "h1") -> Setback:
    return Setback(
        vm=VmId(vm),
        source=HostId(off),
        target=HostId(to),
        at=before(seconds_ago),
        text="unable to connect to server at h2:49152",
    )


def moved(vm: str = "db", seconds_ago: float = 30, to: str = "h2", off: str = "h1") -> Move:
    return Move(
        vm=VmId(vm),
        source=HostId(off),
        target=HostId(to),
        priority=Priority.BALANCE,
        at=before(seconds_ago),
    )


def test_a_vm_whose_migration_failed_rests_and_says_why() -> None:
    resting = resting_vms([failed(seconds_ago=60)], [], NOON)

    assert "unable to connect" in resting[VmId("db")]


def test_the_rest_ends_by_itself() -> None:
    assert not resting_vms([failed(seconds_ago=FIRST_REST_SECONDS + 1)], [], NOON)


def test_each_failure_doubles_the_rest_up_to_a_day() -> None:
    twice = [failed(seconds_ago=4000), failed(seconds_ago=FIRST_REST_SECONDS + 1)]
    often = [failed(seconds_ago=LONGEST_REST_SECONDS - 60 + n) for n in range(20)]
    long_ago = [failed(seconds_ago=LONGEST_REST_SECONDS + 60 + n) for n in range(20)]

    assert resting_vms(twice, [], NOON)
    assert resting_vms(often, [], NOON)
    assert not resting_vms(long_ago, [], NOON)


def test_a_migration_that_comes_through_makes_up_for_those_that_failed() -> None:
    assert not resting_vms([failed(seconds_ago=60)], [moved(seconds_ago=30)], NOON)


def test_a_host_where_several_vms_failed_is_left_alone() -> None:
    blamed = suspect_hosts([failed("db"), failed("web", to="h2", off="h3")], [], NOON)

    assert list(blamed) == ["h2"]
    assert "unable to connect" in blamed[HostId("h2")]


def test_one_vm_that_fails_again_and_again_is_its_own_fault() -> None:
    assert not suspect_hosts([failed("db", 10), failed("db", 100), failed("db", 1000)], [], NOON)


def test_a_source_is_to_blame_where_nothing_leaves_it_to_anywhere() -> None:
    blamed = suspect_hosts([failed("db", to="h2"), failed("web", to="h3")], [], NOON)

    assert list(blamed) == ["h1"]


def test_a_host_is_trusted_again_after_a_while_or_when_something_came_through() -> None:
    old = [failed(vm, seconds_ago=QUARANTINE_SECONDS + 1) for vm in ("db", "web")]
    recent = [failed(vm, off=off) for vm, off in (("db", "h1"), ("web", "h3"))]

    assert not suspect_hosts(old, [], NOON)
    assert not suspect_hosts(recent, [moved("mail", seconds_ago=5, off="h4")], NOON)


def test_suspects_receive_nothing_and_resting_vms_stay() -> None:
    snapshot = a_snapshot(vms=[a_vm("db"), a_vm("web")])
    setbacks = [failed("db"), failed("web", seconds_ago=FIRST_REST_SECONDS + 9, off="h3")]

    held = with_rests(snapshot, setbacks, [], NOON)

    assert [host.state for host in held.hosts] == [HostState.UP, HostState.MAINTENANCE]
    assert [vm.can_move for vm in held.vms] == [False, True]


def test_a_drain_does_not_wait_for_rests() -> None:
    hosts = [a_host("h1", state=HostState.DRAINING), a_host("h2")]
    snapshot = a_snapshot(hosts, [a_vm("db")])

    held = with_rests(snapshot, [failed("db")], [], NOON, urgent=[VmId("db")])

    assert held.vms == snapshot.vms


def test_where_nothing_failed_nothing_changes() -> None:
    snapshot = a_snapshot(vms=[a_vm("db")])

    assert with_rests(snapshot, [], [moved()], NOON) is snapshot
