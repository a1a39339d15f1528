"""Plans that keep to maintenance windows."""

from __future__ import annotations

from dataclasses import replace

from rebalancer.cluster.inventory import HostState, Snapshot, VmId
from rebalancer.cluster.plan import Priority
from rebalancer.cluster.policy import Limits, MigrationPermissions, Policy
from rebalancer.cluster.windows import Window
from tests.builders import GIB, MIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.planning.plans import a_plan

MINUTE = 60


def opening(
    minutes_after_noon: int, minutes_long: int, bound: Priority = Priority.BALANCE
) -> Policy:
    """A policy whose window opens so long after the plan is made (noon), one move at a time."""
    opens = 12 * 60 + minutes_after_noon
    window = Window(from_minute=opens, to_minute=opens + minutes_long)
    permissions = MigrationPermissions(windows=(window,), windows_for=frozenset({bound}))
    limits = Limits(per_host_out=1, per_host_in=1, cluster=1)
    return a_policy(limits=limits, migration=permissions)


def a_cluster(*, draining: bool = False) -> Snapshot:
    state = HostState.DRAINING if draining else HostState.UP
    nic = 200.0 * MIB
    hosts = [
        a_host("h1", state=state, nic_bytes_per_second=nic),
        a_host("h2", nic_bytes_per_second=nic),
        a_host("h3", nic_bytes_per_second=nic),
    ]
    vms = [
        a_vm(f"v{n}", "h1", memory_bytes=16 * GIB, dirty_bytes_per_second=0.0) for n in (1, 2, 3)
    ]
    return a_snapshot(hosts, [*vms, a_vm("v4", "h3", memory_bytes=16 * GIB)])


MOVES = {"v1": "h2", "v2": "h2", "v3": "h2"}
"""Each takes two minutes at 140 MiB/s, and up to two and a half."""


def test_what_is_not_over_before_the_window_closes_stays_and_says_so() -> None:
    plan = a_plan(a_cluster(), MOVES, opening(-10, 10 + 5))

    assert len(plan.migrations) == 2
    last = plan.migrations[-1].predicted
    assert last.start_seconds + last.duration_upper_seconds <= 5 * MINUTE
    (stays,) = plan.unmoved
    assert "the maintenance window closes at Mon 2026-11-23 12:05 UTC" in stays.reasons[0]


def test_what_only_the_hours_are_in_the_way_of_is_told_from_what_cannot_be_moved() -> None:
    cluster = a_cluster()
    pinned = replace(cluster.vm_by_id[VmId("v1")], movable=False)
    vms = tuple(pinned if vm.id == "v1" else vm for vm in cluster.vms)

    plan = a_plan(replace(cluster, vms=vms), MOVES, opening(-10, 10 + 1))

    assert {each.vm: each.waits_for_window for each in plan.unmoved} == {
        "v1": False,
        "v2": True,
        "v3": True,
    }


def test_a_plan_that_can_wait_is_for_the_next_window() -> None:
    plan = a_plan(a_cluster(), MOVES, opening(60, 5))

    assert len(plan.migrations) == 2
    assert "may take until Mon 2026-11-23 13:0" in plan.unmoved[0].reasons[0]


def test_drains_do_not_wait_for_a_window_unless_they_are_told_to() -> None:
    now = opening(60, 5)
    told = opening(60, 5, Priority.DRAIN)

    assert len(a_plan(a_cluster(draining=True), MOVES, now).migrations) == 3
    assert len(a_plan(a_cluster(draining=True), MOVES, told).migrations) == 2


def test_beside_a_drain_that_cannot_wait_what_can_wait_stays() -> None:
    plan = a_plan(a_cluster(draining=True), {**MOVES, "v4": "h2"}, opening(60, 5))

    assert {m.vm for m in plan.migrations} == set(MOVES)
    assert plan.unmoved[0].vm == "v4"
    assert plan.unmoved[0].reasons == (
        "no maintenance window is open; the next one opens at Mon 2026-11-23 13:00 UTC",
    )


def test_without_windows_nothing_is_kept_to() -> None:
    assert len(a_plan(a_cluster(), MOVES, a_policy()).migrations) == 3
