"""VMs with local disks in what `place` answers: only where they may be copied, at their price."""

from __future__ import annotations

import pytest

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.policy import BalanceGoal, Limits, MigrationPermissions, MovementGoal
from rebalancer.cluster.violations import hard_violations, overspent
from tests.builders import GIB, IMAGES, a_disk, a_host, a_policy, a_snapshot, a_vm, with_disks
from tests.unit.placement.clusters import DRAINING, moves, solve

COPYING = MigrationPermissions(local_disks=True)


def a_drained_host(*rooms: int) -> Snapshot:
    """One host drains; each of the others has so much room for disks."""
    hosts = [a_host("h1", state=DRAINING)]
    hosts += [a_host(f"h{n}", disk_pools={IMAGES: room}) for n, room in enumerate(rooms, start=2)]
    return a_snapshot(hosts, [a_vm("v", **with_disks(a_disk(capacity_bytes=20 * GIB)))])


def test_a_vm_with_local_disks_leaves_a_draining_host_only_if_they_may_be_copied() -> None:
    snapshot = a_drained_host(100 * GIB)
    stays, leaves = solve(snapshot, a_policy()), solve(snapshot, a_policy(migration=COPYING))

    assert moves(snapshot, stays) == {}
    assert "`migration: {local_disks: true}` would let them" in " ".join(stays.unmoved[0].reasons)
    assert moves(snapshot, leaves) == {"v": "h2"}
    policy, demand = a_policy(migration=COPYING), Demand.as_measured(snapshot)
    assert hard_violations(snapshot, policy, demand, leaves.assignment) == ()


def test_it_goes_where_there_is_room_for_its_disks() -> None:
    snapshot = a_drained_host(19 * GIB, 20 * GIB)

    assert moves(snapshot, solve(snapshot, a_policy(migration=COPYING))) == {"v": "h3"}


def test_it_goes_where_no_file_is_in_the_way_of_its_disks() -> None:
    disk = a_disk(capacity_bytes=20 * GIB)
    room = {IMAGES: 100 * GIB}
    hosts = [a_host("h1", state=DRAINING), a_host("h3", disk_pools=room)]
    hosts += [a_host("h2", disk_pools=room, disk_files=frozenset({disk.path}))]
    snapshot = a_snapshot(hosts, [a_vm("v", **with_disks(disk))])
    only_one = a_snapshot([hosts[0], hosts[2]], [a_vm("v", **with_disks(disk))])
    stays = solve(only_one, a_policy(migration=COPYING))

    assert moves(snapshot, solve(snapshot, a_policy(migration=COPYING))) == {"v": "h3"}
    assert f"{disk.path} is there already" in " ".join(stays.unmoved[0].reasons)


@pytest.mark.parametrize(("cap", "moved"), [(24 * GIB, 1), (23 * GIB, 0)])
def test_caps_on_what_is_moved_count_the_disks(cap: int, moved: int) -> None:
    hosts = [a_host(name, disk_pools={IMAGES: 900 * GIB}) for name in ("h1", "h2")]
    vms = [
        a_vm(f"v{n}", cpu_used_cores=6.0, **with_disks(a_disk(capacity_bytes=20 * GIB)))
        for n in range(2)
    ]
    snapshot = a_snapshot(hosts, vms)
    limits = Limits(migrations=None, moved_bytes=cap)
    policy = a_policy(goals=(BalanceGoal(),), limits=limits, migration=COPYING)

    answer = solve(snapshot, policy)

    assert len(moves(snapshot, answer)) == moved
    assert overspent(snapshot, policy, answer.assignment, set()) == ()


def test_of_two_that_would_do_the_one_without_disks_moves() -> None:
    hosts = [a_host(name, disk_pools={IMAGES: 900 * GIB}) for name in ("h1", "h2")]
    vms = [
        a_vm("heavy", cpu_used_cores=6.0, **with_disks(a_disk(capacity_bytes=200 * GIB))),
        a_vm("light", cpu_used_cores=6.0),
    ]
    snapshot = a_snapshot(hosts, vms)
    goals = (BalanceGoal(), MovementGoal())

    answer = solve(snapshot, a_policy(goals=goals, migration=COPYING))

    assert moves(snapshot, answer) == {"light": "h2"}
