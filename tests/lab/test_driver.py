"""Rollouts of real migrations: the libvirt driver under the executor, and a guest that tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rebalancer.cluster.inventory import HostId, Mode, Snapshot, VmId, VmState
from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.rollout.driver import DomainView, Look, Pending, Returned, Sighting
from rebalancer.rollout.events import Event, Progress, StageChanged
from rebalancer.rollout.executor import RolloutResult, Settings, execute, recover
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.libvirt_driver import HostAddress, LibvirtDriver
from rebalancer.rollout.steps import StopRequest
from rebalancer.rollout.track import Times
from tests.builders import a_host, a_snapshot, a_vm
from tests.lab.guest import GuestSpec
from tests.lab.host import libvirt
from tests.lab.shape import MIB
from tests.unit.rollout.crashes import KilledError, a_dead_owner
from tests.unit.rollout.plans import a_migration, a_plan

if TYPE_CHECKING:
    from tests.lab.cluster import Lab
    from tests.lab.conftest import StartGuest
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost

pytestmark = pytest.mark.lab

TIMES = Times(settle_seconds=5.0, unknown_patience_seconds=120.0)
"""Nothing here waits for a lock of another job, so a quiet picture is believed sooner."""


class WallClock:
    """Real time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Site:
    """A rollout's view of the lab."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.clock = WallClock()
        self.url = f"sqlite:///{folder}/journal.db"
        self.journal = Journal.open(self.url, self.clock)
        self.driver = self.new_driver()
        self.events: list[Event] = []

    def new_driver(self) -> LibvirtDriver:
        addresses = {HostId(host.name): HostAddress(uri=host.uri) for host in self.lab.hosts}
        return LibvirtDriver(addresses, self.clock)

    def close(self) -> None:
        self.driver.close()
        self.journal.close()

    def snapshot(self, guest: LabGuest, on: LabHost, **changed: Any) -> Snapshot:
        facts: dict[str, Any] = {"id": VmId(guest.uuid), "memory_bytes": guest.memory_bytes}
        hosts = [a_host(host.name) for host in self.lab.hosts]
        return a_snapshot(
            hosts=hosts, vms=[replace(a_vm(guest.name, on=on.name), **(facts | changed))]
        )

    def roll_out(
        self, migration: Migration, snapshot: Snapshot, plan: str = "p1", **options: Any
    ) -> RolloutResult:
        return execute(
            a_plan(migration, id=plan),
            driver=self.driver,
            clock=self.clock,
            journal=self.journal,
            snapshot=snapshot,
            settings=Settings(times=TIMES),
            **{"on_event": self.events.append} | options,
        )

    def recover(self, snapshot: Snapshot) -> Outcome:
        result = recover(
            cluster="test",
            driver=self.driver,
            clock=self.clock,
            journal=self.journal,
            snapshot=snapshot,
            settings=Settings(times=TIMES),
        )
        return result[0].outcomes[0]

    def look(self, guest: LabGuest) -> Sighting:
        hosts = tuple(HostId(host.name) for host in self.lab.hosts)
        ticket = self.driver.issue(Look(vm=VmId(guest.uuid), hosts=hosts))
        while isinstance(reply := self.driver.poll(ticket), Pending):
            time.sleep(0.05)
        assert isinstance(reply, Returned)
        assert isinstance(reply.value, Sighting)
        return reply.value

    def stages(self) -> list[MigrationState]:
        return [event.after for event in self.events if isinstance(event, StageChanged)]


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    found = Site(lab, tmp_path)
    yield found
    found.close()


def a_move(guest: LabGuest, source: LabHost, target: LabHost, **changed: Any) -> Migration:
    facts: dict[str, Any] = {
        "vm_name": guest.name,
        "memory_bytes": guest.memory_bytes,
        "bytes_per_second": 50.0 * MIB,
    }
    return a_migration(guest.uuid, source.name, target.name, **(facts | changed))


def test_a_live_migration_goes_through_all_stages(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(source, GuestSpec(dirty_bytes_per_second=2_000_000))

    guest.heartbeat.mark()
    result = site.roll_out(a_move(guest, source, target), site.snapshot(guest, source))
    guest.heartbeat.wait_for_beat()

    outcome = result.outcomes[0]
    assert outcome.state is MigrationState.COMPLETE, outcome
    assert outcome.transfer_bytes is not None
    assert outcome.transfer_bytes > 10 * MIB
    assert outcome.downtime_seconds is not None
    assert site.stages() == [
        MigrationState.PREPARE,
        MigrationState.REQUEST,
        MigrationState.TRANSFER,
        MigrationState.FINISH,
        MigrationState.COMPLETE,
    ]
    assert guest.hosts_knowing() == (target,)
    assert guest.heartbeat.report().ran_through
    view = site.look(guest).views[HostId(target.name)]
    assert isinstance(view, DomainView)
    assert view.persistent


def test_a_guest_that_writes_too_fast_is_paused_to_finish(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(
        source,
        GuestSpec(
            memory_bytes=128 * MIB, working_set_bytes=48 * MIB, dirty_bytes_per_second=40_000_000
        ),
    )
    move = a_move(guest, source, target, mode=Mode.SUSPEND, bytes_per_second=15.0 * MIB)

    guest.heartbeat.mark()
    result = site.roll_out(move, site.snapshot(guest, source))
    guest.heartbeat.wait_for_beat()

    assert result.is_complete, result
    issued = [
        record.payload["command"]["do"]
        for record in site.journal.records(1)
        if record.kind == "intent"
    ]
    assert issued == ["Migrate", "Pause"]
    assert guest.hosts_knowing() == (target,)
    assert guest.heartbeat.report().ran_through


def test_a_live_migration_that_cannot_converge_is_called_off(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(
        source,
        GuestSpec(
            memory_bytes=128 * MIB, working_set_bytes=48 * MIB, dirty_bytes_per_second=40_000_000
        ),
    )
    move = a_move(guest, source, target, bytes_per_second=4.0 * MIB)
    snapshot = site.snapshot(guest, source, allowed_modes=frozenset({Mode.LIVE}))

    guest.heartbeat.mark()
    result = execute(
        a_plan(move),
        driver=site.driver,
        clock=site.clock,
        journal=site.journal,
        snapshot=snapshot,
        settings=Settings(times=replace(TIMES, stall_seconds=5.0, least_deadline_seconds=45.0)),
    )
    guest.heartbeat.wait_for_beat()

    assert result.outcomes[0].state is MigrationState.FAILED_SAFE, result
    assert "did not converge" in result.outcomes[0].text
    assert guest.hosts_knowing() == (source,)
    assert guest.heartbeat.report().ran_through


def test_the_operator_can_abort(lab: Lab, site: Site, start_guest: StartGuest) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(source)
    move = a_move(guest, source, target, bytes_per_second=2.0 * MIB)

    result = site.roll_out(
        move,
        site.snapshot(guest, source),
        should_stop=lambda: (
            StopRequest.ABORT
            if any(isinstance(event, Progress) for event in site.events)
            else StopRequest.NO
        ),
    )

    assert result.outcomes[0].state is MigrationState.ABORTED, result
    assert guest.hosts_knowing() == (source,)
    guest.heartbeat.wait_for_beat()


def test_a_definition_moves_without_its_vm_running(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(source)
    with source.connect() as connection:
        connection.lookupByUUIDString(guest.uuid).destroy()

    result = site.roll_out(
        a_move(guest, source, target, mode=Mode.OFFLINE),
        site.snapshot(guest, source, state=VmState.SHUTOFF),
    )

    assert result.is_complete, result
    assert guest.hosts_knowing() == (target,)
    assert guest.hosts_running() == ()


def test_a_cold_move_shuts_down_defines_and_starts(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(source)
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


def test_a_host_that_is_cut_off_is_unknown_and_not_empty(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, _, other = lab.hosts
    guest = start_guest(source)

    source.cut_link()
    sighting = site.look(guest)

    assert sighting.unreachable == (HostId(source.name),)
    assert sighting.active_on == ()
    assert other.name in sighting.views


def test_a_transfer_outlives_its_controller_and_is_adopted(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(source)
    snapshot = site.snapshot(guest, source)
    move = a_move(guest, source, target, bytes_per_second=2.0 * MIB)

    def die(event: Event) -> None:
        if isinstance(event, Progress):
            raise KilledError

    guest.heartbeat.mark()
    lease = site.journal.acquire("test", owner=a_dead_owner())
    with pytest.raises(KilledError):
        site.roll_out(move, snapshot, on_event=die, lease=lease)
    site.driver.close()
    site.driver = site.new_driver()
    outcome = site.recover(snapshot)
    guest.heartbeat.wait_for_beat()

    assert outcome.state is MigrationState.COMPLETE, outcome
    assert guest.hosts_knowing() == (target,)
    assert guest.heartbeat.report().ran_through


def test_a_target_qemu_that_dies_leaves_the_vm_where_it_was(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(source)
    killed: list[bool] = []

    def kill(event: Event) -> None:
        if isinstance(event, Progress) and not killed:
            killed.append(True)
            target.kill_qemu(guest.name)

    guest.heartbeat.mark()
    result = site.roll_out(
        a_move(guest, source, target, bytes_per_second=2.0 * MIB),
        site.snapshot(guest, source),
        on_event=kill,
    )
    guest.heartbeat.wait_for_beat()

    assert result.outcomes[0].state is MigrationState.FAILED_SAFE, result
    assert guest.hosts_knowing() == (source,)
    assert guest.heartbeat.report().ran_through


def test_a_source_libvirtd_that_is_restarted_loses_nothing(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(source)
    killed: list[bool] = []

    def kill(event: Event) -> None:
        if isinstance(event, Progress) and not killed:
            killed.append(True)
            source.restart_libvirtd()

    guest.heartbeat.mark()
    result = site.roll_out(
        a_move(guest, source, target, bytes_per_second=2.0 * MIB),
        site.snapshot(guest, source),
        on_event=kill,
    )
    guest.heartbeat.wait_for_beat()

    assert result.outcomes[0].state is MigrationState.FAILED_SAFE, result
    assert guest.hosts_knowing() == (source,)
    assert guest.heartbeat.report().ran_through


def test_a_link_cut_just_after_the_target_resumed_leaves_one_running_copy(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    """Libvirt itself then lets a diskless guest run twice: the stale copy must be paused."""
    source, target, _ = lab.hosts
    guest = start_guest(source)
    api = libvirt()
    cut = threading.Event()

    with target.connect() as watching:

        def resumed(_connection: Any, domain: Any, event: int, detail: int, _: Any) -> None:
            if domain.UUIDString() == guest.uuid and (event, detail) == (4, 1):
                target.cut_link()
                cut.set()

        number = watching.domainEventRegisterAny(
            None, api.VIR_DOMAIN_EVENT_ID_LIFECYCLE, resumed, None
        )

        def heal() -> None:
            if cut.wait(120):
                time.sleep(45)
                target.restore_link()

        healing = threading.Thread(target=heal, daemon=True)
        healing.start()
        try:
            result = site.roll_out(a_move(guest, source, target), site.snapshot(guest, source))
        finally:
            watching.domainEventDeregisterAny(number)
        healing.join()

    outcome = result.outcomes[0]
    views = site.look(guest).views
    here, there = views[HostId(source.name)], views[HostId(target.name)]
    assert outcome.state is MigrationState.UNKNOWN, outcome
    assert "virsh" in outcome.text
    assert isinstance(there, DomainView)
    assert there.state is VmState.RUNNING
    assert isinstance(here, DomainView)
    assert here.state is VmState.PAUSED
