"""Links cut at the worst moments of real migrations: every guest runs exactly once in the end.

The lab of this module notices a cut link after 4 s (libvirt's default takes 28 s), and its hosts
share a folder, so that guests may have a disk that QEMU locks.
"""

from __future__ import annotations

import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rebalancer.cluster.inventory import HostId, Snapshot, VmState
from rebalancer.cluster.plan import MigrationState, Outcome
from rebalancer.errors import ExitCode
from rebalancer.rollout.events import Event, Progress
from rebalancer.rollout.executor import Settings, execute, recover
from rebalancer.rollout.records import RecordKind
from rebalancer.rollout.sightings import Absent, DomainView, HostView, StateReason
from rebalancer.rollout.stale import StaleCopy, stale_copy_of
from rebalancer.rollout.track import Times
from rebalancer.service.plan_file import plan_to_json
from tests.lab import network
from tests.lab.cluster import Lab
from tests.lab.command import Rebalancer
from tests.lab.deadline import wait_until
from tests.lab.guest import GuestSpec
from tests.lab.host import libvirt
from tests.lab.shape import MIB, LabShape
from tests.lab.site import TIMES, Site, a_move
from tests.lab.story import Daemon, running
from tests.unit.rollout.plans import a_plan

if TYPE_CHECKING:
    from tests.lab.conftest import StartGuest
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost

pytestmark = pytest.mark.lab

S = MigrationState
SUSPENDED_BY_MIGRATION = (3, 1)
RESUMED_BY_MIGRATION = (4, 1)
"""Event and detail of libvirt's life cycle events."""
CUT_SECONDS = 12.0
"""Long enough for both ends to give the link up."""
IMPATIENT = replace(TIMES, unknown_patience_seconds=15.0)
SLOW_BYTES_PER_SECOND = 2.0 * MIB
TRIES = 20
"""Of cutting a link within the moment between two messages: a busy machine may miss it often."""


@pytest.fixture(scope="module")
def quick_lab(lab_shape: LabShape) -> Iterator[Lab]:
    """Three hosts that soon notice a cut link, with shared storage."""
    first, second, third, _ = lab_shape.network.split(".")
    shape = LabShape(
        prefix=f"{lab_shape.prefix}c",
        network=f"{first}.{second}.{int(third) + 150}.0/24",
        keepalive_interval_seconds=1,
        keepalive_count=3,
        shared_storage=True,
    )
    with Lab.start(shape) as lab:
        yield lab


@pytest.fixture
def lab(quick_lab: Lab) -> Iterator[Lab]:
    yield quick_lab
    quick_lab.heal()


@contextmanager
def cutting(
    cut: LabHost,
    guest: LabGuest,
    seen_on: LabHost,
    happened: tuple[int, int],
    seconds: float | None = CUT_SECONDS,
) -> Iterator[threading.Event]:
    """Cut a host's link as soon as a guest's life takes a turn on another or the same host.

    The link is back after so many seconds; `None`: it stays cut. Yields what is set once it is.
    """
    was_cut = threading.Event()
    blade = _blade(cut)

    def turned(_connection: Any, domain: Any, event: int, detail: int, _: Any) -> None:
        is_it = domain.UUIDString() == guest.uuid and (event, detail) == happened
        if is_it and not was_cut.is_set():
            blade.communicate(b"now\n")
            was_cut.set()

    def heal() -> None:
        if was_cut.wait(120) and seconds is not None:
            time.sleep(seconds)
            cut.restore_link()

    with seen_on.connect() as watching:
        number = watching.domainEventRegisterAny(
            None, libvirt().VIR_DOMAIN_EVENT_ID_LIFECYCLE, turned, None
        )
        healing = threading.Thread(target=heal, daemon=True)
        healing.start()
        try:
            yield was_cut
        finally:
            watching.domainEventDeregisterAny(number)
            blade.kill()
            blade.wait()
        healing.join()


def _blade(host: LabHost) -> subprocess.Popen[bytes]:
    """A process that cuts the link as soon as it is told to: starting one would take too long."""
    cut = shlex.join(network.cable_command(host.shape, host.name, plugged_in=False))
    return subprocess.Popen(["sh", "-c", f"read _ && exec {cut}"], stdin=subprocess.PIPE)


def cut_in_mid_transfer(host: LabHost, then: Callable[[], None]) -> Callable[[Event], None]:
    """Cut a host's link once memory flows."""
    done: list[bool] = []

    def watch(event: Event) -> None:
        if isinstance(event, Progress) and event.transferred_bytes > 0 and not done:
            done.append(True)
            host.cut_link()
            then()

    return watch


def views(site: Site, guest: LabGuest, *hosts: LabHost) -> list[HostView]:
    seen = site.look(guest).views
    return [seen[HostId(host.name)] for host in hosts]


def runs_once_on(guest: LabGuest, host: LabHost) -> bool:
    return guest.hosts_running() == (host,) and guest.hosts_knowing() == (host,)


def end_stale_copies(site: Site, snapshot: Snapshot) -> Outcome:
    """What `recover --yes --end-stale-copies` does."""
    (rollout,) = site.journal.unfinished("test")
    (row,) = site.journal.migrations(rollout.id)
    shown = stale_copy_of(rollout.id, row.migration, site.journal.records(rollout.id))
    assert isinstance(shown, StaleCopy), shown
    (result,) = recover(
        cluster="test",
        driver=site.driver,
        clock=site.clock,
        journal=site.journal,
        snapshot=snapshot,
        settings=Settings(times=TIMES),
        only={(rollout.id, row.migration.id)},
        may_end_stale=True,
    )
    return result.outcomes[0]


def test_a_link_cut_for_5_seconds_does_no_harm(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(source)
    cut = cut_in_mid_transfer(target, lambda: threading.Timer(5.0, target.restore_link).start())

    guest.heartbeat.mark()
    result = site.roll_out(
        a_move(guest, source, target, bytes_per_second=SLOW_BYTES_PER_SECOND),
        site.snapshot(guest, source),
        on_event=cut,
    )
    guest.heartbeat.wait_for_beat()

    outcome = result.outcomes[0]
    assert outcome.state in (S.COMPLETE, S.FAILED_SAFE), outcome
    there = target if outcome.state is S.COMPLETE else source
    assert f"on {there.name}" in outcome.text
    assert runs_once_on(guest, there)
    assert guest.heartbeat.report().ran_through


def test_a_link_cut_for_good_is_said_to_be_unknown_and_known_once_it_is_back(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(source)
    snapshot = site.snapshot(guest, source)

    guest.heartbeat.mark()
    result = execute(
        a_plan(a_move(guest, source, target, bytes_per_second=SLOW_BYTES_PER_SECOND)),
        driver=site.driver,
        clock=site.clock,
        journal=site.journal,
        snapshot=snapshot,
        settings=Settings(times=IMPATIENT),
        on_event=cut_in_mid_transfer(target, lambda: None),
    )
    outcome = result.outcomes[0]
    assert outcome.state is S.UNKNOWN, outcome
    assert f"{target.name} does not answer" in outcome.text
    assert "Do not start it anywhere" in outcome.text
    guest.heartbeat.wait_for_beat()
    target.restore_link()
    found = site.recover(snapshot)

    assert found.state is S.FAILED_SAFE, found
    assert f"runs on {source.name}" in found.text
    assert runs_once_on(guest, source)
    assert guest.heartbeat.report().ran_through


def test_a_link_cut_at_the_switch_over_stops_the_guest_no_longer_than_the_link(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(source, GuestSpec(dirty_bytes_per_second=1_000_000))
    snapshot = site.snapshot(guest, source)
    # With this bandwidth a second passes between the pause of the guest and its last byte.
    move = a_move(guest, source, target, bytes_per_second=4.0 * MIB, max_downtime_seconds=2.0)

    guest.heartbeat.mark()
    with cutting(target, guest, source, SUSPENDED_BY_MIGRATION) as was_cut:
        outcome = site.roll_out(move, snapshot).outcomes[0]
    assert was_cut.is_set()
    if outcome.state is S.UNKNOWN:
        outcome = site.recover(snapshot)
    if outcome.state is S.UNKNOWN:  # on a busy machine: the target had resumed it already
        outcome = end_stale_copies(site, snapshot)
        guest.heartbeat.mark()
    guest.heartbeat.wait_for_beat()

    assert outcome.state in (S.FAILED_SAFE, S.COMPLETE), outcome
    there = target if outcome.state is S.COMPLETE else source
    assert f"on {there.name}" in outcome.text
    assert runs_once_on(guest, there)
    assert guest.heartbeat.report().ran_through


@dataclass(frozen=True, slots=True, kw_only=True)
class Parted:
    """A guest whose migration ended just as its link broke."""

    source: LabHost
    target: LabHost
    snapshot: Snapshot
    outcome: Outcome
    rollout: int

    def issued(self, site: Site) -> list[str]:
        """What was asked of hypervisors in its rollout."""
        return [
            record.payload["command"]["do"]
            for record in site.journal.records(self.rollout)
            if record.kind is RecordKind.INTENT
        ]


def part(
    site: Site, guest: LabGuest, *, seconds: float | None = CUT_SECONDS, times: Times = TIMES
) -> Parted:
    """Migrate it, and cut the link between the target's resuming it and the source's hearing that.

    On a busy machine the cut may come too late; then it is tried again, the other way round.
    """
    source, target, _ = site.lab.hosts
    for rollout in range(1, TRIES + 1):
        move, snapshot = a_move(guest, source, target), site.snapshot(guest, source)
        plan = f"p{rollout}"
        guest.heartbeat.mark()
        with cutting(target, guest, target, RESUMED_BY_MIGRATION, seconds):
            result = site.roll_out(
                move,
                snapshot,
                plan,
                plan_text=plan_to_json(a_plan(move, id=plan)),
                settings=Settings(times=times),
            )
        outcome = result.outcomes[0]
        is_unknown = outcome.state is S.UNKNOWN
        if is_unknown and isinstance(views(site, guest, source)[0], DomainView):
            return Parted(
                source=source, target=target, snapshot=snapshot, outcome=outcome, rollout=rollout
            )
        target.restore_link()
        outcome = site.recover(snapshot) if is_unknown else outcome
        assert outcome.state is S.COMPLETE, outcome
        source, target = target, source
    pytest.fail(f"in {TRIES} tries the link was never cut in time")


def test_two_copies_of_a_guest_become_one(site: Site, start_guest: StartGuest) -> None:
    """Libvirt itself lets a diskless guest run twice when the link breaks just then."""
    guest = start_guest(site.lab.hosts[0])

    parted = part(site, guest)

    source, target = parted.source, parted.target
    assert "both copies ran" in parted.outcome.text
    assert "recover --yes --end-stale-copies" in parted.outcome.text
    here, there = views(site, guest, source, target)
    assert isinstance(here, DomainView)
    assert isinstance(there, DomainView)
    assert (here.state, here.reason) == (VmState.PAUSED, StateReason.USER)
    assert (there.state, there.reason) == (VmState.RUNNING, StateReason.MIGRATED)
    assert parted.issued(site) == ["Migrate", "Pause"]
    assert site.recover(parted.snapshot).state is S.UNKNOWN
    assert parted.issued(site) == ["Migrate", "Pause"]

    ended = end_stale_copies(site, parted.snapshot)

    assert ended.state is S.COMPLETE, ended
    assert "an older copy ran" in ended.text
    one_copy_is_left(site, guest, source, target)


def test_the_daemon_pauses_the_older_copy_when_no_rollout_runs_any_more(
    lab: Lab, site: Site, start_guest: StartGuest, tmp_path: Path
) -> None:
    """It only recommends, and its next cycle is minutes away."""
    guest = start_guest(lab.hosts[0])

    parted = part(site, guest, seconds=None, times=IMPATIENT)
    source, target = parted.source, parted.target
    assert f"{target.name} does not answer" in parted.outcome.text
    assert parted.issued(site) == ["Migrate"]
    with running(command_over(lab, tmp_path).config, tmp_path) as daemon:
        daemon.until(lambda: bool(daemon.verdicts), "its first cycle")
        target.restore_link()
        daemon.until(lambda: stands_still(guest, source), "the older copy to be paused")
        daemon.until(lambda: logged(daemon, "vm_ran_twice"), "its alarm")

    assert logged(daemon, "vm_runs_twice")
    assert parted.issued(site) == ["Migrate", "Pause"]
    assert end_stale_copies(site, parted.snapshot).state is S.COMPLETE
    one_copy_is_left(site, guest, source, target)


def stands_still(guest: LabGuest, host: LabHost) -> bool:
    with host.connect() as connection:
        state, _ = connection.lookupByUUIDString(guest.uuid).state()
    return bool(state == libvirt().VIR_DOMAIN_PAUSED)


def logged(daemon: Daemon, event: str) -> bool:
    return event in [line["event"] for line in daemon.lines]


def test_a_stale_copy_of_a_guest_with_a_locked_disk_is_ended_by_the_command(
    lab: Lab, site: Site, start_guest: StartGuest, tmp_path: Path
) -> None:
    """QEMU's lock on the image keeps the source's copy from running again."""
    guest = start_guest(lab.hosts[0], GuestSpec(disk_bytes=16 * MIB))
    rebalancer = command_over(lab, tmp_path)

    parted = part(site, guest)

    source, target = parted.source, parted.target
    assert "a stale copy of it stands still" in parted.outcome.text
    here, there = views(site, guest, source, target)
    assert isinstance(here, DomainView)
    assert isinstance(there, DomainView)
    assert (here.state, here.reason) == (VmState.PAUSED, StateReason.MIGRATION)
    assert there.state is VmState.RUNNING
    shown = rebalancer("recover", ends_with=ExitCode.UNKNOWN_OUTCOME)
    assert f"{guest.name}: an older copy of it stands still on {source.name}" in shown
    rebalancer("recover", "--yes", ends_with=ExitCode.UNKNOWN_OUTCOME)
    assert parted.issued(site) == ["Migrate"]
    assert len(guest.hosts_running()) == 2

    said = rebalancer("recover", "--yes", "--end-stale-copies")

    assert "an older copy stood still" in said
    assert parted.issued(site) == ["Migrate", "EndStaleCopy", "Undefine"]
    assert guest.heartbeat.report().ran_through, "its disk's lock let only one copy run"
    one_copy_is_left(site, guest, source, target)
    assert guest.heartbeat.wait_for_beat().disk_mismatches == 0


def command_over(lab: Lab, folder: Path) -> Rebalancer:
    """The command, with the journal and the cluster of the test's own rollouts."""
    rebalancer = Rebalancer.configured(lab, folder)
    text = rebalancer.config.read_text()
    text = text.replace(f"cluster: {lab.shape.prefix}", "cluster: test")
    rebalancer.config.write_text(f"{text}daemon: {{log: json}}\n")
    return rebalancer


def one_copy_is_left(site: Site, guest: LabGuest, source: LabHost, target: LabHost) -> None:
    """It runs on the target, is defined there and nowhere else, and has never died."""
    assert runs_once_on(guest, target)
    here, there = views(site, guest, source, target)
    assert isinstance(here, Absent)
    assert isinstance(there, DomainView)
    assert (there.state, there.persistent) == (VmState.RUNNING, True)
    assert not guest.heartbeat.report().restarted
    guest.heartbeat.mark()
    wait_until(
        lambda: guest.heartbeat.report().beats >= 5, within_seconds=60, what=f"{guest.name} to beat"
    )
    assert guest.heartbeat.report().ran_through
