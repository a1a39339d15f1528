"""Old disks through libvirt: what lies in a host's pool, who names it, and deleting it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree as ET

from rebalancer.cluster.inventory import VmId
from rebalancer.rollout.calls import RefusedError
from rebalancer.rollout.left_over_commands import (
    DiskFile,
    LookAtFile,
    NoDiskFile,
    RemoveLeftOver,
)
from rebalancer.rollout.libvirt_disks import pool_for, pools_of_files, vms_that_name, volume_at


def look_at(lv: Any, connection: Any, command: LookAtFile) -> DiskFile | NoDiskFile:  # noqa: ANN401
    """Describe the file at a path, with everything on its host that would miss it."""
    pool = pool_for(lv, connection, str(PurePosixPath(command.path).parent), command.host)
    pool.refresh(0)
    volume = volume_at(lv, connection, command.path)
    if volume is None:
        return NoDiskFile()
    _, capacity, allocation = volume.info()
    tree = ET.fromstring(volume.XMLDesc(0))
    vms = sorted(vms_that_name(lv, connection, command.path), key=lambda vm: vm[1])
    found = tree.find("target/format")
    return DiskFile(
        capacity_bytes=int(capacity),
        allocated_bytes=int(allocation),
        format="" if found is None else found.get("type", ""),
        changed_at=_instant(tree.findtext("target/timestamps/mtime")),
        vms=tuple(VmId(uuid) for uuid, _ in vms),
        users=(*(name for _, name in vms), *_based_on(lv, connection, command.path)),
    )


def remove(lv: Any, connection: Any, command: RemoveLeftOver) -> None:  # noqa: ANN401
    """Delete an old disk, if it is still what it was when it was looked at."""
    look = LookAtFile(vm=command.vm, host=command.host, path=command.path)
    found = look_at(lv, connection, look)
    if isinstance(found, NoDiskFile):
        return
    if found.users:
        raise RefusedError(f"{', '.join(found.users)} on {command.host} would lose {command.path}")
    if found != command.seen:
        raise RefusedError(f"{command.path} on {command.host} is not what it was a moment ago")
    volume = volume_at(lv, connection, command.path)
    if volume is not None:
        volume.delete(0)


def _based_on(lv: Any, connection: Any, path: str) -> Iterator[str]:  # noqa: ANN401
    """Yield images in pools of the host that have this one as their base, in use or not."""
    for pool in pools_of_files(lv, connection):
        pool.refresh(0)  # an image that was made without libvirt is not known to it before
        for volume in pool.listAllVolumes(0):
            base = ET.fromstring(volume.XMLDesc(0)).findtext("backingStore/path")
            if base is not None and PurePosixPath(base) == PurePosixPath(path):
                yield f"image {volume.path()}"


def _instant(seconds: str | None) -> datetime | None:
    """Read a time stamp of libvirt: seconds since 1970, with a fraction."""
    try:
        return None if seconds is None else datetime.fromtimestamp(float(seconds), UTC)
    except (ValueError, OverflowError):
        return None
