"""kill -9 of a QEMU or a libvirtd while a guest's memory flows; systemd starts the latter anew."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from rebalancer.cluster.plan import MigrationState, Outcome
from rebalancer.rollout.events import Event, Progress
from tests.lab.shape import MIB
from tests.lab.site import a_move, assert_ran_through, assert_runs_once, hosts_from

if TYPE_CHECKING:
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
