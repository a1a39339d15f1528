"""Old disks that VMs left behind, as the journal has them, for whoever looks at a cluster."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from rebalancer.cluster.amounts import bytes_text
from rebalancer.cluster.inventory import HostId, Snapshot
from rebalancer.rollout.left_over_journal import LeftOverJournal
from rebalancer.rollout.left_overs import LeftOver
from rebalancer.service.clock import SystemClock
from rebalancer.service.wording import count_text


def known_left_overs(journal_url: str, cluster: str) -> tuple[LeftOver, ...]:
    """Which old disks must still be where their VMs left them."""
    with LeftOverJournal.open(journal_url, SystemClock()) as journal:
        return journal.left_overs(cluster)


def with_left_overs(snapshot: Snapshot, found: Sequence[LeftOver]) -> Snapshot:
    """Have the hosts tell of old disks, which a pool that nobody refreshed may not list."""
    there: dict[HostId, set[str]] = defaultdict(set)
    for left in found:
        there[left.host].add(left.disk.path)
    if not there:
        return snapshot
    hosts = tuple(
        replace(host, disk_files=host.disk_files | there[host.id]) if host.id in there else host
        for host in snapshot.hosts
    )
    return replace(snapshot, hosts=hosts)


def left_overs_text(found: Sequence[LeftOver]) -> str:
    """Say in one sentence what lies where; empty if nothing does."""
    if not found:
        return ""
    size = bytes_text(sum(left.disk.capacity_bytes for left in found))
    hosts = Counter(left.host for left in found)
    lie = "lies" if len(found) == 1 else "lie"
    return (
        f"{count_text(len(found), 'old disk')} of VMs that moved away, {size}, {lie} on "
        f"{', '.join(sorted(hosts))}: rebalancer leftovers"
    )
