"""Files with saved memory, on storage that several hosts share, through libvirt alone.

Only this knows where on a host they are. The folder is made by libvirt as a pool of its own, in
which files can be deleted; nothing else is ever done to what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from rebalancer.rollout.calls import RefusedError
from rebalancer.rollout.driver import IMAGE_FOLDER, DiscardImage, Restore, Save

NO_STORAGE_POOL = 49
NO_STORAGE_VOL = 50


def image_folder(folders: Mapping[str, str], command: Save | Restore | DiscardImage) -> str:
    """Where saved memories are on a host; refuse if the host is not said to have that storage."""
    mounted = folders.get(command.storage)
    if mounted is None:
        raise RefusedError(
            f"nobody has configured where storage {command.storage} is on {command.host} "
            "(hosts[].storage)"
        )
    return str(PurePosixPath(mounted) / IMAGE_FOLDER)


def save(lv: Any, connection: Any, domain: Any, folder: str, command: Save) -> None:  # noqa: ANN401
    """Write the memory of a domain to its file, which makes the domain inactive."""
    _pool(lv, connection, folder, command.storage)
    domain.saveFlags(f"{folder}/{command.file}", None, 0)


def restore(lv: Any, connection: Any, folder: str, command: Restore) -> None:  # noqa: ANN401
    """Load the memory that was saved, and let no CPU run."""
    path = f"{folder}/{command.file}"
    of = ET.fromstring(connection.saveImageGetXMLDesc(path, 0)).findtext("uuid")
    if of != command.vm:
        raise RefusedError(f"{path} holds the memory of another VM, {of}")
    connection.restoreFlags(path, None, lv.VIR_DOMAIN_SAVE_PAUSED)


def discard(lv: Any, connection: Any, folder: str, command: DiscardImage) -> None:  # noqa: ANN401
    """Delete the file, if it is there."""
    pool = _pool(lv, connection, folder, command.storage)
    pool.refresh(0)
    try:
        pool.storageVolLookupByName(command.file).delete(0)
    except lv.libvirtError as error:
        if error.get_error_code() != NO_STORAGE_VOL:
            raise


def _pool(lv: Any, connection: Any, folder: str, storage: str) -> Any:  # noqa: ANN401
    """Find the pool of that folder, or make it until libvirtd ends, and the folder with it."""
    name = f"{IMAGE_FOLDER}-{storage}"
    try:
        return connection.storagePoolLookupByName(name)
    except lv.libvirtError as error:
        if error.get_error_code() != NO_STORAGE_POOL:
            raise
    xml = (
        f"<pool type='dir'><name>{escape(name)}</name>"
        f"<target><path>{escape(folder)}</path></target></pool>"
    )
    try:
        return connection.storagePoolCreateXML(xml, lv.VIR_STORAGE_POOL_CREATE_WITH_BUILD)
    except lv.libvirtError:
        return connection.storagePoolLookupByName(name)  # another call was faster
