"""What keeps a host from being switched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, HostState, VmState
from rebalancer.cluster.policy import Headroom, PowerGoal
from rebalancer.forecast.demand import forecast_demand
from rebalancer.rollout.power import Census, NoCensus
from rebalancer.rollout.power_guard import (
    PowerScene,
    reasons_not_to_wake,
    reasons_to_stay_awake,
)
from rebalancer.rollout.power_steps import Phase, PowerMark
from tests.builders import GIB, NOON, a_host, a_policy, a_snapshot, a_vm

H1, H2 = HostId("h1"), HostId("h2")
EMPTY = Census(host=H1)


def a_scene(vms: tuple[Any, ...] = (), *, h1: Any = None, **changed: Any) -> PowerScene:
    hosts = [h1 or a_host("h1"), a_host("h2"), a_host("h3")]
    snapshot = a_snapshot(hosts, vms)
    facts: dict[str, Any] = {
        "snapshot": snapshot,
        "demand": forecast_demand(snapshot),
        "policy": a_policy(goals=(PowerGoal(min_awake=2),)),
        "marks": {},
    }
    return PowerScene(**(facts | changed))


def reasons(scene: PowerScene, guests: Census | NoCensus = EMPTY) -> tuple[str, ...]:
    return reasons_to_stay_awake(scene.snapshot.hosts[0], scene, guests)


def a_mark(host: HostId, phase: Phase) -> PowerMark:
    return PowerMark(host=host, phase=phase, since=NOON, reason="it did not wake")


def test_an_empty_host_that_nobody_needs_may_sleep() -> None:
    assert reasons(a_scene()) == ()


@pytest.mark.parametrize(
    "state", [HostState.UNKNOWN, HostState.MAINTENANCE, HostState.DOWN, HostState.ASLEEP]
)
def test_a_host_that_is_not_up_is_left_alone(state: HostState) -> None:
    assert f"it is {state}" in reasons(a_scene(h1=a_host("h1", state=state)))


def test_a_drained_host_stays_on_for_its_maintenance() -> None:
    scene = a_scene(h1=a_host("h1", state=HostState.DRAINING), drained={H1})

    assert "it is drained" in reasons(scene)[0]


def test_a_drained_host_is_off_if_the_operator_says_so() -> None:
    draining = a_host("h1", state=HostState.DRAINING)

    assert reasons(a_scene(h1=draining, drained={H1}, allow_drained=True)) == ()


def test_a_host_that_does_not_answer_may_run_vms() -> None:
    assert "may run VMs: no route" in reasons(a_scene(), NoCensus(host=H1, why="no route"))[0]


def test_a_vm_that_only_libvirt_sees_keeps_its_host_on() -> None:
    assert reasons(a_scene(), Census(host=H1, active=("db1",))) == ("it has VMs: db1",)


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED, VmState.SUSPENDED])
def test_a_vm_that_only_the_snapshot_sees_keeps_its_host_on(state: VmState) -> None:
    assert "it has VMs: db1" in reasons(a_scene((a_vm("db1", on="h1", state=state),)))


def test_a_job_keeps_a_host_on() -> None:
    assert reasons(a_scene(), Census(host=H1, busy=("db1",))) == ("a job runs on db1",)


def test_autostart_keeps_a_host_on_unless_the_settings_allow_it() -> None:
    guests = Census(host=H1, autostart=("db1",))

    assert "it starts db1 when it boots" in reasons(a_scene(), guests)[0]
    assert reasons(a_scene(allow_autostart=True), guests) == ()


def test_one_host_at_a_time() -> None:
    scene = a_scene(marks={H2: a_mark(H2, Phase.WAKING)})

    assert "one host at a time, and h2 is waking" in reasons(scene)


def test_minimum_awake_is_not_undercut() -> None:
    scene = a_scene(policy=a_policy(goals=(PowerGoal(min_awake=3),)))

    assert reasons(scene) == ("without it too few hosts are awake for min_awake",)


def test_a_quarantined_host_does_not_count_as_awake() -> None:
    scene = a_scene(marks={H2: a_mark(H2, Phase.QUARANTINED)})

    assert reasons(scene) == ("without it too few hosts are awake for min_awake",)


def test_without_a_power_goal_two_hosts_stay_awake() -> None:
    scene = a_scene(policy=a_policy(), marks={H2: a_mark(H2, Phase.QUARANTINED)})

    assert "min_awake" in reasons(scene)[0]


def test_load_that_rose_meanwhile_keeps_a_host_on() -> None:
    vms = tuple(a_vm(f"vm{n}", on="h2", memory_bytes=30 * GIB) for n in range(4))
    policy = a_policy(
        goals=(PowerGoal(),),
        headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=1),
    )

    assert "host_failures: 1, memory" in reasons(a_scene(vms, policy=policy))[0]


def test_load_that_is_not_known_well_enough_keeps_a_host_on() -> None:
    scene = a_scene()
    scene = replace(scene, snapshot=replace(scene.snapshot, usage_fault="Prometheus is silent"))

    assert "Prometheus is silent" in reasons(scene)[0]


def test_the_only_host_with_room_for_a_large_vm_after_a_failure_stays_on() -> None:
    hosts = [a_host("h1"), a_host("h2"), a_host("h3"), a_host("h4")]
    vms = [
        a_vm("large", on="h2", memory_bytes=40 * GIB),
        a_vm("db3", on="h3", memory_bytes=30 * GIB),
        a_vm("db4", on="h4", memory_bytes=30 * GIB),
    ]
    snapshot = a_snapshot(hosts, vms)
    policy = a_policy(
        goals=(PowerGoal(),),
        headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=1),
    )
    scene = a_scene(snapshot=snapshot, demand=forecast_demand(snapshot), policy=policy)

    assert reasons(scene) == ("without it a rule of the policy would be broken",)


def test_a_quarantined_or_drained_host_is_woken_by_an_operator_only() -> None:
    marks = {H1: a_mark(H1, Phase.QUARANTINED)}

    assert "it is quarantined: it did not wake" in reasons_not_to_wake(
        H1, marks, (), by_operator=False
    )
    assert reasons_not_to_wake(H1, marks, (), by_operator=True) == ()
    asleep = {H1: a_mark(H1, Phase.ASLEEP)}
    assert reasons_not_to_wake(H1, asleep, {H1}, by_operator=False) == ("it is being drained",)
    assert reasons_not_to_wake(H1, asleep, (), by_operator=False) == ()


def test_only_what_rebalancer_put_to_sleep_is_woken_unasked() -> None:
    (why,) = reasons_not_to_wake(H1, {}, (), by_operator=False)

    assert "rebalancer did not put it to sleep" in why
