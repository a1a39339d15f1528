"""Which VMs come home after a drain, and which had better stay."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.cluster.plan import Plan, Priority, VerdictKind
from rebalancer.rollout.records import Move
from rebalancer.service.cycle import Request
from rebalancer.service.homecoming import homes_of, plan_homecoming
from tests.builders import GIB, NOON, a_host, a_policy, a_snapshot, a_vm

H1, H2, H3 = HostId("h1"), HostId("h2"), HostId("h3")


def a_move(
    vm: str, source: HostId, target: HostId, minute: float, priority: Priority = Priority.DRAIN
) -> Move:
    at = NOON + timedelta(minutes=minute)
    return Move(vm=VmId(vm), source=source, target=target, priority=priority, at=at)


def homes(
    *moves: Move,
    on: str = "h2",
    since: Mapping[HostId, datetime] | None = None,
    still: Mapping[HostId, datetime] | None = None,
) -> Mapping[VmId, HostId]:
    hosts = [a_host("h1"), a_host("h2"), a_host("h3")]
    snapshot = a_snapshot(hosts=hosts, vms=[a_vm("vm1", on=on)])
    return homes_of(moves, snapshot, since if since is not None else {H1: NOON}, still or {})


def test_what_a_drain_moved_away_comes_home() -> None:
    assert homes(a_move("vm1", H1, H2, 1)) == {"vm1": H1}


def test_what_left_before_the_drain_began_does_not() -> None:
    assert homes(a_move("vm1", H1, H2, -1)) == {}


def test_what_was_moved_for_anything_else_since_has_a_new_home() -> None:
    balanced = a_move("vm1", H2, H3, 2, Priority.BALANCE)

    assert homes(a_move("vm1", H1, H2, 1), balanced, on="h3") == {}


def test_what_is_not_where_the_drain_left_it_was_moved_by_somebody() -> None:
    assert homes(a_move("vm1", H1, H2, 1), on="h3") == {}


def test_after_two_drains_it_goes_to_where_it_came_from_first() -> None:
    twice = (a_move("vm1", H1, H2, 1), a_move("vm1", H2, H3, 5))

    both = homes(*twice, on="h3", since={H1: NOON, H2: NOON})
    only_the_second = homes(*twice, on="h3", since={H2: NOON}, still={H1: NOON})

    assert both == {"vm1": H1}
    assert only_the_second == {}, "its home is being worked on, so it waits where it is"


def test_a_vm_that_is_gone_comes_nowhere() -> None:
    assert homes(a_move("gone", H1, H2, 1)) == {}


def planned(cores_of_vms: Mapping[str, float], homes: Mapping[VmId, HostId]) -> Plan:
    vms = [
        a_vm(name, on="h2", cpu_used_cores=cores, memory_bytes=GIB)
        for name, cores in cores_of_vms.items()
    ]
    snapshot = a_snapshot(hosts=[a_host("h1", cpu_cores=4.0), a_host("h2")], vms=vms)
    request = Request(
        plan_id="home",
        creator="test",
        now=NOON,
        ttl_seconds=600.0,
        solve_seconds=1.0,
        seconds_passed=lambda: 0.0,
        uris={},
    )
    return plan_homecoming(snapshot, a_policy(), request, homes)


def test_vms_come_home_with_the_reason() -> None:
    plan = planned({"vm1": 1.0}, {VmId("vm1"): H1})

    assert plan.final_assignment == {"vm1": H1}
    assert "comes home" in plan.migrations[0].reason
    assert plan.verdict.kind is VerdictKind.MOVES


def test_a_home_that_would_become_hot_does_harm_so_the_vm_stays() -> None:
    plan = planned({"vm1": 2.0, "vm2": 2.0}, {VmId("vm1"): H1, VmId("vm2"): H1})

    assert len(plan.migrations) == 1
    (stays,) = plan.unmoved
    assert "would bring its home h1 to 100 % CPU" in stays.reasons[0]
    assert plan.verdict.text == "1 VM can come home; 1 VM cannot"


def test_nothing_to_bring_home_is_no_failure() -> None:
    plan = planned({"vm1": 1.0}, {})

    assert plan.migrations == ()
    assert plan.verdict.kind is VerdictKind.BALANCED
