"""What each fault does to the datacentre when it strikes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rebalancer.cluster.inventory import HostId, HostState, VmId, VmState
from rebalancer.rollout.driver import Migrate
from rebalancer.rollout.sightings import JobKind, StateReason
from rebalancer.simulation.calls import CONNECTION_LOST, ErrorCode, failure
from rebalancer.simulation.faults import Fault, FaultKind, Stage
from rebalancer.simulation.migration import SimulatedMigration, SimulatedWorld
from rebalancer.simulation.saved_memory import daemon_restarted

_BROKEN = failure(
    ErrorCode.OPERATION_FAILED,
    "operation failed: job 'migration out' failed: Unable to write to socket: Broken pipe",
)
_MONITOR_CLOSED = failure(
    ErrorCode.INTERNAL, "internal error: qemu unexpectedly closed the monitor"
)
_DAEMON_GONE = failure(ErrorCode.SYSTEM_ERROR, "Cannot recv data: End of file while reading data")

_SOMEBODYS_BYTES_PER_SECOND = 800.0 * 1024 * 1024
"""What other administrators give their migrations."""


def strike(world: SimulatedWorld, fault: Fault, migration: SimulatedMigration | None) -> None:
    """Let `fault` happen now; `migration` is the one that it waited for, if it did."""
    if fault.kind in _ON_NETWORK:
        _cut_or_slow(world, fault, migration)
    elif fault.host is not None and fault.kind in _ON_HOST:
        _strike_host(world, fault, fault.host)
    elif fault.kind in _ON_GUEST:
        _strike_guest(world, fault, migration)
    else:
        _strike_migration(world, fault, _still_going(world, fault, migration))


_ON_NETWORK = (FaultKind.LINK_DROPS, FaultKind.LINK_SLOWS)
_ON_HOST = (
    FaultKind.STALE_DEFINITION,
    FaultKind.HOST_UNREACHABLE,
    FaultKind.HOST_DIES,
    FaultKind.LIBVIRTD_RESTARTS,
    FaultKind.MEMORY_TAKEN,
    FaultKind.HOST_IN_MAINTENANCE,
)
_ON_GUEST = (
    FaultKind.SOURCE_GUEST_DIES,
    FaultKind.DIRTIES_FASTER,
    FaultKind.IO_ERROR,
    FaultKind.BACKUP_RUNS,
    FaultKind.MIGRATED_BY_SOMEBODY,
    FaultKind.SHUT_DOWN_BY_OWNER,
    FaultKind.RE_CREATED,
    FaultKind.MEMORY_GROWS,
)


def _still_going(
    world: SimulatedWorld, fault: Fault, migration: SimulatedMigration | None
) -> SimulatedMigration | None:
    if migration is None and fault.vm is not None:
        migration = world.migration_of(fault.vm)
    return migration if migration is not None and not migration.over else None


def _strike_migration(
    world: SimulatedWorld, fault: Fault, migration: SimulatedMigration | None
) -> None:
    if migration is None:
        return
    early = migration.stage in (Stage.REQUEST, Stage.TRANSFER, Stage.SWITCH_OVER)
    match fault.kind:
        case FaultKind.REFUSE:
            text = fault.text or "operation failed: the target refused the domain"
            migration.fail(failure(fault.code or ErrorCode.OPERATION_FAILED, text))
        case FaultKind.OUT_OF_MEMORY:
            text = "cannot set up guest memory 'pc.ram': Cannot allocate memory"
            migration.fail(failure(ErrorCode.INTERNAL, text))
        case FaultKind.TRANSFER_BREAKS if early:
            migration.fail(_BROKEN)
        case FaultKind.TARGET_QEMU_DIES:
            migration.lose_target(_BROKEN)
        case FaultKind.ABORTED_BY_SOMEBODY if migration.stage is Stage.TRANSFER:
            text = "operation aborted: migration out job: canceled by client"
            migration.fail(failure(ErrorCode.OPERATION_ABORTED, text))
        case FaultKind.ERROR_THOUGH_MOVED:
            migration.final_error = CONNECTION_LOST
        case FaultKind.PERSIST_FAILS:
            _lose_definition(migration)
        case FaultKind.SPLIT_BRAIN:
            world.schedule(0.0, migration.split)
        case _:
            pass  # it came too late: the migration is past the stage that it could harm


def _lose_definition(migration: SimulatedMigration) -> None:
    migration.target.undefine(migration.vm)
    migration.final_error = failure(
        ErrorCode.MIGRATE_PERSIST_FAILED, "Migration was successful, but persisting it was not"
    )


def _cut_or_slow(world: SimulatedWorld, fault: Fault, migration: SimulatedMigration | None) -> None:
    host = fault.host
    if host is None and fault.link is None:
        host = migration.target.id if migration else None
    carriers = world.carriers_of(host, fault.link)
    share = 0.0 if fault.kind is FaultKind.LINK_DROPS else fault.factor
    world.set_working_share(carriers, share)
    if fault.duration_seconds is not None:
        world.schedule(fault.duration_seconds, lambda: world.set_working_share(carriers, 1.0))


def _strike_guest(
    world: SimulatedWorld, fault: Fault, migration: SimulatedMigration | None
) -> None:
    vm = fault.vm or (migration.vm if migration else None)
    if vm is None:
        return
    match fault.kind:
        case FaultKind.SOURCE_GUEST_DIES:
            _kill_guest(world, vm)
        case FaultKind.DIRTIES_FASTER:
            _set_pace(world, vm, fault.factor)
            if fault.duration_seconds is not None:
                world.schedule(fault.duration_seconds, lambda: _set_pace(world, vm, 1.0))
        case FaultKind.IO_ERROR:
            _stop_for_io_error(world, vm)
        case FaultKind.BACKUP_RUNS:
            _occupy(world, vm, fault.duration_seconds)
        case FaultKind.MIGRATED_BY_SOMEBODY:
            assert fault.host is not None, "somebody migrates it somewhere"
            _migrate_behind_our_back(world, vm, fault.host)
        case FaultKind.SHUT_DOWN_BY_OWNER:
            _end_guest(world, vm, StateReason.USER)
        case FaultKind.RE_CREATED:
            _re_create(world, vm)
        case FaultKind.MEMORY_GROWS:
            _grow(world, vm, fault.factor)
        case _:
            raise AssertionError(fault.kind)


def _migrate_behind_our_back(world: SimulatedWorld, vm: VmId, target: HostId) -> None:
    """Let another administrator ask for a migration; hypervisors refuse it where they would."""
    for source in world.record.running_on(vm):
        world.ask(
            Migrate(
                vm=vm,
                host=source,
                target=target,
                bytes_per_second=_SOMEBODYS_BYTES_PER_SECOND,
                max_downtime_seconds=0.3,
                persistent=world.hosts[source].domains[vm].persistent,
            )
        )


def _re_create(world: SimulatedWorld, vm: VmId) -> None:
    _end_guest(world, vm, StateReason.USER)
    for host in world.hosts.values():
        if vm in host.domains and host.domains[vm].process is None:
            host.undefine(vm)
            host.foreign_names.add(world.guests[vm].vm.name)


def _grow(world: SimulatedWorld, vm: VmId, factor: float) -> None:
    """Plug memory into it; libvirt refuses that while the VM has a job."""
    if world.migration_of(vm) is not None:
        return
    guest = world.guests[vm]
    grown = int(guest.vm.memory_bytes * factor)
    world.guests[vm] = replace(guest, vm=replace(guest.vm, memory_bytes=grown))
    for host in world.hosts.values():
        if (domain := host.domains.get(vm)) is not None:
            domain.memory_bytes = grown
            if domain.process is not None:
                domain.process.memory_bytes = grown
                world.record.note_memory(host.id, host.used_memory_bytes)


def _kill_guest(world: SimulatedWorld, vm: VmId) -> None:
    _end_guest(world, vm, StateReason.CRASHED)


def _end_guest(world: SimulatedWorld, vm: VmId, reason: StateReason) -> None:
    migration = world.migration_of(vm)
    if migration is not None:
        migration.lose_source(_MONITOR_CLOSED, reason)
        return
    for host in world.record.running_on(vm):
        world.hosts[host].end_process(vm, reason)


def _stop_for_io_error(world: SimulatedWorld, vm: VmId) -> None:
    for host in world.record.running_on(vm):
        world.hosts[host].set_state(vm, VmState.PAUSED, StateReason.IO_ERROR)
    migration = world.migration_of(vm)
    if migration is not None and migration.stage in (Stage.REQUEST, Stage.TRANSFER):
        migration.pause_guest()


def _set_pace(world: SimulatedWorld, vm: VmId, pace: float) -> None:
    world.paces[vm] = pace
    migration = world.migration_of(vm)
    if migration is not None and migration.transfer is not None:
        migration.transfer.memory.pace = pace


def _occupy(world: SimulatedWorld, vm: VmId, duration_seconds: float | None) -> None:
    """Let a backup hold the VM, unless some other job does."""
    for host in world.hosts.values():
        domain = host.domains.get(vm)
        if domain is None or domain.process is None or domain.job is not None:
            continue
        domain.job = JobKind.OTHER
        if duration_seconds is not None:
            world.schedule(duration_seconds, partial(host.set_job, vm, None))


def _strike_host(world: SimulatedWorld, fault: Fault, host: HostId) -> None:
    found = world.hosts[host]
    match fault.kind:
        case FaultKind.STALE_DEFINITION:
            assert fault.vm is not None, "a stale definition is of some VM"
            found.foreign_names.add(world.guests[fault.vm].vm.name)
        case FaultKind.HOST_UNREACHABLE:
            _make_unreachable(world, host, fault.duration_seconds)
            _hold_up_calls(world, host, fault.duration_seconds)
        case FaultKind.LIBVIRTD_RESTARTS:
            _restart_daemon(world, host)
        case FaultKind.HOST_DIES:
            _kill_host(world, host, fault.duration_seconds)
        case FaultKind.MEMORY_TAKEN:
            found.taken_memory_bytes = int(found.facts.guest_memory_bytes * fault.factor)
        case FaultKind.HOST_IN_MAINTENANCE:
            found.facts = replace(found.facts, state=HostState.MAINTENANCE)
        case _:
            raise AssertionError(fault.kind)


def _make_unreachable(world: SimulatedWorld, host: HostId, seconds: float | None) -> None:
    until = float("inf") if seconds is None else world.seconds + seconds
    world.hosts[host].unreachable_until = until


def _hold_up_calls(world: SimulatedWorld, host: HostId, duration_seconds: float | None) -> None:
    """Cut the connections of waiting calls; what they asked for goes on.

    A connection outlives a cut that is shorter than the keep-alive time.
    """
    keepalive = world.timings.keepalive_seconds
    for call in world.pending_calls(host):
        call.hold_up()
        if duration_seconds is not None and duration_seconds < keepalive:
            world.schedule(duration_seconds, call.let_through)
        else:
            world.schedule(keepalive, partial(call.break_off, CONNECTION_LOST))


def _restart_daemon(world: SimulatedWorld, host: HostId) -> None:
    """End migrations that are not past the switch-over; guests do not notice anything."""
    _make_unreachable(world, host, world.timings.daemon_restart_seconds)
    for call in world.pending_calls(host):
        call.give(_DAEMON_GONE)
    daemon_restarted(world.hosts[host])
    for migration in tuple(world.migrations):
        if host in migration.hosts and migration.stage in (Stage.REQUEST, Stage.TRANSFER):
            migration.fail(CONNECTION_LOST)


def _kill_host(world: SimulatedWorld, host: HostId, duration_seconds: float | None) -> None:
    """Cut the power. The other end of a migration finds out after the keep-alive time."""
    found = world.hosts[host]
    found.powered = False
    _hold_up_calls(world, host, None)
    for migration in tuple(world.migrations):
        if migration.source is found:
            migration.lose_source(CONNECTION_LOST, StateReason.CRASHED)
        elif migration.target is found:
            _lose_target_host(world, migration)
    for vm in tuple(found.domains):
        found.end_process(vm, StateReason.CRASHED)
    if duration_seconds is not None:
        world.schedule(duration_seconds, lambda: _power_on(world, host))


def _lose_target_host(world: SimulatedWorld, migration: SimulatedMigration) -> None:
    migration.target.end_process(migration.vm, StateReason.CRASHED)
    migration.freeze()
    world.rates_changed()

    def give_up() -> None:
        if not migration.over:
            migration.lose_target(CONNECTION_LOST)

    world.schedule(world.timings.keepalive_seconds, give_up)


def _power_on(world: SimulatedWorld, host: HostId) -> None:
    """Boot: whatever has autostart is started, wherever else it may be running.

    Only the lock on a shared disk prevents a second copy.
    """
    found = world.hosts[host]
    found.powered = True
    _make_unreachable(world, host, world.timings.boot_seconds)

    daemon_restarted(found)

    def autostart() -> None:
        for domain in tuple(found.domains.values()):
            if domain.autostart and domain.process is None and not world.is_locked(domain.vm):
                found.begin_process(
                    domain.vm, domain.memory_bytes, VmState.RUNNING, StateReason.OTHER
                )

    world.schedule(world.timings.boot_seconds, autostart)
