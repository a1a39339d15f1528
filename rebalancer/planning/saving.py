"""Cold without a boot: a guest's memory goes through a file on storage that both hosts reach."""

from __future__ import annotations

from rebalancer.cluster.inventory import Vm, VmState
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.cluster.prediction import Part
from rebalancer.planning.cost import Estimate
from rebalancer.planning.guest import Guest
from rebalancer.planning.network import Path
from rebalancer.planning.parts import ASSUMED_STORAGE, StoragePace
from rebalancer.planning.precopy import WIRE_RATIO

WORTH_RATIO = 5.0
"""A boot loses what the guest had in memory. To keep that it may stand still for so many times as
long as it would be down; beyond, the outage counts for more."""


def storage_for(vm: Vm, path: Path, permissions: MigrationPermissions) -> str:
    """Where `vm` can be saved to on its way; empty if nowhere.

    Both hosts must have said that they reach it: what is not known is not there. A guest that
    stands still already is not saved, nor is one whose definition would be gone with it, or
    whose devices keep its memory from being sent.
    """
    storage = permissions.save_to
    if storage is None or not vm.persistent or vm.state is not VmState.RUNNING or vm.blockers:
        return ""
    hosts = (path.source, path.target)
    return storage if all(storage in (host.storage or ()) for host in hosts) else ""


def saved(
    guest: Guest,
    bytes_per_second: float,
    paces: tuple[StoragePace, StoragePace] = (ASSUMED_STORAGE, ASSUMED_STORAGE),
) -> Estimate:
    """Write the memory, read it back: the guest stands still for 2·M/R + c.

    R is what the policy says of the storage (`migration.save_rate`); others that use it at the
    same time are not in it. `paces`, of writing and reading, are what earlier moves taught of
    it. Nothing goes over the links that migrations share.
    """
    ideal = guest.memory_bytes * WIRE_RATIO / bytes_per_second
    write, read = (pace.span(ideal) for pace in paces)
    pause = write.seconds + read.seconds
    return Estimate(
        duration_seconds=pause,
        duration_upper_seconds=write.upper_seconds + read.upper_seconds,
        downtime_seconds=pause,
        downtime_upper_seconds=write.outage_upper_seconds + read.outage_upper_seconds,
        transfer_bytes=0.0,
        confidence=guest.confidence,
        parts=(write.predicted(Part.SAVE, ideal), read.predicted(Part.RESTORE, ideal)),
    )
