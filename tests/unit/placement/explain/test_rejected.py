"""Moves that would serve the goals and are not made, and hosts that take nobody."""

from __future__ import annotations

from rebalancer.cluster.inventory import HostState
from rebalancer.cluster.policy import BalanceGoal, Limits, MovementGoal, Trigger
from rebalancer.cluster.rules import Pin
from rebalancer.cluster.selection import VmSelector
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import a_hot_host, solve


def test_a_pinned_vm_is_told_with_what_its_move_would_have_gained() -> None:
    vms = [a_vm("pinned", cpu_used_cores=3.0), a_vm("held", cpu_used_cores=4.0, movable=False)]
    policy = a_policy(Pin(name="stay", vms=VmSelector(names=("pinned",))))

    rejected = solve(a_snapshot(vms=vms), policy).explanation.rejected_moves

    best = next(move for move in rejected if move.vm_name == "pinned")
    assert (best.vm_name, best.source, best.target) == ("pinned", "h1", "h2")
    assert best.benefit > best.price > 0
    assert best.reasons == ("it is pinned by stay",)


def test_a_move_that_does_not_pay_says_so() -> None:
    vms = [a_vm("a", cpu_used_cores=0.3), a_vm("b", cpu_used_cores=0.3)]
    policy = a_policy(goals=(BalanceGoal(memory_weight=0.0), MovementGoal(weight=10.0)))

    rejected = solve(a_snapshot(vms=vms), policy).explanation.rejected_moves

    assert rejected
    assert all(move.benefit <= move.price for move in rejected)
    assert all("moving it costs more than it gains" in move.reasons for move in rejected)


def test_a_used_up_limit_is_named() -> None:
    policy = a_policy(limits=Limits(migrations=1))

    rejected = solve(a_hot_host(), policy).explanation.rejected_moves

    assert any("limit of 1 migration in one plan" in reason for reason in rejected[0].reasons)


def test_a_plan_that_gains_too_little_as_a_whole_is_named() -> None:
    vms = [a_vm(f"vm{k}", on="h1" if k < 3 else "h2", cpu_used_cores=2.0) for k in range(5)]
    policy = a_policy(
        goals=(BalanceGoal(memory_weight=0.0), MovementGoal(weight=0.0)),
        trigger=Trigger(min_gain_ratio=0.99),
    )

    answer = solve(a_snapshot([a_host("h1"), a_host("h2"), a_host("h3")], vms), policy)

    if not any(answer.assignment[vm.id] != vm.host for vm in vms):
        reasons = [reason for move in answer.explanation.rejected_moves for reason in move.reasons]
        assert any("99 %" in reason for reason in reasons)


def test_no_more_than_five_moves_are_listed_the_best_first() -> None:
    rejected = solve(a_hot_host(), a_policy(limits=Limits(migrations=0))).explanation

    nets = [move.benefit - move.price for move in rejected.rejected_moves]
    assert len(nets) == 5
    assert nets == sorted(nets, reverse=True)


def test_hosts_that_take_nobody_are_listed_with_every_reason() -> None:
    hosts = [
        a_host("h1"),
        a_host("h2", state=HostState.MAINTENANCE, state_reason="new fans"),
        a_host("h3"),
    ]
    vms = [a_vm("a"), a_vm("big", on="h3", memory_bytes=62 * GIB)]

    rejected = solve(a_snapshot(hosts, vms)).explanation.rejected_hosts

    why = {host.name: host.reasons for host in rejected}
    assert why["h2"] == ("it is in maintenance: new fans",)
    assert why["h3"] == ("its memory is used up: 2.0 GiB free, the smallest VM needs 4.0 GiB",)
    assert "h1" not in why
