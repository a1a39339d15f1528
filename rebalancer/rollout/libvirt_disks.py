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
from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.calls import NO_DOMAIN, RefusedError
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
    pool = pool_for(lv, connection, str(path.parent), command.host)
    pool.refresh(0)
    free = int(pool.info()[FREE_BYTES])
    if free < command.capacity_bytes:
        raise RefusedError(
            f"{path.parent} of {command.host} has {bytes_text(free)} free, "
            f"{path.name} may need {bytes_text(command.capacity_bytes)}"
        )
    if (found := volume_at(lv, connection, str(path))) is not None:
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
        "an earlier move of this VM left behind (`rebalancer leftovers` tells), have it deleted: "
        "rebalancer leftovers --remove --yes"
    )


def remove(lv: Any, connection: Any, command: RemoveDisk) -> None:  # noqa: ANN401
    """Delete a file that no VM of its host names; that it is gone already is as good."""
    if users := sorted(name for _, name in vms_that_name(lv, connection, command.path)):
        raise RefusedError(f"{command.path} belongs to {', '.join(users)} on {command.host}")
    pool = pool_for(lv, connection, str(PurePosixPath(command.path).parent), command.host)
    pool.refresh(0)
    volume = volume_at(lv, connection, command.path)
    if volume is not None:
        volume.delete(0)


def vms_that_name(lv: Any, connection: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Yield UUID and name of a host's VMs whose definitions name a file, as a base included.

    Both what a VM runs with counts, and what it would have from its next start on.
    """
    for domain in connection.listAllDomains(0):
        try:
            texts = {domain.XMLDesc(flags) for flags in (0, lv.VIR_DOMAIN_XML_INACTIVE)}
        except lv.libvirtError as error:
            if error.get_error_code() == NO_DOMAIN:
                continue  # it has just gone
            raise
        if any(_names(ET.fromstring(text), PurePosixPath(path)) for text in texts):
            yield str(domain.UUIDString()), str(domain.name())


def _names(definition: ET.Element, path: PurePosixPath) -> bool:
    sources = list(definition.iter("source"))
    files = (source.get("file") for source in sources)
    is_named = any(PurePosixPath(file) == path for file in files if file)
    return is_named or path.name in {source.get("volume") for source in sources}


def pool_for(lv: Any, connection: Any, folder: str, host: HostId) -> Any:  # noqa: ANN401
    """Find the active pool for a folder; `RefusedError` if the host has none."""
    for pool in pools_of_files(lv, connection):
        path = ET.fromstring(pool.XMLDesc(0)).findtext("target/path") or "/"
        if PurePosixPath(path) == PurePosixPath(folder):
            return pool
    raise RefusedError(f"{host} has no active storage pool for {folder}")


def pools_of_files(lv: Any, connection: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield a host's active pools whose volumes are files."""
    for pool in connection.listAllStoragePools(lv.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        if ET.fromstring(pool.XMLDesc(0)).get("type") in OF_FILES:
            yield pool


def volume_at(lv: Any, connection: Any, path: str) -> Any | None:  # noqa: ANN401
    """Find what a pool has at a path, as of its last refresh; `None` if there is nothing."""
    try:
        return connection.storageVolLookupByPath(path)
    except lv.libvirtError as error:
        if error.get_error_code() != NO_STORAGE_VOL:
            raise
    return None
