"""The lab itself: real hosts, real guests, real migrations, and nothing left in the end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import network
from tests.lab.cluster import Lab
from tests.lab.configuration import write_config
from tests.lab.deadline import DeadlineError, wait_until
from tests.lab.errors import LabError
from tests.lab.guest import GuestSpec
from tests.lab.host import libvirt, opened
from tests.lab.process import pids_in_namespace
from tests.lab.shape import MIB, LabShape, default_state_dir
from tests.lab.site import hosts_from

if TYPE_CHECKING:
    from tests.lab.conftest import StartGuest
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost

pytestmark = pytest.mark.lab

_MIGRATION_SECONDS = 300


def migrate(
    guest: LabGuest, source: LabHost, destination: LabHost, *, mib_per_second: int = 50
) -> None:
    """Migrate live and peer-to-peer, with the definition, and return when it is over."""
    api = libvirt()
    flags = (
        api.VIR_MIGRATE_LIVE
        | api.VIR_MIGRATE_PEER2PEER
        | api.VIR_MIGRATE_PERSIST_DEST
        | api.VIR_MIGRATE_UNDEFINE_SOURCE
    )
    with opened(source.uri) as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        domain.migrateToURI3(destination.uri, {"bandwidth": mib_per_second}, flags)


def can_connect(host: LabHost) -> bool:
    """Whether a program on this machine reaches the host's libvirtd over the network."""
    answered = subprocess.run(
        ["timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{host.address}/16509"],
        capture_output=True,
        check=False,
    )
    return answered.returncode == 0


def names_on_machine(prefix: str) -> set[str]:
    """Namespaces, interfaces and mounts of this machine that carry the name of a lab."""
    mounts = {str(mount) for mount in network.mount_points()}
    return {name for name in network.namespaces() | network.links() | mounts if prefix in name}


def test_every_host_is_another_one(lab: Lab) -> None:
    names, identities = set(), set()
    for host in lab.hosts:
        with opened(host.uri) as connection:
            names.add(connection.getHostname())
            identities.add(connection.getCapabilities().split("<uuid>")[1].split("<")[0])

    assert names == {host.name for host in lab.hosts}
    assert len(identities) == len(lab.hosts) == 3


def test_a_guest_boots_and_beats_and_carries_its_labels(lab: Lab, start_guest: StartGuest) -> None:
    guest = start_guest(lab.hosts[0])

    assert guest.heartbeat.wait_for_beat().guest == guest.name
    assert guest.hosts_running() == (lab.hosts[0],)
    with opened(lab.hosts[0].uri) as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        labels = domain.metadata(
            libvirt().VIR_DOMAIN_METADATA_ELEMENT, "https://rebalancer.dev/xmlns/domain/1.0"
        )
        assert domain.isPersistent()
    assert '<label name="app" value="lab"/>' in labels


def test_a_guest_dirties_memory_at_the_rate_that_is_set(lab: Lab, start_guest: StartGuest) -> None:
    guest = start_guest(lab.hosts[0])
    idle = guest.heartbeat.wait_for_beat().dirtied_pages

    guest.set_dirty_rate(5_000_000)
    begun, begun_seconds = guest.heartbeat.wait_for_beat(), time.monotonic()
    wait_until(
        lambda: guest.heartbeat.wait_for_beat().sequence > begun.sequence + 60,
        within_seconds=120,
        what="60 heartbeats",
    )
    ended, seconds = guest.heartbeat.wait_for_beat(), time.monotonic() - begun_seconds

    assert idle == 0
    # A starved guest may fall behind, but never runs ahead by more than it does between two beats.
    rate_bytes_per_second = (ended.dirtied_pages - begun.dirtied_pages) * 4096 / seconds
    assert 500_000 < rate_bytes_per_second < 7_500_000


def test_a_guest_burns_the_share_of_its_cpu_that_is_set(guest: LabGuest) -> None:
    (host,) = guest.hosts_running()

    def cpu_seconds() -> float:
        with host.connect() as connection:
            nanoseconds = connection.lookupByUUIDString(guest.uuid).info()[4]
        return float(nanoseconds) / 1e9

    guest.set_cpu_load(1.0)
    before = cpu_seconds()
    wait_until(lambda: cpu_seconds() > before + 1, within_seconds=120, what="a second of CPU time")
    guest.set_cpu_load(0)

    assert guest.heartbeat.wait_for_beat().guest == guest.name


def test_a_live_migration_keeps_the_guest_running(guest: LabGuest) -> None:
    source, destination, _ = hosts_from(guest)
    guest.set_dirty_rate(2_000_000)
    boot_id = guest.heartbeat.wait_for_beat().boot_id

    guest.heartbeat.mark()
    migrate(guest, source, destination)
    beat = guest.heartbeat.wait_for_beat()
    report = guest.heartbeat.report()

    assert beat.boot_id == boot_id
    assert report.ran_through, report
    assert 0 < report.longest_gap_seconds < report.seconds
    assert guest.hosts_knowing() == (destination,)
    guest.set_dirty_rate(0)  # it still takes commands


def test_a_guest_survives_a_migration_there_and_back(lab: Lab, start_guest: StartGuest) -> None:
    source, destination, _ = lab.hosts
    guest = start_guest(source, GuestSpec(memory_bytes=128 * MIB, working_set_bytes=48 * MIB))

    guest.heartbeat.mark()
    migrate(guest, source, destination)
    migrate(guest, destination, source)
    guest.heartbeat.wait_for_beat()

    assert guest.heartbeat.report().ran_through
    assert guest.hosts_knowing() == (source,)


def test_a_cut_link_silences_host_and_guests_until_it_is_restored(guest: LabGuest) -> None:
    (host,) = guest.hosts_running()
    guest.heartbeat.mark()

    host.cut_link()
    assert not can_connect(host)
    with pytest.raises(DeadlineError):
        guest.command("status", within_seconds=3)
    assert guest.hosts_running() == (host,)  # the lab itself sees behind the cut

    host.restore_link()
    wait_until(lambda: can_connect(host), within_seconds=60, what="the link to come back")
    guest.heartbeat.wait_for_beat()
    report = guest.heartbeat.report()
    assert report.longest_gap_seconds > 1
    assert report.longest_stop_seconds < report.longest_gap_seconds / 2, "it ran all the time"
    assert report.lost_beats > 0
    assert not report.restarted


def test_a_guest_that_is_paused_is_heard_to_have_been_stopped(guest: LabGuest) -> None:
    (host,) = guest.hosts_running()
    guest.heartbeat.mark()

    with host.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        domain.suspend()
        time.sleep(2)
        domain.resume()
    guest.heartbeat.wait_for_beat()

    assert guest.heartbeat.report().longest_stop_seconds > 1.5


def test_a_shaped_link_slows_a_migration_down(guest: LabGuest) -> None:
    source, destination, _ = hosts_from(guest)
    sent_bytes_per_second = 10_000_000

    source.shape_link(sent_bytes_per_second)
    begun_seconds = time.monotonic()
    migrate(guest, source, destination, mib_per_second=1000)
    seconds = time.monotonic() - begun_seconds
    with destination.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        job = domain.jobStats(libvirt().VIR_DOMAIN_JOB_STATS_COMPLETED)

    # Nothing gets through faster than the link lets it, but for what fits into the bucket at once.
    assert seconds > 0.8 * job["memory_processed"] / sent_bytes_per_second


def test_guests_outlive_the_libvirtd_of_their_host(guest: LabGuest) -> None:
    (host,) = guest.hosts_running()

    guest.heartbeat.mark()
    host.kill_libvirtd()
    assert host.libvirtd is None
    guest.heartbeat.wait_for_beat()
    host.restart_libvirtd()

    assert guest.hosts_running() == (host,)
    guest.heartbeat.wait_for_beat()
    assert guest.heartbeat.report().ran_through


def test_a_killed_qemu_is_noticed_by_libvirt_and_by_the_heartbeat(guest: LabGuest) -> None:
    (host,) = guest.hosts_running()

    host.kill_qemu(guest.name)

    wait_until(lambda: not guest.hosts_running(), within_seconds=60, what="libvirt to notice")
    with pytest.raises(DeadlineError):
        guest.heartbeat.wait_for_beat(within_seconds=1)


def test_a_guest_is_removed_while_it_migrates(lab: Lab) -> None:
    source, destination, _ = lab.hosts
    guest = lab.start_guest(source)
    lab.wait_for_boot([guest])

    with ThreadPoolExecutor() as pool:
        migration = pool.submit(migrate, guest, source, destination, mib_per_second=5)
        wait_until(lambda: len(guest.hosts_running()) == 2, within_seconds=60, what="a second copy")
        lab.remove_guest(guest)
        with pytest.raises(libvirt().libvirtError):
            migration.result(timeout=_MIGRATION_SECONDS)

    assert guest.hosts_knowing() == ()
    assert guest.name not in {other.name for other in lab.guests}


def test_another_program_finds_the_running_lab_and_its_guests(
    lab: Lab, start_guest: StartGuest
) -> None:
    guest = start_guest(lab.hosts[0])
    lab.close()  # one collector at a time

    attached = Lab.attach(lab.state_dir)

    assert attached is not None
    with contextlib.closing(attached):
        assert attached.hosts == lab.hosts
        assert attached.is_healthy()
        (found,) = (other for other in attached.guests if other.name == guest.name)
        assert (found.uuid, found.mac, found.memory_bytes) == (guest.uuid, guest.mac, 96 * MIB)
        found.heartbeat.wait_for_beat()


def test_the_configuration_names_every_host(lab: Lab, tmp_path: Path) -> None:
    write_config(lab, tmp_path / "rebalancer.yaml", memory_bytes=512 * MIB)

    text = (tmp_path / "rebalancer.yaml").read_text()

    for host in lab.hosts:
        assert (
            f'  - {{name: {host.name}, uri: "{host.uri}", cpu_cores: 2, memory: 512MiB, '
            "nic_bytes_per_second: 62500000, cpu_from_guests: true}\n" in text
        )


def test_a_lab_leaves_nothing_behind(lab_shape: LabShape) -> None:
    shape = LabShape(
        prefix=f"{lab_shape.prefix}x",
        network=_other_network(lab_shape),
        hosts=2,
        shared_storage=True,
    )
    before = names_on_machine(shape.prefix)
    state_dir = Path(tempfile.gettempdir()) / shape.prefix  # pytest's own folders are too deep

    with Lab.start(shape, state_dir=state_dir) as lab:
        guest = lab.start_guest(lab.hosts[0], GuestSpec(disk_bytes=4 * MIB))
        lab.wait_for_boot([guest])
        during = names_on_machine(shape.prefix)
        processes = [pid for name in shape.host_names for pid in pids_in_namespace(name)]
        migrate(guest, *lab.hosts)  # with a disk, which the hosts share
        assert guest.heartbeat.wait_for_beat().disk_mismatches == 0
        lab.hosts[1].cut_link()

    assert before == set()
    assert during >= {shape.switch, shape.uplink, *shape.host_names}
    assert len(processes) >= 3
    assert names_on_machine(shape.prefix) == set()
    assert lab.traces() == ()
    assert not state_dir.exists()


def test_a_lab_that_was_killed_half_way_up_can_be_removed(lab_shape: LabShape) -> None:
    prefix = f"{lab_shape.prefix}x"
    options = ("--prefix", prefix)
    shape = ("--network", _other_network(lab_shape), "--hosts", "2", "--guests", "2")
    python = (sys.executable, "-m", "tests.lab")

    with subprocess.Popen([*python, "up", *options, *shape], cwd=_project()) as up:
        wait_until(lambda: len(names_on_machine(prefix)) > 2, within_seconds=120, what="a network")
        up.kill()
    lab = Lab.attach(default_state_dir(prefix))
    assert lab is not None
    assert lab.traces() != ()
    down = subprocess.run([*python, "down", *options], cwd=_project(), check=False)

    assert down.returncode == 0
    assert lab.traces() == ()
    assert names_on_machine(prefix) == set()


def test_a_second_lab_of_the_same_name_is_refused_and_harms_nobody(lab: Lab) -> None:
    with pytest.raises(LabError, match="already"):
        Lab.start(lab.shape)
    with pytest.raises(LabError, match="exists already"):
        Lab.start(lab.shape, state_dir=lab.state_dir / "elsewhere")

    assert lab.is_healthy()


def _other_network(shape: LabShape) -> str:
    """A network that no session's lab uses, but one for each session."""
    first, second, third, _ = shape.network.split(".")
    return f"{first}.{second}.{int(third) + 100}.0/24"


def _project() -> Path:
    return Path(__file__).resolve().parents[2]
