"""What `place` answers: goals, limits, and what it says about them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostState, VmState
from rebalancer.cluster.plan import Placement, SolveStatus
from rebalancer.cluster.policy import (
    BalanceGoal,
    GeographyCriterion,
    GeographyGoal,
    Headroom,
    Limits,
    MovementGoal,
    Overcommit,
    PowerGoal,
    Trigger,
)
from rebalancer.cluster.rules import Together
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.sites import Link, Site
from rebalancer.placement.solver import place
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING, a_hot_host, moves, on, solve


def test_a_hot_host_is_relieved() -> None:
    answer = solve(a_hot_host())

    assert [len(on(answer, host)) for host in ("h1", "h2", "h3")] == [2, 2, 2]
    assert answer.objective.status is SolveStatus.OPTIMAL
    assert answer.objective.after < answer.objective.before
    assert answer.objective.captured_ratio == pytest.approx(1.0, abs=1e-3)


def test_a_balanced_cluster_is_left_alone() -> None:
    vms = [a_vm("a", on="h1"), a_vm("b", on="h2")]

    answer = solve(a_snapshot(vms=vms))

    assert moves(a_snapshot(vms=vms), answer) == {}
    assert answer.reasons == {}


def test_nothing_is_moved_for_less_than_it_costs() -> None:
    snapshot = a_hot_host()
    dear = a_policy(goals=(BalanceGoal(), MovementGoal(weight=1000.0)))

    assert moves(snapshot, solve(snapshot, dear)) == {}


def test_unequal_hosts_are_filled_in_proportion() -> None:
    hosts = [a_host("h1", cpu_cores=8.0), a_host("h2", cpu_cores=24.0)]
    vms = [a_vm(f"vm{k}", on="h1", cpu_used_cores=1.0, memory_bytes=GIB) for k in range(8)]

    answer = solve(a_snapshot(hosts, vms), a_policy(goals=(BalanceGoal(memory_weight=0.0),)))

    assert len(on(answer, "h2")) == 6


def test_memory_counts_as_the_goal_weighs_it() -> None:
    vms = [a_vm(f"vm{k}", on="h1", cpu_used_cores=0.0, memory_bytes=8 * GIB) for k in range(4)]
    snapshot = a_snapshot(vms=vms)

    by_memory = solve(snapshot, a_policy(goals=(BalanceGoal(),)))
    by_cpu = solve(snapshot, a_policy(goals=(BalanceGoal(memory_weight=0.0),)))

    assert len(on(by_memory, "h2")) == 2
    assert moves(snapshot, by_cpu) == {}


def test_the_reason_of_a_move_is_given_in_numbers() -> None:
    snapshot = a_hot_host()

    reasons = solve(snapshot).reasons

    assert len(reasons) == 4
    expected = "cpu of h1 75 % → 25 %, h2 0 % → 25 %; gains 0.03"
    assert any(reason.startswith(expected) for reason in reasons.values())


def test_a_plan_moves_no_more_than_the_policy_allows() -> None:
    snapshot = a_hot_host()

    answer = solve(snapshot, a_policy(limits=Limits(migrations=1)))

    assert len(moves(snapshot, answer)) == 1


def test_a_gain_below_the_least_one_is_left() -> None:
    vms = [a_vm(f"vm{k}", on="h1" if k < 5 else "h2", cpu_used_cores=2.0) for k in range(8)]
    snapshot = a_snapshot(vms=vms)
    free = (BalanceGoal(memory_weight=0.0),)

    always = solve(snapshot, a_policy(goals=free))
    hardly_ever = solve(snapshot, a_policy(goals=free, trigger=Trigger(min_gain_ratio=1.0)))

    assert len(moves(snapshot, always)) == 1
    assert moves(snapshot, hardly_ever) == {}


def test_a_draining_host_is_emptied_whatever_the_cap_and_the_gain() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2"), a_host("h3")]
    vms = [a_vm(f"vm{k}", on="h1") for k in range(4)]
    policy = a_policy(limits=Limits(migrations=1), trigger=Trigger(min_gain_ratio=0.9))

    answer = solve(a_snapshot(hosts, vms), policy)

    assert on(answer, "h1") == []
    assert all(reason.startswith("h1 is draining") for reason in answer.reasons.values())
    assert answer.objective.terms_before == {"drain": 4.0}
    assert answer.objective.status is SolveStatus.OPTIMAL
    assert len(on(answer, "h2")) == 2


def test_vms_that_cannot_leave_say_why() -> None:
    hosts = [
        a_host("h1", state=DRAINING),
        a_host("h2", memory_bytes=8 * GIB),
        a_host("h3", state=HostState.MAINTENANCE),
        a_host("h4", storage=frozenset({"other"})),
    ]
    vms = [
        a_vm("big", on="h1", memory_bytes=16 * GIB, storage=frozenset({"san"})),
        a_vm("tied", on="h1", movable=False, blockers=("PCI device",)),
        a_vm("free", on="h1"),
    ]

    answer = solve(a_snapshot(hosts, vms))

    why = {unmoved.vm_name: " / ".join(unmoved.reasons) for unmoved in answer.unmoved}
    assert on(answer, "h1") == ["big", "tied"]
    assert "h2: it needs" in why["big"]
    assert "h3: maintenance" in why["big"]
    assert "h4: the host does not reach storage san" in why["big"]
    assert "marked as not movable" in why["tied"]
    assert "PCI device" in why["tied"]


def test_others_make_room_for_a_vm_that_has_to_leave() -> None:
    hosts = [a_host("h1", state=DRAINING, memory_bytes=32 * GIB)]
    hosts += [a_host(f"h{k}", memory_bytes=32 * GIB) for k in (2, 3)]
    vms = [a_vm("big", on="h1", memory_bytes=24 * GIB)]
    vms += [a_vm(f"s{k}", on=f"h{k}", memory_bytes=12 * GIB) for k in (2, 3)]

    answer = solve(a_snapshot(hosts, vms))

    assert on(answer, "h1") == []


def test_a_drain_does_not_use_up_the_reserve_for_failing_hosts() -> None:
    policy = a_policy(headroom=Headroom(cpu_ratio=0, memory_ratio=0, host_failures=1))
    hosts = [a_host("h1", state=DRAINING)]
    hosts += [a_host(f"h{k}", memory_bytes=32 * GIB) for k in (2, 3)]
    vms = [a_vm(f"vm{k}", on="h1", memory_bytes=16 * GIB) for k in range(3)]

    answer = solve(a_snapshot(hosts, vms), policy)

    assert len(on(answer, "h1")) == 1
    assert any("host_failures" in reason for reason in answer.unmoved[0].reasons)


def test_a_stopped_vm_leaves_a_draining_host_too() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2")]
    snapshot = a_snapshot(hosts, [a_vm("off", on="h1", state=VmState.SHUTOFF)])

    assert moves(snapshot, solve(snapshot)) == {"off": "h2"}


def test_an_overfull_host_is_mended_without_a_gain_for_the_goals() -> None:
    hosts = [a_host("h1", memory_bytes=16 * GIB), a_host("h2", memory_bytes=16 * GIB)]
    vms = [a_vm(f"vm{k}", on="h1", memory_bytes=6 * GIB, cpu_used_cores=0.0) for k in range(3)]
    policy = a_policy(goals=(), overcommit=Overcommit(), trigger=Trigger())

    answer = solve(a_snapshot(hosts, vms), policy)

    assert len(on(answer, "h1")) == 2
    assert "mends memory of h1" in next(iter(answer.reasons.values()))


def test_an_overload_that_cannot_be_mended_does_not_get_worse() -> None:
    hosts = [a_host("h1", memory_bytes=8 * GIB), a_host("h2", memory_bytes=8 * GIB)]
    vms = [a_vm("a", on="h1", memory_bytes=10 * GIB), a_vm("b", on="h2", memory_bytes=6 * GIB)]
    snapshot = a_snapshot(hosts, vms)

    assert moves(snapshot, solve(snapshot)) == {}


def test_vms_change_places_where_memory_is_too_full_for_single_moves() -> None:
    hosts = [a_host(f"h{k}", memory_bytes=16 * GIB) for k in (1, 2, 3)]
    vms = [
        a_vm("hot1", on="h1", memory_bytes=8 * GIB, cpu_used_cores=6.0, vcpus=8),
        a_vm("hot2", on="h1", memory_bytes=8 * GIB, cpu_used_cores=6.0, vcpus=8),
        a_vm("cold1", on="h2", memory_bytes=8 * GIB, cpu_used_cores=0.0),
        a_vm("cold2", on="h2", memory_bytes=8 * GIB, cpu_used_cores=0.0),
        a_vm("third", on="h3", memory_bytes=8 * GIB, cpu_used_cores=6.0, vcpus=8),
    ]

    answer = solve(a_snapshot(hosts, vms))

    assert answer.objective.after < answer.objective.before / 2
    assert len([vm for vm in on(answer, "h2") if vm.startswith("hot")]) == 1


def test_ring_that_nothing_can_untie_is_not_proposed() -> None:
    """Two full hosts and no third one: the VMs could never change places."""
    hosts = [a_host(f"h{k}", memory_bytes=16 * GIB) for k in (1, 2)]
    hot = [a_vm(f"hot{k}", on="h1", memory_bytes=8 * GIB, cpu_used_cores=6.0) for k in (1, 2)]
    cold = [a_vm(f"cold{k}", on="h2", memory_bytes=8 * GIB, cpu_used_cores=0.0) for k in (1, 2)]
    snapshot = a_snapshot(hosts, hot + cold)

    assert moves(snapshot, solve(snapshot)) == {}


def test_power_empties_hosts_but_keeps_some_awake() -> None:
    hosts = [a_host(f"h{k}") for k in (1, 2, 3, 4)]
    vms = [a_vm(f"vm{k}", on=f"h{k}", cpu_used_cores=1.0) for k in (1, 2, 3, 4)]
    goals = (PowerGoal(min_awake=2), MovementGoal())

    answer = solve(a_snapshot(hosts, vms), a_policy(goals=goals))

    assert sum(bool(on(answer, host.id)) for host in hosts) == 2
    assert any("can sleep" in reason for reason in answer.reasons.values())


def test_power_fills_the_host_that_draws_least() -> None:
    hosts = [
        a_host("h1", idle_watts=200.0, max_watts=400.0),
        a_host("h2", idle_watts=100.0, max_watts=200.0),
    ]
    vms = [a_vm("a", on="h1"), a_vm("b", on="h2")]

    answer = solve(a_snapshot(hosts, vms), a_policy(goals=(PowerGoal(min_awake=1),)))

    assert on(answer, "h2") == ["a", "b"]


@pytest.mark.parametrize(
    ("criterion", "best", "numbers"),
    [
        (GeographyCriterion.ENERGY_PRICE, "h1", "energy 0.3 → 0.1 per kWh"),
        (GeographyCriterion.CARBON, "h2", "carbon 500 → 100 g/kWh"),
        (GeographyCriterion.LATENCY, "h2", "latency to users 30 → 10 ms"),
    ],
)
def test_geography_prefers_the_better_site_and_says_by_how_much(
    criterion: GeographyCriterion, best: str, numbers: str
) -> None:
    sites = [
        Site(name="tokyo", energy_price_per_kwh=0.1, carbon_g_per_kwh=500),
        Site(name="osaka", energy_price_per_kwh=0.3, carbon_g_per_kwh=100),
    ]
    sites[0] = replace(sites[0], latency_seconds={"users": 0.03})
    sites[1] = replace(sites[1], latency_seconds={"users": 0.01})
    hosts = [a_host("h1", site="tokyo"), a_host("h2", site="osaka")]
    snapshot = a_snapshot(hosts, [a_vm("a", on="h1"), a_vm("b", on="h2")], sites=sites)
    goal = GeographyGoal(criterion=criterion, users="users")

    answer = solve(snapshot, a_policy(goals=(goal, MovementGoal())))

    assert on(answer, best) == ["a", "b"]
    assert f"for it ({numbers}); " in next(iter(answer.reasons.values()))


def test_a_slow_link_makes_moving_dear() -> None:
    hosts = [a_host("h1", site="a"), a_host("h2", site="b")]
    vms = [a_vm(f"vm{k}", on="h1", cpu_used_cores=1.5) for k in range(4)]
    fast = a_snapshot(hosts, vms, links=[Link(name="w", bytes_per_second=1e9, between=("a", "b"))])
    slow = a_snapshot(hosts, vms, links=[Link(name="w", bytes_per_second=1e5, between=("a", "b"))])

    assert len(moves(fast, solve(fast))) == 2
    assert moves(slow, solve(slow)) == {}


def test_an_earlier_tier_goes_before_a_later_one() -> None:
    snapshot = a_hot_host()
    still_first = (MovementGoal(tier=1), BalanceGoal(tier=2))
    even_first = (BalanceGoal(tier=1), MovementGoal(tier=2))

    assert moves(snapshot, solve(snapshot, a_policy(goals=still_first))) == {}
    assert len(moves(snapshot, solve(snapshot, a_policy(goals=even_first)))) == 4


def test_hosts_that_the_policy_is_not_about_are_left_alone() -> None:
    snapshot = a_hot_host()
    policy = a_policy(applies=HostSelector(names=("h1", "h2")))

    answer = solve(snapshot, policy)

    assert on(answer, "h3") == []
    assert len(on(answer, "h2")) == 3


@pytest.mark.parametrize("state", [HostState.UNKNOWN, HostState.DOWN, HostState.ASLEEP])
def test_hosts_that_are_not_up_neither_give_nor_take(state: HostState) -> None:
    hosts = [a_host("h1"), a_host("h2"), a_host("h3", state=state)]
    vms = [a_vm(f"vm{k}", on="h3", cpu_used_cores=2.0) for k in range(4)]
    vms += [a_vm(f"w{k}", on="h1", cpu_used_cores=2.0) for k in range(4)]
    snapshot = a_snapshot(hosts, vms)

    answer = solve(snapshot)

    assert len(on(answer, "h3")) == 4
    assert len(on(answer, "h2")) == 2


def test_a_cluster_without_anything_to_decide_has_an_answer() -> None:
    empty = a_snapshot()
    nobody_up = a_snapshot([a_host("h1", state=HostState.DOWN)], [a_vm("a", on="h1")])
    alone = a_snapshot([a_host("h1")], [a_vm("a", on="h1")])

    for snapshot in (empty, nobody_up, alone):
        assert moves(snapshot, solve(snapshot)) == {}


def test_a_host_busy_with_its_own_work_takes_nobody() -> None:
    hosts = [a_host("h1", cpu_cores=8.0), a_host("h2", cpu_cores=8.0, cpu_used_cores=9.0)]
    vms = [a_vm(f"vm{k}", on="h1", cpu_used_cores=0.0, memory_bytes=16 * GIB) for k in range(3)]
    snapshot = a_snapshot(hosts, vms)

    assert moves(snapshot, solve(snapshot)) == {}


def test_the_present_placement_is_the_answer_when_there_is_no_time() -> None:
    snapshot = a_hot_host()

    answer = solve(snapshot, seconds=0.0)

    assert moves(snapshot, answer) == {}
    assert answer.objective.status is SolveStatus.TIME_LIMIT
    assert answer.objective.after == answer.objective.before


def test_a_drain_without_time_says_that_no_place_was_found() -> None:
    snapshot = a_snapshot([a_host("h1", state=DRAINING), a_host("h2")], [a_vm("a", on="h1")])

    answer = solve(snapshot, seconds=0.0)

    assert answer.unmoved[0].reasons == ("no place was found for it in the time given",)


def test_time_is_told_by_the_callers_clock() -> None:
    ticks = iter(range(10_000))
    snapshot = a_hot_host()

    answer = place(
        snapshot, Demand.as_measured(snapshot), a_policy(), clock=lambda: float(next(ticks))
    )

    assert isinstance(answer, Placement)
    assert answer.objective.solve_seconds >= 1.0
    assert answer.objective.after <= answer.objective.before


def test_the_same_input_gives_the_same_answer() -> None:
    snapshot = a_hot_host()

    first, second = solve(snapshot), solve(snapshot)

    assert dict(first.assignment) == dict(second.assignment)
    assert first.objective == second.objective


def test_the_order_of_the_input_does_not_matter() -> None:
    snapshot = a_hot_host()
    turned = replace(snapshot, hosts=snapshot.hosts[::-1], vms=snapshot.vms[::-1])

    assert dict(solve(turned).assignment) == dict(solve(snapshot).assignment)


def test_a_group_that_was_apart_goes_where_a_second_plan_would_take_it() -> None:
    close = Together(name="close", vms=VmSelector(names=("db*",)))
    hosts = [a_host("h1", memory_bytes=16 * GIB), a_host("h2", memory_bytes=16 * GIB)]
    hosts.append(a_host("h3", memory_bytes=32 * GIB))
    vms = [a_vm(f"db{n}", on="h2", memory_bytes=2 * GIB, cpu_used_cores=0.0) for n in range(3)]
    vms.append(a_vm("db3", on="h1", memory_bytes=2 * GIB, cpu_used_cores=0.0))
    snapshot = a_snapshot(hosts, vms)

    first = solve(snapshot, a_policy(close))
    moved = tuple(replace(vm, host=first.assignment[vm.id]) for vm in vms)
    second = solve(replace(snapshot, vms=moved), a_policy(close))

    assert len(set(first.assignment.values())) == 1
    assert dict(second.assignment) == dict(first.assignment)
