"""The files that local disks are in, on every simulated host: made, found in the way, deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebalancer.cluster.inventory import HostId, Vm
from rebalancer.rollout.disk_files import why_not_remove
from rebalancer.rollout.driver import CreateDisk, Failed, Migrate, RemoveDisk, Reply, Returned
from rebalancer.simulation.calls import ErrorCode, failure

if TYPE_CHECKING:
    from rebalancer.simulation.datacentre import Datacentre


def create(world: Datacentre, command: CreateDisk) -> Reply:
    """Make an empty file, as a driver asks its target's libvirt to."""
    host = world.hosts[command.host].facts
    if (command.host, command.path) in world.disk_files:
        return failure(
            ErrorCode.OPERATION_INVALID,
            f"refused: {command.path} is on {command.host} already, and is not written to",
        )
    folder = command.path.rpartition("/")[0]
    free = (host.disk_pools or {}).get(folder)
    if free is None:
        return failure(
            ErrorCode.OPERATION_INVALID,
            f"refused: {command.host} has no active storage pool for {folder}",
        )
    taken = sum(
        size
        for (other, path), size in world.made_files.items()
        if other == command.host and path.rpartition("/")[0] == folder
    )
    if free - taken < command.capacity_bytes:
        return failure(ErrorCode.OPERATION_INVALID, f"refused: {folder} has too little room")
    world.disk_files.add((command.host, command.path))
    world.made_files[command.host, command.path] = command.capacity_bytes
    return Returned()


def remove(world: Datacentre, command: RemoveDisk) -> Reply:
    """Delete a file, after the looks that the real driver takes."""
    there = world.hosts[command.host].view(command.vm)
    kept = world.hosts[command.keep].view(command.vm)
    if against := list(why_not_remove(there, kept)):
        return failure(ErrorCode.OPERATION_INVALID, f"refused: {'; '.join(against)}")
    if world.hosts[command.host].process_of(command.vm) is not None:
        world.record.corrupted.append(
            f"{command.path} of {command.vm} was deleted on {command.host}, where it was active"
        )
    world.disk_files.discard((command.host, command.path))
    world.made_files.pop((command.host, command.path), None)
    return Returned()


def why_not_copied(world: Datacentre, command: Migrate, vm: Vm) -> Failed | None:
    """What a hypervisor says to a migration of a VM whose disks are on its host alone."""
    if not vm.local_disk_bytes:
        return None
    if set(command.disks) != {disk.target for disk in vm.local_disks} or not command.disks:
        return failure(ErrorCode.MIGRATE_UNSAFE, "Migration without shared storage is unsafe")
    if command.post_copy:
        return failure(ErrorCode.OPERATION_INVALID, "post-copy and disks do not go together")
    missing = [
        disk.path for disk in vm.local_disks if (command.target, disk.path) not in world.disk_files
    ]
    if missing:
        return failure(ErrorCode.INTERNAL, f"cannot access storage file '{missing[0]}'")
    return None


def pools_of(world: Datacentre, host: HostId) -> dict[str, int] | None:
    """What is free in each folder of a host by now."""
    pools = world.hosts[host].facts.disk_pools
    if pools is None:
        return None
    free = dict(pools)
    for (other, path), size in world.made_files.items():
        if other == host:
            folder = path.rpartition("/")[0]
            free[folder] = free.get(folder, 0) - size
    return {folder: max(0, left) for folder, left in free.items()}
