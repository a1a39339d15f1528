"""Finding the VM or host that somebody means by a name, or saying which ones they may mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from rebalancer.cluster.inventory import Host, HostId, Snapshot, Vm
from rebalancer.errors import UsageError

NAMES_SHOWN = 8


def vm_called(snapshot: Snapshot, name: str) -> Vm:
    """Find the one VM with this id or name; raise `UsageError` with near ones if there is none."""
    return _the_one("VM", snapshot.cluster, name, snapshot.vms)


def host_called(snapshot: Snapshot, name: str) -> Host:
    """Find the one host with this id or name; raise `UsageError` with near ones."""
    return _the_one("host", snapshot.cluster, name, snapshot.hosts)


def hosts_called(snapshot: Snapshot, names: Iterable[str]) -> tuple[Host, ...]:
    """Find the hosts with these ids or names, each once; raise `UsageError` that tells of all."""
    found: dict[HostId, Host] = {}
    wrong: list[str] = []
    for name in dict.fromkeys(names):
        try:
            host = host_called(snapshot, name)
            found[host.id] = host
        except UsageError as error:
            wrong.append(str(error))
    if wrong:
        raise UsageError("\n".join(wrong))
    return tuple(found.values())


def _the_one[Thing: (Vm, Host)](
    kind: str, cluster: str, name: str, things: Sequence[Thing]
) -> Thing:
    found = [thing for thing in things if thing.id == name]
    found = found or [thing for thing in things if thing.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(sorted(thing.id for thing in found)[:NAMES_SHOWN])
        raise UsageError(
            f"{len(found)} {kind}s in cluster {cluster} are called {name}; give the id: {ids}"
        )
    names = sorted({thing.name for thing in things})
    if near := _near(name, names):
        hint = f"did you mean {', '.join(near)}?"
    else:
        hint = f"it has {names_text(names)}"
    raise UsageError(f"no {kind} called {name} in cluster {cluster}; {hint}")


def names_text(names: Iterable[str]) -> str:
    """The first of them, and how many more there are: `h1, h2 and 38 more`."""
    known = sorted(names)
    more = f" and {len(known) - NAMES_SHOWN} more" if len(known) > NAMES_SHOWN else ""
    return f"{', '.join(known[:NAMES_SHOWN]) or 'none'}{more}"


def _without_zeros(name: str) -> str:
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", name)


def _near(name: str, names: Sequence[str]) -> list[str]:
    """Names that were meant perhaps: `h01` for `h1`, those written alike, those that contain it."""
    lowered = {one.lower(): one for one in reversed(names)}
    same = [one for one in lowered if _without_zeros(one) == _without_zeros(name.lower())]
    near = get_close_matches(name.lower(), lowered, n=NAMES_SHOWN, cutoff=0.6)
    alike = [*same, *(one for one in near if one not in same)]
    containing = [one for one in lowered if name and name.lower() in one and one not in alike]
    return [lowered[one] for one in (*alike, *sorted(containing))][:NAMES_SHOWN]
