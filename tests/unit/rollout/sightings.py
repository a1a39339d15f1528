"""What hosts say of a VM, in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rebalancer.cluster.inventory import HostId, VmId, VmState
from rebalancer.rollout.sightings import (
    Absent,
    DomainView,
    HostView,
    JobKind,
    Sighting,
    StateReason,
    Unreachable,
)
from tests.builders import GIB, NOON

ABSENT = Absent()
SILENT = Unreachable(why="no route to host")


def a_view(
    state: VmState = VmState.RUNNING,
    reason: StateReason = StateReason.OTHER,
    job: JobKind | None = None,
    **changed: Any,
) -> DomainView:
    """A persistent VM of 4 GiB that runs."""
    facts: dict[str, Any] = {"persistent": True, "memory_bytes": 4 * GIB, "autostart": False}
    return DomainView(state=state, reason=reason, job=job, **(facts | changed))


def running(reason: StateReason = StateReason.OTHER, **changed: Any) -> DomainView:
    """Its CPUs run there."""
    return a_view(VmState.RUNNING, reason, **changed)


def paused(reason: StateReason = StateReason.MIGRATION, **changed: Any) -> DomainView:
    """It has a process there that stands still."""
    return a_view(VmState.PAUSED, reason, **changed)


def defined(reason: StateReason = StateReason.OTHER, **changed: Any) -> DomainView:
    """Only its definition is there."""
    return a_view(VmState.SHUTOFF, reason, **changed)


def a_sighting(
    source: HostView, target: HostView, *, others: Mapping[str, HostView] | None = None
) -> Sighting:
    """What h1, h2 and perhaps others say."""
    views: dict[HostId, HostView] = {HostId("h1"): source, HostId("h2"): target}
    views |= {HostId(name): view for name, view in (others or {}).items()}
    return Sighting(vm=VmId("vm1"), views=views, seen_at=NOON)
