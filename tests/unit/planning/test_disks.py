"""Local disks: what copying them adds to a migration, and when they stay."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rebalancer.cluster.inventory import Mode, Snapshot, VmState
from rebalancer.cluster.policy import Limits, MigrationPermissions
from rebalancer.cluster.prediction import Confidence
from rebalancer.planning import disks
from rebalancer.planning.cost import Line
from tests.builders import GIB, IMAGES, MIB, a_disk, a_host, a_policy, a_snapshot, a_vm, with_disks
from tests.unit.planning.plans import a_plan, step

LINE = Line.of(100.0 * MIB)
PERMITTED = a_policy(migration=MigrationPermissions(local_disks=True))


def a_pooled_snapshot(*vms: Any, room: int = 500 * GIB) -> Snapshot:
    hosts = [a_host(name, disk_pools={IMAGES: room}) for name in ("h1", "h2")]
    return a_snapshot(hosts, vms)


def test_a_disk_takes_its_whole_size_over_the_bandwidth() -> None:
    copied = disks.copy_of(a_vm(**with_disks(a_disk(capacity_bytes=10 * GIB))), LINE)

    assert copied is not None
    assert copied.seconds == pytest.approx(10 * GIB / (100 * MIB))
    assert copied.sent_bytes == 10 * GIB


def test_what_the_guest_writes_meanwhile_is_sent_once_more() -> None:
    vm = a_vm(**with_disks(a_disk(capacity_bytes=10 * GIB), writes=20.0 * MIB))
    copied = disks.copy_of(vm, LINE)

    assert copied is not None
    assert copied.seconds == pytest.approx(10 * GIB / (80 * MIB))
    assert copied.sent_bytes == pytest.approx(10 * GIB + 20 * MIB * copied.seconds)
    assert copied.upper_seconds == pytest.approx(10 * GIB / (60 * MIB))


def test_several_disks_share_the_bandwidth_and_the_largest_one_ends_last() -> None:
    both = (a_disk("vda", 10 * GIB), a_disk("vdb", 4 * GIB))
    copied = disks.copy_of(a_vm(**with_disks(*both)), LINE)

    assert copied is not None
    assert copied.seconds == pytest.approx(10 * GIB / (50 * MIB))
    assert copied.sent_bytes == 14 * GIB


def test_an_unknown_write_rate_is_not_zero() -> None:
    small = a_vm(**with_disks(a_disk(capacity_bytes=GIB), writes=None))
    large = a_vm(**with_disks(a_disk(capacity_bytes=100 * GIB), writes=None))
    known, unknown = (a_vm(**with_disks(a_disk(), writes=w)) for w in (0.0, None))
    snapshots = [a_pooled_snapshot(vm) for vm in (known, unknown)]
    moves = [step(a_plan(s, {"vm1": "h2"}, PERMITTED), "vm1").predicted for s in snapshots]

    assert disks.write_bytes_per_second(small) == pytest.approx(GIB / 1000)
    assert disks.write_bytes_per_second(large) == 5 * MIB
    assert disks.write_bytes_per_second(replace(large, state=VmState.PAUSED)) == 0
    assert [move.confidence for move in moves] == [Confidence.HIGH, Confidence.LOW]
    assert moves[1].duration_seconds > moves[0].duration_seconds


def test_disks_that_are_written_faster_than_they_are_copied_stay() -> None:
    vm = a_vm(**with_disks(a_disk(), writes=600.0 * MIB))
    plan = a_plan(a_pooled_snapshot(vm), {"vm1": "h2"}, PERMITTED)

    assert plan.migrations == ()
    assert "writes 600 MiB/s to its local disks" in plan.unmoved[0].reasons[0]


def test_a_plan_has_the_disks_in_its_bytes_its_time_and_its_words() -> None:
    bare, vm = a_vm("bare"), a_vm("db", **with_disks(a_disk()))
    plan = a_plan(a_pooled_snapshot(bare, vm), {"bare": "h2", "db": "h2"}, PERMITTED)
    without, along = step(plan, "bare"), step(plan, "db")

    assert along.disks == vm.local_disks
    assert along.mode is Mode.LIVE
    assert along.predicted.transfer_bytes - without.predicted.transfer_bytes > 20 * GIB * 0.99
    assert along.predicted.duration_seconds >= 20 * GIB / along.bytes_per_second
    assert "its local disk vda, 20 GiB, written at 0 B/s, is copied first" in along.mode_reason
    assert without.disks == ()
    assert "local disk" not in without.mode_reason


def test_nothing_is_copied_unless_the_policy_says_so() -> None:
    plan = a_plan(a_pooled_snapshot(a_vm(**with_disks(a_disk()))), {"vm1": "h2"})

    assert plan.migrations == ()
    assert "`migration: {local_disks: true}` would let them" in plan.unmoved[0].reasons[0]


@pytest.mark.parametrize(
    ("facts", "room", "reason"),
    [
        (with_disks(a_disk()), 19 * GIB, "19.0 GiB free there, its local disks may need 20.0 GiB"),
        (with_disks(a_disk(path="/srv/a.qcow2")), 500 * GIB, "no active storage pool"),
        (with_disks(a_disk(format="vmdk")), 500 * GIB, "its format is vmdk"),
        (with_disks(a_disk(obstacle="it is encrypted")), 500 * GIB, "vda cannot be copied: it is"),
        ({"local_disk_bytes": GIB}, 500 * GIB, "are not known one by one"),
        (with_disks(a_disk()) | {"state": VmState.SHUTOFF}, 500 * GIB, "only while a VM runs"),
    ],
)
def test_what_keeps_a_disk_where_it_is_is_said(
    facts: dict[str, Any], room: int, reason: str
) -> None:
    snapshot = a_pooled_snapshot(a_vm(**facts), room=room)
    plan = a_plan(snapshot, {"vm1": "h2"}, PERMITTED)
    unasked = a_plan(snapshot, {"vm1": "h2"})

    assert plan.migrations == ()
    assert reason in " ".join(plan.unmoved[0].reasons)
    assert "would let them be copied" not in " ".join(unasked.unmoved[0].reasons)


def test_only_as_many_go_as_their_target_has_room_for_together() -> None:
    vms = [a_vm(name, **with_disks(a_disk())) for name in ("a", "b", "c")]
    moves = {"a": "h2", "b": "h2", "c": "h2"}
    plan = a_plan(a_pooled_snapshot(*vms, room=50 * GIB), moves, PERMITTED)

    assert [m.vm for m in plan.migrations] == ["a", "b"]
    assert "no room for its local disks beside those of other moves" in plan.unmoved[0].reasons[0]


def test_post_copy_and_cold_leave_local_disks_alone() -> None:
    harsh = MigrationPermissions(
        local_disks=True, allow=frozenset({Mode.POST_COPY, Mode.COLD}), save_to="vmstore"
    )
    vm = a_vm(**with_disks(a_disk()))
    hosts = [
        a_host(name, disk_pools={IMAGES: 500 * GIB}, storage=frozenset({"vmstore"}))
        for name in ("h1", "h2")
    ]
    plan = a_plan(a_snapshot(hosts, [vm]), {"vm1": "h2"}, a_policy(migration=harsh))

    assert plan.migrations == ()
    assert any("copied only while it runs" in reason for reason in plan.unmoved[0].reasons)


def test_the_printed_command_shares_the_bandwidth_and_writes_over_nothing() -> None:
    vm = a_vm(**with_disks(a_disk("vda"), a_disk("vdb")))
    limits = Limits(migrations=None, link_share=1.0)
    policy = replace(PERMITTED, limits=limits)
    plan = a_plan(a_pooled_snapshot(vm), {"vm1": "h2"}, policy)
    move, line = step(plan, "vm1"), plan.commands["m1"][-1]

    assert f"! virsh -c qemu+ssh://h2/system vol-info --vol {IMAGES}/vda.qcow2 && " in line
    assert "--copy-storage-all --migrate-disks vda,vdb" in line
    assert f"--bandwidth {math.floor(move.bytes_per_second / 2 / MIB)} " in line
