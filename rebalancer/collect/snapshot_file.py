"""Snapshots as files: what `rebalancer snapshot` writes and `--snapshot` reads.

The format for replays, bug reports and hand-made clusters. `snapshot_model` says what the keys
are, `snapshot_faults` what they must agree on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import Host, HugepagePool, NumaNode, Snapshot, UsageHistory, Vm
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.collect.snapshot_faults import misfits
from rebalancer.collect.snapshot_model import SnapshotModel, milliseconds
from rebalancer.errors import InvalidFileError
from rebalancer.files import Document, open_json, write_text
from rebalancer.files.tree import Tree

type _Noun = Host | Vm | Site | Link | Rack | NumaNode | HugepagePool | LocalDisk


def read_snapshot(path: Path | str) -> Snapshot:
    """Read a snapshot file; raise `InvalidFileError` with everything that is wrong in it."""
    document = open_json(path)
    try:
        model = document.read(SnapshotModel)
    except InvalidFileError as error:
        raise _with_misfits(document, error) from None
    if found := [document.fault(*misfit) for misfit in misfits(document.tree)]:
        raise InvalidFileError(found)
    return model.snapshot()


def write_snapshot(snapshot: Snapshot, path: Path | str) -> None:
    """Write a snapshot file, or leave the one that is there as it was."""
    write_text(path, _text(snapshot_to_json(snapshot)), what="the snapshot")


def snapshot_to_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return what a snapshot file of `snapshot` holds; unknown and empty values are left out."""
    tree: dict[str, Tree] = {
        "schema_version": 1,
        "cluster": snapshot.cluster,
        "taken_at": _instant(snapshot.taken_at),
        "sites": [_site(site) for site in snapshot.sites],
        "links": [_entry(link) for link in snapshot.links],
        "racks": [_entry(rack) for rack in snapshot.racks],
        "hosts": [_entry(host) for host in snapshot.hosts],
        "vms": [_entry(vm) for vm in snapshot.vms],
    }
    return tree | ({"usage": _usage(snapshot.usage)} if snapshot.usage else {})


class SnapshotFile:
    """A cluster that is read from a file, as often as it is observed."""

    def __init__(self, path: Path | str) -> None:
        """Take the path; the file is not looked at yet."""
        self._path = path

    def observe(self) -> Snapshot:
        """Read the file; raises `InvalidFileError` when it cannot be used."""
        return read_snapshot(self._path)


def _with_misfits(document: Document, error: InvalidFileError) -> InvalidFileError:
    """Add what the model cannot find, unless reading was given up already."""
    if error.stopped_early:
        return error
    told = {fault.where for fault in error.faults}
    found = [document.fault(*misfit) for misfit in misfits(document.tree)]
    return InvalidFileError([*error.faults, *(f for f in found if f.where not in told)])


def _text(tree: Mapping[str, Tree]) -> Iterator[str]:
    """Yield the file in pieces, one entry of a list a line: it stays readable, and diffs."""
    yield "{"
    for count, (key, value) in enumerate(tree.items()):
        yield f"{',' if count else ''}\n{json.dumps(key)}: "
        if isinstance(value, list):
            yield from _lines("[]", (_compact(entry) for entry in value))
        elif key == "usage" and isinstance(value, dict):
            yield from _usage_text(value)
        else:
            yield _compact(value)
    yield "\n}\n"


def _usage_text(usage: Mapping[str, Tree]) -> Iterator[str]:
    def pairs(value: Mapping[str, Tree]) -> Iterator[str]:
        return (f"{json.dumps(key)}: {_compact(inner)}" for key, inner in value.items())

    yield "{"
    for count, (key, value) in enumerate(usage.items()):
        yield f"{',' if count else ''}\n{json.dumps(key)}: "
        if isinstance(value, dict):
            yield from _lines("{}", pairs(value))
        else:
            yield _compact(value)
    yield "}"


def _lines(brackets: str, entries: Iterable[str]) -> Iterator[str]:
    yield brackets[0]
    for count, entry in enumerate(entries):
        yield f"{',' if count else ''}\n  {entry}"
    yield brackets[1]


def _compact(value: Tree) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _entry(noun: _Noun) -> dict[str, Tree]:
    """Return a noun whose fields are named like the file's keys."""
    return {
        field.name: _plain(value)
        for field in fields(noun)
        if _says_something(value := getattr(noun, field.name), field.default)
    }


def _says_something(value: object, default: object) -> bool:
    """Empty is not the same as unknown: only where it is the default it may be left out."""
    is_empty = isinstance(value, str | tuple | frozenset | Mapping) and not value
    return value is not None and not (is_empty and default is not None)


def _plain(value: object) -> Tree:
    match value:
        case StrEnum():
            return value.value
        case None | str() | int() | float():
            return value
        case Mapping():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case frozenset():
            return sorted(value)
        case tuple():
            return [_plain(inner) for inner in value]
        case NumaNode() | HugepagePool() | LocalDisk():
            return _entry(value)
        case _:
            raise TypeError(f"{value!r} has no place in a snapshot file")


def _site(site: Site) -> dict[str, Tree]:
    tree = _entry(site)
    if tree.pop("latency_seconds", None):
        latencies = site.latency_seconds.items()
        tree["latency_ms"] = {to: milliseconds(seconds) for to, seconds in latencies}
    return tree


def _usage(usage: UsageHistory) -> dict[str, Tree]:
    return {
        "start": _instant(usage.start),
        "interval_seconds": usage.interval_seconds,
        "vm_cpu_cores": {vm: _series(array) for vm, array in usage.vm_cpu_cores.items()},
        "host_cpu_cores": {host: _series(array) for host, array in usage.host_cpu_cores.items()},
    }


def _series(array: NDArray[np.float64]) -> Tree:
    return [None if isnan(value) else value for value in array.tolist()]


def _instant(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
