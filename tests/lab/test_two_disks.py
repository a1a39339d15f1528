"""Guests as people have them: several disks of several kinds, drives, images on other images."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import Mode, Snapshot
from rebalancer.cluster.plan import Migration, MigrationState
from rebalancer.errors import ExitCode
from rebalancer.rollout.records import RecordKind
from tests.lab.command import Rebalancer
from tests.lab.controller import kill_a_controller
from tests.lab.disks import (
    SECOND_FOLDER,
    cdrom_xml,
    delete_by_hand,
    digest,
    file_xml,
    has_pattern,
    own_pools,
    seen_from_here,
    write_pattern,
)
from tests.lab.guest import OWN_DISKS, GuestSpec, own_disk_file
from tests.lab.shape import GIB, MIB
from tests.lab.site import (
    Site,
    a_move,
    assert_ran_through,
    assert_runs_once,
    changes_asked_for,
    hosts_from,
)
from tests.unit.rollout.plans import a_plan

if TYPE_CHECKING:
    from tests.lab.cluster import Lab
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost

pytestmark = pytest.mark.lab

FIRST_BYTES, SECOND_BYTES = 96 * MIB, 48 * MIB
SECOND = f"{SECOND_FOLDER}/records.raw"
TOOLS = f"{OWN_DISKS}/tools.iso"
NOISE = bytes(range(1, 256)) * 4096


@pytest.fixture(scope="module")
def pooled_lab(session_lab: Lab) -> Iterator[Lab]:
    """Each host with two storage pools for folders of its own."""
    with own_pools(session_lab):
        yield session_lab


@pytest.fixture(scope="module")
def owner(pooled_lab: Lab) -> Iterator[LabGuest]:
    """A qcow2 in one pool, a raw disk in another, and a medium that it can do without."""
    host = pooled_lab.hosts[0]
    raw = seen_from_here(host, SECOND)
    raw.write_bytes(NOISE)
    with raw.open("r+b") as file:
        file.truncate(SECOND_BYTES)
    seen_from_here(host, TOOLS).write_bytes(bytes(MIB))
    devices = file_xml(SECOND, "raw", "vdb") + cdrom_xml(TOOLS, policy="optional")
    spec = GuestSpec(
        disk_bytes=FIRST_BYTES,
        has_own_disk=True,
        more_devices=devices,
        memory_bytes=128 * MIB,
        working_set_bytes=48 * MIB,
    )
    guest = pooled_lab.start_guest(host, spec)
    yield guest
    pooled_lab.remove_guest(guest)
    for each in pooled_lab.hosts:
        seen_from_here(each, SECOND).unlink(missing_ok=True)
        seen_from_here(each, TOOLS).unlink(missing_ok=True)


@pytest.fixture
def guest(lab: Lab, owner: LabGuest) -> Iterator[LabGuest]:
    lab.wait_for_boot([owner])
    yield owner
    (here,) = owner.hosts_running()
    for host in owner.hosts:
        if host != here:  # what its operator would delete
            delete_by_hand(host, *files_of(owner, host))


def files_of(guest: LabGuest, host: LabHost) -> tuple[Path, Path]:
    return own_disk_file(host, guest.name), seen_from_here(host, SECOND)


class TwoDiskSite(Site):
    """Knows both disks, and room for them everywhere."""

    def disks(self, guest: LabGuest) -> tuple[LocalDisk, ...]:
        return (
            LocalDisk(
                target="vda",
                capacity_bytes=FIRST_BYTES,
                path=f"{OWN_DISKS}/{guest.name}.qcow2",
                format="qcow2",
            ),
            LocalDisk(target="vdb", capacity_bytes=SECOND_BYTES, path=SECOND, format="raw"),
        )

    def snapshot(self, guest: LabGuest, on: LabHost, **changed: Any) -> Snapshot:
        facts = {
            "local_disk_bytes": FIRST_BYTES + SECOND_BYTES,
            "local_disks": self.disks(guest),
            **changed,
        }
        seen = super().snapshot(guest, on, **facts)
        room = {OWN_DISKS: GIB, SECOND_FOLDER: GIB}
        return replace(seen, hosts=tuple(replace(host, disk_pools=room) for host in seen.hosts))

    def move(self, guest: LabGuest, source: LabHost, target: LabHost, **how: Any) -> Migration:
        facts = {"disks": self.disks(guest), "bytes_per_second": 40.0 * MIB, **how}
        return a_move(guest, source, target, **facts)


@pytest.fixture
def two_disk_site(lab: Lab, tmp_path: Path) -> Iterator[TwoDiskSite]:
    found = TwoDiskSite(lab, tmp_path)
    yield found
    found.close()


def drain_policy(folder: Path, migration: str) -> Path:
    file = folder / "policy.yaml"
    file.write_text(
        "schema_version: 1\nname: out\ngoals: [{goal: drain, tier: 0}]\n"
        "headroom: {cpu: 0, memory: 0, host_failures: 0}\ntrigger: null\n"
        f"migration: {migration}\n"
    )
    return file


def test_two_disks_come_along_to_the_pools_that_they_were_in_and_a_medium_stays_behind(
    lab: Lab, guest: LabGuest, tmp_path: Path
) -> None:
    """The product's whole way. The drive arrives empty, as its owner allowed it to."""
    source, *_ = hosts_from(guest)
    write_pattern(guest, source)
    old = digest(files_of(guest, source)[1])
    command = Rebalancer.configured(lab, tmp_path, sampling_seconds=1)
    policy, plan_file = drain_policy(tmp_path, "{local_disks: true}"), tmp_path / "plan.json"

    guest.heartbeat.mark()
    command("drain", source.name, "--policy", policy, "--out", plan_file)
    command("apply", plan_file, "--policy", policy, "--yes")
    assert_ran_through(guest)

    (planned,) = json.loads(plan_file.read_text())["migrations"]
    assert "2 local disks, 144 MiB," in planned["mode_reason"], planned["mode_reason"]
    target = next(host for host in lab.hosts if host.name == planned["target"])
    assert_runs_once(guest, target)
    last = guest.heartbeat.last
    assert last is not None
    assert last.disk_mismatches == 0
    first, second = files_of(guest, target)
    assert has_pattern(first)
    assert digest(second) == old
    assert not seen_from_here(target, TOOLS).exists()


def test_old_disks_are_deleted_on_demand_if_nothing_needs_them_and_then_the_way_home_is_free(
    lab: Lab, guest: LabGuest, tmp_path: Path
) -> None:
    source, target, _ = hosts_from(guest)
    write_pattern(guest, source)
    command = Rebalancer.configured(lab, tmp_path, sampling_seconds=1)
    policy = drain_policy(tmp_path, "{local_disks: true}")
    remove = ("leftovers", "--remove", "--yes")
    guest.heartbeat.mark()
    command("migrate", guest.name, target.name, "--policy", policy, "--yes")
    refused = command(
        *("migrate", guest.name, source.name, "--policy", policy, "--yes"),
        ends_with=ExitCode.BLOCKED,
    )
    with source.connect() as connection:  # somebody makes use of one of them
        user = connection.defineXML(
            "<domain type='qemu'><name>user</name><memory unit='MiB'>64</memory>"
            "<os><type arch='x86_64'>hvm</type></os>"
            f"<devices>{file_xml(SECOND, 'raw', 'vda')}</devices></domain>"
        )
        listed = command("leftovers")
        status = command("status")
        partly = command(*remove, ends_with=ExitCode.PARTIAL)
        first, second = files_of(guest, source)
        found = first.exists(), second.exists()
        user.undefine()
    command(*remove, guest.name)
    assert not second.exists()
    nothing = command(*remove)
    command("migrate", guest.name, source.name, "--policy", policy, "--yes")
    assert_ran_through(guest)

    assert f"{SECOND} is there already, and is not written over" in " ".join(refused.split())
    assert f"{OWN_DISKS}/{guest.name}.qcow2" in listed
    assert "2 old disks" in status
    assert found == (False, True)
    said = " ".join(partly.split())
    assert f"{SECOND} of {guest.name} stays: user on {source.name} would lose it" in said
    assert "knows of no old disks" in nothing
    assert_runs_once(guest, source)
    assert has_pattern(files_of(guest, source)[0])
    assert files_of(guest, target)[0].exists()


def test_a_guest_with_disks_that_writes_too_fast_is_paused_to_finish(
    two_disk_site: TwoDiskSite, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)
    site = two_disk_site
    write_pattern(guest, source)
    old = digest(files_of(guest, source)[1])

    guest.heartbeat.mark()
    guest.set_dirty_rate(50_000_000)  # much more than may be sent, also if it lacks CPU
    try:
        move = site.move(guest, source, target, mode=Mode.SUSPEND, bytes_per_second=20.0 * MIB)
        result = site.roll_out(move, site.snapshot(guest, source))
    finally:
        guest.set_dirty_rate(0)
    assert_ran_through(guest)

    assert result.is_complete, result
    # Each disk was told half; memory gets the whole when its turn comes.
    assert changes_asked_for(site) == [
        *("CreateDisk", "CreateDisk", "Migrate", "SetBandwidth", "Pause")
    ]
    assert_runs_once(guest, target)
    first, second = files_of(guest, target)
    assert has_pattern(first)
    assert digest(second) == old


def test_a_second_file_that_is_in_the_way_takes_the_first_one_away_again(
    two_disk_site: TwoDiskSite, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)
    site = two_disk_site
    first, second = files_of(guest, target)
    second.write_bytes(b"somebody's records")

    guest.heartbeat.mark()
    result = site.roll_out(site.move(guest, source, target), site.snapshot(guest, source))
    assert_ran_through(guest)

    (outcome,) = result.outcomes
    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert f"{SECOND} (18 B) is on {target.name} already" in outcome.text
    assert changes_asked_for(site) == ["CreateDisk", "CreateDisk", "RemoveDisk"]
    assert not first.exists()
    assert second.read_bytes() == b"somebody's records"
    assert_runs_once(guest, source)


def test_a_controller_killed_in_the_middle_of_two_copies_is_followed_by_one_that_waits(
    two_disk_site: TwoDiskSite, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)
    site, snapshot = two_disk_site, two_disk_site.snapshot(guest, source)
    write_pattern(guest, source)
    move = site.move(guest, source, target, bytes_per_second=24.0 * MIB)

    guest.heartbeat.mark()
    kill_a_controller(site, a_plan(move), snapshot, stops_in=MigrationState.TRANSFER)
    with source.connect() as connection:
        stats = connection.lookupByUUIDString(guest.uuid).jobStats()
    outcome = site.recover(snapshot)
    assert_ran_through(guest)

    assert 0 < stats["disk_remaining"] < FIRST_BYTES + SECOND_BYTES, stats
    assert outcome.state is MigrationState.COMPLETE, outcome
    for disk in move.disks:
        assert disk.path in outcome.text
    notes = [r.payload["text"] for r in site.journal.records(1) if r.kind is RecordKind.NOTE]
    assert any(note.startswith("adopted") for note in notes)
    assert any(note.startswith("goes on with 24 MiB/s") for note in notes), notes
    assert_runs_once(guest, target)
    assert has_pattern(files_of(guest, target)[0])


def test_a_controller_killed_after_both_files_were_made_is_followed_by_one_that_removes_them(
    two_disk_site: TwoDiskSite, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)
    site, snapshot = two_disk_site, two_disk_site.snapshot(guest, source)

    guest.heartbeat.mark()
    plan = a_plan(site.move(guest, source, target))
    kill_a_controller(site, plan, snapshot, stops_before="Migrate")
    assert all(file.exists() for file in files_of(guest, target))
    outcome = site.recover(snapshot)
    assert_ran_through(guest)

    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert not any(file.exists() for file in files_of(guest, target))
    assert all(file.exists() for file in files_of(guest, source))
    assert_runs_once(guest, source)


def test_disks_that_cannot_be_copied_are_named_with_every_reason(
    lab: Lab, pooled_lab: Lab, tmp_path: Path
) -> None:
    """One is based on another image, one is read-only, and a medium is in the drive."""
    host = pooled_lab.hosts[0]
    base, overlay, fixed = (f"{OWN_DISKS}/{name}" for name in ("base.qcow2", "on.qcow2", "ro.raw"))
    medium = f"{OWN_DISKS}/setup.iso"
    here = seen_from_here(host, OWN_DISKS)
    make = ("qemu-img", "create", "-q", "-f", "qcow2")
    subprocess.run([*make, "base.qcow2", str(8 * MIB)], cwd=here, check=True)
    subprocess.run([*make, "-b", "base.qcow2", "-F", "qcow2", "on.qcow2"], cwd=here, check=True)
    for path in (fixed, medium):
        seen_from_here(host, path).write_bytes(bytes(MIB))
    devices = (
        file_xml(overlay, "qcow2", "vdb")
        + file_xml(fixed, "raw", "vdc", more="<readonly/>")
        + cdrom_xml(medium)
    )
    bound = lab.start_guest(
        host, GuestSpec(disk_bytes=8 * MIB, has_own_disk=True, more_devices=devices)
    )
    command = Rebalancer.configured(lab, tmp_path, sampling_seconds=1)
    try:
        told = command(
            *("explain", bound.name, "--policy", drain_policy(tmp_path, "{local_disks: true}"))
        )
    finally:
        lab.remove_guest(bound)
        for path in (base, overlay, fixed, medium):
            seen_from_here(host, path).unlink()

    said = " ".join(told.split())
    assert f"its local disk vdb cannot be copied: it is based on another image, {base}" in said
    assert "its local disk vdc cannot be copied: it is read-only" in said
    assert f"{medium} of its host is in its drive hda; eject it" in said
