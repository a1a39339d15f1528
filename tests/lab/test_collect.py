"""Real hosts and guests, as the rebalancer sees them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from rebalancer.cluster.inventory import HostState, VmId, VmState
from rebalancer.collect.dirty_rate_probe import LibvirtDirtyRateProbe
from rebalancer.collect.domain_reader import cpu_waited_cores
from rebalancer.collect.libvirt_connection import connect_read_only
from rebalancer.collect.libvirt_source import LibvirtHost, LibvirtSource
from rebalancer.collect.snapshot_file import read_snapshot, write_snapshot
from tests.lab.guest import GuestSpec
from tests.lab.host import libvirt, opened
from tests.lab.shape import GIB, MIB

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.cluster import Lab
    from tests.lab.conftest import StartGuest

pytestmark = pytest.mark.lab

_SILENCE_SECONDS = 20.0
"""Long enough for those that do answer, also on a busy machine."""


def now() -> datetime:
    return datetime.now(UTC)


def configured(lab: Lab) -> list[LibvirtHost]:
    return [
        LibvirtHost(
            name=host.name, uri=host.uri, cpu_cores=2, memory_bytes=GIB, cpu_from_guests=True
        )
        for host in lab.hosts
    ]


def a_source(lab: Lab, timeout_seconds: float = 60.0) -> LibvirtSource:
    return LibvirtSource(
        configured(lab),
        cluster="lab",
        now=now,
        sampling_seconds=3.0,
        timeout_seconds=timeout_seconds,
    )


def test_guests_on_three_hosts_and_then_one_host_dies(
    lab: Lab, start_guest: StartGuest, tmp_path: Path
) -> None:
    busy = start_guest(lab.hosts[0], GuestSpec(cpu_load_ratio=0.5, labels={"app": "db"}))
    idle = start_guest(lab.hosts[2])

    snapshot = a_source(lab).observe()

    assert [host.state for host in snapshot.hosts] == [HostState.UP] * 3
    assert all((host.cpu_cores, host.memory_bytes) == (2, GIB) for host in snapshot.hosts)
    assert all(host.arch == "x86_64" for host in snapshot.hosts)
    assert {(vm.id, vm.host) for vm in snapshot.vms} == {
        (busy.uuid, lab.hosts[0].name),
        (idle.uuid, lab.hosts[2].name),
    }
    seen = snapshot.vm_by_id[VmId(busy.uuid)]
    assert seen.labels == {"app": "db"}
    assert (seen.state, seen.memory_bytes, seen.vcpus) == (VmState.RUNNING, busy.memory_bytes, 1)
    assert seen.blockers == ()
    assert seen.cpu_used_cores > 0.1
    assert snapshot.hosts[0].cpu_used_cores == seen.cpu_used_cores
    write_snapshot(snapshot, tmp_path / "lab.json")
    assert read_snapshot(tmp_path / "lab.json").vms == snapshot.vms

    lab.hosts[2].kill_libvirtd()
    without = a_source(lab).observe()

    assert [host.state for host in without.hosts] == [
        HostState.UP,
        HostState.UP,
        HostState.UNKNOWN,
    ]
    assert lab.hosts[2].address in without.hosts[2].state_reason
    assert [vm.id for vm in without.vms] == [busy.uuid]


def test_real_hosts_tell_how_long_vcpus_waited(lab: Lab, start_guest: StartGuest) -> None:
    busy = start_guest(lab.hosts[0], GuestSpec(cpu_load_ratio=0.9))
    connection = connect_read_only(lab.hosts[0].uri)
    try:
        began = time.monotonic()
        before = connection.stats(with_details=True)[busy.uuid]
        time.sleep(3.0)
        after = connection.stats(with_details=True)[busy.uuid]
        passed_seconds = time.monotonic() - began
    finally:
        connection.close()

    assert int(after["vcpu.0.delay"]) >= int(before["vcpu.0.delay"]) > 0
    # One vCPU waits for a second each second, at most.
    assert 0.0 <= cpu_waited_cores(before, after, passed_seconds) <= 1.5


def test_a_libvirtd_that_hangs_delays_nobody_and_is_seen_again_when_it_goes_on(lab: Lab) -> None:
    source = a_source(lab, timeout_seconds=_SILENCE_SECONDS)
    process = lab.hosts[1].libvirtd
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        snapshot = source.observe()
    finally:
        os.kill(process.pid, signal.SIGCONT)

    assert [host.state for host in snapshot.hosts] == [
        HostState.UP,
        HostState.UNKNOWN,
        HostState.UP,
    ]

    waited = threading.Event()
    for _ in range(30):  # until the abandoned call has come back
        states = [host.state for host in source.observe().hosts]
        if states == [HostState.UP] * 3:
            break
        waited.wait(1.0)
    assert states == [HostState.UP] * 3


def test_dirty_rates_and_a_migration_on_its_way(lab: Lab, start_guest: StartGuest) -> None:
    spec = GuestSpec(
        memory_bytes=128 * MIB, working_set_bytes=48 * MIB, dirty_bytes_per_second=10_000_000
    )
    guest = start_guest(lab.hosts[0], spec)
    vm = VmId(guest.uuid)
    probe = LibvirtDirtyRateProbe(configured(lab), now=now, timeout_seconds=60.0)

    begun, began = guest.heartbeat.wait_for_beat(), time.monotonic()
    measured = probe.probe([vm, VmId("00000000-0000-0000-0000-000000000000")])
    ended, took_seconds = guest.heartbeat.wait_for_beat(), time.monotonic() - began

    assert set(measured) == {vm}
    # How fast a guest writes depends on what else the machine does; it says itself what it wrote.
    wrote = (ended.dirtied_pages - begun.dirtied_pages) * 4096 / took_seconds
    assert wrote / 3 < measured[vm].bytes_per_second < 3 * wrote

    with opened(lab.hosts[0].uri) as connection, opened(lab.hosts[0].uri) as second:
        domain = connection.lookupByUUIDString(guest.uuid)
        api = libvirt()
        flags = api.VIR_MIGRATE_LIVE | api.VIR_MIGRATE_PEER2PEER

        def migrate() -> None:
            with pytest.raises(api.libvirtError):
                domain.migrateToURI3(lab.hosts[1].uri, {"bandwidth": 1}, flags)

        migration = threading.Thread(target=migrate)
        migration.start()
        try:
            wait_for_job(second.lookupByUUIDString(guest.uuid))
            snapshot = a_source(lab).observe()
            assert probe.probe([vm]) == {}
        finally:
            second.lookupByUUIDString(guest.uuid).abortJob()
            migration.join()

    (seen,) = snapshot.vms
    assert (seen.host, seen.state) == (lab.hosts[0].name, VmState.RUNNING)
    assert seen.blockers[0] == "it is being migrated"
    assert f"{lab.hosts[1].name} has a paused copy" in seen.blockers[1]


def wait_for_job(domain: object) -> None:
    waited = threading.Event()
    for _ in range(600):
        if domain.jobStats(0).get("memory_processed"):  # type: ignore[attr-defined]
            return
        waited.wait(0.1)
    pytest.fail("the migration did not begin")


def test_hints_are_written_as_the_documentation_says(lab: Lab, start_guest: StartGuest) -> None:
    guest = start_guest(lab.hosts[0])
    hints = (
        '<vm><label name="app" value="web"/><movable>no</movable>'
        '<modes>live suspend</modes><max-downtime seconds="0.3"/></vm>'
    )

    subprocess.run(
        [
            *("timeout", "60", "virsh", "--connect", lab.hosts[0].uri, "metadata", guest.name),
            *("--uri", "https://rebalancer.dev/xmlns/domain/1.0", "--key", "rebalancer"),
            *("--live", "--config", "--set", hints),
        ],
        check=True,
        capture_output=True,
    )
    (seen,) = a_source(lab).observe().vms

    assert seen.labels == {"app": "web"}
    assert not seen.movable
    assert seen.allowed_modes == frozenset({"live", "suspend"})
    assert seen.max_downtime_seconds == 0.3
