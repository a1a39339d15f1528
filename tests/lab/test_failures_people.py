"""People and guests with a will of their own: other migrations of a VM, aborts, no shut-down."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rebalancer.cluster.inventory import Mode, Snapshot
from rebalancer.cluster.plan import MigrationState
from rebalancer.cluster.policy import Limits
from rebalancer.collect.libvirt_source import LibvirtHost, LibvirtSource
from rebalancer.rollout.driver import Command, Migrate, Ticket
from rebalancer.rollout.events import Event, MigrationStarted, Progress
from rebalancer.rollout.executor import Settings
from rebalancer.rollout.libvirt_driver import LibvirtDriver
from rebalancer.rollout.records import RecordKind
from rebalancer.service.lookout import OccasionalLook
from tests.lab.deadline import wait_until
from tests.lab.guest import GuestSpec
from tests.lab.shape import GIB, MIB
from tests.lab.site import (
    TIMES,
    Site,
    a_move,
    assert_ran_through,
    assert_runs_once,
    hosts_from,
)

if TYPE_CHECKING:
    from tests.lab.cluster import Lab
    from tests.lab.conftest import StartGuest
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost

pytestmark = pytest.mark.lab

AS_WE_DO = ("--live", "--p2p", "--persistent", "--undefinesource")


def virsh(host: LabHost, *words: str) -> None:
    """What an administrator types; it has to succeed."""
    subprocess.run(
        ["virsh", "-c", host.uri, *words], stdin=subprocess.DEVNULL, check=True, timeout=120
    )


@contextmanager
def migrated_by_hand(
    guest: LabGuest, source: LabHost, target: LabHost, *, mib_per_second: int = 8
) -> Iterator[None]:
    """An administrator's own migration, under way as the block begins; in the end it is over."""
    slowly = ("--bandwidth", str(mib_per_second))
    command = ["virsh", "-c", source.uri, "migrate", *AS_WE_DO, *slowly, guest.name, target.uri]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        wait_until(
            lambda: has_job(guest, source), within_seconds=60, what="virsh's migration to begin"
        )
        yield
        assert process.wait(timeout=120) == 0


def has_job(guest: LabGuest, host: LabHost) -> bool:
    with host.connect() as connection:
        return bool(connection.lookupByUUIDString(guest.uuid).jobStats().get("memory_total"))


def asked_for(site: Site) -> list[str]:
    """What was asked of hypervisors, in order."""
    records = site.journal.records(1)
    return [r.payload["command"]["do"] for r in records if r.kind is RecordKind.INTENT]


def test_a_vm_that_somebody_moved_elsewhere_before_is_left_there(
    site: Site, guest: LabGuest
) -> None:
    source, target, third = hosts_from(guest)
    snapshot = site.snapshot(guest, source)
    guest.heartbeat.mark()
    virsh(
        source,
        "migrate",
        "--live",
        "--p2p",
        "--persistent",
        "--undefinesource",
        guest.name,
        third.uri,
    )

    result = site.roll_out(a_move(guest, source, target), snapshot)

    outcome = result.outcomes[0]
    assert outcome.state is MigrationState.SKIPPED, outcome
    assert outcome.text == f"it is on {third.name} now, not on {source.name}"
    assert asked_for(site) == []
    assert_runs_once(guest, on=third)
    assert_ran_through(guest)


def test_a_vm_that_somebody_is_moving_is_waited_for_and_left_where_it_went(
    site: Site, guest: LabGuest
) -> None:
    source, target, third = hosts_from(guest)
    snapshot = site.snapshot(guest, source)

    guest.heartbeat.mark()
    with migrated_by_hand(guest, source, third):
        result = site.roll_out(
            a_move(guest, source, target),
            snapshot,
            settings=Settings(times=replace(TIMES, hold_seconds=1.0)),
        )

    outcome = result.outcomes[0]
    assert outcome.state is MigrationState.SKIPPED, outcome
    assert outcome.text == f"it is on {third.name} now, not on {source.name}"
    assert asked_for(site) == []
    assert_runs_once(guest, on=third)
    assert_ran_through(guest)


def test_a_migration_that_somebody_began_between_our_look_and_our_request_is_let_through(
    site: Site, guest: LabGuest
) -> None:
    source, target, third = hosts_from(guest)
    by_hand = migrated_by_hand(guest, source, third)

    class Overtaken(LibvirtDriver):
        def issue(self, command: Command) -> Ticket:
            if isinstance(command, Migrate):
                by_hand.__enter__()
            return super().issue(command)

    guest.heartbeat.mark()
    driver = Overtaken(site.addresses, site.clock)
    result = site.roll_out(
        a_move(guest, source, target), site.snapshot(guest, source), driver=driver
    )
    by_hand.__exit__(None, None, None)
    driver.close()

    outcome = result.outcomes[0]
    assert outcome.state is MigrationState.SKIPPED, outcome
    assert "somebody else moved it there meanwhile" in outcome.text
    replies = [r.payload for r in site.journal.records(1) if r.kind is RecordKind.OBSERVED]
    refused = "refused: another job runs on it (migration out)"
    assert refused in [payload.get("failed") for payload in replies]
    assert asked_for(site) == ["Migrate"]
    assert_runs_once(guest, on=third)
    assert_ran_through(guest)


def test_a_migration_that_somebody_tries_to_begin_during_ours_does_not_disturb_it(
    site: Site, guest: LabGuest
) -> None:
    source, target, third = hosts_from(guest)
    theirs: list[subprocess.Popen[bytes]] = []

    def interfere(event: Event) -> None:
        if isinstance(event, Progress) and not theirs:
            command = ["virsh", "-q", "-c", source.uri, "migrate", *AS_WE_DO, guest.name, third.uri]
            theirs.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))

    guest.heartbeat.mark()
    result = site.roll_out(
        a_move(guest, source, target, bytes_per_second=8.0 * MIB),
        site.snapshot(guest, source),
        on_event=interfere,
    )

    assert result.is_complete, result
    assert theirs[0].wait(timeout=60) != 0
    assert_runs_once(guest, on=target)
    assert_ran_through(guest)


def test_a_migration_by_hand_takes_its_place_among_those_of_its_host(
    lab: Lab, site: Site, guest: LabGuest, start_guest: StartGuest
) -> None:
    source, target, third = hosts_from(guest)
    theirs, ours = guest, start_guest(source)
    eyes = LibvirtSource(
        [LibvirtHost(name=h.name, uri=h.uri, cpu_cores=2, memory_bytes=GIB) for h in lab.hosts],
        cluster="test",
        now=site.clock.now,
        sampling_seconds=0.5,
        timeout_seconds=60.0,
    )
    at_once: list[bool] = []
    taken: list[float | None] = []

    def look() -> Snapshot:
        found = eyes.observe()
        taken.extend(vm.migrating_bytes_per_second for vm in found.vms if vm.is_migrating)
        return found

    def watch(event: Event) -> None:
        if isinstance(event, MigrationStarted):
            at_once.append(theirs.hosts_running() != (third,))

    with migrated_by_hand(theirs, source, third, mib_per_second=4):
        first = look()
        seen = [(vm.name, vm.migrating_to) for vm in first.vms if vm.is_migrating]
        assert seen == [(theirs.name, third.name)]
        result = site.roll_out(
            a_move(ours, source, target),
            OccasionalLook(first, look, site.clock.now, every_seconds=2.0).newest,
            settings=Settings(
                limits=Limits(per_host_out=1), times=replace(TIMES, hold_seconds=1.0)
            ),
            on_event=watch,
        )

    assert result.is_complete, result
    assert at_once == [False]
    assert max(rate or 0 for rate in taken) > 0, "libvirt says what theirs takes of the link"
    assert_runs_once(theirs, on=third)
    assert_runs_once(ours, on=target)


def test_an_abort_by_hand_leaves_the_vm_where_it_was(site: Site, guest: LabGuest) -> None:
    source, target, _ = hosts_from(guest)
    aborted: list[bool] = []

    def abort(event: Event) -> None:
        if isinstance(event, Progress) and not aborted:
            aborted.append(True)
            virsh(source, "domjobabort", guest.name)

    guest.heartbeat.mark()
    result = site.roll_out(
        a_move(guest, source, target, bytes_per_second=4.0 * MIB),
        site.snapshot(guest, source),
        on_event=abort,
    )

    outcome = result.outcomes[0]
    assert aborted
    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert outcome.text.startswith(f"{guest.name} runs on {source.name}. The hypervisor said: ")
    assert "canceled by client" in outcome.text
    assert_runs_once(guest, on=source)
    assert_ran_through(guest)


def test_a_guest_that_ignores_the_request_to_shut_down_runs_on(
    lab: Lab, site: Site, start_guest: StartGuest
) -> None:
    source, target, _ = lab.hosts
    guest = start_guest(source, GuestSpec(heeds_power_button=False))

    guest.heartbeat.mark()
    result = site.roll_out(
        a_move(guest, source, target, mode=Mode.COLD),
        site.snapshot(guest, source),
        settings=Settings(times=replace(TIMES, shutdown_seconds=8.0)),
    )

    outcome = result.outcomes[0]
    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert "it ignored the request to shut down for" in outcome.text
    assert asked_for(site) == ["ShutDown"]
    assert_runs_once(guest, on=source)
    assert_ran_through(guest)
