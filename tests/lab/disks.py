"""Disks that only one host of the lab reaches: their pools, and what must be in their copies."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.guest import OWN_DISKS
from tests.lab.shape import MIB

if TYPE_CHECKING:
    from tests.lab.cluster import Lab
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost

SECOND_FOLDER = "/var/lib/libvirt/data"
"""Another folder of disks, with a pool of its own."""

POOLS = {"own": OWN_DISKS, "data": SECOND_FOLDER}

PATTERN = ("7", 32 * MIB, 24 * MIB)
"""A byte, where it is written from on, and how often: what must be in the copy as well."""


@contextlib.contextmanager
def own_pools(lab: Lab) -> Iterator[None]:
    """Give each host storage pools for folders of its own."""
    for host in lab.hosts:
        with host.connect() as connection:
            for name, folder in POOLS.items():
                seen_from_here(host, folder).mkdir(exist_ok=True)
                connection.storagePoolCreateXML(
                    f"<pool type='dir'><name>{name}</name><target><path>{folder}</path></target>"
                    "</pool>"
                )
    yield
    for host in lab.hosts:
        with host.connect() as connection:
            for name in POOLS:
                connection.storagePoolLookupByName(name).destroy()


def delete_by_hand(host: LabHost, *files: Path) -> None:
    """Delete files of a host's own as its operator would, and have its pools know it."""
    for file in files:
        file.unlink(missing_ok=True)
    with host.connect() as connection:
        for name in POOLS:
            connection.storagePoolLookupByName(name).refresh(0)


def seen_from_here(host: LabHost, path: str) -> Path:
    """Where this machine has a file of a host's own `/var/lib/libvirt`."""
    return host.state_dir / "var" / Path(path).relative_to("/var/lib/libvirt")


def write_pattern(guest: LabGuest, host: LabHost) -> None:
    """Have QEMU write it to the first disk of the running guest."""
    import libvirt_qemu

    byte, begin, count = PATTERN
    with host.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        device = "/machine/peripheral/virtio-disk0/virtio-backend"
        write = f'qemu-io -d {device} "write -P {byte} {begin} {count}"'
        flags = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        print(libvirt_qemu.qemuMonitorCommand(domain, write, flags))


def has_pattern(image: Path) -> bool:
    """Whether an image holds it; QEMU may have the image open."""
    byte, begin, count = PATTERN
    wanted = f"read -P {byte} {begin} {count}"
    read = ("qemu-io", "-U", "-r", "-f", "qcow2", "-c", wanted, str(image))
    ran = subprocess.run(read, capture_output=True, text=True, check=True)
    return "verification failed" not in ran.stdout


def digest(image: Path) -> str:
    """What tells one content from another."""
    return hashlib.sha256(image.read_bytes()).hexdigest()


def file_xml(path: str, kind: str, target: str, *, more: str = "") -> str:
    """A disk of a guest that is a file of its host."""
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{kind}'/>"
        f"<source file='{path}'/><target dev='{target}' bus='virtio'/>{more}</disk>"
    )


def cdrom_xml(path: str, *, policy: str = "") -> str:
    """A drive with a medium that is a file of its host."""
    when_missing = f" startupPolicy='{policy}'" if policy else ""
    return (
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
        f"<source file='{path}'{when_missing}/><target dev='hda' bus='ide'/><readonly/></disk>"
    )
