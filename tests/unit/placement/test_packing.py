from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rebalancer.cluster.inventory import Host, Snapshot, Vm
from rebalancer.cluster.policy import (
    Headroom,
    Limits,
    MovementGoal,
    MovementMeasure,
    Policy,
    PowerGoal,
)
from rebalancer.cluster.rules import Ban, Pin, Spread
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import Layout, scale_of
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.packing import empty_hosts, hardest_to_empty_first, pack
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import moves, on, problem_of, solve

FREE = PowerGoal(min_awake=1, boot_seconds=0.0, wear_joules=0.0)
"""A power cycle costs nothing."""


def saving(goal: PowerGoal = FREE, **changed: Any) -> Policy:
    return a_policy(goals=(goal, MovementGoal()), **changed)


def hosts(count: int, **changed: Any) -> list[Host]:
    facts: dict[str, Any] = {"idle_watts": 100.0, "max_watts": 300.0}
    return [a_host(f"h{number}", **(facts | changed)) for number in range(1, count + 1)]


def vms(**per_host: int) -> list[Vm]:
    """So many small VMs on each host."""
    return [
        a_vm(f"{host}-{number}", on=host)
        for host, count in per_host.items()
        for number in range(count)
    ]


def emptied(snapshot: Snapshot, policy: Policy) -> list[str]:
    answer = solve(snapshot, policy)
    return [host.name for host in snapshot.hosts if not on(answer, host.id)]


def test_hosts_with_the_fewest_vms_are_emptied() -> None:
    snapshot = a_snapshot(hosts(4), vms(h1=2, h2=9, h3=1, h4=8))
    policy = saving(PowerGoal(min_awake=2))

    assert emptied(snapshot, policy) == ["h1", "h3"]
    assert len(moves(snapshot, solve(snapshot, policy))) == 3


def test_fewest_vms_or_fewest_bytes_is_a_matter_of_the_movement_goal() -> None:
    big = [a_vm("big", on="h1", memory_bytes=16 * GIB)]
    snapshot = a_snapshot(hosts(2), [*big, *vms(h2=2)])
    by_count = MovementGoal(measure=MovementMeasure.COUNT)

    assert emptied(snapshot, saving()) == ["h2"]
    assert emptied(snapshot, a_policy(goals=(FREE, by_count))) == ["h1"]


def test_a_host_with_a_vm_that_cannot_move_stays_on_and_nothing_is_moved_off_it() -> None:
    snapshot = a_snapshot(hosts(3), vms(h1=3, h2=1, h3=5))
    policy = saving(PowerGoal(min_awake=1))
    pinned = a_policy(Pin(name="stay", vms=VmSelector(names=("h2-0",))), goals=policy.goals)

    assert emptied(snapshot, policy) == ["h1", "h2"]
    assert emptied(snapshot, pinned) == ["h1", "h3"]


def test_the_hosts_that_draw_least_stay_on() -> None:
    drawing = [
        a_host(name, idle_watts=watts, max_watts=400.0)
        for name, watts in (("h1", 90.0), ("h2", 250.0), ("h3", 80.0))
    ]
    snapshot = a_snapshot(drawing, vms(h1=1, h2=4, h3=1))

    assert emptied(snapshot, saving()) == ["h1", "h2"]


def test_a_group_kept_apart_keeps_as_many_hosts_on() -> None:
    rule = Spread(name="apart", vms=VmSelector(names=("*-0",)))
    snapshot = a_snapshot(hosts(4), vms(h1=1, h2=1, h3=1, h4=2))

    assert len(emptied(snapshot, a_policy(rule, goals=(FREE,)))) == 0
    assert len(emptied(snapshot, saving())) == 3


def test_half_an_emptied_host_saves_nothing_so_nothing_moves() -> None:
    snapshot = a_snapshot(hosts(2), vms(h1=4, h2=4))

    assert moves(snapshot, solve(snapshot, saving(limits=Limits(migrations=3)))) == {}
    assert len(moves(snapshot, solve(snapshot, saving(limits=Limits(migrations=4))))) == 4


@pytest.mark.parametrize(("hours", "sleeps"), [(0.5, []), (2.0, ["h1"])])
def test_a_power_cycle_has_to_pay_within_the_pay_back_time(hours: float, sleeps: list[str]) -> None:
    """A cycle costs 300 s · 300 W + 360 kJ = 450 kJ, which 100 W make up for in 75 minutes."""
    snapshot = a_snapshot(hosts(2), vms(h1=1, h2=2))
    goal = PowerGoal(min_awake=1, payback_seconds=hours * 3600)

    assert emptied(snapshot, saving(goal)) == sleeps


@pytest.mark.parametrize(("seconds", "moved"), [(20.0, 0), (200.0, 1), (2000.0, 3)])
def test_emptying_stops_where_moving_on_no_longer_pays(seconds: float, moved: int) -> None:
    """Sending 4 GiB costs 2.4 kJ, as a host does in 24 s; 60 GiB cost as much as 330 s of it."""
    big = [a_vm(f"big{number}", on="h2", memory_bytes=30 * GIB) for number in (1, 2)]
    snapshot = a_snapshot(hosts(3, memory_bytes=256 * GIB), [*vms(h1=1, h3=25), *big])
    goal = replace(FREE, payback_seconds=seconds)

    assert len(moves(snapshot, solve(snapshot, a_policy(goals=(goal,))))) == moved


def test_the_hosts_left_on_survive_the_loss_of_any_one_of_them() -> None:
    """40 of 64 GiB on each: two hosts hold it all, and one of two could not."""
    snapshot = a_snapshot(hosts(4), vms(h1=6, h2=6, h3=6, h4=6))
    any_one = Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=1)

    assert len(emptied(snapshot, saving())) == 2
    assert len(emptied(snapshot, saving(headroom=any_one))) == 1


def test_spare_is_left_over_all_hosts_that_stay() -> None:
    """96 GiB fill 75 % of two hosts."""
    snapshot = a_snapshot(hosts(4), vms(h1=6, h2=6, h3=6, h4=6))

    assert len(emptied(snapshot, saving(PowerGoal(min_awake=1, spare_ratio=0.2)))) == 2
    assert len(emptied(snapshot, saving(PowerGoal(min_awake=1, spare_ratio=0.3)))) == 1


def test_a_vm_goes_where_the_room_has_the_shape_of_its_needs() -> None:
    """h1 has cores left and h2 memory: only if each takes what it has room for does all fit."""
    full = [
        a_vm("memory", on="h1", memory_bytes=44 * GIB, cpu_used_cores=1.0),
        a_vm("cpu", on="h2", memory_bytes=4 * GIB, cpu_used_cores=11.0),
    ]
    rest = [
        *(a_vm(f"c{n}", on="h3", memory_bytes=4 * GIB, cpu_used_cores=4.5) for n in range(3)),
        *(a_vm(f"m{n}", on="h4", memory_bytes=17 * GIB, cpu_used_cores=0.5) for n in range(3)),
    ]
    problem = problem_of(a_snapshot(hosts(4), [*full, *rest]), saving())
    layout = Layout(problem, problem.start, scale_of(find_tiers(problem), 1.0))

    assert empty_hosts(layout, [2, 3], Budget(clock=lambda: 0.0, ends_at=60.0))
    assert not layout.members[2]
    assert not layout.members[3]


def test_the_hardest_to_place_goes_first_where_small_ones_would_take_its_room() -> None:
    """h1 has 30 GiB left and h2 20: that is enough if the small VM, cheaper to move, waits."""
    full = [
        a_vm("stays1", on="h1", memory_bytes=34 * GIB),
        a_vm("stays2", on="h2", memory_bytes=44 * GIB),
    ]
    rest = [
        a_vm("small", on="h3", memory_bytes=18 * GIB),
        a_vm("large", on="h4", memory_bytes=28 * GIB),
    ]
    stay = Pin(name="stay", vms=VmSelector(names=("stays*",)))
    policy = a_policy(
        stay,
        goals=(FREE, MovementGoal(measure=MovementMeasure.MEMORY)),
        headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.0),
    )
    problem = problem_of(a_snapshot(hosts(4), [*full, *rest]), policy)
    scale = scale_of(find_tiers(problem), 1.0)
    budget = Budget(clock=lambda: 0.0, ends_at=60.0)

    in_order = Layout(problem, problem.start, scale)
    empty_hosts(in_order, [2, 3], budget)
    packed = Layout(problem, pack(problem, scale, problem.start, budget), scale)

    assert hardest_to_empty_first(in_order, [2, 3]) == [3, 2]
    assert in_order.members[3]
    assert not packed.members[2] | packed.members[3]


def test_a_broken_rule_is_mended_even_if_too_few_hosts_are_in_use_then() -> None:
    """The host that is emptied for it stays awake: it is not among those that may sleep."""
    rule = Ban(name="keep off", vms=VmSelector(names=("h1-0",)), hosts=HostSelector(names=("h1",)))
    policy = a_policy(rule, goals=(PowerGoal(min_awake=2),))

    assert emptied(a_snapshot(hosts(2), vms(h1=1, h2=1)), policy) == ["h1"]


def test_no_more_hosts_are_emptied_than_leave_a_place_for_each_vm_of_a_failed_one() -> None:
    """In sum two of three hosts would do; but 40 GiB fit beside no other 40 GiB."""
    big = [a_vm(f"big{number}", on=f"h{number}", memory_bytes=40 * GIB) for number in (1, 2, 3)]
    snapshot = a_snapshot(hosts(5), [*big, *vms(h4=1, h5=2)])
    any_one = Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=1)

    assert emptied(snapshot, saving()) == ["h4", "h5"]
    assert emptied(snapshot, saving(headroom=any_one)) == ["h4"]
