"""Finding the VM or host that somebody means by a name, or saying which ones they may mean."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from rebalancer.cluster.inventory import Host, Snapshot, Vm
from rebalancer.errors import UsageError

NAMES_SHOWN = 8


def vm_called(snapshot: Snapshot, name: str) -> Vm:
    """Find the one VM with this id or name; raise `UsageError` with near ones if there is none."""
    return _the_one("VM", snapshot.cluster, name, snapshot.vms)


def host_called(snapshot: Snapshot, name: str) -> Host:
    """Find the one host with this id or name; raise `UsageError` with near ones."""
    return _the_one("host", snapshot.cluster, name, snapshot.hosts)


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
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        hint = f"it has {', '.join(names[:NAMES_SHOWN]) or 'none'}{more}"
    raise UsageError(f"no {kind} called {name} in cluster {cluster}; {hint}")


def _near(name: str, names: Sequence[str]) -> list[str]:
    """Names that were meant perhaps: those that are written alike, then those that contain it."""
    lowered = {one.lower(): one for one in reversed(names)}
    alike = get_close_matches(name.lower(), lowered, n=NAMES_SHOWN, cutoff=0.6)
    containing = [one for one in lowered if name and name.lower() in one and one not in alike]
    return [lowered[one] for one in (*alike, *sorted(containing))][:NAMES_SHOWN]
