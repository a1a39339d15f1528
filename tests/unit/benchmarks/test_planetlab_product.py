"""The product sees of the PlanetLab benchmark what an operator could measure, and decides by it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.planetlab import POLICY_FILES
from benchmarks.planetlab_product import (
    BEGAN_AT,
    STANDBY_HOSTS,
    Ours,
    hosts_of,
    number_of,
    seen,
    snapshot_of,
    with_sleepers,
)
from benchmarks.planetlab_world import TRACKS, Rules, Traces, World, simulate
from rebalancer.cluster.inventory import HostId, HostState, VmId
from rebalancer.service.policy_file import read_policy


def a_world(
    rows: Sequence[Sequence[int]], on: Sequence[int], hosts: int = 4, rules: Rules | None = None
) -> World:
    world = World(Traces.of([f"vm{n}" for n in range(len(on))], rows), rules or Rules(), hosts)
    for vm, host in enumerate(on):
        world.create(vm, host)
    return world


def ours(world: World) -> Ours:
    return Ours(world, read_policy(POLICY_FILES["A"]), solve_seconds=5.0)


def test_the_leaked_part_of_the_next_sample_is_not_seen() -> None:
    world = a_world([[10] * 4, [20] * 4, [90] * 4], on=[1, 1, 1, 1])
    world.advance(300.1)

    vms = snapshot_of(world, hosts_of(world), BEGAN_AT).vms

    assert world.demand[0] > 0.2 * 2500
    assert seen(world).tolist() == [[0.1, 0.2]] * 4
    assert [vm.cpu_used_cores for vm in vms] == pytest.approx([1.0, 0.8, 0.4, 0.2])


def test_a_vm_has_as_many_cores_as_it_can_use() -> None:
    world = a_world([[100] * 4] * 3, on=[1, 1, 3, 3])
    world.advance(300.1)

    snapshot = snapshot_of(world, hosts_of(world), BEGAN_AT)

    assert [vm.vcpus for vm in snapshot.vms] == [5, 4, 2, 1]
    assert [vm.cpu_used_cores for vm in snapshot.vms] == [5, 4, 2, 1]
    assert [host.cpu_cores for host in snapshot.hosts[:2]] == [7.44, 10.64]
    assert snapshot.usage is not None
    assert snapshot.usage.vm_cpu_cores[VmId("vm3")].tolist() == [1.0, 1.0]


def test_the_label_of_a_vm_tells_what_was_bought() -> None:
    world = a_world([[50] * 4] * 2, on=[0, 1, 1, 1])
    world.advance(300.1)

    vms = snapshot_of(world, hosts_of(world), BEGAN_AT).vms

    assert [vm.labels["mips"] for vm in vms] == ["2500", "2000", "1000", "500"]


def test_where_memory_counts_hosts_with_one_vm_are_emptied_and_not_those_with_two() -> None:
    rows = [[20] * 16] * 4
    world = World(
        Traces.of([f"vm{n}" for n in range(16)], rows), TRACKS["B"], hosts=2 * STANDBY_HOSTS
    )
    # VMs 12 to 15 have 613 MB, and two are together; all would fit on one host.
    for vm, host in enumerate([*range(1, 25, 2), 0, 0, 2, 4]):
        world.create(vm, host)

    simulate(world, Ours(world, read_policy(POLICY_FILES["B"]), solve_seconds=5.0))

    assert world.where[12] == world.where[13] == 0


def test_a_vm_that_was_deleted_is_not_in_the_snapshot() -> None:
    world = a_world([[50] * 4, [50, 50, 50, 0], [50, 50, 50, 0]], on=[1, 1, 1, 1])
    world.advance(300.1)

    vms = snapshot_of(world, hosts_of(world), BEGAN_AT).vms

    assert [vm.id for vm in vms] == ["vm0", "vm1", "vm2"]


def test_names_lead_back_to_numbers() -> None:
    assert (number_of(VmId("vm17")), number_of(HostId("host4"))) == (17, 4)


def test_empty_hosts_sleep_but_for_those_that_draw_least_for_a_core() -> None:
    world = a_world([[50] * 4] * 3, on=[0, 0, 0, 0], hosts=2 * STANDBY_HOSTS + 6)

    hosts = with_sleepers(world, hosts_of(world))

    up = [number for number, host in enumerate(hosts) if host.state is HostState.UP]
    assert up == [0, *range(1, 2 * STANDBY_HOSTS, 2)]


@pytest.mark.parametrize(("track", "hosts_used"), [("A", 1), ("B", 2)])
def test_vms_are_packed_by_load_and_by_memory_only_where_it_counts(
    track: str, hosts_used: int
) -> None:
    world = a_world([[20] * 4] * 6, on=[0, 1, 2, 3], rules=TRACKS[track])

    result = simulate(world, ours(world))

    assert len(set(world.where.tolist())) == hosts_used
    assert 0 < result.migrations <= 4


def test_what_was_moved_stays_for_the_cool_down() -> None:
    world = a_world([[20] * 4] * 3, on=[1, 1, 1, 3])
    world.advance(300.1)
    decide = ours(world)
    moves = decide(world)
    # Nobody carried it out, so it would be wanted again.
    world.advance(600.1)

    assert moves
    assert {vm for vm, _ in decide(world)}.isdisjoint(vm for vm, _ in moves)
