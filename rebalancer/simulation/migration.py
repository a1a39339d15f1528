"""One migration between two simulated hosts, from the request to the clean-up.

The course of events and the errors are those of libvirt's peer-to-peer migration: the source
owns the guest until the target has started it, the two notice that they lost each other only
after the keep-alive time, and what an error says does not tell where the guest is.
"""

from __future__ import annotations

import numpy as np

from rebalancer.cluster.inventory import HostId, VmId, VmState
from rebalancer.rollout.driver import Failed, Migrate, Returned
from rebalancer.rollout.sightings import JobKind, StateReason, TransferProgress
from rebalancer.simulation.calls import CONNECTION_LOST, Call
from rebalancer.simulation.disk_copy import DiskCopy
from rebalancer.simulation.faults import Stage
from rebalancer.simulation.memory import GuestMemory
from rebalancer.simulation.transfer import MemoryTransfer, Phase
from rebalancer.simulation.world import World

type SimulatedWorld = World[SimulatedMigration]
"""What a migration, and all that happens beside it, knows of the datacentre that it is in."""


class SimulatedMigration:
    """A VM on its way. The datacentre lets time pass for it and tells it of cut links."""

    def __init__(self, world: SimulatedWorld, command: Migrate, call: Call) -> None:
        """Set up the target; both hosts have agreed to it."""
        self.vm: VmId = command.vm
        self.command = command
        self.source = world.hosts[command.host]
        self.target = world.hosts[command.target]
        self.call = call
        self.stage = Stage.REQUEST
        self.disks: DiskCopy | None = None
        """The copy of its disks, as long as memory's turn has not come."""
        self.disk_bytes_sent = 0.0
        self.transfer: MemoryTransfer | None = None
        self.bytes_per_second = command.bytes_per_second
        self.max_downtime_seconds = command.max_downtime_seconds
        self.over = False
        self.path = world.path(command.host, command.target)
        self.final_error: Failed | None = None
        """What the call will say in spite of success."""
        self._world = world
        self._begun_at = world.seconds
        self._stopped_at: float | None = None
        self._downtime_seconds: float | None = None
        self._frozen = False
        """Nothing flows although memory is left: the two hosts lost hold of each other."""
        self._source_stays_defined = False
        guest = world.guests[self.vm]
        self._arrives_paused = not self._source_runs
        self._target_knew_it = self.vm in self.target.domains
        self.source.set_job(self.vm, JobKind.MIGRATION_OUT)
        self.target.begin_process(
            self.vm, guest.vm.memory_bytes, VmState.PAUSED, StateReason.MIGRATION
        )
        self.target.set_job(self.vm, JobKind.MIGRATION_IN)

    @property
    def hosts(self) -> tuple[HostId, HostId]:
        """Source and target."""
        return self.source.id, self.target.id

    @property
    def is_flowing(self) -> bool:
        """Whether it has memory to send."""
        if self.over or self._frozen:
            return False
        if self.disks is not None:
            return True
        return self.transfer is not None and self.transfer.phase is not Phase.SENT

    @property
    def flow(self) -> DiskCopy | MemoryTransfer | None:
        """What is being sent: the disks first, then the memory."""
        return self.disks or self.transfer

    @property
    def cap_bytes_per_second(self) -> float:
        """What it may use of the links; each mirror keeps to what it was begun with."""
        if self.disks is not None:
            return self.command.bytes_per_second * self.disks.mirrors
        return self.bytes_per_second

    @property
    def _source_runs(self) -> bool:
        process = self.source.process_of(self.vm)
        return process is not None and process.state is VmState.RUNNING

    def begin_transfer(self) -> None:
        """Start sending memory: the target is ready."""
        if self.over:
            return
        if self._world.is_cut(*self.hosts):
            self.fail(CONNECTION_LOST)
            return
        vm = self._world.guests[self.vm].vm
        if self.command.disks:
            sizes = [d.capacity_bytes for d in vm.local_disks if d.target in self.command.disks]
            self.disks = DiskCopy(sizes, vm.disk_write_bytes_per_second or 0.0)
            self.disks.guest_stopped = not self._source_runs
        else:
            self._begin_memory()
        self._reach(Stage.TRANSFER)

    def _begin_memory(self) -> None:
        guest = self._world.guests[self.vm]
        memory = GuestMemory(guest.memory, self._world.rng_for(self.vm))
        memory.pace = self._world.paces.get(self.vm, 1.0)
        self.transfer = MemoryTransfer(
            memory, self.max_downtime_seconds, self.command.auto_converge
        )
        self.transfer.guest_stopped = not self._source_runs

    def move_on(self) -> None:
        """React to what the transfer came to."""
        if not self.over and self.disks is not None and self.disks.is_in_step:
            self.disk_bytes_sent, self.disks = self.disks.total_bytes, None
            self._begin_memory()
            self._world.rates_changed()
            return
        if self.over or self.transfer is None:
            return
        phase = self.transfer.phase
        if self.stage is Stage.TRANSFER and phase in (Phase.SWITCH_OVER, Phase.SENT):
            self._stop_source()
            self._reach(Stage.SWITCH_OVER)
        if self.stage is Stage.SWITCH_OVER and phase is Phase.SENT:
            self._world.schedule(self._world.timings.switch_over_seconds, self._hand_over)
        elif self.stage is Stage.POST_COPY and phase is Phase.SENT:
            self._complete()

    def pause_guest(self) -> None:
        """Note that the guest was paused from outside: the rest is sent without new writes."""
        if self._stopped_at is None:
            self._stopped_at = self._world.seconds
        if self.disks is not None:
            self.disks.guest_stopped = True
        if self.transfer is not None:
            self.transfer.guest_stopped = True

    def set_max_downtime(self, seconds: float) -> None:
        """Allow another pause at the switch-over."""
        self.max_downtime_seconds = seconds
        if self.transfer is not None:
            self.transfer.max_downtime_seconds = seconds

    def switch_to_post_copy(self) -> None:
        """Stop the source and let the guest run on the target with pages missing."""
        assert self.transfer is not None, "a transfer has begun"
        self._stop_source(StateReason.POST_COPY)
        self.transfer.begin_post_copy()
        self.stage = Stage.POST_COPY
        self.freeze()
        self._world.schedule(self._world.timings.switch_over_seconds, self._run_on_target_early)

    def fail(self, error: Failed) -> None:
        """Give up before the target ran: the copy there goes, the source runs on."""
        if self.over:
            return
        self._clear_target()
        process = self.source.process_of(self.vm)
        if process is not None:
            paused_by_us = process.reason is StateReason.MIGRATION
            if paused_by_us and not self._arrives_paused:
                self.source.set_state(self.vm, VmState.RUNNING, StateReason.MIGRATION_CANCELED)
        self.source.set_job(self.vm, None)
        self._close(error)

    def lose_source(self, error: Failed, reason: StateReason) -> None:
        """Give up because the source's process is gone."""
        self.source.end_process(self.vm, reason)
        if self.stage in (Stage.FINISH, Stage.POST_COPY):
            if self.stage is Stage.POST_COPY:
                self.target.end_process(self.vm, StateReason.CRASHED)
            self._close(error)
        else:
            self.fail(error)

    def lose_target(self, error: Failed) -> None:
        """Give up because the target's process is gone; fatal in post-copy, and only there."""
        if self.stage is Stage.POST_COPY:
            self.target.end_process(self.vm, StateReason.CRASHED)
            self.source.set_state(self.vm, VmState.PAUSED, StateReason.POST_COPY_FAILED)
            self.source.set_job(self.vm, None)
            self._close(error)
            return
        self.fail(error)

    def freeze(self) -> None:
        """Send nothing more: there is nobody to receive it."""
        self._frozen = True
        self._world.rates_changed()

    def _thaw(self) -> None:
        self._frozen = False
        self._world.rates_changed()

    def split(self) -> None:
        """Let the source take the guest back while the target runs it."""
        if self.over:
            return
        reason = StateReason.MIGRATION_CANCELED
        if not self._world.guests[self.vm].vm.storage:
            self.source.set_state(self.vm, VmState.RUNNING, reason)
        self.source.set_job(self.vm, None)
        self.target.set_job(self.vm, None)
        self._close(CONNECTION_LOST)

    def keepalive_expired(self) -> None:
        """React to having heard nothing from the other host for too long."""
        if self.over or not self._world.is_cut(*self.hosts):
            return
        match self.stage:
            case Stage.REQUEST | Stage.TRANSFER:
                self.fail(CONNECTION_LOST)
            case Stage.SWITCH_OVER:
                # The source's QEMU hangs in a write and its guest stands still until the
                # link is back; the target has given up long before.
                self.freeze()
                self._clear_target()
            case Stage.FINISH:
                self.split()
            case Stage.POST_COPY:
                self.source.set_state(self.vm, VmState.PAUSED, StateReason.POST_COPY_FAILED)
                self.target.set_state(self.vm, VmState.RUNNING, StateReason.POST_COPY, stuck=True)
                self.freeze()
                self._source_stays_defined = True
                self.call.give(CONNECTION_LOST)
            case _:
                raise AssertionError(self.stage)

    def link_is_back(self) -> None:
        """Go on, or find out that it is too late."""
        if self.over:
            return
        timings = self._world.timings
        if self.stage is Stage.FINISH:
            self._world.schedule(timings.teardown_seconds, self._complete)
        elif self.stage is Stage.POST_COPY and self._frozen:
            self._world.schedule(timings.post_copy_thaw_seconds, self._thaw_post_copy)
        elif self.stage is Stage.SWITCH_OVER and self._frozen:
            self._world.schedule(timings.thaw_seconds, lambda: self.fail(CONNECTION_LOST))
        elif self.stage is Stage.SWITCH_OVER and not self.is_flowing:
            self._world.schedule(timings.switch_over_seconds, self._hand_over)

    def progress(self) -> TransferProgress:
        """Return what the job's statistics say."""
        memory_bytes = float(self._world.guests[self.vm].vm.memory_bytes)
        elapsed = self._world.seconds - self._begun_at
        if self.disks is not None:
            return TransferProgress(
                total_bytes=self.disks.total_bytes,
                remaining_bytes=self.disks.pending_bytes,
                transferred_bytes=self.disks.sent_bytes,
                iteration=0,
                elapsed_seconds=elapsed,
                disk_total_bytes=self.disks.total_bytes,
                disk_remaining_bytes=self.disks.pending_bytes,
                disk_transferred_bytes=self.disks.sent_bytes,
            )
        if self.transfer is None:
            return TransferProgress(
                total_bytes=memory_bytes,
                remaining_bytes=memory_bytes,
                transferred_bytes=0.0,
                iteration=0,
                elapsed_seconds=elapsed,
            )
        return TransferProgress(
            total_bytes=memory_bytes + self.disk_bytes_sent,
            remaining_bytes=self.transfer.pending_bytes,
            transferred_bytes=self.transfer.sent_bytes + self.disk_bytes_sent,
            iteration=self.transfer.iteration,
            disk_total_bytes=self.disk_bytes_sent,
            disk_transferred_bytes=self.disk_bytes_sent,
            dirty_bytes_per_second=self.transfer.dirty_bytes_per_second,
            bytes_per_second=self.transfer.bandwidth or None,
            elapsed_seconds=elapsed,
            downtime_seconds=self._downtime_seconds,
        )

    def _reach(self, stage: Stage) -> None:
        self.stage = stage
        self._world.strike(stage, self)

    def _stop_source(self, reason: StateReason = StateReason.MIGRATION) -> None:
        if self._stopped_at is None:
            self._stopped_at = self._world.seconds
        if self._source_runs or reason is StateReason.POST_COPY:
            self.source.set_state(self.vm, VmState.PAUSED, reason)

    def _hand_over(self) -> None:
        """Start the guest on the target; it is the owner from here on."""
        lost = self._frozen or self._world.is_cut(*self.hosts)
        if self.over or lost or self.stage is not Stage.SWITCH_OVER:
            return
        assert self._stopped_at is not None, "the source was stopped"
        self._downtime_seconds = self._world.seconds - self._stopped_at
        if self.command.persistent:
            self.target.define(self.vm, self._world.guests[self.vm].vm.memory_bytes)
        if self._arrives_paused:
            self.target.set_state(self.vm, VmState.PAUSED, StateReason.USER)
        else:
            self.target.set_state(self.vm, VmState.RUNNING, StateReason.MIGRATED)
        self.target.set_job(self.vm, None)
        self._reach(Stage.FINISH)
        self._world.schedule(self._world.timings.teardown_seconds, self._complete)

    def _run_on_target_early(self) -> None:
        if self.over or self.stage is not Stage.POST_COPY:
            return
        assert self._stopped_at is not None, "the source was stopped"
        self._downtime_seconds = self._world.seconds - self._stopped_at
        self._thaw()
        self.target.set_state(self.vm, VmState.RUNNING, StateReason.POST_COPY)
        self._world.strike(Stage.POST_COPY, self)

    def _thaw_post_copy(self) -> None:
        if self.over or self._world.is_cut(*self.hosts):
            return
        self._thaw()
        self.target.set_state(self.vm, VmState.RUNNING, StateReason.POST_COPY)

    def _complete(self) -> None:
        """Clean up the source. An error here changes nothing about where the guest is."""
        if self.over or self._world.is_cut(*self.hosts):
            return
        if self.stage is Stage.POST_COPY:
            self._settle_post_copy()
        self.source.end_process(self.vm, StateReason.MIGRATED)
        domain = self.source.domains.get(self.vm)
        if domain is not None and self.command.persistent and not self._source_stays_defined:
            self.source.undefine(self.vm)
        self._world.results[self.target.id, self.vm] = self.progress()
        self._close(self.final_error)

    def _settle_post_copy(self) -> None:
        self.target.set_state(self.vm, VmState.RUNNING, StateReason.MIGRATED)
        self.target.set_job(self.vm, None)
        if self.command.persistent:
            self.target.define(self.vm, self._world.guests[self.vm].vm.memory_bytes)

    def _clear_target(self) -> None:
        self.target.end_process(self.vm, StateReason.OTHER)
        if not self._target_knew_it and self.vm in self.target.domains:
            self.target.undefine(self.vm)

    def _close(self, error: Failed | None) -> None:
        self.over = True
        if error is not None and self.transfer is not None:
            self._world.results[self.source.id, self.vm] = self.progress()
        self._world.forget(self)
        self.call.give(error or Returned())


def rng_of(seed: int, vm: VmId, attempt: int) -> np.random.Generator:
    """Return the random numbers of one VM's attempt, whatever else happens in the simulation."""
    return np.random.default_rng([seed, attempt, *vm.encode()])
