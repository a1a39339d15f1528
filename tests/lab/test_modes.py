"""Modes of migration on real hosts, as the rollout carries them out.

Live and offline moves are in `test_driver.py`, throttled ones in `test_ladder.py`, encrypted
ones in `test_tls.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rebalancer.cluster.inventory import HostId, Mode, Snapshot
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.driver import IMAGE_FOLDER
from rebalancer.rollout.events import Event, Progress, StageChanged
from rebalancer.rollout.libvirt_connections import HostAddress
from rebalancer.rollout.libvirt_driver import LibvirtDriver
from rebalancer.rollout.sightings import DomainView
from tests.lab.cluster import Lab, claim
from tests.lab.command import Rebalancer
from tests.lab.guest import GuestSpec
from tests.lab.shape import MIB, LabShape
from tests.lab.site import (
    Site,
    a_move,
    ask_qemu,
    beside,
    changes_asked_for,
    hosts_from,
    runs_as_it_should,
    with_links_of,
)
from tests.unit.rollout.crashes import KilledError, a_dead_owner

if TYPE_CHECKING:
    from tests.lab.conftest import KeepGuest
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost

pytestmark = pytest.mark.lab

HOT = GuestSpec(
    memory_bytes=128 * MIB, working_set_bytes=48 * MIB, dirty_bytes_per_second=40_000_000
)
"""Writes its working set anew in less time than it takes to send at the 15 MiB/s it is given."""


def test_a_guest_that_turns_out_hotter_than_planned_gets_the_rest_of_the_link(
    site: Site, keep_guest: KeepGuest
) -> None:
    guest = keep_guest()
    guest.set_dirty_rate(16_000_000)
    source, target, _ = hosts_from(guest)
    move = a_move(guest, source, target, bytes_per_second=6.0 * MIB)

    guest.heartbeat.mark()
    snapshot = with_links_of(60.0 * MIB, site.snapshot(guest, source))
    result = site.roll_out(move, snapshot)
    guest.heartbeat.wait_for_beat()

    assert result.is_complete, result
    assert changes_asked_for(site)[:2] == ["Migrate", "SetBandwidth"]
    assert "Pause" not in changes_asked_for(site)
    assert guest.hosts_knowing() == (target,)
    assert guest.heartbeat.report().ran_through


class StreamingSite(Site):
    """Sends memory over three streams; two is what QEMU would take by itself."""

    def new_driver(self) -> LibvirtDriver:
        addresses = {HostId(host.name): HostAddress(uri=host.uri) for host in self.lab.hosts}
        return LibvirtDriver(addresses, self.clock, parallel_connections=3)


@pytest.fixture
def streaming_site(lab: Lab, tmp_path: Path) -> Iterator[StreamingSite]:
    found = StreamingSite(lab, tmp_path)
    yield found
    found.close()


def test_memory_goes_over_several_streams_where_that_is_set(
    streaming_site: StreamingSite, keep_guest: KeepGuest
) -> None:
    guest, site = keep_guest(), streaming_site
    source, target, _ = hosts_from(guest)
    streams: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, Progress):
            told = ask_qemu(guest, source, "query-migrate-parameters")
            streams.append(told.get("multifd-channels", 0))

    guest.heartbeat.mark()
    result = site.roll_out(
        a_move(guest, source, target, bytes_per_second=15.0 * MIB),
        site.snapshot(guest, source),
        on_event=watch,
    )
    guest.heartbeat.wait_for_beat()

    assert result.is_complete, result
    assert 3 in streams, streams
    assert guest.hosts_knowing() == (target,)
    assert guest.heartbeat.report().ran_through


def test_a_cold_move_shuts_down_defines_and_starts(site: Site, keep_guest: KeepGuest) -> None:
    guest = keep_guest()
    source, target, _ = hosts_from(guest)
    with source.connect() as connection:
        connection.lookupByUUIDString(guest.uuid).setAutostart(1)

    guest.heartbeat.mark()
    result = site.roll_out(
        a_move(guest, source, target, mode=Mode.COLD), site.snapshot(guest, source)
    )
    guest.heartbeat.wait_for_beat(within_seconds=120)

    assert result.is_complete, result
    assert guest.hosts_knowing() == (target,)
    assert guest.heartbeat.report().restarted
    view = site.look(guest).views[HostId(target.name)]
    assert isinstance(view, DomainView)
    assert view.autostart


def test_a_second_cold_move_takes_what_the_first_one_taught(
    lab: Lab, keep_guest: KeepGuest, tmp_path: Path
) -> None:
    """Assumed are a minute and more; what the guest itself took is known from then on."""
    guest = keep_guest()
    command = Rebalancer.configured(lab, tmp_path, sampling_seconds=1)
    policy, plan_file = tmp_path / "policy.yaml", tmp_path / "plan.json"
    policy.write_text(
        "schema_version: 1\nname: cold\ngoals: [{goal: drain, tier: 0}]\n"
        "headroom: {cpu: 0, memory: 0, host_failures: 0}\ntrigger: null\n"
        "migration: {allow: [cold]}\n"
    )
    moved: list[dict[str, Any]] = []
    for _ in range(2):
        (here,) = guest.hosts_running()
        command("drain", here.name, "--policy", policy, "--out", plan_file)
        guest.heartbeat.mark()
        command("apply", plan_file, "--policy", policy, "--yes")
        guest.heartbeat.wait_for_beat(within_seconds=120)
        plan = json.loads(plan_file.read_text())["id"]
        moved += json.loads(command("show", plan, "-o", "json"))["migrations"]

    first, second = moved
    print(first, second)
    assert first["predicted"]["duration_seconds"] == pytest.approx(62)
    upper_seconds = [each["predicted"]["duration_upper_seconds"] for each in moved]
    assert upper_seconds[1] < upper_seconds[0]
    took = second["outcome"]["duration_seconds"]
    assert took <= second["predicted"]["duration_upper_seconds"]
    (shutdown, _) = second["predicted"]["parts"]
    assert shutdown["learned_from"] == 1
    assert shutdown["seconds"] == pytest.approx(first["outcome"]["parts"][0]["seconds"])
    reason = json.loads(plan_file.read_text())["migrations"][0]["mode_reason"]
    assert "learned from its own last 1" in reason
    judged = json.loads(command("history", "--accuracy", "-o", "json"))
    assert [row["part"] for row in judged["parts"]] == ["shut down", "start"]
    assert judged["parts"][0]["duration"]["in_band_ratio"] == 1.0
    print(command("history", "--accuracy"))


def test_a_guest_that_writes_too_fast_is_paused_to_finish(
    site: Site, keep_guest: KeepGuest
) -> None:
    guest = keep_guest(HOT)
    source, target, _ = hosts_from(guest)
    move = a_move(guest, source, target, mode=Mode.SUSPEND, bytes_per_second=15.0 * MIB)

    guest.heartbeat.mark()
    result = site.roll_out(move, site.snapshot(guest, source))
    guest.heartbeat.wait_for_beat()

    assert result.is_complete, result
    assert changes_asked_for(site) == ["Migrate", "Pause"]
    assert guest.hosts_knowing() == (target,)
    assert guest.heartbeat.report().ran_through


def test_a_guest_that_writes_too_fast_is_switched_to_post_copy(
    streaming_site: StreamingSite, keep_guest: KeepGuest
) -> None:
    """Over one stream, although several are set: QEMU would refuse."""
    site = streaming_site
    guest = keep_guest(HOT)
    source, target, _ = hosts_from(guest)
    move = a_move(guest, source, target, mode=Mode.POST_COPY, bytes_per_second=15.0 * MIB)

    guest.heartbeat.mark()
    result = site.roll_out(move, site.snapshot(guest, source))
    guest.heartbeat.wait_for_beat()

    assert result.is_complete, result
    assert changes_asked_for(site)[:2] == ["Migrate", "SwitchToPostCopy"]
    assert guest.hosts_knowing() == (target,)
    assert guest.heartbeat.report().ran_through


# By a saved memory --------------------------------------------------------------------------


STORAGE = "vmstore"


@pytest.fixture(scope="module")
def sharing_lab(lab_shape: LabShape) -> Iterator[Lab]:
    """Two hosts with a folder that both have."""
    shape = replace(beside(lab_shape, "s"), shared_storage=True)
    with claim(shape.prefix), Lab.start(shape) as lab:
        yield lab


class SharingSite(Site):
    """Knows where the hosts have their shared storage."""

    def new_driver(self) -> LibvirtDriver:
        storage = {STORAGE: str(self.lab.state_dir / "shared")}
        addresses = {
            HostId(host.name): HostAddress(uri=host.uri, storage=storage) for host in self.lab.hosts
        }
        return LibvirtDriver(addresses, self.clock)

    def snapshot(self, guest: LabGuest, on: LabHost, **changed: Any) -> Snapshot:
        seen = super().snapshot(guest, on, **changed)
        hosts = tuple(replace(host, storage=frozenset({STORAGE})) for host in seen.hosts)
        return replace(seen, hosts=hosts)

    @property
    def images(self) -> list[str]:
        """What is left of saved memories."""
        return [file.name for file in (self.lab.state_dir / "shared" / IMAGE_FOLDER).glob("*")]


@pytest.fixture
def sharing_site(sharing_lab: Lab, tmp_path: Path) -> Iterator[SharingSite]:
    found = SharingSite(sharing_lab, tmp_path)
    yield found
    found.close()


@pytest.fixture(scope="module")
def kept_with_disk(sharing_lab: Lab) -> Iterator[list[LabGuest]]:
    """What `guest_with_disk` keeps from one test to the next."""
    kept: list[LabGuest] = []
    yield kept
    for guest in kept:
        sharing_lab.remove_guest(guest)


@pytest.fixture
def guest_with_disk(sharing_lab: Lab, kept_with_disk: list[LabGuest]) -> Iterator[LabGuest]:
    """A guest that its host starts when it boots, running on either host."""
    if kept_with_disk and not runs_as_it_should(kept_with_disk[0]):
        sharing_lab.remove_guest(kept_with_disk.pop())
    if not kept_with_disk:
        spec = GuestSpec(disk_bytes=16 * MIB)
        kept_with_disk.append(sharing_lab.start_guest(sharing_lab.hosts[0], spec))
        sharing_lab.wait_for_boot(kept_with_disk)
    (guest,) = kept_with_disk
    (here,) = guest.hosts_running()
    with here.connect() as connection:
        connection.lookupByUUIDString(guest.uuid).setAutostart(1)
    yield guest
    sharing_lab.heal()


def ends_of(guest: LabGuest) -> tuple[LabHost, LabHost]:
    """The host that it runs on, and the other one."""
    (source,) = guest.hosts_running()
    (target,) = (host for host in guest.hosts if host != source)
    return source, target


def test_a_guest_whose_memory_is_saved_stands_still_and_does_not_boot_anew(
    sharing_lab: Lab, sharing_site: SharingSite, guest_with_disk: LabGuest
) -> None:
    guest, site = guest_with_disk, sharing_site
    source, target = ends_of(guest)

    guest.heartbeat.mark()
    result = site.roll_out(
        a_move(guest, source, target, mode=Mode.COLD, saved_to=STORAGE),
        site.snapshot(guest, source),
    )
    guest.heartbeat.wait_for_beat()
    sharing_lab.listen(2)

    assert result.is_complete, result
    assert changes_asked_for(site) == [
        *("Save", "SetAutostart", "Restore", "Resume"),
        *("CopyDefinition", "Undefine", "SetAutostart", "DiscardImage"),
    ]
    assert guest.hosts_knowing() == (target,)
    report, last = guest.heartbeat.report(), guest.heartbeat.last
    assert report.ran_through
    assert last is not None
    assert last.disk_mismatches == 0
    view = site.look(guest).views[HostId(target.name)]
    assert isinstance(view, DomainView)
    assert view.persistent
    assert view.autostart
    assert result.outcomes[0].downtime_seconds is not None
    assert site.images == []


def test_a_target_that_cannot_read_the_saved_memory_gives_the_guest_back_as_it_was(
    sharing_lab: Lab, sharing_site: SharingSite, guest_with_disk: LabGuest
) -> None:
    guest, site = guest_with_disk, sharing_site
    source, target = ends_of(guest)
    without = {HostId(target.name): HostAddress(uri=target.uri, storage={STORAGE: "/nowhere"})}
    with_it = {STORAGE: str(sharing_lab.state_dir / "shared")}
    site.driver.close()
    site.driver = LibvirtDriver(
        {HostId(source.name): HostAddress(uri=source.uri, storage=with_it), **without}, site.clock
    )

    guest.heartbeat.mark()
    result = site.roll_out(
        a_move(guest, source, target, mode=Mode.COLD, saved_to=STORAGE),
        site.snapshot(guest, source),
    )
    guest.heartbeat.wait_for_beat()

    assert result.outcomes[0].state is MigrationState.FAILED_SAFE, result
    assert guest.hosts_knowing() == (source,)
    assert guest.heartbeat.report().ran_through
    assert changes_asked_for(site)[:5] == ["Save", "SetAutostart", "Restore", "Restore", "Resume"]
    view = site.look(guest).views[HostId(source.name)]
    assert isinstance(view, DomainView)
    assert view.autostart
    assert site.images == []


def test_a_controller_that_dies_after_the_save_is_followed_by_one_that_brings_the_guest_back(
    sharing_lab: Lab, sharing_site: SharingSite, guest_with_disk: LabGuest
) -> None:
    guest, site = guest_with_disk, sharing_site
    source, target = ends_of(guest)
    snapshot = site.snapshot(guest, source)

    def die(event: Event) -> None:
        if isinstance(event, StageChanged) and event.after is MigrationState.TRANSFER:
            raise KilledError

    guest.heartbeat.mark()
    lease = site.journal.acquire("test", owner=a_dead_owner())
    with pytest.raises(KilledError):
        site.roll_out(
            a_move(guest, source, target, mode=Mode.COLD, saved_to=STORAGE),
            snapshot,
            on_event=die,
            lease=lease,
        )
    site.driver.close()
    assert guest.hosts_running() == ()
    site.driver = site.new_driver()
    outcome = site.recover(snapshot)
    guest.heartbeat.wait_for_beat()

    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert guest.hosts_knowing() == (source,)
    assert guest.heartbeat.report().ran_through
    assert site.images == []


def test_a_drain_saves_what_may_only_go_cold_as_its_plan_said(
    sharing_lab: Lab, guest_with_disk: LabGuest, tmp_path: Path
) -> None:
    """The product's whole way: storage as configured, the mode as planned, the pause as printed."""
    guest, folder = guest_with_disk, str(sharing_lab.state_dir / "shared")
    source, target = ends_of(guest)
    command = Rebalancer.configured(sharing_lab, tmp_path, sampling_seconds=1)
    text = command.config.read_text().replace("uri:", f"storage: {{{STORAGE}: {folder}}}, uri:")
    command.config.write_text(text)
    policy, plan_file = tmp_path / "policy.yaml", tmp_path / "plan.json"
    policy.write_text(
        "schema_version: 1\nname: cold\ngoals: [{goal: drain, tier: 0}]\n"
        "headroom: {cpu: 0, memory: 0, host_failures: 0}\ntrigger: null\n"
        f"migration: {{allow: [cold], save_to: {STORAGE}, save_rate: 50MiB/s}}\n"
    )

    guest.heartbeat.mark()
    command("drain", source.name, "--policy", policy, "--out", plan_file)
    command("apply", plan_file, "--policy", policy, "--yes")
    guest.heartbeat.wait_for_beat()

    (planned,) = json.loads(plan_file.read_text())["migrations"]
    assert (planned["mode"], planned["saved_to"]) == ("cold", STORAGE)
    assert f"is written to {STORAGE}" in planned["mode_reason"]
    assert guest.hosts_knowing() == (target,)
    report = guest.heartbeat.report()
    assert report.ran_through
    assert report.longest_gap_seconds > 1
