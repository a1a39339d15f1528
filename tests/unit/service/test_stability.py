"""Nothing moves to and fro: what is held still, for how long, and what is let go all the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, HostState, Snapshot, VmId
from rebalancer.cluster.plan import HostOutlook, Plan, Priority
from rebalancer.cluster.policy import (
    Foresight,
    Limits,
    OverloadMeasure,
    Policy,
    PowerGoal,
    Trigger,
)
from rebalancer.cluster.rules import Spread
from rebalancer.cluster.selection import VmSelector
from rebalancer.forecast.demand import forecast_demand
from rebalancer.rollout.records import Move
from rebalancer.service.considering import decide
from rebalancer.service.stability import (
    PastCycle,
    Rhythm,
    cycles_wanted,
    day_is_spent,
    payback_seconds,
    reason_not_worth_it,
    reason_to_wait,
    restless_hosts,
    rests_ignored,
    steadied,
    within_day,
)
from tests.builders import GIB, NOON, a_host, a_policy, a_snapshot, a_vm
from tests.unit.service import samples

LIMITS = Limits(cooldown_seconds=1800, reverse_ban_seconds=21600)
RHYTHM = Rhythm(at_least_seconds=150, at_most_seconds=3600)


def moved(
    vm: str,
    source: str = "h2",
    target: str = "h1",
    *,
    minutes_ago: float,
    priority: Priority = Priority.BALANCE,
) -> Move:
    return Move(
        vm=VmId(vm),
        source=HostId(source),
        target=HostId(target),
        priority=priority,
        at=NOON - timedelta(minutes=minutes_ago),
    )


def past(*wanted: bool, acted: bool = False, silent: Sequence[str] = ()) -> list[PastCycle]:
    """Cycles five minutes apart, the last of them five minutes before noon."""
    return [
        PastCycle(
            at=NOON - timedelta(minutes=5 * (len(wanted) - place)),
            wanted=one,
            acted=acted,
            silent_hosts=frozenset(map(HostId, silent)),
        )
        for place, one in enumerate(wanted)
    ]


def hold(
    snapshot: Snapshot,
    *moves: Move,
    policy: Policy | None = None,
    cycles: Sequence[PastCycle] = (),
) -> tuple[Snapshot, Policy]:
    demand: Demand = forecast_demand(snapshot)
    in_force = replace(policy or a_policy(), limits=LIMITS)
    return steadied(snapshot, in_force, demand, moves=moves, past=cycles, now=NOON)


def test_a_vm_that_was_just_moved_stays() -> None:
    snapshot, _ = hold(a_snapshot(vms=[a_vm("db"), a_vm("web")]), moved("db", minutes_ago=10))

    assert snapshot.vm_by_id[VmId("db")].blockers == (
        "it was moved 10 min 00 s ago and stays for 30 min 00 s",
    )
    assert snapshot.vm_by_id[VmId("web")].can_move


def test_a_vm_may_move_again_when_its_cooldown_is_over() -> None:
    snapshot, _ = hold(a_snapshot(vms=[a_vm("db")]), moved("db", minutes_ago=30))

    assert snapshot.vm_by_id[VmId("db")].can_move


def test_the_latest_move_counts() -> None:
    moves = moved("db", minutes_ago=5), moved("db", minutes_ago=300)

    snapshot, _ = hold(a_snapshot(vms=[a_vm("db")]), *moves)

    assert not snapshot.vm_by_id[VmId("db")].can_move


def test_a_drain_does_not_wait_for_a_cooldown() -> None:
    hosts = [a_host("h1", state=HostState.DRAINING), a_host("h2")]

    snapshot, policy = hold(a_snapshot(hosts=hosts, vms=[a_vm("db")]), moved("db", minutes_ago=10))

    assert snapshot.vm_by_id[VmId("db")].can_move
    assert policy.rules == ()


def test_the_repair_of_a_rule_does_not_wait_for_a_cooldown() -> None:
    apart = Spread(name="apart", vms=VmSelector(names=("db*",)))
    cluster = a_snapshot(vms=[a_vm("db1"), a_vm("db2"), a_vm("web")])

    snapshot, _ = hold(
        cluster,
        *(moved(name, minutes_ago=10) for name in ("db1", "web")),
        policy=a_policy(apart),
    )

    assert snapshot.vm_by_id[VmId("db1")].can_move
    assert not snapshot.vm_by_id[VmId("web")].can_move


def test_a_host_that_is_short_of_cpu_is_no_reason_to_move_a_vm_again() -> None:
    cluster = a_snapshot(vms=[a_vm("db", cpu_used_cores=20.0, vcpus=20)])

    snapshot, _ = hold(cluster, moved("db", minutes_ago=10))

    assert not snapshot.vm_by_id[VmId("db")].can_move


def test_a_vm_does_not_go_back_to_where_it_came_from() -> None:
    cluster = a_snapshot(vms=[a_vm("db")])

    _, policy = hold(cluster, moved("db", "h2", minutes_ago=60))

    (ban,) = policy.rules
    assert list(ban.violations(cluster, cluster.assignment)) == []
    back = {VmId("db"): HostId("h2")}
    assert [v.vms for v in ban.violations(cluster, back)] == [(VmId("db"),)]


@pytest.mark.parametrize(
    "move",
    [
        moved("db", "h2", minutes_ago=361),
        moved("db", "h2", minutes_ago=60, priority=Priority.DRAIN),
        moved("db", "h1", minutes_ago=60),
        moved("db", "gone", minutes_ago=60),
        moved("gone", "h2", minutes_ago=60),
    ],
    ids=["long ago", "drained", "back by hand", "host is gone", "VM is gone"],
)
def test_nothing_else_keeps_a_vm_from_a_host(move: Move) -> None:
    _, policy = hold(a_snapshot(vms=[a_vm("db")]), move)

    assert policy.rules == ()


def test_a_host_that_was_silent_a_moment_ago_neither_receives_nor_gives() -> None:
    cycles = past(True, silent=["h2"])

    snapshot, _ = hold(a_snapshot(vms=[a_vm("db")]), cycles=cycles)

    host = snapshot.host_by_id[HostId("h2")]
    assert not host.may_receive
    assert "did not answer in the last cycle" in host.state_reason


def test_a_host_is_trusted_again_after_three_cycles() -> None:
    cycles = past(True, silent=["h2"]) + past(True, True, True)

    assert restless_hosts(a_snapshot(), cycles) == {}


def test_a_host_that_is_drained_goes_on_being_drained() -> None:
    cluster = a_snapshot(hosts=[a_host("h1"), a_host("h2", state=HostState.DRAINING)])

    assert restless_hosts(cluster, past(True, silent=["h2"])) == {}


def test_wanting_counts_back_to_the_last_cycle_that_did_not() -> None:
    assert cycles_wanted(past(True, False, True, True), NOON, RHYTHM) == 2


def test_wanting_counts_anew_after_something_was_done() -> None:
    assert cycles_wanted(past(True, True, acted=True), NOON, RHYTHM) == 0


def test_wanting_counts_anew_after_a_long_silence() -> None:
    assert cycles_wanted(past(True, True), NOON + timedelta(hours=2), RHYTHM) == 0


def test_a_daemon_that_is_restarted_again_and_again_does_not_get_there_sooner() -> None:
    hasty = [
        PastCycle(at=NOON - timedelta(seconds=10 * n), wanted=True, acted=False) for n in (3, 2, 1)
    ]

    assert cycles_wanted(hasty, NOON, RHYTHM) == 0


def a_costly_plan(seconds: float, after: float, priority: Priority = Priority.BALANCE) -> Plan:
    """One migration that takes so long and evens h1 at 90 % out to `after`."""
    predicted = replace(samples.a_migration().predicted, duration_seconds=seconds)
    migration = samples.a_migration(predicted=predicted, priority=priority)
    hosts = tuple(
        HostOutlook(
            host=HostId(name),
            name=name,
            state=HostState.UP,
            cpu_ratio_before=before,
            cpu_ratio_after=end,
            memory_ratio_before=0.5,
            memory_ratio_after=0.5,
            vms_before=2,
            vms_after=2,
        )
        for name, before, end in (("h1", 0.9, after), ("h2", 0.1, 1.0 - after))
    )
    return samples.a_plan(migrations=(migration,), hosts=hosts)


def test_a_plan_pays_back_in_the_time_that_its_relief_needs_to_make_up_for_its_cost() -> None:
    # 2 cores for 80 s against (0.9 - 0.7) of 16 cores.
    assert payback_seconds(a_costly_plan(80.0, 0.7), a_snapshot()) == pytest.approx(50.0)


def test_a_plan_that_relieves_no_host_never_pays_back() -> None:
    plan = a_costly_plan(80.0, 0.9)

    assert "never" in reason_not_worth_it(plan, a_snapshot(), a_policy())


def test_a_plan_must_pay_back_before_its_vms_may_move_again() -> None:
    policy = a_policy(limits=LIMITS)

    assert reason_not_worth_it(a_costly_plan(2000.0, 0.7), a_snapshot(), policy) == ""
    assert "no gain" in reason_not_worth_it(a_costly_plan(4000.0, 0.7), a_snapshot(), policy)


def test_what_power_is_worth_the_goal_says_and_not_the_balance() -> None:
    policy = a_policy(goals=(PowerGoal(),))

    assert reason_not_worth_it(a_costly_plan(4000.0, 0.9), a_snapshot(), policy) == ""


def test_a_drain_neither_waits_nor_has_to_pay() -> None:
    plan = a_costly_plan(9000.0, 0.9, priority=Priority.DRAIN)
    policy = a_policy(trigger=Trigger(for_cycles=3))

    assert decide(plan, a_snapshot(), policy, waited_cycles=0).act


def test_unevenness_has_to_last() -> None:
    plan, policy = a_costly_plan(10.0, 0.6), a_policy(trigger=Trigger(for_cycles=3))

    assert reason_to_wait(plan, policy, 1) == "waiting: seen in 2 of 3 cycles in a row"
    assert reason_to_wait(plan, policy, 2) == ""


def test_all_vms_that_came_from_one_host_are_in_one_rule() -> None:
    vms = [a_vm(f"vm{n}", memory_bytes=GIB // 16, cpu_used_cores=0.0) for n in range(500)]
    hosts = [a_host(name, cpu_cores=256.0) for name in ("h1", "h2")]
    cluster = a_snapshot(hosts=hosts, vms=vms)

    _, policy = hold(cluster, *(moved(f"vm{n}", minutes_ago=60) for n in range(500)))

    (ban,) = policy.rules
    everywhere = {vm.id: HostId("h2") for vm in vms}
    assert len(list(ban.violations(cluster, everywhere))) == 500


DAILY = Limits(migrations=10, migrations_per_day=3, moved_bytes_per_day=8 * GIB)


def today(*minutes_ago: float, priority: Priority = Priority.BALANCE) -> list[Move]:
    return [
        replace(moved(f"vm{n}", minutes_ago=ago, priority=priority), memory_bytes=2 * GIB)
        for n, ago in enumerate(minutes_ago)
    ]


def test_what_is_left_of_a_day_limits_the_next_plan() -> None:
    limits = within_day(a_policy(limits=DAILY), today(30, 60)).limits

    assert (limits.migrations, limits.moved_bytes) == (1, 4 * GIB)
    assert day_is_spent(DAILY, today(30, 60), NOON) == ""


def test_drains_and_repairs_neither_count_nor_are_counted() -> None:
    limits = within_day(a_policy(limits=DAILY), today(1, 2, 3, priority=Priority.DRAIN)).limits

    assert (limits.migrations, limits.moved_bytes) == (3, 8 * GIB)


def test_a_day_that_is_spent_says_when_it_goes_on() -> None:
    said = day_is_spent(DAILY, today(60, 120, 1380, 1381), NOON)

    assert said == (
        "the budget for 24 hours is spent (4 of 3 migrations, 8.0 of 8.0 GiB); some of it is free "
        "again in 59 min 00 s"
    )


def test_a_policy_without_a_daily_budget_is_left_as_it_is() -> None:
    policy = a_policy(limits=LIMITS)

    assert within_day(policy, today(1, 2, 3)) == policy


def test_a_plan_that_is_asked_for_says_which_of_its_vms_are_resting() -> None:
    snapshot = a_snapshot(vms=[a_vm("a", on="h1"), a_vm("b", on="h1"), a_vm("c", on="h1")])
    plan = samples.a_plan(
        migrations=tuple(
            samples.a_migration(vm=VmId(vm), source=HostId("h1"), target=HostId("h2"))
            for vm in ("a", "b", "c")
        )
    )
    moves = [
        moved("a", source="h3", minutes_ago=10),
        moved("b", source="h2", minutes_ago=100),
    ]

    said = rests_ignored(plan, snapshot, LIMITS, moves, NOON)

    assert "would not move 2 VMs of it yet" in said
    assert "a: it was moved 10 min 00 s ago and stays for 30 min" in said
    assert "b: no way back to h2 within 6 h" in said


def test_a_plan_whose_vms_have_rested_says_nothing_of_it() -> None:
    snapshot = a_snapshot(vms=[a_vm("a", on="h1")])
    plan = samples.a_plan(
        migrations=(samples.a_migration(vm=VmId("a"), source=HostId("h1"), target=HostId("h2")),)
    )

    assert rests_ignored(plan, snapshot, LIMITS, [moved("a", minutes_ago=500)], NOON) == ""


@pytest.mark.parametrize(
    ("overload", "used", "may_move"),
    [
        (OverloadMeasure.NOW, 9.0, True),
        (OverloadMeasure.PEAK, 9.0, False),
        (OverloadMeasure.NOW, 7.0, False),
    ],
)
def test_vms_do_not_rest_where_that_leaves_their_host_short_of_cpu_now(
    overload: OverloadMeasure, used: float, may_move: bool
) -> None:
    hosts = [a_host("h1", cpu_cores=16.0), a_host("h2", cpu_cores=16.0)]
    vms = [a_vm("db", cpu_used_cores=used), a_vm("web", cpu_used_cores=used)]
    policy = a_policy(forecast=Foresight(overload=overload))

    snapshot, _ = hold(
        a_snapshot(hosts=hosts, vms=vms),
        moved("db", minutes_ago=10),
        moved("web", minutes_ago=10),
        policy=policy,
    )

    assert {vm.id: vm.can_move for vm in snapshot.vms} == {"db": may_move, "web": may_move}
