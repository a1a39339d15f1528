"""Devices and settings that keep a VM where it is, each told by name."""

from __future__ import annotations

import pytest

from rebalancer.collect.domain_xml import read_domain
from tests.unit.collect.fakes import a_disk, a_domain_xml

PCI = "<address domain='0x0000' bus='0x03' slot='0x00' function='0x1'/>"


@pytest.mark.parametrize(
    ("device", "obstacle"),
    [
        (
            f"<hostdev mode='subsystem' type='pci'><source>{PCI}</source></hostdev>",
            "it uses the host's PCI device 0000:03:00.1",
        ),
        (
            "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/>"
            "<product id='0xbeef'/></source></hostdev>",
            "it uses the host's USB device 0x1234:0xbeef",
        ),
        (
            "<hostdev mode='subsystem' type='mdev'><source><address uuid='aa-bb'/></source>"
            "</hostdev>",
            "it uses the host's mediated device aa-bb",
        ),
        ("<hostdev mode='capabilities' type='misc'/>", "it uses the host's misc"),
        (
            f"<interface type='hostdev'><mac address='52:54:00:00:00:01'/>"
            f"<source>{PCI}</source></interface>",
            "its network interface 52:54:00:00:00:01 is the host's PCI device 0000:03:00.1",
        ),
        (
            "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>",
            "its network interface ? is a vDPA device of the host",
        ),
        (
            "<disk type='nvme'><source type='pci' namespace='1'/><target dev='vdb'/></disk>",
            "its disk vdb is an NVMe device of the host",
        ),
        (
            "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv'/>"
            "<target dir='tag'/></filesystem>",
            "it shares the folder /srv with its host",
        ),
        ("<shmem name='s1'/>", "it shares the memory s1 with others on its host"),
        (
            "<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/>"
            "</backend></tpm>",
            "it uses the host's TPM /dev/tpm0",
        ),
        (
            "<serial type='dev'><source path='/dev/ttyS0'/></serial>",
            "its serial port is the host's /dev/ttyS0",
        ),
        (
            "<memory model='nvdimm'><source><path>/nv</path></source></memory>",
            "its memory device is backed by /nv on the host",
        ),
        (
            "<video><model type='virtio'><acceleration accel3d='yes'/></model></video>",
            "its 3D graphics run on the host",
        ),
        ("<smartcard mode='host'/>", "it uses the host's smart card"),
    ],
)
def test_devices_of_the_host(device: str, obstacle: str) -> None:
    assert read_domain(a_domain_xml(devices=device)).obstacles == (obstacle,)


@pytest.mark.parametrize(
    "device",
    [
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
        "<interface type='hostdev'><teaming type='transient' persistent='ua-1'/></interface>",
        "<shmem name='s1' role='master'/>",
        "<serial type='pty'/><console type='pty'/><channel type='unix'/>",
        "<redirdev bus='usb' type='spicevmc'/>",
        "<video><model type='virtio'/></video>",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
        a_disk("/mnt/a"),
    ],
)
def test_devices_that_move_with_the_guest(device: str) -> None:
    assert read_domain(a_domain_xml(devices=device)).obstacles == ()


def test_a_block_job() -> None:
    disk = "<disk type='file'><source file='/a'/><mirror type='file'/><target dev='vda'/></disk>"

    assert read_domain(a_domain_xml(devices=disk)).obstacles == (
        "a block job runs on its disk vda",
    )


def test_protected_memory() -> None:
    facts = read_domain(a_domain_xml(extra="<launchSecurity type='sev-snp'/>"))

    assert facts.obstacles == ("its memory is protected by sev-snp",)


INVARIANT = "<cpu mode='custom'><model>A</model><feature policy='require' name='invtsc'/></cpu>"


def test_an_invariant_tsc_needs_a_frequency() -> None:
    clock = "<clock><timer name='tsc' frequency='2600000000'/></clock>"

    assert len(read_domain(a_domain_xml(cpu=INVARIANT)).obstacles) == 1
    assert read_domain(a_domain_xml(cpu=INVARIANT, extra=clock)).obstacles == ()


def test_a_cpu_that_was_declared_unmigratable() -> None:
    facts = read_domain(a_domain_xml(cpu="<cpu mode='host-passthrough' migratable='off'/>"))

    assert facts.obstacles == ('its CPU is set to migratable="off"',)
