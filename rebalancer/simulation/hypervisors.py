"""What hypervisors do when they are asked something, and which error they answer with.

Answers and error numbers are libvirt's, as far as a rollout can meet them. Nothing in here
protects anybody from harm that real hypervisors would not prevent.
"""

from __future__ import annotations

from functools import partial

from rebalancer.cluster.inventory import HostId, VmId, VmState
from rebalancer.rollout.driver import (
    Abort,
    Command,
    CopyDefinition,
    CreateDisk,
    DiscardImage,
    EndStaleCopy,
    Failed,
    Look,
    Migrate,
    MoveDefinition,
    Pause,
    ReadProgress,
    ReadResult,
    RemoveDisk,
    Reply,
    Restore,
    Resume,
    Returned,
    Save,
    SetAutostart,
    SetBandwidth,
    SetMaxDowntime,
    ShutDown,
    Start,
    SwitchToPostCopy,
    Undefine,
)
from rebalancer.rollout.left_over_commands import LookAtFile, RemoveLeftOver
from rebalancer.rollout.sightings import HostView, Sighting, StateReason, Unreachable
from rebalancer.rollout.stale import why_not_end
from rebalancer.simulation import disk_files, saved_memory
from rebalancer.simulation.calls import CONNECTION_LOST, Call, ErrorCode, failure
from rebalancer.simulation.faults import FaultKind, Stage
from rebalancer.simulation.hosts import Domain, SimulatedHost
from rebalancer.simulation.migration import SimulatedMigration, SimulatedWorld
from rebalancer.simulation.migration_requests import busy, migrate, name_clash, steer

OK = Returned()
_ON_CALLS = (FaultKind.CALL_HANGS, FaultKind.REPLY_LOST)


def hosts_asked(command: Command) -> tuple[HostId, ...]:
    """Return the hosts that the controller itself talks to for a command."""
    match command:
        case Look():
            return command.hosts
        case CopyDefinition():
            return command.host, command.target
        case EndStaleCopy() | RemoveDisk() | RemoveLeftOver():
            return command.host, command.keep
        case _:
            return (command.host,)


def receive(world: SimulatedWorld, call: Call) -> None:
    """Let a call arrive, or not, and be carried out a moment later."""
    command = call.command
    if isinstance(command, Look):
        _receive_look(world, call, command)
        return
    silent = [host for host in hosts_asked(command) if not world.answers(host)]
    if silent:
        # Without a number, as the driver tells it: nothing was asked for.
        error = Failed(text=f"unable to connect to server at '{silent[0]}': No route to host")
        world.schedule(world.timings.connect_seconds, lambda: call.give(error))
    elif not _hangs(world, call):
        world.schedule(world.timings.call_seconds, lambda: _carry_out(world, call))


def _hangs(world: SimulatedWorld, call: Call) -> bool:
    """Let faults strike the call; whether it hangs without being carried out."""
    command, hangs = call.command, False
    operation = type(command).__name__
    for fault in world.faults.take(Stage.CALL, command.vm, hosts_asked(command), operation):
        if fault.kind in _ON_CALLS:
            call.is_lost = True
            hangs = hangs or fault.kind is FaultKind.CALL_HANGS
        else:
            world.let_strike(fault, world.migration_of(command.vm))
    return hangs


def _receive_look(world: SimulatedWorld, call: Call, command: Look) -> None:
    hung = {host for host in command.hosts if _look_hangs(world, command.vm, host)}
    views: dict[HostId, HostView] = {host: Unreachable(why="no answer in time") for host in hung}
    silent = any(not world.answers(host) for host in command.hosts)
    slow = world.timings.connect_seconds if silent or hung else world.timings.call_seconds

    def look() -> None:
        for host in command.hosts:
            views.setdefault(host, _view(world, host, command.vm))
        call.give(Returned(value=Sighting(vm=command.vm, views=views, seen_at=world.now)))

    world.schedule(slow, look)


def _look_hangs(world: SimulatedWorld, vm: VmId, host: HostId) -> bool:
    """Let faults strike when a host is asked; whether it never answers."""
    due = world.faults.take(Stage.CALL, vm, (host,), "Look")
    for fault in due:
        if fault.kind not in _ON_CALLS:
            world.let_strike(fault, world.migration_of(vm))
    return any(fault.kind in _ON_CALLS for fault in due)


def _view(world: SimulatedWorld, host: HostId, vm: VmId) -> HostView:
    if host not in world.hosts:
        return Unreachable(why=f"no host {host} is known")
    if not world.answers(host):
        return Unreachable(why=f"unable to connect to server at '{host}': No route to host")
    return world.hosts[host].view(vm)


def _carry_out(world: SimulatedWorld, call: Call) -> None:
    migration = world.migration_of(call.command.vm)
    if _is_frozen(world, migration) and not isinstance(call.command, ReadResult):
        # QEMU hangs in its switch-over, and its monitor with it: nobody gets an answer.
        call.is_lost = True
        return
    reply = _reply_to(world, call)
    if reply is not None:
        call.give(reply)


def _is_frozen(world: SimulatedWorld, migration: SimulatedMigration | None) -> bool:
    return (
        migration is not None
        and migration.stage is Stage.SWITCH_OVER
        and world.is_cut(*migration.hosts)
    )


def _reply_to(world: SimulatedWorld, call: Call) -> Reply | None:
    """Do what is asked. `None`: the answer comes when a migration ends."""
    command = call.command
    assert not isinstance(command, Look), "looking goes another way"
    host = world.hosts[command.host]
    domain = host.domains.get(command.vm)
    if isinstance(command, ReadResult):
        return Returned(value=world.results.get((command.host, command.vm)))
    if isinstance(command, Restore):
        return saved_memory.restore(world, call, command)
    if isinstance(command, DiscardImage):
        return saved_memory.discard(world, command)
    if isinstance(command, CreateDisk):
        return disk_files.create(world, command)
    if isinstance(command, RemoveDisk):
        return disk_files.remove(world, command)
    if isinstance(command, LookAtFile):
        return disk_files.look_at(world, command)
    if isinstance(command, RemoveLeftOver):
        return disk_files.remove_left_over(world, command)
    if domain is None:
        return failure(ErrorCode.NO_DOMAIN, f"Domain not found: no domain {command.vm}")
    match command:
        case Save():
            return saved_memory.save(world, call, command, domain)
        case Migrate():
            return migrate(world, call, command, domain)
        case Abort() | SetMaxDowntime() | SetBandwidth() | SwitchToPostCopy() | ReadProgress():
            return steer(world, command)
        case Pause():
            return _pause(world, host, domain)
        case Resume():
            return _resume(world, host, domain)
        case ShutDown():
            return _shut_down(world, host, domain)
        case Start():
            return _start(world, host, domain)
        case Undefine() | SetAutostart():
            return _change_definition(host, domain, command)
        case EndStaleCopy():
            return _end_stale_copy(world, host, command)
        case CopyDefinition() | MoveDefinition():
            return _copy_definition(world, host, domain, command)


def _pause(world: SimulatedWorld, host: SimulatedHost, domain: Domain) -> Reply:
    process = domain.process
    if process is None:
        return failure(ErrorCode.OPERATION_INVALID, "domain is not running")
    if process.state is VmState.RUNNING:
        host.set_state(domain.vm, VmState.PAUSED, StateReason.USER)
        migration = world.migration_of(domain.vm)
        if migration is not None and migration.source is host:
            migration.pause_guest()
    return OK


def _resume(world: SimulatedWorld, host: SimulatedHost, domain: Domain) -> Reply:
    process = domain.process
    if process is None:
        return failure(ErrorCode.OPERATION_INVALID, "domain is not running")
    if process.state is VmState.RUNNING:
        return failure(ErrorCode.OPERATION_INVALID, "domain is already running")
    if domain.job is not None:
        return busy(domain)
    if world.is_locked(domain.vm):
        return failure(ErrorCode.INTERNAL, 'Failed to get "write" lock')
    saved_memory.note_resumed(world, host, domain.vm)
    host.set_state(domain.vm, VmState.RUNNING, StateReason.USER)
    return OK


def _shut_down(world: SimulatedWorld, host: SimulatedHost, domain: Domain) -> Reply:
    vm, process = domain.vm, domain.process
    if process is None or process.state is not VmState.RUNNING:
        return failure(ErrorCode.OPERATION_INVALID, "domain is not running")
    if domain.job is not None:
        return busy(domain)
    ignores = False
    for fault in world.faults.take(Stage.SHUT_DOWN, vm, (host.id,)):
        if fault.kind is FaultKind.IGNORES_SHUTDOWN:
            ignores = True
        else:
            world.let_strike(fault, None)

    def end() -> None:
        if domain.process is process:
            host.end_process(vm, StateReason.USER)

    if not ignores:
        world.schedule(world.guests[vm].shutdown_seconds, end)
    return OK


def _start(world: SimulatedWorld, host: SimulatedHost, domain: Domain) -> Reply:
    vm = world.guests[domain.vm].vm
    if domain.process is not None:
        return failure(ErrorCode.OPERATION_INVALID, "domain is already running")
    for fault in world.faults.take(Stage.START, vm.id, (host.id,)):
        if fault.kind is FaultKind.START_FAILS:
            return failure(fault.code or ErrorCode.INTERNAL, fault.text or "process exited")
        if fault.kind is FaultKind.START_COMES_LATE:
            world.schedule(fault.after_seconds, partial(_start_late, world, host, vm.id))
            return CONNECTION_LOST
        world.let_strike(fault, None)
    if world.is_locked(vm.id):
        return failure(ErrorCode.INTERNAL, 'Failed to get "write" lock')
    if not world.fits(host, vm.memory_bytes):
        return failure(
            ErrorCode.INTERNAL, "cannot set up guest memory 'pc.ram': Cannot allocate memory"
        )
    host.begin_process(vm.id, vm.memory_bytes, VmState.RUNNING, StateReason.OTHER)
    return OK


def _start_late(world: SimulatedWorld, host: SimulatedHost, vm: VmId) -> None:
    """Carry out what nobody waits for any more, if that makes sense by now."""
    domain = host.domains.get(vm)
    if host.powered and domain is not None:
        _start(world, host, domain)


def _end_stale_copy(world: SimulatedWorld, host: SimulatedHost, command: EndStaleCopy) -> Reply:
    """Do what the real driver does, its own look at both hosts included."""
    kept = world.hosts[command.keep].view(command.vm)
    if against := why_not_end(command, host.view(command.vm), kept):
        return failure(ErrorCode.OPERATION_INVALID, f"refused: {'; '.join(against)}")
    host.end_process(command.vm, StateReason.USER)
    return OK


def _change_definition(
    host: SimulatedHost, domain: Domain, command: Undefine | SetAutostart
) -> Reply:
    if not domain.persistent:
        verb = "undefine" if isinstance(command, Undefine) else "set autostart for"
        return failure(ErrorCode.OPERATION_INVALID, f"cannot {verb} transient domain")
    if isinstance(command, Undefine):
        host.undefine(domain.vm)
    else:
        domain.autostart = command.enabled
    return OK


def _copy_definition(
    world: SimulatedWorld,
    host: SimulatedHost,
    domain: Domain,
    command: CopyDefinition | MoveDefinition,
) -> Reply:
    target = world.hosts[command.target]
    moves = isinstance(command, MoveDefinition)
    if moves and domain.process is not None:
        return failure(
            ErrorCode.OPERATION_INVALID, "cannot perform offline migration on running domain"
        )
    if moves and world.is_cut(host.id, target.id):
        return failure(
            ErrorCode.SYSTEM_ERROR,
            f"unable to connect to server at '{target.id}:16509': No route to host",
        )
    clash = name_clash(world, target, domain.vm)
    # To define what runs there already is to make it persistent, which libvirt does.
    if clash and (moves or domain.vm not in target.domains):
        return clash
    target.define(domain.vm, domain.memory_bytes)
    if moves and domain.persistent:
        host.undefine(domain.vm)
    return OK
