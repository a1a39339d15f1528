import itertools
from dataclasses import replace
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostState, VmState
from rebalancer.cluster.plan import Plan
from rebalancer.cluster.policy import Limits
from rebalancer.cluster.sites import Link, Site
from rebalancer.planning.jobs import HANDOVER_SECONDS, handover_seconds
from tests.builders import GIB, MIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.planning.plans import WIDE, a_plan, step

NIC = 1000.0 * MIB
BUDGET = 0.7 * NIC


def a_drain(count: int, limits: Limits = WIDE, **changed: Any) -> Plan:
    """Plan to move so many VMs from one host to as many others."""
    hosts = [
        a_host(f"h{i}", nic_bytes_per_second=NIC, memory_bytes=1024 * GIB) for i in range(count + 1)
    ]
    vms = [a_vm(f"v{i}", "h0", **changed) for i in range(count)]
    moves = {f"v{i}": f"h{i + 1}" for i in range(count)}
    return a_plan(a_snapshot(hosts, vms), moves, a_policy(limits=limits))


def test_migrations_that_start_together_share_a_lane_fairly() -> None:
    plan = a_drain(4, replace(WIDE, per_host_out=4), memory_bytes=32 * GIB)

    assert {m.predicted.start_seconds for m in plan.migrations} == {0.0}
    assert {m.bytes_per_second for m in plan.migrations} == {BUDGET // 4 // MIB * MIB}


def test_a_drain_fills_its_host_s_lane() -> None:
    plan = a_drain(12, Limits(migrations=None, cluster=100), memory_bytes=16 * GIB)

    assert plan.makespan_lower_bound_seconds >= 12 * 16 * GIB / BUDGET
    assert plan.makespan_seconds <= 1.05 * plan.makespan_lower_bound_seconds


def test_where_the_cluster_s_slots_are_scarce_each_migration_gets_its_whole_path() -> None:
    hosts = [a_host(f"h{i}", nic_bytes_per_second=NIC) for i in range(8)]
    vms = [a_vm(f"v{i}", f"h{i // 2}") for i in range(8)]
    moves = {f"v{i}": f"h{4 + i // 2}" for i in range(8)}
    limits = Limits(migrations=None, cluster=4)
    plan = a_plan(a_snapshot(hosts, vms), moves, a_policy(limits=limits))

    assert {m.bytes_per_second for m in plan.migrations} == {BUDGET}
    assert plan.makespan_seconds == pytest.approx(plan.makespan_lower_bound_seconds)


def test_one_at_a_time_is_one_after_the_other() -> None:
    plan = a_drain(3, Limits(migrations=None, cluster=1))
    ends = [(m.predicted.start_seconds, m.predicted.finish_seconds) for m in plan.migrations]

    assert ends[0][0] == 0
    for (_, finish), (start, _) in itertools.pairwise(ends):
        assert start == pytest.approx(finish + HANDOVER_SECONDS)


def test_nobody_is_given_less_than_the_least_sensible_bandwidth() -> None:
    plan = a_drain(60, WIDE)

    assert min(m.bytes_per_second for m in plan.migrations) >= 32 * MIB
    assert len({m.predicted.start_seconds for m in plan.migrations}) > 1


def test_a_lane_with_less_than_that_gives_all_it_has() -> None:
    hosts = [a_host(name, nic_bytes_per_second=20.0 * MIB) for name in ("h1", "h2")]
    plan = a_plan(a_snapshot(hosts, [a_vm("a"), a_vm("b")]), {"a": "h2", "b": "h2"})

    assert {m.bytes_per_second for m in plan.migrations} == {14 * MIB}
    one, other = (m.predicted for m in plan.migrations)
    assert other.start_seconds >= one.finish_seconds


def test_definitions_move_beside_anything_else() -> None:
    hosts = [a_host("h1"), a_host("h2")]
    vms = [a_vm("on"), a_vm("off", state=VmState.SHUTOFF)]
    plan = a_plan(a_snapshot(hosts, vms), {"on": "h2", "off": "h2"})

    assert step(plan, "off").predicted.start_seconds == 0
    assert step(plan, "off").bytes_per_second == 0
    assert step(plan, "on").bytes_per_second == pytest.approx(0.7 * 1.25e9, rel=0.01)


def test_a_chain_is_as_long_as_its_migrations_and_said_to_be_the_best() -> None:
    hosts = [a_host(f"h{i}") for i in range(5)]
    vms = [a_vm(f"v{i}", f"h{i}", memory_bytes=40 * GIB) for i in range(4)]
    plan = a_plan(a_snapshot(hosts, vms), {f"v{i}": f"h{i + 1}" for i in range(4)})

    assert [m.wave for m in plan.migrations] == [1, 2, 3, 4]
    assert plan.makespan_seconds == pytest.approx(plan.makespan_lower_bound_seconds)
    assert plan.makespan_seconds == pytest.approx(
        sum(m.predicted.duration_seconds + HANDOVER_SECONDS for m in plan.migrations)
    )


def test_unequal_vms_on_many_hosts_end_near_the_bound() -> None:
    hosts = [a_host(f"h{i}", memory_bytes=512 * GIB) for i in range(30)]
    sizes = (2, 4, 8, 16, 32)
    vms = [
        a_vm(f"v{i}", f"h{i * 7 % 30}", memory_bytes=sizes[i % 5] * GIB, cpu_used_cores=0.1)
        for i in range(90)
    ]
    moves = {f"v{i}": f"h{(i * 7 + 1 + i % 29) % 30}" for i in range(90)}
    limits = Limits(migrations=None, cluster=1000)
    plan = a_plan(a_snapshot(hosts, vms), moves, a_policy(limits=limits))
    one_by_one = sum(m.predicted.duration_seconds for m in plan.migrations)

    assert plan.makespan_seconds <= 1.25 * plan.makespan_lower_bound_seconds
    assert plan.makespan_seconds <= 0.6 * one_by_one


def test_a_migration_as_long_as_all_others_together_does_not_share_its_path() -> None:
    hosts = [a_host(f"h{i}", nic_bytes_per_second=NIC, memory_bytes=1024 * GIB) for i in range(6)]
    vms = [a_vm("long", "h0", memory_bytes=200 * GIB, cpu_used_cores=0.1)]
    vms += [a_vm(f"v{i}", "h0", cpu_used_cores=0.1) for i in range(12)]
    moves = {"long": "h5", **{f"v{i}": f"h{1 + i % 4}" for i in range(12)}}
    plan = a_plan(a_snapshot(hosts, vms), moves)

    assert step(plan, "long").bytes_per_second == BUDGET
    assert plan.makespan_seconds <= 1.1 * plan.makespan_lower_bound_seconds


def test_several_hosts_that_are_done_late_are_all_hurried() -> None:
    sizes = (1, 1, 2, 2, 4, 4, 8, 24)
    hosts = [a_host(f"s{i}", memory_bytes=512 * GIB) for i in range(4)]
    hosts += [a_host(f"t{i}", memory_bytes=512 * GIB) for i in range(3)]
    vms = [
        a_vm(f"v{i}", f"s{i % 4}", memory_bytes=sizes[i * 3 % 8] * GIB, cpu_used_cores=0.1)
        for i in range(80)
    ]
    moves = {f"v{i}": f"t{i % 3}" for i in range(80)}
    plan = a_plan(
        a_snapshot(hosts, vms), moves, a_policy(limits=Limits(migrations=None, cluster=1000))
    )

    assert plan.makespan_seconds <= 1.1 * plan.makespan_lower_bound_seconds


def test_the_same_moves_are_scheduled_the_same_every_time() -> None:
    one, other = (a_drain(25, Limits(migrations=None, cluster=3)) for _ in range(2))

    assert one.migrations == other.migrations


def a_far_away_plan(link_bytes_per_second: float, count: int = 6) -> Plan:
    """Plan to move VMs over a link of 100 ms, where one stream gets 40 MiB/s at most."""
    far = Site(name="far", latency_seconds={"near": 0.1})
    hosts = [a_host(f"n{i}", site="near") for i in range(count)]
    hosts += [a_host(f"f{i}", site="far") for i in range(count)]
    snapshot = a_snapshot(
        hosts,
        [a_vm(f"v{i}", f"n{i}") for i in range(count)],
        sites=[Site(name="near"), far],
        links=[Link(name="wan", between=("far", "near"), bytes_per_second=link_bytes_per_second)],
    )
    limits = replace(WIDE, link_share=0.5)
    return a_plan(snapshot, {f"v{i}": f"f{i}" for i in range(count)}, a_policy(limits=limits))


def at_the_same_time(plan: Plan) -> int:
    """The most migrations that are ever under way together."""
    times = [m.predicted for m in plan.migrations]
    return max(
        sum(t.start_seconds <= each.start_seconds < t.finish_seconds for t in times)
        for each in times
    )


def test_streams_that_cannot_fill_a_long_link_go_side_by_side() -> None:
    plan = a_far_away_plan(1000.0 * MIB)

    assert {m.bytes_per_second for m in plan.migrations} == {40 * MIB}
    assert {m.predicted.start_seconds for m in plan.migrations} == {0.0}
    assert plan.makespan_seconds == pytest.approx(plan.makespan_lower_bound_seconds)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7])
def test_side_by_side_they_stay_within_the_budget_of_the_link(count: int) -> None:
    plan = a_far_away_plan(300.0 * MIB, count)

    for each in plan.migrations:
        now = each.predicted.start_seconds
        granted = sum(
            m.bytes_per_second
            for m in plan.migrations
            if m.predicted.start_seconds <= now < m.predicted.finish_seconds
        )
        assert granted <= 150 * MIB
    assert at_the_same_time(plan) >= min(count, 3)


def test_a_link_that_one_stream_fills_is_still_taken_in_turn() -> None:
    plan = a_far_away_plan(80.0 * MIB, count=2)

    assert at_the_same_time(plan) == 1


def test_the_bound_knows_that_migrations_are_not_cut_up() -> None:
    plan = a_drain(3, Limits(migrations=None, cluster=2, per_host_out=2), memory_bytes=4 * GIB)
    fastest = 4 * GIB / BUDGET

    assert plan.makespan_lower_bound_seconds >= 2 * (fastest + HANDOVER_SECONDS)


def test_every_look_at_a_host_that_does_not_answer_is_planned_for() -> None:
    silent = a_host("h3", state=HostState.UNKNOWN)
    answering = a_snapshot([a_host("h1"), a_host("h2")], [a_vm("a")])
    partly = a_snapshot([a_host("h1"), a_host("h2"), silent], [a_vm("a")])
    usual, longer = (a_plan(each, {"a": "h2"}) for each in (answering, partly))

    assert handover_seconds(answering) == HANDOVER_SECONDS
    assert longer.makespan_seconds == pytest.approx(
        usual.makespan_seconds + handover_seconds(partly) - HANDOVER_SECONDS
    )
    assert longer.makespan_seconds > usual.makespan_seconds
