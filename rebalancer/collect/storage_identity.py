"""Which storage a disk is on, told so that two hosts mean the same by it.

A pool's name says nothing: `default` is a folder of its own on every host. Storage is shared
when its source is on the network; it is then called by that source. What an operator has told
(`LibvirtHost.storage`: a name and the path below which it is mounted) comes before what the
pools say. Everything else is local to its host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from xml.etree import ElementTree as ET

from rebalancer.collect.xml_text import attribute, byte_count, parse, text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A storage pool of one host."""

    name: str
    path: str | None
    """Where its volumes appear on the host."""
    identity: str | None
    """What all hosts would call it; `None`: it is the host's own."""
    target_name: str | None = None
    """Of an iSCSI pool: the name by which its devices are told from those of others."""
    free_bytes: int | None = None
    """Of a folder of files: what can still be put there, as of its last refresh."""
    files: frozenset[str] = frozenset()
    """Of such a folder: the names of what is in it, as of then."""


def read_pool(xml: str) -> Pool:
    """Read a storage pool's XML; raise `UnreadableXmlError` when it is none."""
    pool = parse(xml)
    return Pool(
        name=text_of(pool, "name") or "",
        path=text_of(pool, "target/path"),
        identity=_pool_identity(pool),
        target_name=attribute(pool, "source/device", "path")
        if pool.get("type") == "iscsi"
        else None,
        free_bytes=_available_bytes(pool) if pool.get("type") in _OF_FILES else None,
    )


_OF_FILES = frozenset({"dir", "fs"})
"""Types of pools whose volumes are files of the host's own."""


def _available_bytes(pool: ET.Element) -> int | None:
    available = pool.find("available")
    return None if available is None else byte_count(available)


def local_folders(
    pools: Iterable[Pool] | None, configured: Mapping[str, str]
) -> Mapping[str, int] | None:
    """Return what is free in the folders of a host's own that a pool is active for, by path.

    `None` when the host does not tell its pools.
    """
    if pools is None:
        return None
    listed = tuple(pools)
    return {
        str(PurePosixPath(pool.path)): pool.free_bytes
        for pool in listed
        if pool.path is not None
        and pool.free_bytes is not None
        and storage_of_path(pool.path, configured, listed) is None
    }


def files_at(paths: Iterable[str], pools: Iterable[Pool] | None) -> frozenset[str]:
    """Return which of these paths are files in the pools of a host, as far as it tells."""
    folders: dict[PurePosixPath, frozenset[str]] = {
        PurePosixPath(pool.path): pool.files for pool in pools or () if pool.path and pool.files
    }
    if not folders:
        return frozenset()
    return frozenset(
        path
        for path in paths
        if PurePosixPath(path).name in folders.get(PurePosixPath(path).parent, frozenset())
    )


def _pool_identity(pool: ET.Element) -> str | None:
    source = pool.find("source")
    if source is None:
        return None
    hosts, name = _hosts(source), text_of(source, "name") or ""
    folder = attribute(source, "dir", "path") or ""
    match pool.get("type"):
        case "netfs":
            protocol = attribute(source, "format", "type") or "nfs"
            protocol = "nfs" if protocol == "auto" else protocol
            return f"{protocol}:{hosts}:{folder}"
        case "rbd" | "gluster" | "sheepdog" | "vstorage" as protocol:
            return _named(protocol, hosts, name)
        case "iscsi" | "iscsi-direct":
            return _named("iscsi", hosts, attribute(source, "device", "path") or "")
    return None


def network_identity(source: ET.Element) -> str:
    """Return what to call the storage of a disk that is reached through a network protocol."""
    protocol, name = source.get("protocol") or "network", source.get("name") or ""
    # What comes first is the pool, volume or target; the rest is the image in it.
    container = name.partition("/")[0] if protocol in {"rbd", "gluster", "iscsi"} else ""
    return _named(protocol, _hosts(source), container)


def _named(protocol: str, hosts: str, name: str) -> str:
    return f"{protocol}:{'/'.join(part for part in (hosts, name) if part)}"


def _hosts(source: ET.Element) -> str:
    """Return the servers in one order: monitors are listed in any."""
    names = sorted({host.get("name") or host.get("socket") or "" for host in source.iter("host")})
    return ",".join(name for name in names if name)


def storage_of_path(path: str, configured: Mapping[str, str], pools: Iterable[Pool]) -> str | None:
    """Return the shared storage that `path` lies on; `None` when it is the host's own.

    The innermost of several mounts decides; what is configured, before what libvirt knows.
    """
    for places in (configured.items(), _places(pools, path)):
        inside = [(len(PurePosixPath(place).parts), name) for name, place in places
                  if _is_inside(path, place)]  # fmt: skip
        if inside:
            return max(inside)[1] or None
    return None


def _places(pools: Iterable[Pool], path: str) -> Iterator[tuple[str, str]]:
    """Yield identity (empty for local) and path of the pools that `path` could be in."""
    for pool in pools:
        # All iSCSI pools show their devices in one folder, with the target's name in theirs.
        if pool.path and (pool.target_name is None or pool.target_name in path):
            yield pool.identity or "", pool.path


def _is_inside(path: str, folder: str) -> bool:
    return PurePosixPath(folder) in PurePosixPath(path).parents or path == folder
