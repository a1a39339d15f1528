"""Migrations with TLS: libvirt's messages, guests' memory and disks, and never without."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.events import Event, Note, Progress
from rebalancer.rollout.libvirt_connections import HostAddress
from rebalancer.rollout.libvirt_driver import LibvirtDriver
from tests.lab.cluster import Lab, claim
from tests.lab.disks import PATTERN, has_pattern, own_pools, write_pattern
from tests.lab.guest import OWN_DISKS, GuestSpec, own_disk_file
from tests.lab.shape import MIB, LabShape
from tests.lab.site import Site, a_move, ask_qemu, beside, changes_asked_for
from tests.lab.wiretap import Wiretap

if TYPE_CHECKING:
    from tests.lab.guest import LabGuest

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def tls_lab(lab_shape: LabShape, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts that are reached by TLS only, with certificates of an authority of their own."""
    pki = tmp_path_factory.mktemp("pki")
    shape = replace(
        beside(lab_shape, "t"),
        libvirtd_settings={
            "listen_tls": 1,
            "listen_tcp": 0,
            "ca_file": str(pki / "cacert.pem"),
            "cert_file": str(pki / "server-cert.pem"),
            "key_file": str(pki / "server-key.pem"),
        },
        qemu_settings={"migrate_tls_x509_cert_dir": str(pki), "migrate_tls_x509_verify": 1},
    )
    make_certificates(pki, shape)
    with claim(shape.prefix), Lab.start(shape) as lab:
        yield lab


def make_certificates(folder: Path, shape: LabShape) -> None:
    """A private authority, and one certificate that is good for every host at both ends.

    libvirt and QEMU look for it under names of their own.
    """
    names = [f"DNS:{name}" for name in shape.host_names]
    names += [f"IP:{shape.host_address(name)}" for name in shape.host_names]
    (folder / "openssl.cnf").write_text(
        "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = rebalancer lab\n"
        "[authority]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign\n"
        "[host]\nbasicConstraints = critical,CA:FALSE\n"
        "keyUsage = critical,digitalSignature,keyEncipherment\n"
        f"extendedKeyUsage = serverAuth,clientAuth\nsubjectAltName = {','.join(names)}\n"
    )
    new = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-config", "openssl.cnf"]
    sign = ["openssl", "x509", "-req", "-in", "host.csr", "-days", "2"]
    sign += ["-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial"]
    authority = ["-x509", "-days", "2", "-extensions", "authority"]
    for command in (
        [*new, *authority, "-keyout", "ca-key.pem", "-out", "ca-cert.pem"],
        [*new, "-subj", f"/CN={shape.prefix}", "-keyout", "server-key.pem", "-out", "host.csr"],
        [*sign, "-extfile", "openssl.cnf", "-extensions", "host", "-out", "server-cert.pem"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    for link, file in (
        ("cacert.pem", "ca-cert.pem"),
        ("clientcert.pem", "server-cert.pem"),
        ("clientkey.pem", "server-key.pem"),
        ("client-cert.pem", "server-cert.pem"),
        ("client-key.pem", "server-key.pem"),
    ):
        (folder / link).write_bytes((folder / file).read_bytes())


class TlsSite(Site):
    """Reaches hosts by TLS, lets them reach each other by TLS, and encrypts guests' memory."""

    encrypts = True

    def new_driver(self) -> LibvirtDriver:
        pki = _pki(self.lab)
        addresses = {
            HostId(host.name): HostAddress(
                uri=f"qemu+tls://{host.address}/system?pkipath={pki}",
            )
            for host in self.lab.hosts
        }
        return LibvirtDriver(addresses, self.clock, tls=self.encrypts)


def _pki(lab: Lab) -> Path:
    return Path(str(lab.shape.qemu_settings["migrate_tls_x509_cert_dir"]))


@pytest.fixture
def tls_guest(tls_lab: Lab) -> Iterator[LabGuest]:
    guest = tls_lab.start_guest(tls_lab.hosts[0])
    tls_lab.wait_for_boot([guest])
    yield guest
    tls_lab.remove_guest(guest)


@pytest.fixture
def tls_site(tls_lab: Lab, tmp_path: Path) -> Iterator[TlsSite]:
    found = TlsSite(tls_lab, tmp_path)
    yield found
    found.close()


def test_with_tls_libvirts_own_messages_and_the_memory_are_encrypted(
    tls_lab: Lab, tls_site: TlsSite, tls_guest: LabGuest
) -> None:
    source, target = tls_lab.hosts
    credentials: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Progress):
            told = ask_qemu(tls_guest, source, "query-migrate-parameters")
            credentials.append(told.get("tls-creds", ""))

    tls_guest.heartbeat.mark()
    result = tls_site.roll_out(
        a_move(tls_guest, source, target, bytes_per_second=15.0 * MIB),
        tls_site.snapshot(tls_guest, source),
        on_event=watch,
    )
    tls_guest.heartbeat.wait_for_beat()

    assert result.is_complete, result
    assert any(credentials), "QEMU was told of no credentials"
    assert tls_guest.hosts_knowing() == (target,)
    assert tls_guest.heartbeat.report().ran_through


def test_a_target_without_a_certificate_gets_nothing_rather_than_plain_memory(
    tls_lab: Lab, tls_site: TlsSite, tls_guest: LabGuest
) -> None:
    source, target = tls_lab.hosts
    certificate = _pki(tls_lab) / "server-cert.pem"
    kept = certificate.rename(certificate.with_suffix(".kept"))

    tls_guest.heartbeat.mark()
    try:
        result = tls_site.roll_out(
            a_move(tls_guest, source, target),
            tls_site.snapshot(tls_guest, source),
            on_event=tls_site.events.append,
        )
    finally:
        kept.rename(certificate)
    tls_guest.heartbeat.wait_for_beat()

    assert result.outcomes[0].state is MigrationState.FAILED_SAFE, result
    assert "credentials" in result.outcomes[0].text
    assert not [event for event in tls_site.events if isinstance(event, Progress)]
    assert any(isinstance(event, Note) for event in tls_site.events)
    assert changes_asked_for(tls_site) == ["Migrate"]
    assert tls_guest.hosts_knowing() == (source,)
    assert tls_guest.heartbeat.report().ran_through


DISK_BYTES = 64 * MIB


class PlainSite(TlsSite):
    """The same hosts, and guests' memory and disks for everybody to read."""

    encrypts = False


def test_with_tls_nobody_on_the_wire_reads_a_guests_disk(tls_lab: Lab, tmp_path: Path) -> None:
    """There without, so that it is known that the tap would find it; back again with TLS."""
    first, second = tls_lab.hosts
    spec = GuestSpec(disk_bytes=DISK_BYTES, has_own_disk=True)
    pattern = bytes([int(PATTERN[0])]) * 256
    found = {}
    with own_pools(tls_lab):
        guest = tls_lab.start_guest(first, spec)
        try:
            tls_lab.wait_for_boot([guest])
            write_pattern(guest, first)
            disk = LocalDisk(
                target="vda",
                capacity_bytes=DISK_BYTES,
                path=f"{OWN_DISKS}/{guest.name}.qcow2",
                format="qcow2",
            )
            facts = {"local_disk_bytes": DISK_BYTES, "local_disks": (disk,)}
            guest.heartbeat.mark()
            for kind, source, target in ((PlainSite, first, second), (TlsSite, second, first)):
                (folder := tmp_path / kind.__name__).mkdir()
                with (
                    contextlib.closing(kind(tls_lab, folder)) as site,
                    Wiretap(first, pattern) as tap,
                ):
                    seen = site.snapshot(guest, source, **facts)
                    room = {OWN_DISKS: 10 * DISK_BYTES}
                    hosts = tuple(replace(host, disk_pools=room) for host in seen.hosts)
                    move = a_move(guest, source, target, disks=(disk,))
                    result = site.roll_out(move, replace(seen, hosts=hosts))
                assert result.is_complete, result
                found[kind] = tap.seen
                own_disk_file(source, guest.name).unlink()
            guest.heartbeat.wait_for_beat()

            assert guest.heartbeat.report().ran_through
            assert has_pattern(own_disk_file(first, guest.name))
        finally:
            tls_lab.remove_guest(guest)
    assert found[PlainSite] > 0
    assert found[TlsSite] == 0
