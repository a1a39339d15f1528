"""Guests with disks of their own go from host to host with them, and nothing is written over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import Migration, MigrationState
from rebalancer.rollout.events import Event, Progress, StageChanged
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.steps import StopRequest
from tests.lab.command import Rebalancer
from tests.lab.disks import delete_by_hand, digest, has_pattern, own_pools, write_pattern
from tests.lab.guest import OWN_DISKS, GuestSpec, own_disk_file
from tests.lab.shape import GIB, MIB
from tests.lab.site import (
    Site,
    WallClock,
    a_move,
    assert_ran_through,
    assert_runs_once,
    changes_asked_for,
    hosts_from,
)
from tests.unit.rollout.crashes import KilledError, a_dead_owner

if TYPE_CHECKING:
    from tests.lab.cluster import Lab
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost

pytestmark = pytest.mark.lab

DISK_BYTES = 160 * MIB
LINK = 31_250_000
"""Bytes a second that links are said to carry where a prediction is judged: little enough for them
to decide how long it takes, and not what else the machine has to do."""


@pytest.fixture(scope="module")
def pooled_lab(session_lab: Lab) -> Iterator[Lab]:
    """Each host with a storage pool for a folder of its own."""
    with own_pools(session_lab):
        yield session_lab


@pytest.fixture(scope="module")
def owner(pooled_lab: Lab) -> Iterator[LabGuest]:
    """A guest with a disk of its own."""
    host = pooled_lab.hosts[0]
    guest = pooled_lab.start_guest(host, GuestSpec(disk_bytes=DISK_BYTES, has_own_disk=True))
    yield guest
    pooled_lab.remove_guest(guest)


@pytest.fixture
def guest(lab: Lab, owner: LabGuest) -> Iterator[LabGuest]:
    lab.wait_for_boot([owner])
    yield owner
    (here,) = owner.hosts_running()
    for host in owner.hosts:
        if host != here:  # what its operator would delete
            delete_by_hand(host, own_disk_file(host, owner.name))


class DiskSite(Site):
    """Knows the guest's disk, and room for it everywhere."""

    capacity_bytes = DISK_BYTES

    def disk(self, guest: LabGuest) -> LocalDisk:
        return LocalDisk(
            target="vda",
            capacity_bytes=self.capacity_bytes,
            path=f"{OWN_DISKS}/{guest.name}.qcow2",
            format="qcow2",
        )

    def snapshot(self, guest: LabGuest, on: LabHost, **changed: Any) -> Snapshot:
        facts = {
            "local_disk_bytes": self.capacity_bytes,
            "local_disks": (self.disk(guest),),
            **changed,
        }
        seen = super().snapshot(guest, on, **facts)
        room = {OWN_DISKS: 1000 * 1024 * GIB}
        return replace(seen, hosts=tuple(replace(host, disk_pools=room) for host in seen.hosts))

    def move(self, guest: LabGuest, source: LabHost, target: LabHost) -> Migration:
        return a_move(guest, source, target, disks=(self.disk(guest),), bytes_per_second=40.0 * MIB)


@pytest.fixture
def disk_site(lab: Lab, tmp_path: Path) -> Iterator[DiskSite]:
    found = DiskSite(lab, tmp_path)
    yield found
    found.close()


def test_a_drain_takes_a_disk_along_and_keeps_to_what_its_plan_printed(
    lab: Lab, guest: LabGuest, tmp_path: Path
) -> None:
    """The product's whole way: facts, permission, prediction, files, copy, what is left behind."""
    source, *_ = hosts_from(guest)
    write_pattern(guest, source)
    command = Rebalancer.configured(lab, tmp_path, sampling_seconds=1)
    narrow = command.config.read_text().replace("second: 62500000", f"second: {LINK}")
    command.config.write_text(narrow)
    policy, plan_file = tmp_path / "policy.yaml", tmp_path / "plan.json"
    text = (
        "schema_version: 1\nname: out\ngoals: [{goal: drain, tier: 0}]\n"
        "headroom: {cpu: 0, memory: 0, host_failures: 0}\ntrigger: null\n"
    )
    policy.write_text(text)
    refused = command("explain", guest.name, "--policy", policy)
    policy.write_text(f"{text}migration: {{local_disks: true}}\n")

    guest.heartbeat.mark()
    command("drain", source.name, "--policy", policy, "--out", plan_file)
    command("apply", plan_file, "--policy", policy, "--yes")
    assert_ran_through(guest)

    assert "`migration: {local_disks: true}` would let them be copied" in " ".join(refused.split())
    (planned,) = json.loads(plan_file.read_text())["migrations"]
    target = next(host for host in lab.hosts if host.name == planned["target"])
    assert_runs_once(guest, target)
    last = guest.heartbeat.last
    assert last is not None
    assert last.disk_mismatches == 0
    assert has_pattern(own_disk_file(target, guest.name))
    assert own_disk_file(source, guest.name).exists()

    journal = Journal.open(f"sqlite:///{tmp_path}/journal.db", WallClock())
    (row,) = journal.completed(lab.shape.prefix, 1)
    journal.close()
    outcome, predicted = row.outcome, row.migration.predicted
    assert outcome is not None
    assert outcome.duration_seconds is not None
    assert outcome.transfer_bytes is not None
    print(
        f"predicted {predicted.duration_seconds:.1f} s (up to "
        f"{predicted.duration_upper_seconds:.1f} s) and {predicted.transfer_bytes / MIB:.1f} MiB, "
        f"took {outcome.duration_seconds:.1f} s and {outcome.transfer_bytes / MIB:.1f} MiB"
    )
    assert outcome.duration_seconds <= predicted.duration_upper_seconds
    assert outcome.transfer_bytes == pytest.approx(predicted.transfer_bytes, rel=0.2)
    assert f"{OWN_DISKS}/{guest.name}.qcow2 (160 MiB)" in outcome.text
    assert f"stay on {source.name}" in outcome.text


def test_what_is_on_the_target_already_is_not_written_over(
    disk_site: DiskSite, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)
    site, other = disk_site, own_disk_file(target, guest.name)
    other.write_bytes(b"somebody's data")
    before = digest(other)

    guest.heartbeat.mark()
    result = site.roll_out(site.move(guest, source, target), site.snapshot(guest, source))
    assert_ran_through(guest)

    (outcome,) = result.outcomes
    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert f"is on {target.name} already" in outcome.text
    assert changes_asked_for(site) == ["CreateDisk"]
    assert digest(other) == before
    assert_runs_once(guest, source)


def test_a_target_without_room_for_the_whole_disk_refuses(
    disk_site: DiskSite, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)
    site = disk_site
    site.capacity_bytes = 900 * 1024 * GIB

    result = site.roll_out(site.move(guest, source, target), site.snapshot(guest, source))

    (outcome,) = result.outcomes
    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert "may need 900 TiB" in outcome.text
    assert changes_asked_for(site) == ["CreateDisk"]
    assert not own_disk_file(target, guest.name).exists()
    assert_runs_once(guest, source)


def test_what_is_called_off_while_disks_are_copied_leaves_no_file_on_the_target(
    disk_site: DiskSite, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)
    site, begun = disk_site, []

    def watch(event: Event) -> None:
        if isinstance(event, Progress) and event.iteration == 0:
            begun.append(event)

    guest.heartbeat.mark()
    result = site.roll_out(
        replace(site.move(guest, source, target), bytes_per_second=8.0 * MIB),
        site.snapshot(guest, source),
        on_event=watch,
        should_stop=lambda: StopRequest.ABORT if begun else StopRequest.NO,
    )
    assert_ran_through(guest)

    (outcome,) = result.outcomes
    assert outcome.state is MigrationState.ABORTED, outcome
    assert changes_asked_for(site) == ["CreateDisk", "Migrate", "Abort", "RemoveDisk"]
    assert not own_disk_file(target, guest.name).exists()
    assert own_disk_file(source, guest.name).exists()
    assert_runs_once(guest, source)


def test_a_controller_that_dies_while_disks_are_copied_is_followed_by_one_that_waits(
    disk_site: DiskSite, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)
    site, snapshot = disk_site, disk_site.snapshot(guest, source)

    def die(event: Event) -> None:
        if isinstance(event, StageChanged) and event.after is MigrationState.TRANSFER:
            raise KilledError

    guest.heartbeat.mark()
    lease = site.journal.acquire("test", owner=a_dead_owner())
    with pytest.raises(KilledError):
        site.roll_out(site.move(guest, source, target), snapshot, on_event=die, lease=lease)
    site.driver.close()
    site.driver = site.new_driver()
    outcome = site.recover(snapshot)
    assert_ran_through(guest)

    assert outcome.state is MigrationState.COMPLETE, outcome
    assert f"stay on {source.name}" in outcome.text
    assert_runs_once(guest, target)
    assert has_pattern(own_disk_file(target, guest.name))
