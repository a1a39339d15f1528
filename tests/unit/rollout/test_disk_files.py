"""Local disks in a rollout: files made beforehand, removed only if it is safe, else named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, Mode, Snapshot, VmId
from rebalancer.cluster.plan import Migration, MigrationState
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.rollout.disk_files import DiskFiles, left_behind, why_not_remove
from rebalancer.rollout.driver import CreateDisk, Failed, RemoveDisk, Returned
from rebalancer.rollout.executor import RolloutResult, Settings
from rebalancer.rollout.precopy import CallOff, Carry, Mandate, Watch, judge
from rebalancer.rollout.sightings import JobKind, TransferProgress
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind, Stage
from tests.builders import (
    GIB,
    IMAGES,
    MIB,
    NOON,
    a_disk,
    a_host,
    a_policy,
    a_snapshot,
    a_vm,
    with_disks,
)
from tests.unit.rollout.crashes import Death, live_through
from tests.unit.rollout.plans import a_migration, a_plan
from tests.unit.rollout.sightings import ABSENT, SILENT, defined, paused, running

S = MigrationState
H1, H2 = HostId("h1"), HostId("h2")
DISKS = (a_disk("vda", 8 * GIB), a_disk("vdb", 2 * GIB))
PATHS = tuple(disk.path for disk in DISKS)
SETTINGS = Settings(policy=a_policy(migration=MigrationPermissions(local_disks=True)))


def a_scene(room: int = 100 * GIB) -> Snapshot:
    hosts = [a_host(name, disk_pools={IMAGES: room}) for name in ("h1", "h2", "h3")]
    return a_snapshot(hosts, [a_vm("vm1", **with_disks(*DISKS, writes=4.0 * MIB))])


def a_move(**changed: Any) -> Migration:
    return a_migration(disks=DISKS, **changed)


def files_on(world: Datacentre, host: HostId) -> set[str]:
    return {path for other, path in world.disk_files if other == host}


def rolled_out(
    world: Datacentre, folder: Path, snapshot: Snapshot, move: Migration | None = None
) -> RolloutResult:
    story = live_through(a_plan(move or a_move()), snapshot, world, folder, Death(), SETTINGS)
    assert story.first is not None
    return story.first


def test_a_vm_arrives_with_its_disks_and_its_old_ones_stay_and_are_named(tmp_path: Path) -> None:
    snapshot = a_scene()
    world = Datacentre.of(snapshot)
    (outcome,) = rolled_out(world, tmp_path, snapshot).outcomes

    assert outcome.state is S.COMPLETE
    assert world.record.running_on(VmId("vm1")) == (H2,)
    assert files_on(world, H1) == files_on(world, H2) == set(PATHS)
    assert f"{PATHS[0]} (8.00 GiB), {PATHS[1]} (2.00 GiB)" in outcome.text
    assert "stay on h1, and are not deleted" in outcome.text
    assert outcome.transfer_bytes is not None
    assert outcome.transfer_bytes > 14 * GIB


def test_several_disks_never_take_more_of_the_link_than_was_granted(tmp_path: Path) -> None:
    snapshot = a_scene()
    world = Datacentre.of(snapshot)
    result = rolled_out(world, tmp_path, snapshot)

    assert result.is_complete
    most = max(world.record.peak_granted_bytes_per_second.values())
    assert most <= a_move().bytes_per_second * 1.001


def test_a_file_in_the_way_stops_it_and_is_left_as_it_is(tmp_path: Path) -> None:
    snapshot = a_scene()
    world = Datacentre.of(snapshot)
    world.disk_files.add((H2, PATHS[1]))
    (outcome,) = rolled_out(world, tmp_path, snapshot).outcomes

    assert outcome.state is S.FAILED_SAFE
    assert f"{PATHS[1]} is on h2 already" in outcome.text
    assert files_on(world, H2) == {PATHS[1]}  # the one that it had made is gone again
    assert world.record.running_on(VmId("vm1")) == (H1,)


@pytest.mark.parametrize("kind", [FaultKind.TRANSFER_BREAKS, FaultKind.TARGET_QEMU_DIES])
def test_what_was_made_for_a_migration_that_failed_is_removed_again(
    kind: FaultKind, tmp_path: Path
) -> None:
    snapshot = a_scene()
    fault = Fault(kind=kind, vm=VmId("vm1"), stage=Stage.TRANSFER, after_seconds=5.0)
    world = Datacentre.of(snapshot, faults=[fault])
    (outcome,) = rolled_out(world, tmp_path, snapshot).outcomes

    assert outcome.state is S.FAILED_SAFE
    assert files_on(world, H2) == set()
    assert files_on(world, H1) == set(PATHS)
    assert PATHS[0] not in outcome.text


def test_while_a_host_is_silent_nothing_is_removed_and_everything_is_named(
    tmp_path: Path,
) -> None:
    snapshot = a_scene()
    breaks = Fault(
        kind=FaultKind.TRANSFER_BREAKS, vm=VmId("vm1"), stage=Stage.TRANSFER, after_seconds=5.0
    )
    silent = Fault(kind=FaultKind.HOST_UNREACHABLE, host=HostId("h3"), at_seconds=3.0)
    world = Datacentre.of(snapshot, faults=[breaks, silent])
    (outcome,) = rolled_out(world, tmp_path, snapshot).outcomes

    assert outcome.state is S.FAILED_SAFE
    assert files_on(world, H2) == set(PATHS)
    assert all(path in outcome.text for path in PATHS)


def test_a_file_of_which_nobody_heard_whether_it_was_made_is_left_and_named(
    tmp_path: Path,
) -> None:
    snapshot = a_scene()
    lost = Fault(
        kind=FaultKind.REPLY_LOST, vm=VmId("vm1"), stage=Stage.CALL, operation="CreateDisk"
    )
    world = Datacentre.of(snapshot, faults=[lost])
    (outcome,) = rolled_out(world, tmp_path, snapshot).outcomes

    assert outcome.state is S.FAILED_SAFE
    assert files_on(world, H2) == {PATHS[0]}
    assert f"Nobody knows whether {PATHS[0]} on h2 was made for it" in outcome.text


@pytest.mark.parametrize("command", range(1, 4))
@pytest.mark.parametrize("breaks", [False, True])
def test_a_controller_may_die_after_every_command(
    command: int, breaks: bool, tmp_path: Path
) -> None:
    snapshot = a_scene()
    fault = Fault(
        kind=FaultKind.TRANSFER_BREAKS, vm=VmId("vm1"), stage=Stage.TRANSFER, after_seconds=5.0
    )
    world = Datacentre.of(snapshot, faults=[fault] if breaks else [])
    story = live_through(
        a_plan(a_move()), snapshot, world, tmp_path, Death(after_command=command), SETTINGS, 2.0
    )
    (outcome,) = story.recovered[0].outcomes
    here = H2 if outcome.state is S.COMPLETE else H1

    assert story.died
    assert outcome.state is (S.COMPLETE if command == 3 and not breaks else S.FAILED_SAFE)
    assert world.record.running_on(VmId("vm1")) == (here,)
    assert set(PATHS) <= files_on(world, here)
    assert files_on(world, H1) == set(PATHS)
    left = files_on(world, H2) if here == H1 else set()
    assert all(path in outcome.text for path in left)
    assert len(left) <= 1, "only that which nobody heard of"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"disks": ()}, "of its disks are reached by its present host only"),
        ({"disks": DISKS[:1]}, "its local disks are not those that the plan was made with"),
        (
            {"disks": (replace(DISKS[0], path="/etc/shadow"), DISKS[1])},
            "its local disks are not those that the plan was made with",
        ),
        ({"mode": Mode.POST_COPY}, "does not allow mode post_copy"),
    ],
)
def test_a_plan_that_says_something_else_of_its_disks_is_not_carried_out(
    changed: dict[str, Any], why: str, tmp_path: Path
) -> None:
    snapshot = a_scene()
    world = Datacentre.of(snapshot)
    move = replace(a_move(), **changed)
    (outcome,) = rolled_out(world, tmp_path, snapshot, move).outcomes

    assert outcome.state is S.SKIPPED
    assert why in outcome.text
    assert files_on(world, H2) == set()


def test_a_policy_that_does_not_permit_it_any_more_stops_it(tmp_path: Path) -> None:
    snapshot = a_scene()
    world = Datacentre.of(snapshot)
    settings = Settings(policy=a_policy())
    story = live_through(a_plan(a_move()), snapshot, world, tmp_path, Death(), settings)

    assert story.first is not None
    (outcome,) = story.first.outcomes
    assert outcome.state is S.SKIPPED
    assert "migration.local_disks: false" in outcome.text


def test_what_others_of_the_rollout_copy_there_takes_up_room(tmp_path: Path) -> None:
    one, two = (
        a_vm(name, **with_disks(a_disk(capacity_bytes=8 * GIB, path=f"{IMAGES}/{name}.qcow2")))
        for name in ("vm1", "vm2")
    )
    hosts = [a_host(name, disk_pools={IMAGES: 12 * GIB}) for name in ("h1", "h2")]
    snapshot = a_snapshot(hosts, [one, two])
    plan = a_plan(
        a_migration("vm1", disks=one.local_disks),
        a_migration("vm2", id="m2", disks=two.local_disks, depends_on=("m1",)),
    )
    story = live_through(plan, snapshot, Datacentre.of(snapshot), tmp_path, Death(), SETTINGS)

    assert story.first is not None
    states = {outcome.migration: outcome for outcome in story.first.outcomes}
    assert states["m1"].state is S.COMPLETE
    assert states["m2"].state is S.SKIPPED
    assert "no room for its local disks beside those of other migrations" in states["m2"].text


CREATE = CreateDisk(vm=VmId("vm1"), host=H2, path="/a", format="raw", capacity_bytes=1)
REMOVE = RemoveDisk(vm=VmId("vm1"), host=H2, path="/a", keep=H1)


def test_only_what_a_hypervisor_said_it_made_is_ours() -> None:
    none = DiskFiles()
    made = none.told(CREATE, Returned())

    assert made.left == ("/a",)
    assert made.told(REMOVE, Failed(text="no", code=55)).left == ("/a",)
    assert made.told(REMOVE, Returned()).left == ()
    for unclear in (Failed(text="?", code=38), Failed(text="?", code=1, timed_out=True)):
        assert none.told(CREATE, unclear).doubtful((CREATE,)) == ("/a",)
        assert none.told(CREATE, unclear).left == ()
    assert none.told(CREATE, Failed(text="exists", code=90)).doubtful((CREATE,)) == ()


@pytest.mark.parametrize("state", [S.UNKNOWN, S.FAILED_DOWN])
def test_while_nobody_knows_which_disks_count_nobody_is_told_to_delete_any(
    state: MigrationState,
) -> None:
    files = DiskFiles(made=frozenset(PATHS))
    text = left_behind(a_move(), files, (), state)

    assert "Its disks are those on h1, unless it has run on h2" in text
    assert all(path in text for path in PATHS)
    assert "virsh vol-delete" not in text


def test_a_copy_is_deleted_only_while_the_vm_is_where_its_disks_are() -> None:
    assert list(why_not_remove(ABSENT, running())) == []
    for there, kept in (
        (paused(), running()),
        (defined(), running()),
        (SILENT, running()),
        (ABSENT, SILENT),
        (ABSENT, ABSENT),
        (ABSENT, defined()),
        (ABSENT, running(job=JobKind.MIGRATION_OUT)),
    ):
        assert list(why_not_remove(there, kept))


# In flight --------------------------------------------------------------------------------------

MANDATE = Mandate(
    mode=Mode.SUSPEND, max_downtime_seconds=0.5, max_suspend_seconds=5.0, deadline_seconds=100.0
)


def copying(sent: float) -> TransferProgress:
    return TransferProgress(
        total_bytes=10.0 * GIB,
        remaining_bytes=10.0 * GIB - sent,
        transferred_bytes=sent,
        iteration=0,
        disk_total_bytes=10.0 * GIB,
        disk_remaining_bytes=10.0 * GIB - sent,
        disk_transferred_bytes=sent,
    )


def watched(*sent: float) -> Watch:
    watch = Watch.begun(NOON, 0.5)
    for number, each in enumerate(sent):
        watch = watch.seen(copying(each), NOON.replace(second=number))
    return watch


def test_no_pass_of_memory_is_judged_while_disks_are_copied() -> None:
    watch = watched(*(n * 100.0 * MIB for n in range(1, 20)))

    assert watch.is_copying_disks
    assert not watch.found_its_floor
    assert judge(watch, MANDATE, NOON.replace(second=20)) == Carry()


def test_disks_that_take_too_long_are_called_off_and_no_guest_is_paused_for_them() -> None:
    watch = watched(100.0 * MIB, 200.0 * MIB)
    late = judge(watch, MANDATE, NOON.replace(minute=2))

    assert isinstance(late, CallOff)


def test_disks_that_do_not_flow_are_called_off() -> None:
    watch = watched(100.0 * MIB, 100.0 * MIB)
    patient = replace(MANDATE, deadline_seconds=1e6)

    assert isinstance(judge(watch, patient, NOON.replace(minute=2)), CallOff)


def test_memory_is_judged_by_what_is_left_of_it_alone() -> None:
    begun = TransferProgress(
        total_bytes=11.0 * GIB,
        remaining_bytes=0.75 * GIB,
        transferred_bytes=10.3 * GIB,
        iteration=1,
        disk_total_bytes=10.0 * GIB,
        disk_remaining_bytes=0.25 * GIB,
        disk_transferred_bytes=9.75 * GIB,
    )
    watch = watched(100.0 * MIB).seen(begun, NOON.replace(second=30))

    assert not watch.is_copying_disks
    assert watch.pass_bytes == watch.remaining_bytes == 0.5 * GIB
