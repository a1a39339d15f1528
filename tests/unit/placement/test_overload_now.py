"""A policy whose hosts are relieved when they are full now, and not when they may become it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, Snapshot, VmId
from rebalancer.cluster.plan import Placement
from rebalancer.cluster.policy import (
    Foresight,
    Headroom,
    MovementGoal,
    MovementMeasure,
    OverloadMeasure,
    Policy,
    PowerGoal,
)
from rebalancer.placement.solver import place
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm

CORES = 10.0


def a_power_policy(
    overload: OverloadMeasure, measure: MovementMeasure = MovementMeasure.COUNT
) -> Policy:
    return a_policy(
        goals=(
            PowerGoal(min_awake=1, payback_seconds=None),
            MovementGoal(measure=measure, weight=0.1),
        ),
        headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.0),
        forecast=Foresight(overload=overload),
        trigger=None,
    )


def hosts(used: Mapping[str, Mapping[str, float]]) -> Snapshot:
    return a_snapshot(
        [a_host(host, cpu_cores=CORES, idle_watts=100.0, max_watts=200.0) for host in used],
        [
            a_vm(vm, host, vcpus=8, memory_bytes=GIB, cpu_used_cores=cores)
            for host, vms in used.items()
            for vm, cores in vms.items()
        ],
    )


def foreseen(snapshot: Snapshot, peaks: Mapping[str, float], margin: float = 0.0) -> Demand:
    used = {vm.id: vm.cpu_used_cores for vm in snapshot.vms}
    return Demand(
        vm_cpu_cores=used,
        vm_cpu_peak_cores={**used, **{VmId(vm): cores for vm, cores in peaks.items()}},
        host_base_cores={host.id: 0.0 for host in snapshot.hosts},
        host_margin_cores=margin,
    )


def placed(snapshot: Snapshot, demand: Demand, policy: Policy) -> dict[VmId, HostId]:
    found = place(snapshot, demand, policy, time_limit_seconds=10.0, clock=lambda: 0.0)
    assert isinstance(found, Placement)
    home = snapshot.assignment
    return {vm: host for vm, host in found.assignment.items() if host != home[vm]}


@pytest.mark.parametrize(
    ("overload", "moves"), [(OverloadMeasure.PEAK, 1), (OverloadMeasure.NOW, 0)]
)
def test_a_host_that_may_become_full_is_left_alone_until_it_is(
    overload: OverloadMeasure, moves: int
) -> None:
    snapshot = hosts({"h1": {"a": 4.0, "b": 4.0}, "h2": {"c": 5.0}})
    demand = foreseen(snapshot, {"a": 5.5, "b": 5.5, "c": 5.0 - 1e-3})
    small = replace_peak(demand, "c", 4.0)

    assert len(placed(snapshot, small, a_power_policy(overload))) == moves


def replace_peak(demand: Demand, vm: str, cores: float) -> Demand:
    return Demand(
        vm_cpu_cores=demand.vm_cpu_cores,
        vm_cpu_peak_cores={**demand.vm_cpu_peak_cores, VmId(vm): cores},
        host_base_cores=demand.host_base_cores,
    )


def test_a_full_host_loses_as_little_as_cures_it_to_a_host_that_is_on() -> None:
    snapshot = hosts(
        {"h1": {"a": 6.0, "b": 4.0, "c": 0.5}, "h2": {"d": 7.0}, "h3": {}},
    )
    demand = foreseen(snapshot, {})

    moved = placed(snapshot, demand, a_power_policy(OverloadMeasure.NOW))

    assert moved == {VmId("c"): HostId("h2")}


def test_an_empty_host_is_opened_where_no_other_has_room() -> None:
    snapshot = hosts({"h1": {"a": 6.0, "b": 4.5}, "h2": {"d": 7.0}, "h3": {}})
    demand = foreseen(snapshot, {})

    moved = placed(snapshot, demand, a_power_policy(OverloadMeasure.NOW))

    assert set(moved.values()) == {HostId("h3")}
    assert len(moved) == 1


def test_the_margin_of_joint_peaks_is_kept_free_on_every_host_that_is_filled() -> None:
    snapshot = hosts({"h1": {"a": 4.0}, "h2": {"b": 4.0}, "h3": {"c": 1.0}})
    policy = a_power_policy(OverloadMeasure.NOW)

    together = placed(snapshot, foreseen(snapshot, {}, margin=1.0), policy)
    apart = placed(snapshot, foreseen(snapshot, {}, margin=1.5), policy)

    used = {**snapshot.assignment, **together}
    assert len(set(used.values())) == 1
    assert len(set({**snapshot.assignment, **apart}.values())) == 2


def test_of_vms_that_cure_a_host_alone_the_one_that_is_disturbed_least_leaves() -> None:
    snapshot = hosts({"h1": {"a": 6.0, "b": 3.5, "c": 1.5}, "h2": {"d": 3.0}})
    policy = a_power_policy(OverloadMeasure.NOW, MovementMeasure.DISTURBANCE)

    assert placed(snapshot, foreseen(snapshot, {}), policy) == {VmId("c"): HostId("h2")}


def test_two_vms_leave_where_one_alone_would_need_another_host() -> None:
    # a or b alone would cure h1, and either of them only fits on h3, which is empty.
    snapshot = hosts({"h1": {"a": 5.0, "b": 4.6, "c": 0.8, "d": 0.7}, "h2": {"e": 8.0}, "h3": {}})
    policy = a_power_policy(OverloadMeasure.NOW, MovementMeasure.DISTURBANCE)

    moved = placed(snapshot, foreseen(snapshot, {}), policy)

    assert moved == {VmId("c"): HostId("h2"), VmId("d"): HostId("h2")}


def test_what_leaves_a_full_host_goes_where_most_room_is() -> None:
    snapshot = hosts({"h1": {"a": 9.5, "b": 1.0}, "h2": {"c": 8.5}, "h3": {"d": 8.0}})
    policy = a_power_policy(OverloadMeasure.NOW, MovementMeasure.DISTURBANCE)

    assert placed(snapshot, foreseen(snapshot, {}), policy) == {VmId("b"): HostId("h3")}


def test_a_dearer_vm_leaves_where_the_cheapest_would_need_another_host() -> None:
    snapshot = hosts({"h1": {"a": 6.0, "b": 2.0, "c": 2.5}, "h2": {"d": 7.0}, "h3": {}})
    policy = a_power_policy(OverloadMeasure.NOW, MovementMeasure.DISTURBANCE)

    moved = placed(snapshot, foreseen(snapshot, {"b": 4.0}), policy)

    assert moved == {VmId("c"): HostId("h2")}


def test_a_full_host_is_left_with_something_to_spare() -> None:
    # Without c it would have 0.01 of its 10 cores left, and be full again with the next sample.
    snapshot = hosts({"h1": {"a": 6.0, "b": 3.19, "c": 0.68, "d": 0.8}, "h2": {"e": 5.0}})
    policy = a_power_policy(OverloadMeasure.NOW, MovementMeasure.DISTURBANCE)

    assert placed(snapshot, foreseen(snapshot, {"b": 4.5}), policy) == {VmId("d"): HostId("h2")}


def test_a_full_host_is_relieved_as_far_as_can_be_had() -> None:
    snapshot = hosts({"h1": {"a": 6.0, "b": 3.3, "c": 0.7, "d": 0.68}, "h2": {"e": 9.3}})
    policy = a_power_policy(OverloadMeasure.NOW, MovementMeasure.DISTURBANCE)

    assert placed(snapshot, foreseen(snapshot, {"b": 4.5}), policy) == {VmId("d"): HostId("h2")}
