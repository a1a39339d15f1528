"""Guests' memory in files on storage that hosts share: written, read back, deleted.

Nothing in here keeps anybody from reading a file back that is older than the guest's disks; but
the record then says that the disks are ruined.
"""

from __future__ import annotations

from functools import partial

from rebalancer.cluster.inventory import VmId, VmState
from rebalancer.rollout.driver import DiscardImage, Failed, Reply, Restore, Returned, Save
from rebalancer.rollout.sightings import JobKind, StateReason
from rebalancer.simulation.calls import CONNECTION_LOST, Call, ErrorCode, failure
from rebalancer.simulation.faults import FaultKind, Stage
from rebalancer.simulation.hosts import Domain, SimulatedHost
from rebalancer.simulation.migration import SimulatedWorld
from rebalancer.simulation.world import SavedImage

_LOST = failure(ErrorCode.OPERATION_FAILED, "domain is no longer running")


def save(world: SimulatedWorld, call: Call, command: Save, domain: Domain) -> Reply | None:
    """Stop the guest and write its memory. `None`: the answer comes when that is done."""
    host, process = world.hosts[command.host], domain.process
    if process is None:
        return failure(ErrorCode.OPERATION_INVALID, "domain is not running")
    if domain.job is not None:
        return failure(ErrorCode.OPERATION_TIMEOUT, "cannot acquire state change lock")
    if (missing := _missing(host, command)) is not None:
        return missing
    began = world.seconds
    host.set_state(command.vm, VmState.PAUSED, StateReason.OTHER)
    host.set_job(command.vm, JobKind.SAVE)

    def written() -> None:
        if domain.process is not process or domain.job is not JobKind.SAVE:
            call.give(_LOST)
            return
        image = SavedImage(vm=command.vm, at_seconds=began)
        world.images[command.storage, command.file] = image
        host.end_process(command.vm, StateReason.SAVED)
        call.give(Returned())

    world.schedule(_seconds(world, command.vm), written)
    return None


def restore(world: SimulatedWorld, call: Call, command: Restore) -> Reply | None:
    """Start a process that stands still, with the memory from a file."""
    host = world.hosts[command.host]
    memory_bytes = world.guests[command.vm].vm.memory_bytes
    refusal = _missing(host, command) or _refusal(world, command, host, memory_bytes)
    if refusal is not None:
        return refusal
    image = world.images[command.storage, command.file]
    host.begin_process(command.vm, memory_bytes, VmState.PAUSED, StateReason.STARTING_UP)
    host.set_job(command.vm, JobKind.RESTORE)
    process = host.process_of(command.vm)
    assert process is not None

    def loaded() -> None:
        if host.process_of(command.vm) is not process:
            call.give(_LOST)
            return
        process.saved_at_seconds = image.at_seconds
        host.set_job(command.vm, None)
        host.set_state(command.vm, VmState.PAUSED, StateReason.MIGRATION)
        call.give(Returned())

    world.schedule(_seconds(world, command.vm), loaded)
    return None


def _restore_late(world: SimulatedWorld, command: Restore) -> None:
    """Carry out what nobody waits for any more."""
    if world.hosts[command.host].powered:
        restore(world, Call(command, world.seconds), command)


def discard(world: SimulatedWorld, command: DiscardImage) -> Reply:
    """Delete a file; that it is not there is no error."""
    if (missing := _missing(world.hosts[command.host], command)) is not None:
        return missing
    world.images.pop((command.storage, command.file), None)
    return Returned()


def note_resumed(world: SimulatedWorld, host: SimulatedHost, vm: VmId) -> None:
    """Write down that disks are ruined if the guest ran elsewhere after it was saved."""
    process = host.process_of(vm)
    if process is None or process.saved_at_seconds is None:
        return
    saved_at = process.saved_at_seconds
    process.saved_at_seconds = None
    spans = world.record.spans(vm)
    if any(s.hosts and (s.end_seconds is None or s.end_seconds > saved_at) for s in spans):
        world.record.corrupted.append(
            f"{vm} went on at second {world.seconds:.1f} on {host.id} with its memory of second "
            f"{saved_at:.1f}, although it had run since"
        )


def daemon_restarted(host: SimulatedHost) -> None:
    """Do what libvirtd does when it starts: it forgets why what is off is off.

    A guest that was being saved goes on; one that was being loaded is given up.
    """
    for domain in tuple(host.domains.values()):
        if domain.off_reason is StateReason.SAVED:
            domain.off_reason = StateReason.OTHER
        if domain.job is JobKind.SAVE:
            domain.job = None
            host.set_state(domain.vm, VmState.RUNNING, StateReason.OTHER)
        elif domain.job is JobKind.RESTORE:
            host.end_process(domain.vm, StateReason.OTHER)


def _missing(host: SimulatedHost, command: Save | Restore | DiscardImage) -> Failed | None:
    if command.storage in (host.facts.storage or ()):
        return None
    return failure(ErrorCode.SYSTEM_ERROR, f"{command.storage}: No such file or directory")


def _refusal(
    world: SimulatedWorld, command: Restore, host: SimulatedHost, memory_bytes: int
) -> Failed | None:
    if host.process_of(command.vm) is not None:
        return failure(ErrorCode.OPERATION_FAILED, "domain is already active")
    if (command.storage, command.file) not in world.images:
        return failure(ErrorCode.SYSTEM_ERROR, f"cannot open file '{command.file}'")
    failed: Failed | None = None
    for fault in world.faults.take(Stage.START, command.vm, (host.id,)):
        if fault.kind is FaultKind.START_FAILS:
            failed = failure(fault.code or ErrorCode.INTERNAL, fault.text or "process exited")
        elif fault.kind is FaultKind.START_COMES_LATE:
            world.schedule(fault.after_seconds, partial(_restore_late, world, command))
            return CONNECTION_LOST
        else:
            world.let_strike(fault, None)
    if failed is None and not world.fits(host, memory_bytes):
        text = "cannot set up guest memory 'pc.ram': Cannot allocate memory"
        failed = failure(ErrorCode.INTERNAL, text)
    if failed is not None and (domain := host.domains.get(command.vm)) is not None:
        domain.off_reason = StateReason.OTHER  # "failed to start"
    return failed


def _seconds(world: SimulatedWorld, vm: VmId) -> float:
    return world.guests[vm].memory.resident_bytes / world.timings.image_bytes_per_second
