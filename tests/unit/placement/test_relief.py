"""Bringing hosts down to a band, with the fewest GiB, and knowing that they are the fewest."""

from __future__ import annotations

import pytest

from rebalancer.cluster.plan import Placement, SolveStatus
from rebalancer.cluster.policy import (
    Goal,
    Headroom,
    Limits,
    MovementGoal,
    MovementMeasure,
    RelieveGoal,
)
from rebalancer.cluster.rules import Pin, Spread
from rebalancer.cluster.selection import VmSelector
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import moves, on, solve

FEWEST_GIB: tuple[Goal, ...] = (
    RelieveGoal(tier=1, cpu_ratio=0.75),
    MovementGoal(tier=2, weight=1.0, measure=MovementMeasure.MEMORY),
)
HOSTS = [a_host("h1"), a_host("h2"), a_host("h3")]
"""16 cores each, so the band ends at 12."""


def excess(answer: Placement) -> float:
    return answer.objective.terms_after["relieve"]


def test_the_fewest_gib_are_moved_not_the_fewest_vms() -> None:
    vms = [
        a_vm("big", on="h1", cpu_used_cores=6.0, memory_bytes=32 * GIB),
        *(a_vm(f"small{k}", on="h1", cpu_used_cores=1.5, memory_bytes=4 * GIB) for k in range(6)),
    ]

    answer = solve(a_snapshot(HOSTS, vms), a_policy(goals=FEWEST_GIB))

    assert excess(answer) == 0
    assert len(moves(a_snapshot(HOSTS, vms), answer)) == 2
    assert "big" in on(answer, "h1")


def test_that_they_are_the_fewest_is_proved() -> None:
    vms = [
        a_vm(f"v{k}", on="h1", cpu_used_cores=1.0 + k / 4, memory_bytes=(k + 1) * GIB)
        for k in range(8)
    ]

    answer = solve(a_snapshot(HOSTS, vms), a_policy(goals=FEWEST_GIB))

    (movement,) = answer.objective.later
    assert movement.goals == ("movement",)
    assert movement.after > 0
    assert movement.bound == pytest.approx(movement.after)
    assert answer.objective.status is SolveStatus.OPTIMAL


def test_a_cluster_within_its_band_is_left_alone_however_uneven_it_is() -> None:
    vms = [a_vm(f"v{k}", on="h1", cpu_used_cores=3.0) for k in range(4)]
    snapshot = a_snapshot(HOSTS, vms)

    answer = solve(snapshot, a_policy(goals=FEWEST_GIB))

    assert moves(snapshot, answer) == {}
    assert answer.objective.status is SolveStatus.OPTIMAL


def test_no_target_is_lifted_above_its_band() -> None:
    vms = [a_vm(f"a{k}", on="h1", cpu_used_cores=2.0) for k in range(8)]
    vms += [a_vm(f"b{k}", on="h2", cpu_used_cores=2.0) for k in range(6)]
    vms += [a_vm(f"c{k}", on="h3", cpu_used_cores=2.0) for k in range(4)]

    answer = solve(a_snapshot(HOSTS, vms), a_policy(goals=FEWEST_GIB))

    assert [len(on(answer, host)) for host in ("h1", "h2", "h3")] == [6, 6, 6]


def test_memory_can_have_a_band_as_well() -> None:
    vms = [a_vm(f"v{k}", on="h1", cpu_used_cores=0.1, memory_bytes=8 * GIB) for k in range(7)]
    goals = (RelieveGoal(cpu_ratio=None, memory_ratio=0.5), MovementGoal(tier=2))

    answer = solve(a_snapshot(HOSTS, vms), a_policy(goals=goals))

    assert len(on(answer, "h1")) == 4


def test_a_vm_that_alone_exceeds_the_band_stays_and_the_rest_leaves() -> None:
    vms = [
        a_vm("huge", on="h1", cpu_used_cores=14.0, memory_bytes=48 * GIB),
        a_vm("small", on="h1", cpu_used_cores=1.0, memory_bytes=2 * GIB),
    ]

    answer = solve(a_snapshot(HOSTS, vms), a_policy(goals=FEWEST_GIB))

    assert on(answer, "h1") == ["huge"]
    (host,) = answer.above_band
    assert (host.name, host.resource, host.ratio, host.band_ratio) == ("h1", "CPU", 0.875, 0.75)
    assert host.reasons == ("huge alone uses 88 %, too much for any other host",)
    assert answer.objective.status is SolveStatus.OPTIMAL


def test_a_host_that_pinned_vms_keep_above_its_band_says_so() -> None:
    vms = [a_vm("gw", on="h1", cpu_used_cores=13.0), a_vm("b", on="h1", cpu_used_cores=1.0)]
    pin = Pin(name="stay", vms=VmSelector(names=("gw",)))

    answer = solve(a_snapshot(HOSTS, vms), a_policy(pin, goals=FEWEST_GIB))

    assert on(answer, "h1") == ["gw"]
    (host,) = answer.above_band
    assert host.reasons == ("81 % is used by gw, not movable",)


def test_a_vm_with_nowhere_to_go_is_named() -> None:
    full = [a_vm(f"f{k}", on=f"h{k}", memory_bytes=60 * GIB, movable=False) for k in (2, 3)]
    vms = [a_vm(f"v{k}", on="h1", cpu_used_cores=7.0, memory_bytes=8 * GIB) for k in (1, 2)]

    answer = solve(a_snapshot(HOSTS, [*full, *vms]), a_policy(goals=FEWEST_GIB))

    (host,) = answer.above_band
    assert host.reasons == ("no other host has room within its band for v1, v2",)


def test_others_make_room_where_nothing_else_relieves_a_host() -> None:
    """The VM that has to leave h1 only fits h2 when h2 gives something to h3."""
    vms = [
        a_vm("hot", on="h1", cpu_used_cores=7.0, memory_bytes=32 * GIB),
        a_vm("fixed", on="h1", cpu_used_cores=7.0, memory_bytes=8 * GIB, movable=False),
        a_vm("a", on="h2", cpu_used_cores=1.0, memory_bytes=24 * GIB),
        a_vm("b", on="h2", cpu_used_cores=1.0, memory_bytes=16 * GIB),
        a_vm("c", on="h3", cpu_used_cores=1.0, memory_bytes=40 * GIB, movable=False),
    ]

    answer = solve(a_snapshot(HOSTS, vms), a_policy(goals=FEWEST_GIB))

    assert excess(answer) == 0
    assert on(answer, "h2") == ["a", "hot"]
    assert on(answer, "h3") == ["b", "c"]


def test_relief_keeps_to_the_rules() -> None:
    vms = [a_vm(f"db{k}", on=f"h{k}", labels={"app": "db"}) for k in (1, 2)]
    vms += [a_vm(f"v{k}", on="h1", cpu_used_cores=7.0, memory_bytes=16 * GIB) for k in (1, 2)]
    apart = Spread(name="apart", vms=VmSelector(labels={"app": ("db",)}))

    answer = solve(a_snapshot(HOSTS, vms), a_policy(apart, goals=FEWEST_GIB))

    assert excess(answer) == 0
    assert not any({"db1", "db2"} <= set(on(answer, host)) for host in ("h1", "h2", "h3"))


def test_a_plan_that_may_not_move_enough_relieves_the_hottest() -> None:
    vms = [a_vm(f"v{k}", on="h1", cpu_used_cores=4.0) for k in range(4)]
    vms += [a_vm(f"w{k}", on="h2", cpu_used_cores=3.2) for k in range(4)]
    policy = a_policy(goals=FEWEST_GIB, limits=Limits(migrations=1))

    answer = solve(a_snapshot(HOSTS, vms), policy)

    assert len(on(answer, "h1")) == 3
    assert [host.name for host in answer.above_band] == ["h2"]
    assert "could go, within what the limits" in answer.above_band[0].reasons[0]


def test_unequal_hosts_have_unequal_bands() -> None:
    hosts = [a_host("h1", cpu_cores=8.0), a_host("h2", cpu_cores=64.0, memory_bytes=256 * GIB)]
    vms = [a_vm(f"v{k}", on="h1", cpu_used_cores=2.0) for k in range(4)]
    vms += [a_vm(f"w{k}", on="h2", cpu_used_cores=2.0) for k in range(20)]

    answer = solve(a_snapshot(hosts, vms), a_policy(goals=FEWEST_GIB))

    assert len(on(answer, "h1")) == 3


def test_a_host_beyond_its_headroom_is_relieved_with_the_fewest_gib_too() -> None:
    """That a limit is broken is mended first; how is for the goals to say."""
    vms = [
        a_vm("big", on="h1", cpu_used_cores=6.0, memory_bytes=32 * GIB),
        *(a_vm(f"small{k}", on="h1", cpu_used_cores=1.8, memory_bytes=2 * GIB) for k in range(5)),
    ]
    headroom = Headroom(cpu_ratio=0.1, memory_ratio=0.0)

    answer = solve(a_snapshot(HOSTS, vms), a_policy(goals=FEWEST_GIB, headroom=headroom))

    assert "big" in on(answer, "h1")
    assert len(on(answer, "h1")) == 4
    assert answer.objective.status is SolveStatus.OPTIMAL
