"""kill -9 of a QEMU or a libvirtd in the middle of a migration; systemd starts the latter anew."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from rebalancer.cluster.plan import MigrationState, Outcome
from rebalancer.rollout.events import Event, Progress
from tests.lab.guest import GuestSpec
from tests.lab.host import libvirt
from tests.lab.shape import MIB
from tests.lab.site import a_move, assert_ran_through, assert_runs_once, hosts_from
from tests.lab.test_link_cuts import (
    RESUMED_BY_MIGRATION,
    SUSPENDED_BY_MIGRATION,
    end_stale_copies,
)

if TYPE_CHECKING:
    from tests.lab.cluster import Lab
    from tests.lab.conftest import StartGuest
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost
    from tests.lab.site import Site

pytestmark = pytest.mark.lab

RESTART_SECONDS = 1.0


@contextmanager
def watched_by_systemd(host: LabHost) -> Iterator[None]:
    """Start a libvirtd that died anew, a moment later, for as long as the block lasts."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if host.libvirtd is None:
                over.wait(RESTART_SECONDS)
                host.start_libvirtd()
                host.wait_for_libvirtd()

    watching = threading.Thread(target=watch, name=f"systemd of {host.name}")
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def fail_in_transfer(
    site: Site, guest: LabGuest, source: LabHost, target: LabHost, fault: Callable[[], None]
) -> Outcome:
    """Migrate a guest slowly, and let something happen once its memory was seen to flow."""
    happened: list[bool] = []

    def strike(event: Event) -> None:
        if isinstance(event, Progress) and not happened:
            happened.append(True)
            fault()

    guest.heartbeat.mark()
    result = site.roll_out(
        a_move(guest, source, target, bytes_per_second=4.0 * MIB),
        site.snapshot(guest, source),
        on_event=strike,
    )
    assert happened
    return result.outcomes[0]


def test_a_target_qemu_that_dies_leaves_the_vm_where_it_was(site: Site, guest: LabGuest) -> None:
    source, target, _ = hosts_from(guest)

    outcome = fail_in_transfer(site, guest, source, target, lambda: target.kill_qemu(guest.name))

    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert outcome.text.startswith(f"{guest.name} runs on {source.name}. The hypervisor said: ")
    assert_runs_once(guest, on=source)
    assert_ran_through(guest)


def test_a_target_libvirtd_that_dies_leaves_the_vm_where_it_was_and_the_next_plan_moves_it(
    site: Site, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)

    with watched_by_systemd(target):
        outcome = fail_in_transfer(site, guest, source, target, target.kill_libvirtd)
    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert outcome.text.startswith(f"{guest.name} runs on {source.name}. The hypervisor said: ")
    assert_runs_once(guest, on=source)

    again = site.roll_out(a_move(guest, source, target), site.snapshot(guest, source), plan="p2")

    assert again.is_complete, again
    assert_runs_once(guest, on=target)
    assert_ran_through(guest)


def test_a_source_libvirtd_that_dies_leaves_the_vm_where_it_was_and_the_next_plan_moves_it(
    site: Site, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)

    with watched_by_systemd(source):
        outcome = fail_in_transfer(site, guest, source, target, source.kill_libvirtd)
    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert outcome.text.startswith(f"{guest.name} runs on {source.name}. The hypervisor said: ")
    assert_runs_once(guest, on=source)

    again = site.roll_out(a_move(guest, source, target), site.snapshot(guest, source), plan="p2")

    assert again.is_complete, again
    assert_runs_once(guest, on=target)
    assert_ran_through(guest)


@contextmanager
def killing_its_libvirtd(
    killed: LabHost, guest: LabGuest, seen_on: LabHost, happened: tuple[int, int]
) -> Iterator[threading.Event]:
    """Kill a host's libvirtd as soon as a guest's life takes a turn on another or the same host.

    Yields what is set once it is.
    """
    daemon, was_killed = killed.libvirtd, threading.Event()
    assert daemon is not None

    def turned(_connection: Any, domain: Any, event: int, detail: int, _: Any) -> None:
        if domain.UUIDString() == guest.uuid and (event, detail) == happened:
            daemon.kill()
            was_killed.set()

    with seen_on.connect() as watching:
        watching.domainEventRegisterAny(None, libvirt().VIR_DOMAIN_EVENT_ID_LIFECYCLE, turned, None)
        yield was_killed


@pytest.mark.parametrize("whose", ["source", "target"])
@pytest.mark.parametrize(
    "happened", [SUSPENDED_BY_MIGRATION, RESUMED_BY_MIGRATION], ids=["stopped", "resumed"]
)
def test_a_libvirtd_that_dies_at_the_switch_over_leaves_one_guest_in_the_end(
    lab: Lab, site: Site, start_guest: StartGuest, whose: str, happened: tuple[int, int]
) -> None:
    """Just as the guest was stopped on the source, or just as the target let it run."""
    source, target, _ = lab.hosts
    guest = start_guest(source, GuestSpec(dirty_bytes_per_second=1_000_000))
    snapshot = site.snapshot(guest, source)
    # With this bandwidth a second passes between the pause of the guest and its last byte.
    move = a_move(guest, source, target, bytes_per_second=4.0 * MIB, max_downtime_seconds=2.0)
    seen_on = source if happened == SUSPENDED_BY_MIGRATION else target
    killed = source if whose == "source" else target

    guest.heartbeat.mark()
    with (
        watched_by_systemd(killed),
        killing_its_libvirtd(killed, guest, seen_on, happened) as was_killed,
    ):
        outcome = site.roll_out(move, snapshot).outcomes[0]
    assert was_killed.is_set()
    # The source does not hear that its guest arrived, and libvirt lets it run there again, as
    # when the link breaks just then (`test_link_cuts.py`).
    ran_twice = "both copies ran" in outcome.text
    assert not ran_twice or (whose, happened) == ("target", RESUMED_BY_MIGRATION)
    if outcome.state is MigrationState.UNKNOWN:
        outcome = site.recover(snapshot)
    if outcome.state is MigrationState.UNKNOWN:
        outcome = end_stale_copies(site, snapshot)

    assert outcome.state in (MigrationState.FAILED_SAFE, MigrationState.COMPLETE), outcome
    there = target if outcome.state is MigrationState.COMPLETE else source
    assert f"on {there.name}" in outcome.text
    assert_runs_once(guest, on=there)
    if ran_twice:
        assert not guest.heartbeat.report().restarted
        guest.heartbeat.mark()
    assert_ran_through(guest)
