"""Files for copies of local disks, through libvirt alone: made in a pool of the target, or deleted.

Nothing that is there already is ever written to: libvirt refuses to make a volume where there is
one, or any file of that name, and we make it before libvirt's migration could find it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from rebalancer.cluster.amounts import bytes_text
from rebalancer.rollout.calls import RefusedError
from rebalancer.rollout.driver import CreateDisk, RemoveDisk

NO_STORAGE_VOL = 50
VOLUME_EXISTS = 90
OF_FILES = frozenset({"dir", "fs"})
"""Types of pools whose volumes are files of the host's own."""
FREE_BYTES = 3
"""The place of what is free in what a pool tells of itself."""


def create(lv: Any, connection: Any, command: CreateDisk) -> None:  # noqa: ANN401
    """Make an empty file, sparse, that holds as much as the disk that is to be copied into it."""
    path = PurePosixPath(command.path)
    pool = _pool(lv, connection, str(path.parent), command)
    pool.refresh(0)
    free = int(pool.info()[FREE_BYTES])
    if free < command.capacity_bytes:
        raise RefusedError(
            f"{path.parent} of {command.host} has {bytes_text(free)} free, "
            f"{path.name} may need {bytes_text(command.capacity_bytes)}"
        )
    if (found := _volume(lv, connection, str(path))) is not None:
        raise RefusedError(_in_the_way(command, int(found.info()[1])))
    compat = "<compat>1.1</compat>" if command.format == "qcow2" else ""
    xml = (
        f"<volume><name>{escape(path.name)}</name>"
        f"<capacity unit='bytes'>{command.capacity_bytes}</capacity>"
        "<allocation unit='bytes'>0</allocation>"
        f"<target><format type='{escape(command.format)}'/>{compat}</target></volume>"
    )
    try:
        pool.createXML(xml, 0)
    except lv.libvirtError as error:
        if error.get_error_code() == VOLUME_EXISTS:
            raise RefusedError(_in_the_way(command, None)) from error
        raise


def _in_the_way(command: CreateDisk, size_bytes: int | None) -> str:
    size = "" if size_bytes is None else f" ({bytes_text(size_bytes)})"
    return (
        f"{command.path}{size} is on {command.host} already, and is not written to. If it is what "
        "an earlier move of this VM left behind, delete it there: "
        f"virsh vol-delete {command.path}"
    )


def remove(lv: Any, connection: Any, command: RemoveDisk) -> None:  # noqa: ANN401
    """Delete a file that no VM of its host names; that it is gone already is as good."""
    if users := sorted(_users(connection, command.path)):
        raise RefusedError(f"{command.path} belongs to {', '.join(users)} on {command.host}")
    pool = _pool(lv, connection, str(PurePosixPath(command.path).parent), command)
    pool.refresh(0)
    volume = _volume(lv, connection, command.path)
    if volume is not None:
        volume.delete(0)


def _users(connection: Any, path: str) -> Iterator[str]:  # noqa: ANN401
    """Yield the VMs of a host whose definitions name a file, backing images included."""
    for domain in connection.listAllDomains(0):
        tree = ET.fromstring(domain.XMLDesc(0))
        named = {source.get("file") for source in tree.iter("source")}
        volumes = {source.get("volume") for source in tree.iter("source")}
        if path in named or PurePosixPath(path).name in volumes:
            yield str(domain.name())


def _pool(
    lv: Any,  # noqa: ANN401
    connection: Any,  # noqa: ANN401
    folder: str,
    command: CreateDisk | RemoveDisk,
) -> Any:  # noqa: ANN401
    for pool in connection.listAllStoragePools(lv.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        tree = ET.fromstring(pool.XMLDesc(0))
        if tree.get("type") in OF_FILES and _is_at(tree, folder):
            return pool
    raise RefusedError(f"{command.host} has no active storage pool for {folder}")


def _is_at(pool: ET.Element, folder: str) -> bool:
    return PurePosixPath(pool.findtext("target/path") or "/") == PurePosixPath(folder)


def _volume(lv: Any, connection: Any, path: str) -> Any | None:  # noqa: ANN401
    try:
        return connection.storageVolLookupByPath(path)
    except lv.libvirtError as error:
        if error.get_error_code() != NO_STORAGE_VOL:
            raise
    return None
