"""What libvirt answers when it is asked for a migration, or about one that is under way.

How a migration then goes is in `migration`. Error numbers are libvirt's.
"""

from __future__ import annotations

from rebalancer.cluster.compatibility import misfits
from rebalancer.cluster.inventory import Vm, VmId
from rebalancer.rollout.driver import (
    Abort,
    Failed,
    Migrate,
    ReadProgress,
    Reply,
    Returned,
    SetBandwidth,
    SetMaxDowntime,
    SwitchToPostCopy,
)
from rebalancer.simulation import disk_files
from rebalancer.simulation.calls import Call, ErrorCode, failure
from rebalancer.simulation.faults import Stage
from rebalancer.simulation.hosts import Domain, SimulatedHost
from rebalancer.simulation.migration import SimulatedMigration, SimulatedWorld


def migrate(world: SimulatedWorld, call: Call, command: Migrate, domain: Domain) -> Reply | None:
    """Begin a migration, or refuse to. `None`: the answer comes when it ends."""
    refusal = _refusal(world, command, domain)
    if refusal is not None:
        return refusal
    if world.is_cut(command.host, command.target):
        error = failure(
            ErrorCode.SYSTEM_ERROR,
            f"unable to connect to server at '{command.target}:16509': No route to host",
        )
        world.schedule(world.timings.connect_seconds, lambda: call.give(error))
        return None
    world.begin_migration(SimulatedMigration(world, command, call))
    return None


def _refusal(world: SimulatedWorld, command: Migrate, domain: Domain) -> Failed | None:
    """Return why source or target will not even begin."""
    source, target = world.hosts[command.host], world.hosts[command.target]
    vm = world.guests[command.vm].vm
    if source is target:
        return failure(ErrorCode.INTERNAL, "Attempt to migrate guest to the same host")
    if domain.process is None:
        return failure(ErrorCode.OPERATION_INVALID, "domain is not running")
    if domain.job is not None:
        return busy(domain)
    if vm.blockers:
        return failure(ErrorCode.OPERATION_INVALID, f"cannot migrate domain: {vm.blockers[0]}")
    if stays := disk_files.why_not_copied(world, command, vm):
        return stays
    if reasons := misfits(vm, source.facts, target.facts, copies_disks=bool(command.disks)):
        return failure(ErrorCode.CONFIG_UNSUPPORTED, f"unsupported configuration: {reasons[0]}")
    if short := _short_of_devices(world, target, vm):
        return short
    if clash := name_clash(world, target, command.vm):
        return clash
    if not world.fits(target, vm.memory_bytes):
        return failure(
            ErrorCode.INTERNAL, "cannot set up guest memory 'pc.ram': Cannot allocate memory"
        )
    return None


def _short_of_devices(world: SimulatedWorld, target: SimulatedHost, vm: Vm) -> Failed | None:
    """A pool gives out a device when QEMU starts, that of a copy that is coming in included."""
    running = [world.guests[other].vm for other, domain in target.domains.items() if domain.process]
    for pool, wanted in vm.devices.items():
        taken = sum(other.devices.get(pool, 0) for other in running)
        if taken + wanted > target.facts.devices.get(pool, 0):
            return failure(
                ErrorCode.INTERNAL, f"network '{pool}' requires exclusive access to interfaces"
            )
    return None


def name_clash(world: SimulatedWorld, target: SimulatedHost, vm: VmId) -> Failed | None:
    """Why a VM cannot be made on a host: it has one that is called so."""
    name = world.guests[vm].vm.name
    if name in target.foreign_names:
        return failure(
            ErrorCode.OPERATION_FAILED,
            f"domain '{name}' already exists with uuid 00000000-0000-4000-8000-000000000000",
        )
    if target.process_of(vm):
        return failure(ErrorCode.OPERATION_FAILED, f"domain '{name}' is already active")
    return None


def busy(domain: Domain) -> Failed:
    """What is said while a job is on a VM."""
    return failure(
        ErrorCode.OPERATION_TIMEOUT,
        f"cannot acquire state change lock (held by job '{domain.job}')",
    )


type Steering = Abort | SetMaxDowntime | SetBandwidth | SwitchToPostCopy | ReadProgress


def steer(world: SimulatedWorld, command: Steering) -> Reply:
    """Change, watch or end a migration that is under way."""
    migration = world.migration_of(command.vm)
    if migration is None or migration.source.id != command.host:
        if isinstance(command, ReadProgress):
            return Returned()
        return failure(ErrorCode.OPERATION_INVALID, "no job is active on the domain")
    match command:
        case ReadProgress():
            return Returned(value=migration.progress())
        case Abort():
            return _abort(migration)
        case SetMaxDowntime():
            migration.set_max_downtime(command.seconds)
        case SetBandwidth():
            migration.bytes_per_second = command.bytes_per_second
            world.rates_changed()
        case SwitchToPostCopy():
            return _switch_to_post_copy(migration)
    return Returned()


def _abort(migration: SimulatedMigration) -> Reply:
    if migration.stage in (Stage.REQUEST, Stage.TRANSFER):
        migration.fail(
            failure(
                ErrorCode.OPERATION_ABORTED,
                "operation aborted: migration out job: canceled by client",
            )
        )
        return Returned()
    if migration.stage is Stage.POST_COPY:
        return failure(ErrorCode.OPERATION_INVALID, "cannot abort migration in post-copy mode")
    return failure(ErrorCode.OPERATION_INVALID, "migration job is already completing")


def _switch_to_post_copy(migration: SimulatedMigration) -> Reply:
    if not migration.command.post_copy:
        return failure(
            ErrorCode.OPERATION_INVALID,
            "switching to post-copy requires migration to be started with VIR_MIGRATE_POSTCOPY",
        )
    if migration.stage is not Stage.TRANSFER:
        return failure(
            ErrorCode.INTERNAL, "Enable postcopy with migrate_set_capability before the start"
        )
    migration.switch_to_post_copy()
    return Returned()
