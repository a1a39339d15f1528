"""Rollouts of real migrations: the libvirt driver under the executor, and a guest that tells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rebalancer.cluster.inventory import HostId, Mode, VmState
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.events import Progress
from rebalancer.rollout.executor import Settings, execute
from rebalancer.rollout.libvirt_connections import CallLimits
from rebalancer.rollout.libvirt_driver import LibvirtDriver
from rebalancer.rollout.sightings import DomainView
from rebalancer.rollout.steps import StopRequest
from tests.lab.guest import GuestSpec
from tests.lab.shape import MIB
from tests.lab.site import TIMES, a_move, hosts_from, with_links_of
from tests.unit.rollout.plans import a_plan

if TYPE_CHECKING:
    from tests.lab.conftest import KeepGuest
    from tests.lab.site import Site

pytestmark = pytest.mark.lab


def test_a_live_migration_goes_through_all_stages(site: Site, keep_guest: KeepGuest) -> None:
    guest = keep_guest()
    guest.set_dirty_rate(2_000_000)
    source, target, _ = hosts_from(guest)

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


def test_a_live_migration_that_cannot_converge_is_called_off(
    site: Site, keep_guest: KeepGuest
) -> None:
    guest = keep_guest(
        GuestSpec(
            memory_bytes=128 * MIB, working_set_bytes=48 * MIB, dirty_bytes_per_second=40_000_000
        )
    )
    source, target, _ = hosts_from(guest)
    move = a_move(guest, source, target, bytes_per_second=12.0 * MIB)
    seen = site.snapshot(guest, source, allowed_modes=frozenset({Mode.LIVE}))
    snapshot = with_links_of(move.bytes_per_second, seen)

    guest.heartbeat.mark()
    result = execute(
        a_plan(move),
        driver=site.driver,
        clock=site.clock,
        journal=site.journal,
        snapshot=snapshot,
        settings=Settings(times=replace(TIMES, stall_seconds=5.0, least_deadline_seconds=30.0)),
    )
    guest.heartbeat.wait_for_beat()

    assert result.outcomes[0].state is MigrationState.FAILED_SAFE, result
    assert "did not converge" in result.outcomes[0].text
    assert guest.hosts_knowing() == (source,)
    assert guest.heartbeat.report().ran_through


def test_the_operator_can_abort(site: Site, keep_guest: KeepGuest) -> None:
    guest = keep_guest()
    source, target, _ = hosts_from(guest)
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


def test_a_definition_moves_without_its_vm_running(site: Site, keep_guest: KeepGuest) -> None:
    guest = keep_guest()
    source, target, _ = hosts_from(guest)
    with source.connect() as connection:
        connection.lookupByUUIDString(guest.uuid).destroy()

    result = site.roll_out(
        a_move(guest, source, target, mode=Mode.OFFLINE),
        site.snapshot(guest, source, state=VmState.SHUTOFF),
    )

    assert result.is_complete, result
    assert guest.hosts_knowing() == (target,)
    assert guest.hosts_running() == ()


def test_a_host_that_is_cut_off_is_unknown_and_not_empty(site: Site, keep_guest: KeepGuest) -> None:
    guest = keep_guest()
    source, _, other = hosts_from(guest)
    site.driver.close()
    site.driver = LibvirtDriver(site.addresses, site.clock, limits=CallLimits(look_seconds=5.0))

    source.cut_link()
    sighting = site.look(guest)

    assert sighting.unreachable == (HostId(source.name),)
    assert sighting.active_on == ()
    assert other.name in sighting.views
