"""What a move costs: bytes over the slowest part of its way, and more for what is dear to move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rebalancer.cluster.inventory import Snapshot, VmState
from rebalancer.cluster.policy import (
    BalanceGoal,
    MigrationPermissions,
    MovementGoal,
    MovementMeasure,
)
from rebalancer.cluster.selection import VmSelector
from rebalancer.cluster.sites import Link
from rebalancer.placement.movement import bytes_sent, dearness, movement
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import moves, problem_of, solve

GOAL = MovementGoal(weight=1.0)


def price(snapshot: Snapshot, vm: int, host: int, goal: MovementGoal = GOAL) -> float:
    problem = problem_of(snapshot, a_policy(goals=(goal,)))
    (term,) = movement(problem, goal)
    x = problem.start.copy()
    x[vm] = host
    return float(term.at(x, problem.start)[vm])


def test_staying_is_free() -> None:
    assert price(a_snapshot(vms=[a_vm("v", on="h1")]), 0, 0) == 0


def test_a_move_over_a_link_costs_as_much_more_as_the_link_is_slower() -> None:
    hosts = [a_host("h1", site="a"), a_host("h2", site="a"), a_host("h3", site="b")]
    wan = [Link(name="w", bytes_per_second=1.25e8, between=("a", "b"))]
    snapshot = a_snapshot(hosts, [a_vm("v", on="h1")], links=wan)

    assert price(snapshot, 0, 2) == pytest.approx(10 * price(snapshot, 0, 1))


def test_a_host_with_a_slow_network_is_a_dear_target() -> None:
    hosts = [a_host("h1"), a_host("h2"), a_host("h3", nic_bytes_per_second=1.25e8)]
    snapshot = a_snapshot(hosts, [a_vm("v", on="h1")])

    assert price(snapshot, 0, 2) == pytest.approx(10 * price(snapshot, 0, 1))


def test_a_guest_that_writes_much_is_sent_more_than_once() -> None:
    quiet = a_vm("v", memory_bytes=8 * GIB, dirty_bytes_per_second=0.0)
    busy = replace(quiet, dirty_bytes_per_second=0.5e9)

    assert bytes_sent(quiet, 1e9) == pytest.approx(8.25 * GIB)
    assert bytes_sent(busy, 1e9) == pytest.approx(16.25 * GIB)


def test_a_stopped_vm_has_no_memory_to_send() -> None:
    stopped = a_vm("v", memory_bytes=8 * GIB, state=VmState.SHUTOFF)

    assert bytes_sent(stopped, 1e9) < GIB


def test_measured_in_memory_every_gib_costs_the_same_wherever_it_goes() -> None:
    hosts = [a_host("h1"), a_host("h2", nic_bytes_per_second=1e6)]
    vms = [
        a_vm("a", on="h1", memory_bytes=2 * GIB, dirty_bytes_per_second=1e9),
        a_vm("b", on="h1", memory_bytes=6 * GIB),
    ]
    snapshot, goal = a_snapshot(hosts, vms), replace(GOAL, measure=MovementMeasure.MEMORY)

    assert price(snapshot, 1, 1, goal) == pytest.approx(3 * price(snapshot, 0, 1, goal))


def test_by_disturbance_half_of_what_a_move_costs_is_what_the_vm_does_meanwhile() -> None:
    hosts = [a_host("h1"), a_host("h2"), a_host("h3", nic_bytes_per_second=1.25e8)]
    vms = [
        a_vm("a", on="h1", memory_bytes=8 * GIB, cpu_used_cores=6.0),
        a_vm("b", on="h1", memory_bytes=8 * GIB, cpu_used_cores=0.0),
        a_vm("c", on="h1", memory_bytes=GIB, cpu_used_cores=0.0),
        a_vm("d", on="h1", memory_bytes=GIB, cpu_used_cores=0.0, state=VmState.SHUTOFF),
    ]
    snapshot = a_snapshot(hosts, vms)
    goal = replace(GOAL, measure=MovementMeasure.DISTURBANCE)

    busy, quiet, small, stopped = (price(snapshot, vm, 1, goal) for vm in range(4))

    # The three that run use 2 cores each on average, and a three times that.
    sent = price(snapshot, 1, 1)
    assert busy - quiet == pytest.approx(3 * sent / 2)
    assert quiet - small == pytest.approx((sent - price(snapshot, 2, 1)) / 4)
    assert quiet > small > stopped > 0
    assert price(snapshot, 1, 2, goal) == pytest.approx(10 * quiet)


def test_vms_that_the_policy_holds_dear_stay_where_others_will_do() -> None:
    vms = [
        a_vm(f"v{k}", on="h1", cpu_used_cores=3.0, labels={"downtime": kind})
        for k, kind in enumerate(["sensitive", "sensitive", "any", "any"])
    ]
    snapshot = a_snapshot(vms=vms)
    dear = VmSelector(labels={"downtime": ("sensitive",)})
    goals = (BalanceGoal(memory_weight=0.0), MovementGoal(dear=dear))

    assert sorted(moves(snapshot, solve(snapshot, a_policy(goals=goals)))) == ["v2", "v3"]


def test_a_vm_whose_owner_allows_less_of_a_pause_costs_more_to_move() -> None:
    vm, allowed = a_vm("v"), MigrationPermissions().max_downtime_seconds

    assert dearness(vm, GOAL, allowed) == 1
    assert dearness(replace(vm, max_downtime_seconds=0.1), GOAL, allowed) == pytest.approx(5)
    assert dearness(replace(vm, max_downtime_seconds=0.0), GOAL, allowed) == 10
    assert dearness(replace(vm, max_downtime_seconds=2.0), GOAL, allowed) == 1


def test_a_policy_can_hold_some_vms_dear_by_a_factor() -> None:
    goal = replace(GOAL, dear=VmSelector(names=("db*",)), dear_times=3.0)

    assert dearness(a_vm("db1"), goal, 0.5) == 3
    assert dearness(a_vm("web1"), goal, 0.5) == 1
