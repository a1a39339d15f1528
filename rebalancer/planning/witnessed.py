"""What finished migrations say of how fast their guests write: at least so much."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import median

from rebalancer.cluster.inventory import Mode, VmId
from rebalancer.cluster.plan import Migration, MigrationState, Outcome

NEWEST_OF_A_VM = 3
"""Guests change; older migrations say little about what a VM does now."""

_COPYING = frozenset({Mode.LIVE, Mode.AUTO_CONVERGE, Mode.SUSPEND, Mode.POST_COPY})


def written_at_least(past: Iterable[tuple[Migration, Outcome]]) -> Mapping[VmId, float]:
    """Bytes a second that VMs wrote at least while they were migrated, newest migration first.

    What was sent beyond all of its memory was written meanwhile: (sent − memory) / time. It is
    less than what was really written, as zero pages are not sent and what is written twice
    between two rounds is sent once; so it catches a measurement that is far too low, and proves
    none to be right. VMs of which nothing was sent twice are left out.
    """
    found: dict[VmId, list[float]] = defaultdict(list)
    for migration, outcome in past:
        if (rate := _rate(migration, outcome)) and len(found[migration.vm]) < NEWEST_OF_A_VM:
            found[migration.vm].append(rate)
    return {vm: median(rates) for vm, rates in found.items() if rates}


def _rate(migration: Migration, outcome: Outcome) -> float | None:
    if outcome.state is not MigrationState.COMPLETE or migration.mode not in _COPYING:
        return None
    if migration.disks:
        return None  # what was written to them is in it, too
    sent, seconds = outcome.transfer_bytes, outcome.duration_seconds
    if sent is None or not seconds:
        return None
    return max(0.0, sent - migration.memory_bytes) / seconds
