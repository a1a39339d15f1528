"""Old disks described and deleted in libvirt's own test hypervisor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.rollout import libvirt_left_overs
from rebalancer.rollout.calls import RefusedError
from rebalancer.rollout.left_over_commands import (
    DiskFile,
    LookAtFile,
    NoDiskFile,
    RemoveLeftOver,
)
from tests.builders import GIB

lv = pytest.importorskip("libvirt")

H1, H2, VM = HostId("h1"), HostId("h2"), VmId("vm1")
PATH = "/default-pool/vm1.qcow2"
LOOK = LookAtFile(vm=VM, host=H1, path=PATH)
USER = (
    "<domain type='test'><name>other</name><memory>1024</memory><os><type>hvm</type></os>"
    "<devices><disk type='file'><source file='{}'/><target dev='vda'/></disk></devices></domain>"
)


@pytest.fixture
def connection() -> Iterator[Any]:
    lv.registerErrorHandler(lambda _context, _error: None, None)
    found = lv.open("test:///default")
    pool = found.storagePoolLookupByName("default-pool")
    for volume in pool.listAllVolumes(0):
        volume.delete(0)
    yield found
    found.close()


@pytest.fixture
def file(connection: Any) -> DiskFile:
    make(connection, "vm1.qcow2")
    found = libvirt_left_overs.look_at(lv, connection, LOOK)
    assert isinstance(found, DiskFile)
    return found


def make(connection: Any, name: str, base: str = "") -> None:
    below = f"<backingStore><path>{base}</path></backingStore>" if base else ""
    connection.storagePoolLookupByName("default-pool").createXML(
        f"<volume><name>{name}</name><capacity unit='GiB'>8</capacity>"
        f"<target><format type='qcow2'/></target>{below}</volume>",
        0,
    )


def test_a_file_that_nothing_uses_is_described_and_deleted(connection: Any, file: DiskFile) -> None:
    remove = RemoveLeftOver(vm=VM, host=H1, path=PATH, keep=H2, seen=file)

    libvirt_left_overs.remove(lv, connection, remove)

    assert (file.capacity_bytes, file.users) == (8 * GIB, ())
    assert libvirt_left_overs.look_at(lv, connection, LOOK) == NoDiskFile()


def test_what_is_gone_already_is_as_good(connection: Any, file: DiskFile) -> None:
    remove = RemoveLeftOver(vm=VM, host=H1, path=PATH, keep=H2, seen=file)

    libvirt_left_overs.remove(lv, connection, remove)
    libvirt_left_overs.remove(lv, connection, remove)


def test_what_changed_since_it_was_looked_at_stays(connection: Any, file: DiskFile) -> None:
    seen = replace(file, allocated_bytes=file.allocated_bytes + 1)

    with pytest.raises(RefusedError, match="is not what it was a moment ago"):
        libvirt_left_overs.remove(
            lv, connection, RemoveLeftOver(vm=VM, host=H1, path=PATH, keep=H2, seen=seen)
        )
    assert libvirt_left_overs.look_at(lv, connection, LOOK) == file


@pytest.mark.parametrize("path", [PATH, "/default-pool//vm1.qcow2"])
def test_a_vm_that_names_it_keeps_it(connection: Any, file: DiskFile, path: str) -> None:
    domain = connection.defineXML(USER.format(path))
    try:
        found = libvirt_left_overs.look_at(lv, connection, LOOK)
        with pytest.raises(RefusedError, match="other on h1 would lose"):
            libvirt_left_overs.remove(
                lv, connection, RemoveLeftOver(vm=VM, host=H1, path=PATH, keep=H2, seen=file)
            )
    finally:
        domain.undefine()

    assert isinstance(found, DiskFile)
    assert found.users == ("other",)
    assert found.vms == (domain.UUIDString(),)


def test_an_image_that_is_based_on_it_keeps_it(connection: Any, file: DiskFile) -> None:
    make(connection, "clone.qcow2", base=PATH)

    with pytest.raises(RefusedError, match=r"image /default-pool/clone\.qcow2 on h1 would lose"):
        libvirt_left_overs.remove(
            lv, connection, RemoveLeftOver(vm=VM, host=H1, path=PATH, keep=H2, seen=file)
        )


class UnrefreshedPool:
    """A pool whose newest image was made by `qemu-img`, so that only a refresh shows it."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._is_fresh = False

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802  libvirt's name
        inside = f"<backingStore><path>{self._base}</path></backingStore>"
        return f"<pool type='dir'>{inside}</pool>"

    def refresh(self, _flags: int) -> None:
        self._is_fresh = True

    def listAllVolumes(self, _flags: int) -> list[UnrefreshedPool]:  # noqa: N802
        return [self] if self._is_fresh else []

    def path(self) -> str:
        return "/elsewhere/clone.qcow2"


class WithAnotherPool:
    """The test hypervisor, and one pool more."""

    def __init__(self, connection: Any, pool: UnrefreshedPool) -> None:
        self._connection = connection
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def listAllStoragePools(self, flags: int) -> list[Any]:  # noqa: N802
        return [*self._connection.listAllStoragePools(flags), self._pool]


def test_an_image_that_libvirt_has_not_seen_yet_keeps_its_base(
    connection: Any, file: DiskFile
) -> None:
    host = WithAnotherPool(connection, UnrefreshedPool(PATH))

    found = libvirt_left_overs.look_at(lv, host, LOOK)

    assert isinstance(found, DiskFile)
    assert found.users == (*file.users, "image /elsewhere/clone.qcow2")
