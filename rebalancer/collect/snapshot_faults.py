"""What can be wrong with a snapshot file although each value in it is right by itself.

Works on what the file holds before it is checked against its model, so that one look at a bad
file tells everything. A value of the wrong type is not told here: the model does that.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from rebalancer.cluster.inventory import HostState
from rebalancer.files.tree import Path, Tree

_MAY_BE_EMPTY = {HostState.UNKNOWN, HostState.ASLEEP, HostState.DOWN, HostState.MAINTENANCE}
"""Hosts of whom nobody may have been able to find out what they have."""

_MOST_SUGGESTIONS = 20
"""Looking for similar names takes milliseconds, and a file may be wrong 20,000 times."""

CLOCKS_APART = timedelta(minutes=5)
"""What samples some machine took may lie after `taken_at`, which is by the clock of another."""


class Misfit(NamedTuple):
    """A value that does not go with the others, and its place in the file."""

    path: Path
    problem: str
    expected: str = ""


def misfits(tree: Tree) -> Iterator[Misfit]:
    """Yield everything in which the entries of a snapshot contradict themselves or each other."""
    yield from _unnamed(tree)
    for section in ("sites", "links", "racks"):
        yield from _repeated(tree, section, "name")
    for section in ("hosts", "vms"):
        yield from _repeated(tree, section, "id", "name")
    yield from _same_host_names(tree)
    yield from _homeless_vms(tree)
    yield from _unknown_sites(tree)
    for path, host in _entries(tree, "hosts"):
        yield from _impossible_host(path, host)
    yield from _uneven_history(tree)
    yield from _history_to_come(tree)


def _entries(tree: Tree, section: str) -> Iterator[tuple[Path, dict[str, Tree]]]:
    found = tree.get(section) if isinstance(tree, dict) else None
    for index, entry in enumerate(found if isinstance(found, list) else ()):
        if isinstance(entry, dict):
            yield (section, index), entry


def _first(entry: dict[str, Tree], *keys: str) -> Tree:
    """Return the value of the first of `keys` that has one."""
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _names(tree: Tree, section: str, *keys: str) -> set[str]:
    found = (_first(entry, *keys) for _, entry in _entries(tree, section))
    return {name for name in found if isinstance(name, str)}


def _unnamed(tree: Tree) -> Iterator[Misfit]:
    for section in ("hosts", "vms"):
        for path, entry in _entries(tree, section):
            if _first(entry, "id", "name") is None:
                yield Misfit((*path, "id"), "this key is missing", "expected an id or a name")


def _repeated(tree: Tree, section: str, *keys: str) -> Iterator[Misfit]:
    seen: dict[str, int] = {}
    for path, entry in _entries(tree, section):
        name = _first(entry, *keys)
        if not isinstance(name, str):
            continue
        key = keys[0] if entry.get(keys[0]) is not None else keys[-1]
        if name in seen:
            yield Misfit((*path, key), f'"{name}" is taken by {section}[{seen[name]}] already')
        else:
            seen[name] = int(path[1])


def _same_host_names(tree: Tree) -> Iterator[Misfit]:
    """Find what `drain NAME` would be unclear about; VMs may well share a name."""
    seen: dict[str, int] = {}
    for path, host in _entries(tree, "hosts"):
        name, identity = _first(host, "name", "id"), _first(host, "id", "name")
        if not isinstance(name, str):
            continue
        if name in seen and name != identity:
            yield Misfit((*path, "name"), f'"{name}" is the name of hosts[{seen[name]}] too')
        seen.setdefault(name, int(path[1]))


def _homeless_vms(tree: Tree) -> Iterator[Misfit]:
    known = _names(tree, "hosts", "id", "name")
    suggested = 0
    for path, vm in _entries(tree, "vms"):
        host = vm.get("host")
        if isinstance(host, str) and host not in known:
            near = suggested < _MOST_SUGGESTIONS and difflib.get_close_matches(host, known, n=1)
            suggested += 1
            hint = f'did you mean "{near[0]}"?' if near else "expected the id of one of the hosts"
            yield Misfit((*path, "host"), f'"{host}" is not among the hosts', hint)


def _unknown_sites(tree: Tree) -> Iterator[Misfit]:
    """Sites need not be listed, but once some are, the others are taken for misspelt."""
    listed = _names(tree, "sites", "name")
    of_hosts = _names(tree, "hosts", "site")
    for path, host in _entries(tree, "hosts"):
        site = host.get("site")
        if listed and isinstance(site, str) and site not in listed:
            yield Misfit((*path, "site"), f'"{site}" is not among the sites')
    for path, link in _entries(tree, "links"):
        ends = link.get("between")
        if not isinstance(ends, list):
            continue
        for index, end in enumerate(ends):
            if isinstance(end, str) and end not in listed | of_hosts:
                yield Misfit((*path, "between", index), f'"{end}" is not among the sites')
        if len(ends) == 2 and ends[0] == ends[1]:
            yield Misfit((*path, "between"), "both ends are the same site")


def _impossible_host(path: Path, host: dict[str, Tree]) -> Iterator[Misfit]:
    if host.get("state", HostState.UP) not in _MAY_BE_EMPTY:
        for key in ("cpu_cores", "memory_bytes"):
            if _number(host.get(key)) == 0:
                yield Misfit((*path, key), "a host that works has more than none")
    if _exceeds(host, "reserved_memory_bytes", "memory_bytes"):
        yield Misfit((*path, "reserved_memory_bytes"), "is more than the host's memory")
    if _exceeds(host, "idle_watts", "max_watts"):
        yield Misfit((*path, "idle_watts"), "is more than max_watts")
    for pool_path, pool in _entries(host, "hugepages"):
        if _exceeds(pool, "free_pages", "total_pages"):
            yield Misfit((*path, *pool_path, "free_pages"), "is more than total_pages")


def _exceeds(entry: dict[str, Tree], key: str, limit: str) -> bool:
    value, most = _number(entry.get(key)), _number(entry.get(limit))
    return value is not None and most is not None and value > most


def _number(value: Tree) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _uneven_history(tree: Tree) -> Iterator[Misfit]:
    usage = tree.get("usage") if isinstance(tree, dict) else None
    length: int | None = None
    for key, section in (("vm_cpu_cores", "vms"), ("host_cpu_cores", "hosts")):
        known = _names(tree, section, "id", "name")
        series_by_id = usage.get(key) if isinstance(usage, dict) else None
        for name, series in (series_by_id if isinstance(series_by_id, dict) else {}).items():
            path = ("usage", key, name)
            if name not in known:
                yield Misfit(path, f"this is not among the {section}")
            if not isinstance(series, list):
                continue
            length = len(series) if length is None else length
            if len(series) != length:
                problem = f"{len(series)} samples"
                yield Misfit(path, problem, f"expected {length}, as in the first series")


def _history_to_come(tree: Tree) -> Iterator[Misfit]:
    """Find past use that is not past: forecasts would be made of another time than the present."""
    usage = tree.get("usage") if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or not isinstance(usage, dict):
        return
    taken_at, start = _instant(tree.get("taken_at")), _instant(usage.get("start"))
    interval_seconds = _number(usage.get("interval_seconds"))
    if taken_at is None or start is None or interval_seconds is None:
        return
    by_ids = (usage.get("vm_cpu_cores"), usage.get("host_cpu_cores"))
    series = (
        one
        for by_id in by_ids
        if isinstance(by_id, dict)
        for one in by_id.values()
        if isinstance(one, list)
    )
    samples = max(map(len, series), default=0)
    last_seconds = (samples - 1) * interval_seconds
    left = (taken_at + CLOCKS_APART - start).total_seconds()
    if samples and last_seconds > left:
        over = last_seconds - left + CLOCKS_APART.total_seconds()
        problem = f"its last sample is {over:.0f} s after taken_at, {taken_at.isoformat()}"
        yield Misfit(("usage", "start"), problem, "past use has to end when the snapshot is taken")


def _instant(value: Tree) -> datetime | None:
    """Read an instant; `None` for what is none, or has no time zone."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return instant if instant is not None and instant.tzinfo is not None else None
