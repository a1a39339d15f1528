"""Targets that cannot take a guest in: too little memory, or its name is taken there."""

from __future__ import annotations

import resource
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rebalancer.cluster.inventory import HostId, Mode, Snapshot
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.records import RecordKind
from tests.builders import a_host, a_snapshot, a_vm
from tests.lab.host import libvirt
from tests.lab.shape import MIB
from tests.lab.site import a_move, assert_ran_through, assert_runs_once, hosts_from

if TYPE_CHECKING:
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost
    from tests.lab.site import Site

pytestmark = pytest.mark.lab


@contextmanager
def without_room_for_a_guest(host: LabHost) -> Iterator[None]:
    """Leave a host's libvirtd, and the QEMUs that it starts, no more memory than it has itself.

    A QEMU's own program takes a few hundred megabytes of address space less than libvirtd, which
    leaves too little of the limit for its guest's memory and for what emulation needs.
    """
    daemon = host.libvirtd
    assert daemon is not None
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    size_kib = next(int(line.split()[1]) for line in status.splitlines() if "VmSize" in line)
    unlimited = resource.RLIM_INFINITY
    limit = (size_kib * 1024 + 32 * MIB, unlimited)
    before = resource.prlimit(daemon.pid, resource.RLIMIT_AS, limit)
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_AS, before)


@contextmanager
def defined(host: LabHost, xml: str) -> Iterator[None]:
    """Let somebody have left a definition on a host; it goes again if it is still there."""
    with host.connect() as connection:
        left = connection.defineXML(xml).UUIDString()
    try:
        yield
    finally:
        with host.connect() as connection:
            domain = connection.lookupByUUIDString(left)
            if not domain.isActive():
                domain.undefine()


def definition_of(guest: LabGuest, on: LabHost) -> str:
    with on.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        return str(domain.XMLDesc(libvirt().VIR_DOMAIN_XML_INACTIVE))


def has_asked_for_anything(site: Site) -> bool:
    return any(record.kind is RecordKind.INTENT for record in site.journal.records(1))


def test_a_target_without_memory_for_the_guest_refuses_it_and_the_guest_runs_on(
    site: Site, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)

    guest.heartbeat.mark()
    with without_room_for_a_guest(target):
        result = site.roll_out(a_move(guest, source, target), site.snapshot(guest, source))

    outcome = result.outcomes[0]
    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert f"{guest.name} runs on {source.name}" in outcome.text
    assert "Cannot allocate memory" in outcome.text
    assert_runs_once(guest, on=source)
    assert_ran_through(guest)


def test_a_target_that_is_seen_to_be_full_is_not_even_asked(site: Site, guest: LabGuest) -> None:
    source, target, _ = hosts_from(guest)
    seen = site.snapshot(guest, source)

    result = site.roll_out(a_move(guest, source, target), full(seen, HostId(target.name)))

    outcome = result.outcomes[0]
    assert outcome.state is MigrationState.SKIPPED, outcome
    assert outcome.text == f"{target.name} has 67,108,864 of the 100,663,296 bytes it needs"
    assert not has_asked_for_anything(site)
    assert_runs_once(guest, on=source)


def full(seen: Snapshot, target: HostId) -> Snapshot:
    """The same with 64 MiB left for guests on one host."""
    small = a_host(target, memory_bytes=128 * MIB)
    hosts = [small if host.id == target else host for host in seen.hosts]
    return a_snapshot(hosts, [*seen.vms, a_vm("another", on=target, memory_bytes=64 * MIB)])


def test_another_vm_of_the_same_name_on_the_target_is_left_alone(
    site: Site, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)
    other = str(uuid.uuid4())
    theirs = definition_of(guest, source).replace(guest.uuid, other)

    guest.heartbeat.mark()
    with defined(target, theirs):
        result = site.roll_out(a_move(guest, source, target), site.snapshot(guest, source))
        with target.connect() as connection:
            assert connection.lookupByName(guest.name).UUIDString() == other

    outcome = result.outcomes[0]
    assert outcome.state is MigrationState.FAILED_SAFE, outcome
    assert f"'{guest.name}' already exists with uuid {other}" in outcome.text
    assert_runs_once(guest, on=source)
    assert_ran_through(guest)


def test_a_left_over_definition_of_the_vm_stops_a_cold_move_and_is_replaced_by_a_live_one(
    site: Site, guest: LabGuest
) -> None:
    source, target, _ = hosts_from(guest)
    snapshot = site.snapshot(guest, source)
    outdated = definition_of(guest, source).replace("<vcpu ", "<title>outdated</title><vcpu ")

    guest.heartbeat.mark()
    with defined(target, outdated):
        cold = site.roll_out(a_move(guest, source, target, mode=Mode.COLD), snapshot)
        assert not has_asked_for_anything(site)
        live = site.roll_out(a_move(guest, source, target), snapshot, plan="p2")

    assert cold.outcomes[0].state is MigrationState.SKIPPED, cold
    assert f"virsh undefine --keep-nvram {guest.name}" in cold.outcomes[0].text
    assert live.is_complete, live
    assert "outdated" not in definition_of(guest, target)
    notes = [r.payload["text"] for r in site.journal.records(2) if r.kind is RecordKind.NOTE]
    assert f"{target.name} has an older definition of it" in notes[0]
    assert_runs_once(guest, on=target)
    assert_ran_through(guest)
