"""The sentence that a cycle ends with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostState, Snapshot, VmId
from rebalancer.cluster.plan import SolveStatus, Unmoved, Unsolved, Verdict, VerdictKind
from rebalancer.cluster.policy import Limits, Policy, PowerGoal, Trigger
from rebalancer.cluster.rules import Pin, Spread, Violation
from rebalancer.cluster.selection import VmSelector
from rebalancer.placement.imbalance import imbalance
from rebalancer.service.verdict import is_quiet, judge, stay
from tests.builders import a_host, a_policy, a_snapshot, a_vm
from tests.unit.service.samples import a_migration, a_plan, an_objective, an_outlook

EVEN = a_snapshot(vms=[a_vm("a", on="h1", cpu_used_cores=2), a_vm("b", on="h2", cpu_used_cores=2)])
UNEVEN = a_snapshot(
    vms=[a_vm("a", on="h1", cpu_used_cores=7), a_vm("b", on="h1", cpu_used_cores=8)]
)


def quiet(snapshot: Snapshot, policy: Policy) -> bool:
    demand = Demand.as_measured(snapshot)
    return is_quiet(snapshot, demand, policy, imbalance(snapshot, demand, policy))


def test_an_even_cluster_needs_no_plan() -> None:
    assert quiet(EVEN, a_policy(trigger=Trigger()))


def test_an_uneven_cluster_needs_one() -> None:
    assert not quiet(UNEVEN, a_policy(trigger=Trigger()))


def test_without_a_threshold_every_cluster_is_worth_a_look() -> None:
    assert not quiet(EVEN, a_policy(trigger=None))


def test_a_goal_other_than_balance_has_no_threshold() -> None:
    assert not quiet(EVEN, a_policy(goals=(PowerGoal(),), trigger=Trigger()))


def test_a_draining_host_needs_a_plan_however_even_the_load() -> None:
    snapshot = a_snapshot(
        [a_host("h1", state=HostState.DRAINING), a_host("h2")], [a_vm("a", on="h1")]
    )

    assert not quiet(snapshot, a_policy(trigger=Trigger()))


def test_a_broken_rule_needs_a_plan_however_even_the_load() -> None:
    apart = Spread(name="apart", vms=VmSelector())
    snapshot = a_snapshot(vms=[a_vm("a", on="h1"), a_vm("b", on="h1")])

    assert not quiet(snapshot, a_policy(apart, trigger=Trigger(spread_ratio=0.9)))


def verdict(snapshot: Snapshot, policy: Policy, **plan: Any) -> Verdict:
    load = imbalance(snapshot, Demand.as_measured(snapshot), policy)
    facts: dict[str, Any] = {"migrations": (), "unmoved": ()}
    made = a_plan(**(facts | plan))
    return judge(snapshot, policy, load, stay(snapshot), made)


def test_moves_are_counted_and_their_effect_told() -> None:
    outlook = an_outlook(cpu_ratio_before=0.91, cpu_ratio_after=0.73)

    said = verdict(UNEVEN, a_policy(), migrations=(a_migration(),), hosts=(outlook,))

    assert said.kind is VerdictKind.MOVES
    assert said.text.startswith("move 1 VM (")
    assert said.text.endswith("peak CPU 91 % → 73 %")


def test_vms_that_cannot_leave_a_draining_host_are_named() -> None:
    snapshot = a_snapshot(
        [a_host("h1", state=HostState.DRAINING), a_host("h2")], [a_vm("gpu", on="h1")]
    )

    said = verdict(snapshot, a_policy(), unmoved=(Unmoved(vm=VmId("gpu"), reasons=("pci",)),))

    assert (said.kind, said.text) == (VerdictKind.BLOCKED, "blocked: cannot move gpu")


def test_a_cluster_without_a_usable_host_is_not_called_balanced() -> None:
    hosts = [a_host("h1", state=HostState.DOWN), a_host("h2", state=HostState.MAINTENANCE)]

    said = verdict(a_snapshot(hosts), a_policy())

    assert said.kind is VerdictKind.BLOCKED
    assert "1 down, 1 maintenance" in said.text


def test_what_contradicts_each_other_is_said() -> None:
    load = imbalance(EVEN, Demand.as_measured(EVEN), a_policy())
    unsolved = Unsolved(
        status=SolveStatus.INFEASIBLE,
        conflicts=(Violation(rule="x", text="a and b must be together and apart"),),
    )

    said = judge(EVEN, a_policy(), load, unsolved, a_plan(migrations=()))

    assert said.kind is VerdictKind.BLOCKED
    assert "together and apart" in said.text


def test_an_uneven_cluster_that_provably_cannot_be_better_is_balanced() -> None:
    policy = a_policy(trigger=Trigger(min_gain_ratio=0.1))
    load = imbalance(UNEVEN, Demand.as_measured(UNEVEN), policy)
    proved = an_objective(before=1.0, after=1.0, bound=0.95, status=SolveStatus.OPTIMAL)
    open_end = an_objective(before=1.0, after=1.0, bound=0.2, status=SolveStatus.SEARCHED)

    nothing = a_plan(migrations=())

    kinds = [
        judge(UNEVEN, policy, load, replace(stay(UNEVEN), objective=objective), nothing).kind
        for objective in (proved, open_end)
    ]

    assert kinds == [VerdictKind.BALANCED, VerdictKind.NO_GAIN]


def test_a_hard_rule_that_stays_broken_is_told_beside_the_moves() -> None:
    apart = Spread(name="apart", vms=VmSelector())
    soft = Spread(name="soft", vms=VmSelector(), hard=False)
    left = (Violation(rule="apart", text=""), Violation(rule="soft", text=""))

    said = verdict(
        UNEVEN, a_policy(apart, soft), migrations=(a_migration(),), violations_after=left
    )

    assert said.kind is VerdictKind.MOVES
    assert said.is_unmet
    assert "; rule apart stays broken" in said.text


def test_limits_that_allow_no_move_are_told_and_not_called_balance() -> None:
    for limits in (
        Limits(migrations=0),
        Limits(moved_bytes=0),
        Limits(moves_out_of_host=0),
        Limits(moves_into_host=0),
    ):
        said = verdict(UNEVEN, a_policy(limits=limits))

        assert said.kind is VerdictKind.NO_GAIN
        assert said.text.startswith("nothing may move: the policy's limits allow no move (")


def test_vms_that_are_all_pinned_are_told_and_not_called_balanced() -> None:
    said = verdict(UNEVEN, a_policy(Pin(name="pin", vms=VmSelector())))

    assert said.text == "nothing may move: each VM is pinned or cannot be moved"


def test_a_cluster_of_one_host_has_nowhere_to_move_to() -> None:
    said = verdict(a_snapshot([a_host("h1")], [a_vm("a", on="h1")]), a_policy())

    assert said.text == "nothing may move: there is no host but h1 that VMs could be on"


def test_a_policy_without_balance_is_judged_by_its_own_goals() -> None:
    said = verdict(UNEVEN, a_policy(goals=(PowerGoal(),)))

    assert said.text == "no move was found that gains anything for power"
