"""Old disks: which are known, what proves that one may be deleted, and what keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.cluster.plan import MigrationState
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.rollout.driver import Command, Ticket
from rebalancer.rollout.executor import Settings
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.left_over_commands import DiskFile, NoDiskFile, RemoveLeftOver
from rebalancer.rollout.left_over_desk import LeftOverDesk
from rebalancer.rollout.left_over_journal import LeftOverJournal
from rebalancer.rollout.left_overs import (
    Findings,
    LeftOver,
    Removed,
    left_overs,
    why_it_stays,
)
from rebalancer.rollout.records import MigrationRow
from rebalancer.rollout.sightings import HostView, JobKind
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.simulated_driver import SimulatedDriver
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
from tests.unit.rollout.crashes import Death, KilledError, a_dead_owner, live_through
from tests.unit.rollout.plans import a_migration, a_plan
from tests.unit.rollout.sightings import ABSENT, SILENT, a_sighting, defined, paused, running

H1, H2, VM = HostId("h1"), HostId("h2"), VmId("vm1")
DISK = a_disk("vda", 8 * GIB)
LEFT = LeftOver(
    vm=VM, vm_name="vm1", host=H1, disk=DISK, moved_to=H2, left_at=NOON, rollout=1, migration="m1"
)
OLD = DiskFile(
    capacity_bytes=8 * GIB,
    allocated_bytes=GIB,
    format="qcow2",
    changed_at=NOON - timedelta(seconds=2),
)
NEW = replace(OLD, changed_at=NOON + timedelta(hours=1), vms=(VM,), users=("vm1",))


def found(
    source: HostView = ABSENT,
    target: HostView | None = None,
    others: Mapping[str, HostView] | None = None,
    file: DiskFile | NoDiskFile | str = OLD,
    kept: DiskFile | NoDiskFile | str | None = NEW,
) -> Findings:
    sighting = a_sighting(source, target or running(), others=others or {"h3": ABSENT})
    return Findings(sighting=sighting, file=file, kept=kept)


def test_a_file_that_everything_proves_to_be_old_may_go() -> None:
    assert why_it_stays(LEFT, found()) == ()


@pytest.mark.parametrize(
    ("findings", "reason"),
    [
        (found(others={"h3": SILENT}), "h3 does not answer, and may have the VM"),
        (found(target=ABSENT), "vm1 runs nowhere, so this may be the only good copy of its disk"),
        (found(target=defined()), "vm1 runs nowhere"),
        (found(source=defined()), "h1 knows vm1, and may start it from this file"),
        (found(source=running()), "vm1 is active on h1 and h2"),
        (found(target=paused()), "vm1 is paused on h2"),
        (found(target=running(job=JobKind.MIGRATION_OUT)), "a job runs on vm1 (migration out)"),
        (found(file="no active storage pool"), "h1 does not tell what lies there: no active"),
        (found(file=replace(OLD, users=("db2",))), "db2 on h1 would lose it"),
        (found(file=replace(OLD, capacity_bytes=GIB)), "it has 1.00 GiB, 8.00 GiB were left"),
        (found(file=replace(OLD, format="raw")), "its format is raw, qcow2 was left"),
        (found(file=replace(OLD, changed_at=None)), "it is not known when it was written to"),
        (
            found(file=replace(OLD, changed_at=NOON + timedelta(minutes=5))),
            f"it was written to at {NOON:%Y-%m-%d} 12:05:00 UTC, after it was left (12:00:00)",
        ),
        (found(kept="silent"), "h2 does not tell what its own vda.qcow2 is: silent"),
        (found(kept=NoDiskFile()), f"vm1 does not use a file {DISK.path} on h2, where it runs"),
        (found(kept=replace(NEW, vms=())), "vm1 does not use a file"),
        (found(kept=replace(NEW, capacity_bytes=GIB)), "its disk on h2 has 1.00 GiB only"),
        (
            found(kept=replace(NEW, changed_at=OLD.changed_at)),
            "h2 shows a file with the same time stamp: it may be one and the same",
        ),
    ],
)
def test_whatever_is_not_proved_keeps_it(findings: Findings, reason: str) -> None:
    reasons = why_it_stays(LEFT, findings)

    assert any(each.startswith(reason) for each in reasons), reasons


def test_every_reason_is_told() -> None:
    findings = found(
        source=defined(), target=paused(), file=replace(OLD, users=("db2",), format="raw")
    )

    assert len(why_it_stays(LEFT, findings)) == 4


# What the journal knows ------------------------------------------------------------------------


def moved(source: str, target: str, at: datetime, **changed: Any) -> MigrationRow:
    return MigrationRow(
        rollout=1,
        migration=a_migration("vm1", source, target, disks=(DISK,), **changed),
        state=MigrationState.COMPLETE,
        outcome=None,
        changed_at=at,
    )


def test_each_host_that_a_vm_left_has_its_old_disk() -> None:
    rows = [moved("h1", "h2", NOON), moved("h2", "h3", NOON + timedelta(hours=1))]

    assert [left.host for left in left_overs(rows, [])] == ["h1", "h2"]


def test_a_vm_that_came_home_uses_its_disk_there() -> None:
    rows = [moved("h1", "h2", NOON), moved("h2", "h1", NOON + timedelta(hours=1))]

    assert [left.host for left in left_overs(rows, [])] == ["h2"]


def test_what_was_deleted_is_known_no_more_until_it_is_left_again() -> None:
    removed = [Removed(host=H1, path=DISK.path, at=NOON + timedelta(minutes=1))]
    later = [moved("h1", "h2", NOON), moved("h1", "h2", NOON + timedelta(hours=1))]

    assert left_overs(later[:1], removed) == ()
    assert [left.left_at for left in left_overs(later, removed)] == [NOON + timedelta(hours=1)]


# In a simulated cluster ------------------------------------------------------------------------


class Aftermath:
    """A cluster in which a VM has left its disks behind."""

    def __init__(self, folder: Path) -> None:
        hosts = [a_host(name, disk_pools={IMAGES: 100 * GIB}) for name in ("h1", "h2", "h3")]
        snapshot = a_snapshot(hosts, [a_vm("vm1", **with_disks(DISK, writes=4.0 * MIB))])
        self.world = Datacentre.of(snapshot)
        self.clock = VirtualClock(self.world)
        self.url = f"sqlite:///{folder}/journal.db"
        settings = Settings(policy=a_policy(migration=MigrationPermissions(local_disks=True)))
        plan = a_plan(a_migration(disks=(DISK,)))
        story = live_through(plan, snapshot, self.world, folder, Death(), settings)
        assert story.first is not None
        assert story.first.is_complete

    def remove(self, driver: SimulatedDriver | None = None) -> tuple[str, ...]:
        desk = LeftOverDesk(
            driver=driver or SimulatedDriver(self.world),
            clock=self.clock,
            hosts=tuple(self.world.hosts),
        )
        with (
            Journal.open(self.url, self.clock) as journal,
            LeftOverJournal.open(self.url, self.clock) as part,
        ):
            lease = journal.acquire("test", owner=a_dead_owner())
            (left,) = part.left_overs("test")
            return desk.remove(left, part, lease)

    @property
    def known(self) -> tuple[LeftOver, ...]:
        with LeftOverJournal.open(self.url, self.clock) as part:
            return part.left_overs("test")

    @property
    def files(self) -> set[HostId]:
        return {host for host, path in self.world.disk_files if path == DISK.path}


@pytest.fixture
def aftermath(tmp_path: Path) -> Aftermath:
    return Aftermath(tmp_path)


def test_an_old_disk_is_known_until_it_is_deleted(aftermath: Aftermath) -> None:
    assert [(left.host, left.moved_to) for left in aftermath.known] == [(H1, H2)]

    assert aftermath.remove() == ()

    assert aftermath.files == {H2}
    assert list(aftermath.known) == []


def test_what_somebody_else_deleted_is_known_no_more(aftermath: Aftermath) -> None:
    aftermath.world.disk_files.discard((H1, DISK.path))

    assert aftermath.remove() == ()

    assert aftermath.known == ()


class DeadlyDriver(SimulatedDriver):
    """Dies as it is told to delete, before or after it does."""

    after = False

    def issue(self, command: Command) -> Ticket:
        if isinstance(command, RemoveLeftOver):
            if self.after:
                super().issue(command)
            raise KilledError
        return super().issue(command)


@pytest.mark.parametrize("after", [False, True])
def test_a_deletion_that_was_cut_short_is_taken_up_by_the_next(
    aftermath: Aftermath, after: bool
) -> None:
    driver = DeadlyDriver(aftermath.world)
    driver.after = after
    with pytest.raises(KilledError):
        aftermath.remove(driver)
    assert [left.host for left in aftermath.known] == [H1]

    assert aftermath.remove() == ()

    assert aftermath.files == {H2}
    assert list(aftermath.known) == []
