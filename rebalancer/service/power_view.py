"""Hosts that rebalancer switched off, as the rest of the program is to see them.

Whoever looks at the cluster is told here which hosts sleep, which are on their way, and which
are quarantined. Nothing in here can switch anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from rebalancer.cluster.inventory import Host, HostId, HostState, Snapshot
from rebalancer.collect.observations import LibvirtHost
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.power_steps import Phase, PowerMark
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings, journal_url


def power_marks(settings: Settings, cluster: str) -> Mapping[HostId, PowerMark]:
    """What the journal says of the hosts that can be switched; looking leaves no file behind."""
    if all(host.power is None for host in settings.hosts):
        return {}
    url = sa.make_url(journal_url(settings))
    is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    if is_file and not Path(str(url.database)).exists():
        return {}
    with PowerJournal.open(journal_url(settings), SystemClock()) as journal:
        return journal.marks(cluster)


def known_asleep(
    hosts: Sequence[LibvirtHost], marks: Mapping[HostId, PowerMark]
) -> tuple[LibvirtHost, ...]:
    """Hosts as they are to be asked: those that sleep are not, and have the size they had.

    Without that, nobody could tell what waking one would bring; and a VM that is shut off would
    count as one that may run there.
    """
    return tuple(_as_asleep(host, marks.get(HostId(host.name))) for host in hosts)


def _as_asleep(host: LibvirtHost, mark: PowerMark | None) -> LibvirtHost:
    if mark is None or mark.phase is not Phase.ASLEEP or host.state is not None:
        return host  # what the operator set goes before
    if mark.size is None:
        return replace(host, state=HostState.ASLEEP)
    return replace(
        host,
        state=HostState.ASLEEP,
        cpu_cores=host.cpu_cores or mark.size.cpu_cores,
        memory_bytes=host.memory_bytes or mark.size.memory_bytes,
        reserved_memory_bytes=(
            mark.size.reserved_memory_bytes
            if host.reserved_memory_bytes is None
            else host.reserved_memory_bytes
        ),
    )


def with_power(
    snapshot: Snapshot, marks: Mapping[HostId, PowerMark], drained: Collection[HostId] = ()
) -> Snapshot:
    """Say of hosts that are not simply awake that nothing is to be placed on them.

    A host that answers is in maintenance then. One that does not stays unknown: it may run VMs.
    One that sleeps and is drained is not to be woken, so it is down.
    """
    if not marks:
        return snapshot
    hosts = tuple(_seen(host, marks.get(host.id), drained) for host in snapshot.hosts)
    return replace(snapshot, hosts=hosts)


def _seen(host: Host, mark: PowerMark | None, drained: Collection[HostId]) -> Host:
    if mark is None:
        return host
    why = f": {mark.reason}" if mark.reason else ""
    if mark.phase is Phase.ASLEEP:
        if host.state is not HostState.ASLEEP:
            return host
        if host.id in drained:
            return replace(host, state=HostState.DOWN, state_reason="off, and to be kept empty")
        return replace(host, state_reason=f"since {mark.since:%Y-%m-%d %H:%M} UTC{why}")
    if host.state is HostState.ASLEEP:  # so it may be called elsewhere, and is not sure any more
        return replace(host, state=HostState.UNKNOWN, state_reason=f"{mark.phase}{why}")
    if host.state in (HostState.UP, HostState.DRAINING):
        return replace(host, state=HostState.MAINTENANCE, state_reason=f"{mark.phase}{why}")
    return replace(host, state_reason=f"{mark.phase}{why}; {host.state_reason}".rstrip("; "))
