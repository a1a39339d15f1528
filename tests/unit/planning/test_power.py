from dataclasses import replace

import pytest

from rebalancer.cluster.inventory import HostState, VmState
from rebalancer.cluster.plan import PowerAction
from rebalancer.cluster.policy import Headroom, MovementGoal, Policy, PowerGoal
from rebalancer.cluster.power import cycle_joules, migration_joules
from rebalancer.cluster.selection import HostSelector
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.planning.plans import a_plan

GOAL = PowerGoal(min_awake=1)
ANY_ONE = Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=1)


def saving(goal: PowerGoal = GOAL, headroom: Headroom | None = None) -> Policy:
    policy = a_policy(goals=(goal, MovementGoal()))
    return replace(policy, headroom=headroom) if headroom else policy


def test_a_host_sleeps_after_the_last_migration_that_touches_it() -> None:
    snapshot = a_snapshot(vms=[a_vm("a"), a_vm("b"), a_vm("c", on="h2")])
    plan = a_plan(snapshot, {"a": "h2", "b": "h2"}, saving())

    (step,) = plan.power
    assert (step.host, step.action) == ("h1", PowerAction.SLEEP)
    assert step.depends_on == ("m1", "m2")
    assert step.vms == 2
    assert step.moved_bytes == sum(each.predicted.transfer_bytes for each in plan.migrations)


def test_a_step_says_what_is_saved_and_when_that_has_made_up_for_its_cost() -> None:
    hosts = [a_host("h1", idle_watts=100.0, max_watts=200.0), a_host("h2")]
    plan = a_plan(a_snapshot(hosts, [a_vm("a"), a_vm("b", on="h2")]), {"a": "h2"}, saving())

    (step,) = plan.power
    spent = cycle_joules(GOAL, hosts[0]) + migration_joules(step.moved_bytes)
    assert step.saved_watts == 100.0
    assert step.payback_seconds == pytest.approx(spent / 100.0)
    assert "saves 100 W" in step.reason


def test_without_a_power_goal_no_host_is_put_to_sleep() -> None:
    assert a_plan(a_snapshot(vms=[a_vm("a")]), {"a": "h2"}).power == ()


def test_a_host_whose_vms_could_not_leave_stays_on() -> None:
    vms = [a_vm("a", movable=False), a_vm("b", on="h2")]

    assert a_plan(a_snapshot(vms=vms), {"a": "h2"}, saving()).power == ()


@pytest.mark.parametrize(
    ("goal", "headroom", "sleeping"),
    [
        (GOAL, None, 3),
        (PowerGoal(min_awake=3), None, 1),
        (GOAL, ANY_ONE, 2),
        (PowerGoal(min_awake=1, spare_ratio=0.5), None, 2),
    ],
)
def test_as_many_empty_hosts_stay_on_as_have_to_be_awake(
    goal: PowerGoal, headroom: Headroom | None, sleeping: int
) -> None:
    """40 of 64 GiB on one of four hosts."""
    hosts = [a_host(f"h{number}") for number in range(1, 5)]
    snapshot = a_snapshot(hosts, [a_vm("a", memory_bytes=40 * GIB)])

    assert len(a_plan(snapshot, {}, saving(goal, headroom)).power) == sleeping


def test_an_empty_host_stays_on_if_a_failed_hosts_vm_would_fit_nowhere_else() -> None:
    """In sum two of three hosts hold 120 GiB, but none of them has 40 GiB in one piece."""
    hosts = [a_host(f"h{number}") for number in range(1, 6)]
    vms = [a_vm(f"vm{n}", on=f"h{n}", memory_bytes=40 * GIB) for n in (1, 2, 3)]

    assert len(a_plan(a_snapshot(hosts, vms), {}, saving()).power) == 2
    assert len(a_plan(a_snapshot(hosts, vms), {}, saving(headroom=ANY_ONE)).power) == 1


def test_empty_hosts_that_draw_most_sleep_first() -> None:
    hosts = [a_host(f"h{n}", idle_watts=watts) for n, watts in ((1, 100.0), (2, 90.0), (3, 150.0))]
    goal = PowerGoal(min_awake=2)

    (step,) = a_plan(a_snapshot(hosts), {}, saving(goal)).power

    assert step.host == "h3"


def test_a_host_outside_the_policy_is_not_touched_and_counts_as_awake() -> None:
    hosts = [a_host("h1"), a_host("h2", site="away")]
    policy = replace(saving(), applies=HostSelector(sites=("away",)))

    assert [step.host for step in a_plan(a_snapshot(hosts), {}, policy).power] == ["h2"]


def test_vms_that_are_shut_off_on_a_sleeping_host_are_mentioned() -> None:
    vms = [a_vm("off", state=VmState.SHUTOFF), a_vm("b", on="h2")]

    (step,) = a_plan(a_snapshot(vms=vms), {}, saving()).power

    assert "1 VMs that are shut off on it" in step.reason


def test_a_sleeping_host_is_woken_when_the_others_are_too_few() -> None:
    hosts = [
        a_host("h1"),
        a_host("h2", state=HostState.ASLEEP, idle_watts=300.0),
        a_host("h3", state=HostState.ASLEEP, idle_watts=100.0),
    ]
    snapshot = a_snapshot(hosts, [a_vm("a", memory_bytes=60 * GIB)])
    spare = PowerGoal(min_awake=1, spare_ratio=0.2)

    (step,) = a_plan(snapshot, {}, saving(spare)).power

    assert (step.host, step.action) == ("h3", PowerAction.WAKE)
    assert "spare: 20%, memory" in step.reason


def test_no_move_waits_for_a_host_to_wake() -> None:
    """It may not wake; what can move there, the next plan says, which has seen it awake."""
    hosts = [a_host("h1"), a_host("h2", state=HostState.ASLEEP)]
    snapshot = a_snapshot(hosts, [a_vm("a", memory_bytes=60 * GIB)])

    plan = a_plan(snapshot, {"a": "h2"}, saving(PowerGoal(min_awake=1, spare_ratio=0.2)))

    assert [(step.host, step.action, step.depends_on) for step in plan.power] == [
        ("h2", PowerAction.WAKE, ())
    ]
    assert plan.migrations == ()
    assert plan.unmoved[0].reasons == ("h2 is asleep",)


def test_nobody_is_woken_while_half_of_what_is_to_be_spare_is_left() -> None:
    """56 GiB leave 12 % of 64: less than the 20 % from which on the other may sleep."""
    hosts = [a_host("h1"), a_host("h2", state=HostState.ASLEEP)]
    spare = PowerGoal(min_awake=1, spare_ratio=0.2)
    vms = [a_vm("a", memory_bytes=56 * GIB)]

    assert a_plan(a_snapshot(hosts, vms), {}, saving(spare)).power == ()
    awake = [a_host("h1"), a_host("h2")]
    assert a_plan(a_snapshot(awake, vms), {}, saving(spare)).power == ()
