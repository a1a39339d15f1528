"""The table that a drain begins with, and what its machines read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from rebalancer.cluster.inventory import HostId
from rebalancer.service.drain_outlook import DrainOutlook, Leaving, Way
from rebalancer.service.layout import Block, Cell, Column, Line, Table, Tone
from rebalancer.service.wording import count_text, offset_text, seconds_text

_NOTHING = "–"

_COLUMNS = (
    Column(title="host"),
    Column(title="VM"),
    Column(title="leaves"),
    Column(title="mode"),
    Column(title="to"),
    Column(title="time", right=True),
    Column(title="pause", right=True),
    Column(title="gone at", right=True),
    Column(title="why, and what would help", prose=True),
)


def drain_blocks(outlook: DrainOutlook, names: Mapping[HostId, str]) -> Iterator[Block]:
    """Lay out what becomes of each VM; `names` are what hosts are called."""
    yield Line(text=drain_text(outlook, names), tone=Tone.WARN if outlook.staying else Tone.STRONG)
    if outlook.leaving:
        yield Table(
            title="What becomes of each VM",
            columns=_COLUMNS,
            rows=tuple(_row(one, names) for one in outlook.leaving),
        )


def drain_text(outlook: DrainOutlook, names: Mapping[HostId, str]) -> str:
    """Sum a drain up: `8 VMs on h1: 5 live, 1 with help, 2 stay (db, gpu); empty after 40 s`."""
    hosts = ", ".join(names.get(host, host) for host in outlook.hosts)
    if not outlook.leaving:
        return f"{hosts}: nothing is seen there that would have to leave"
    counts = outlook.counts
    how = [f"{count} {way}" for way, count in counts.items() if way is not Way.STAYS]
    if outlook.staying:
        stay = ", ".join(one.vm_name for one in outlook.staying)
        verb = "stays" if len(outlook.staying) == 1 else "stay"
        how.append(f"{len(outlook.staying)} {verb} ({stay})")
    head = f"{count_text(len(outlook.leaving), 'VM')} on {hosts}: {', '.join(how)}"
    if len(outlook.staying) == len(outlook.leaving):
        return head
    what = "all that can leave has left" if outlook.staying else "empty"
    return (
        f"{head}; {what} after {seconds_text(outlook.ends_seconds)}, "
        f"no guest stands still for longer than {seconds_text(outlook.longest_pause_seconds)}"
        + (f"; that does not begin now: {outlook.waits}" if outlook.waits else "")
    )


def drain_tree(
    outlook: DrainOutlook, left: Mapping[HostId, Sequence[str]] | None = None
) -> dict[str, Any]:
    """The same for machines; with what is `left` on each host once it is over."""
    tree: dict[str, Any] = {
        "hosts": list(outlook.hosts),
        "ends_seconds": outlook.ends_seconds,
        "longest_pause_seconds": outlook.longest_pause_seconds,
        "counts": {str(way): count for way, count in outlook.counts.items()},
        "vms": [
            {field.name: _plain(getattr(one, field.name)) for field in fields(one)}
            for one in outlook.leaving
        ],
    }
    if left is not None:
        tree["left"] = {str(host): list(vms) for host, vms in left.items()}
    return tree


def _plain(value: object) -> object:
    return [str(item) for item in value] if isinstance(value, tuple) else value


def _row(one: Leaving, names: Mapping[HostId, str]) -> tuple[Cell, ...]:
    host = names.get(one.host, one.host)
    if one.way is Way.STAYS or one.finish_seconds is None:
        said = f"{one.why}{f' — would help: {one.unlock}' if one.unlock else ''}"
        return (host, one.vm_name, one.way, *[_NOTHING] * 5, said)
    about = "~" if one.is_guess else ""
    return (
        host,
        one.vm_name,
        one.way,
        ", ".join(one.modes),
        names.get(one.target, one.target) if one.target is not None else _NOTHING,
        about + seconds_text(one.duration_seconds),
        about + seconds_text(one.pause_seconds),
        about + offset_text(one.finish_seconds),
        "" if one.way is Way.LIVE else one.why,
    )
