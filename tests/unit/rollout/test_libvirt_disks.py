"""Files for copies of disks, made and deleted in libvirt's own test hypervisor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.rollout import libvirt_disks
from rebalancer.rollout.calls import RefusedError
from rebalancer.rollout.driver import CreateDisk, RemoveDisk
from tests.builders import GIB

lv = pytest.importorskip("libvirt")

VM, H1, H2 = VmId("vm1"), HostId("h1"), HostId("h2")
PATH = "/default-pool/vm1.qcow2"
CREATE = CreateDisk(vm=VM, host=H2, path=PATH, format="qcow2", capacity_bytes=20 * GIB)
REMOVE = RemoveDisk(vm=VM, host=H2, path=PATH, keep=H1)


@pytest.fixture
def connection() -> Iterator[Any]:
    lv.registerErrorHandler(lambda _context, _error: None, None)
    found = lv.open("test:///default")
    for volume in found.storagePoolLookupByName("default-pool").listAllVolumes(0):
        volume.delete(0)
    yield found
    found.close()


def volumes(connection: Any) -> list[tuple[str, int]]:
    found = connection.storagePoolLookupByName("default-pool").listAllVolumes(0)
    return [(volume.path(), volume.info()[1]) for volume in found]


def test_a_file_has_the_size_of_its_disk_and_goes_again(connection: Any) -> None:
    libvirt_disks.create(lv, connection, CREATE)
    made = volumes(connection)
    libvirt_disks.remove(lv, connection, REMOVE)

    assert made == [(PATH, 20 * GIB)]
    assert volumes(connection) == []


def test_that_it_is_gone_already_is_as_good(connection: Any) -> None:
    libvirt_disks.remove(lv, connection, REMOVE)

    assert volumes(connection) == []


def test_what_is_there_is_not_made_a_second_time(connection: Any) -> None:
    libvirt_disks.create(lv, connection, replace(CREATE, capacity_bytes=GIB))

    with pytest.raises(RefusedError, match=r"vm1.qcow2 \(1.00 GiB\) is on h2 already"):
        libvirt_disks.create(lv, connection, CREATE)
    assert volumes(connection) == [(PATH, GIB)]


def test_a_pool_without_room_for_all_of_it_refuses(connection: Any) -> None:
    with pytest.raises(RefusedError, match=r"vm1\.qcow2 may need 200 GiB"):
        libvirt_disks.create(lv, connection, replace(CREATE, capacity_bytes=200 * GIB))


def test_a_folder_that_is_no_pool_refuses(connection: Any) -> None:
    with pytest.raises(RefusedError, match="h2 has no active storage pool for /srv"):
        libvirt_disks.create(lv, connection, replace(CREATE, path="/srv/vm1.qcow2"))


def test_a_file_that_a_vm_there_names_is_not_deleted(connection: Any) -> None:
    libvirt_disks.create(lv, connection, CREATE)
    domain = connection.defineXML(
        "<domain type='test'><name>other</name><memory>1024</memory><os><type>hvm</type></os>"
        f"<devices><disk type='file'><source file='{PATH}'/><target dev='vda'/></disk></devices>"
        "</domain>"
    )
    try:
        with pytest.raises(RefusedError, match="belongs to other on h2"):
            libvirt_disks.remove(lv, connection, REMOVE)
    finally:
        domain.undefine()
    assert volumes(connection) == [(PATH, 20 * GIB)]
