"""The files that local disks are in, on every simulated host: made, found in the way, deleted."""

from __future__ import annotations

from datetime import UTC, datetime

from rebalancer.cluster.inventory import HostId, Vm
from rebalancer.rollout.disk_files import why_not_remove
from rebalancer.rollout.driver import CreateDisk, Failed, Migrate, RemoveDisk, Reply, Returned
from rebalancer.rollout.left_over_commands import (
    DiskFile,
    LookAtFile,
    NoDiskFile,
    RemoveLeftOver,
)
from rebalancer.rollout.left_overs import why_not_remove_now
from rebalancer.simulation.calls import ErrorCode, failure
from rebalancer.simulation.migration import SimulatedWorld


def create(world: SimulatedWorld, command: CreateDisk) -> Reply:
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


def remove(world: SimulatedWorld, command: RemoveDisk) -> Reply:
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


LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""When a file was written to last that no guest has open; the simulation keeps no such times."""


def look_at(world: SimulatedWorld, command: LookAtFile) -> Reply:
    """Describe a file, and who has it in use."""
    if (command.host, command.path) not in world.disk_files:
        return Returned(value=NoDiskFile())
    owners = [
        (guest.vm, disk)
        for guest in world.guests.values()
        for disk in guest.vm.local_disks
        if disk.path == command.path
    ]
    here = world.hosts[command.host]
    at_work = [vm for vm, _ in owners if here.process_of(vm.id) is not None]
    described = owners[0][1] if owners else None
    size = world.made_files.get((command.host, command.path))
    if described is not None:
        size = described.capacity_bytes
    return Returned(
        value=DiskFile(
            capacity_bytes=size or 0,
            allocated_bytes=size or 0,
            format=described.format if described is not None else "qcow2",
            changed_at=world.now if at_work else LONG_AGO,
            vms=tuple(vm.id for vm in at_work),
            users=tuple(vm.name for vm in at_work),
        )
    )


def remove_left_over(world: SimulatedWorld, command: RemoveLeftOver) -> Reply:
    """Delete an old disk, after the looks that the real driver takes."""
    there = world.hosts[command.host].view(command.vm)
    kept = world.hosts[command.keep].view(command.vm)
    if against := list(why_not_remove_now(there, kept)):
        return failure(ErrorCode.OPERATION_INVALID, f"refused: {'; '.join(against)}")
    world.disk_files.discard((command.host, command.path))
    world.made_files.pop((command.host, command.path), None)
    return Returned()


def why_not_copied(world: SimulatedWorld, command: Migrate, vm: Vm) -> Failed | None:
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


def in_the_way(world: SimulatedWorld, host: HostId) -> frozenset[str]:
    """Files of a host that have the paths of disks which guests elsewhere have."""
    elsewhere = {
        disk.path
        for guest in world.guests.values()
        if world.hosts[host].process_of(guest.vm.id) is None
        for disk in guest.vm.local_disks
    }
    return frozenset(path for other, path in world.disk_files if other == host) & elsewhere


def pools_of(world: SimulatedWorld, host: HostId) -> dict[str, int] | None:
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
