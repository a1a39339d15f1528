"""What every hypervisor driver promises a rollout, whatever stands behind it.

A driver joins by a factory in `BENCHES` that yields a `Bench`: a running VM on the first of two
hosts, and a way to let time pass. Real hypervisors are slow, so the suite waits for what it
expects, up to `Bench.patience_seconds`, and never for a fixed time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from rebalancer.cluster.inventory import HostId, VmId, VmState
from rebalancer.rollout.calls import VAGUE_CODES
from rebalancer.rollout.driver import (
    Abort,
    Command,
    CopyDefinition,
    CreateDisk,
    DiscardImage,
    EndStaleCopy,
    Failed,
    HypervisorDriver,
    Look,
    Migrate,
    MoveDefinition,
    Pause,
    Pending,
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
    Ticket,
    Undefine,
)
from rebalancer.rollout.sightings import (
    Absent,
    DomainView,
    JobKind,
    Sighting,
    StateReason,
    TransferProgress,
    Unreachable,
)
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind
from rebalancer.simulation.simulated_driver import SimulatedDriver
from tests.builders import MIB, a_host, a_snapshot, a_vm

STORAGE = "vmstore"
"""What all hosts call the storage that they share."""

OPERATION_INVALID = 55
"""libvirt's number for what makes no sense in the state that the VM is in."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A driver, and the little cluster that it is tried on."""

    driver: HypervisorDriver
    reopen: Callable[[], HypervisorDriver]
    """Makes another driver for the same hosts, as a restarted controller would."""
    pass_time: Callable[[float], None]
    vm: VmId
    """Running and persistent on `source`, known nowhere else; it obeys a shutdown."""
    source: HostId
    target: HostId
    dead_host: HostId
    """A host that does not answer."""
    slow_bytes_per_second: float
    """A bandwidth at which the VM's migration takes some seconds at least."""
    fast_bytes_per_second: float
    patience_seconds: float
    step_seconds: float = 0.1

    def migrate(self, *, fast: bool = True) -> Ticket:
        """Begin to migrate the VM from source to target."""
        return self.driver.issue(
            Migrate(
                vm=self.vm,
                host=self.source,
                target=self.target,
                bytes_per_second=self.fast_bytes_per_second if fast else self.slow_bytes_per_second,
                max_downtime_seconds=1.0,
                persistent=True,
            )
        )

    def wait(self, ticket: Ticket) -> Reply:
        """Let time pass until the reply is there."""
        waited = 0.0
        while isinstance(reply := self.driver.poll(ticket), Pending):
            assert waited < self.patience_seconds, "no reply in time"
            self.pass_time(self.step_seconds)
            waited += self.step_seconds
        return reply

    def do(self, command: Command) -> Reply:
        """Issue a command and wait for its reply."""
        return self.wait(self.driver.issue(command))

    def look(self) -> Sighting:
        """Return what both hosts say of the VM."""
        reply = self.do(Look(vm=self.vm, hosts=(self.source, self.target)))
        assert isinstance(reply, Returned)
        assert isinstance(reply.value, Sighting)
        return reply.value

    def view(self, host: HostId) -> DomainView:
        """Return what a host that knows the VM says of it."""
        view = self.look().views[host]
        assert isinstance(view, DomainView)
        return view

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Let time pass until something is so."""
        waited = 0.0
        while not holds():
            assert waited < self.patience_seconds, "it did not come true in time"
            self.pass_time(self.step_seconds)
            waited += self.step_seconds

    def progress(self) -> TransferProgress | None:
        """Return the statistics of the migration under way."""
        reply = self.do(ReadProgress(vm=self.vm, host=self.source))
        assert isinstance(reply, Returned)
        assert reply.value is None or isinstance(reply.value, TransferProgress)
        return reply.value

    def is_transferring(self) -> bool:
        """Whether memory flows."""
        progress = self.progress()
        return progress is not None and progress.transferred_bytes > 0


def simulated_bench() -> Iterator[Bench]:
    """Build a bench on the simulated datacentre."""
    vm = a_vm("vm1", on="h1", memory_bytes=1024 * MIB, dirty_bytes_per_second=MIB)
    hosts = [a_host(name, storage=frozenset({STORAGE})) for name in ("h1", "h2", "h3")]
    cut_off = Fault(kind=FaultKind.HOST_UNREACHABLE, host=HostId("h3"))
    datacentre = Datacentre.of(a_snapshot(hosts, [vm]), faults=[cut_off])
    yield Bench(
        driver=SimulatedDriver(datacentre),
        reopen=lambda: SimulatedDriver(datacentre),
        pass_time=datacentre.advance,
        vm=vm.id,
        source=HostId("h1"),
        target=HostId("h2"),
        dead_host=HostId("h3"),
        slow_bytes_per_second=20.0 * MIB,
        fast_bytes_per_second=500.0 * MIB,
        patience_seconds=120.0,
    )


BENCHES: dict[str, Callable[[], Iterator[Bench]]] = {"simulated": simulated_bench}


@pytest.fixture(params=sorted(BENCHES))
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from BENCHES[request.param]()


def test_issuing_returns_at_once_and_the_reply_comes_later(bench: Bench) -> None:
    ticket = bench.migrate(fast=False)

    assert isinstance(bench.driver.poll(ticket), Pending)
    bench.do(Abort(vm=bench.vm, host=bench.source))


def test_looking_tells_who_runs_it_who_knows_it_and_who_does_not(bench: Bench) -> None:
    sighting = bench.look()

    assert sighting.active_on == (bench.source,)
    assert bench.view(bench.source).state is VmState.RUNNING
    assert bench.view(bench.source).persistent
    assert isinstance(sighting.views[bench.target], Absent)


def test_a_host_that_does_not_answer_is_unreachable_and_hides_no_other(bench: Bench) -> None:
    reply = bench.do(Look(vm=bench.vm, hosts=(bench.source, bench.dead_host)))

    assert isinstance(reply, Returned)
    assert isinstance(reply.value, Sighting)
    assert isinstance(reply.value.views[bench.dead_host], Unreachable)
    assert isinstance(reply.value.views[bench.source], DomainView)
    assert reply.value.unreachable == (bench.dead_host,)


def test_a_command_to_a_host_that_does_not_answer_fails(bench: Bench) -> None:
    assert isinstance(bench.do(Start(vm=bench.vm, host=bench.dead_host)), Failed)


def test_a_vm_that_nobody_knows_is_absent(bench: Bench) -> None:
    nobody = VmId("7b0b4d0e-0000-4000-8000-000000000000")

    reply = bench.do(Look(vm=nobody, hosts=(bench.source,)))

    assert isinstance(reply, Returned)
    assert isinstance(reply.value, Sighting)
    assert isinstance(reply.value.views[bench.source], Absent)
    assert isinstance(bench.do(Start(vm=nobody, host=bench.source)), Failed)


def test_a_migrated_vm_runs_on_the_target_with_its_definition_and_nowhere_else(
    bench: Bench,
) -> None:
    assert isinstance(bench.wait(bench.migrate()), Returned)

    bench.wait_until(lambda: bench.look().active_on == (bench.target,))
    view = bench.view(bench.target)
    assert view.state is VmState.RUNNING
    assert view.persistent
    assert view.job is None
    source = bench.look().views[bench.source]
    assert not (isinstance(source, DomainView) and source.persistent)


def test_the_result_of_a_migration_is_kept_on_the_target(bench: Bench) -> None:
    bench.wait(bench.migrate())

    reply = bench.do(ReadResult(vm=bench.vm, host=bench.target))

    assert isinstance(reply, Returned)
    assert isinstance(reply.value, TransferProgress)
    assert reply.value.transferred_bytes > 0
    assert reply.value.downtime_seconds is not None
    assert reply.value.downtime_seconds >= 0


def test_progress_is_told_while_a_migration_runs_and_the_jobs_are_seen(bench: Bench) -> None:
    ticket = bench.migrate(fast=False)
    bench.wait_until(bench.is_transferring)

    progress = bench.progress()
    assert progress is not None
    assert progress.transferred_bytes > 0
    assert 0 < progress.remaining_bytes <= progress.total_bytes
    assert bench.view(bench.source).job is JobKind.MIGRATION_OUT
    incoming = bench.view(bench.target)
    assert incoming.state is VmState.PAUSED
    bench.do(Abort(vm=bench.vm, host=bench.source))
    bench.wait(ticket)


def test_a_second_migration_is_refused_and_the_first_goes_on(bench: Bench) -> None:
    first = bench.migrate(fast=False)
    bench.wait_until(bench.is_transferring)

    second = bench.wait(bench.migrate())

    assert isinstance(second, Failed)
    assert second.code not in VAGUE_CODES
    assert isinstance(bench.driver.poll(first), Pending)
    bench.do(Abort(vm=bench.vm, host=bench.source))
    bench.wait(first)


def test_without_a_migration_there_is_no_progress(bench: Bench) -> None:
    assert bench.progress() is None


def test_an_aborted_migration_leaves_the_vm_running_on_the_source(bench: Bench) -> None:
    ticket = bench.migrate(fast=False)
    bench.wait_until(bench.is_transferring)

    assert isinstance(bench.do(Abort(vm=bench.vm, host=bench.source)), Returned)

    assert isinstance(bench.wait(ticket), Failed)
    bench.wait_until(lambda: bench.look().active_on == (bench.source,))
    assert bench.view(bench.source).state is VmState.RUNNING


def test_aborting_nothing_fails(bench: Bench) -> None:
    reply = bench.do(Abort(vm=bench.vm, host=bench.source))

    assert isinstance(reply, Failed)
    assert reply.code == OPERATION_INVALID


def test_files_for_disks_are_made_in_pools_and_removed_only_for_a_vm_that_runs_elsewhere(
    bench: Bench,
) -> None:
    path, source, target = "/nowhere/vm1.qcow2", bench.source, bench.target
    create = CreateDisk(vm=bench.vm, host=target, path=path, format="qcow2", capacity_bytes=MIB)
    there = RemoveDisk(vm=bench.vm, host=source, path=path, keep=target)

    for command, why in ((create, "no active storage pool"), (there, "not active on the host")):
        reply = bench.do(command)

        assert isinstance(reply, Failed)
        assert reply.code == OPERATION_INVALID
        assert why in reply.text
    assert bench.look().active_on == (source,)


def test_more_bandwidth_lets_a_slow_migration_finish(bench: Bench) -> None:
    ticket = bench.migrate(fast=False)
    bench.wait_until(bench.is_transferring)

    faster = SetBandwidth(
        vm=bench.vm, host=bench.source, bytes_per_second=bench.fast_bytes_per_second
    )
    assert isinstance(bench.do(faster), Returned)

    assert isinstance(bench.wait(ticket), Returned)


def test_the_allowed_downtime_can_be_changed_under_way(bench: Bench) -> None:
    ticket = bench.migrate(fast=False)
    bench.wait_until(bench.is_transferring)

    longer = SetMaxDowntime(vm=bench.vm, host=bench.source, seconds=600.0)
    assert isinstance(bench.do(longer), Returned)

    assert isinstance(bench.wait(ticket), Returned)


def test_a_vm_paused_under_way_runs_on_the_target_by_itself(bench: Bench) -> None:
    ticket = bench.migrate(fast=False)
    bench.wait_until(bench.is_transferring)

    assert isinstance(bench.do(Pause(vm=bench.vm, host=bench.source)), Returned)
    bench.do(
        SetBandwidth(vm=bench.vm, host=bench.source, bytes_per_second=bench.fast_bytes_per_second)
    )

    assert isinstance(bench.wait(ticket), Returned)
    bench.wait_until(lambda: bench.view(bench.target).state is VmState.RUNNING)


def test_a_vm_migrated_while_paused_arrives_paused(bench: Bench) -> None:
    bench.do(Pause(vm=bench.vm, host=bench.source))

    assert isinstance(bench.wait(bench.migrate()), Returned)

    assert bench.view(bench.target).state is VmState.PAUSED
    assert isinstance(bench.do(Resume(vm=bench.vm, host=bench.target)), Returned)
    assert bench.view(bench.target).state is VmState.RUNNING


def test_pausing_and_resuming(bench: Bench) -> None:
    assert isinstance(bench.do(Pause(vm=bench.vm, host=bench.source)), Returned)
    assert bench.view(bench.source).state is VmState.PAUSED
    assert bench.view(bench.source).reason is StateReason.USER

    assert isinstance(bench.do(Resume(vm=bench.vm, host=bench.source)), Returned)
    assert bench.view(bench.source).state is VmState.RUNNING


def test_a_cold_move_one_command_at_a_time(bench: Bench) -> None:
    assert isinstance(bench.do(ShutDown(vm=bench.vm, host=bench.source)), Returned)
    bench.wait_until(lambda: bench.view(bench.source).state is VmState.SHUTOFF)

    copy = CopyDefinition(vm=bench.vm, host=bench.source, target=bench.target)
    assert isinstance(bench.do(copy), Returned)
    assert bench.view(bench.target).state is VmState.SHUTOFF
    assert not bench.view(bench.target).autostart
    assert isinstance(bench.do(copy), Returned), "copying twice does no harm"

    assert isinstance(bench.do(Start(vm=bench.vm, host=bench.target)), Returned)
    assert bench.view(bench.target).state is VmState.RUNNING
    assert isinstance(bench.do(Undefine(vm=bench.vm, host=bench.source)), Returned)
    assert isinstance(bench.look().views[bench.source], Absent)


def test_a_saved_memory_is_read_back_elsewhere_one_command_at_a_time(bench: Bench) -> None:
    save = Save(vm=bench.vm, host=bench.source, storage=STORAGE, file="contract.save")
    there = Restore(vm=bench.vm, host=bench.target, storage=STORAGE, file="contract.save")
    discard = DiscardImage(vm=bench.vm, host=bench.target, storage=STORAGE, file="contract.save")

    assert isinstance(bench.do(save), Returned)
    assert bench.view(bench.source).state is VmState.SHUTOFF
    assert bench.view(bench.source).reason is StateReason.SAVED

    assert isinstance(bench.do(there), Returned)
    loaded = bench.view(bench.target)
    assert (loaded.state, loaded.reason) == (VmState.PAUSED, StateReason.MIGRATION)
    assert not loaded.persistent
    assert isinstance(bench.do(there), Failed), "it is active there"

    assert isinstance(bench.do(Resume(vm=bench.vm, host=bench.target)), Returned)
    assert bench.view(bench.target).state is VmState.RUNNING
    assert isinstance(bench.do(discard), Returned)
    assert isinstance(bench.do(discard), Returned), "deleting twice does no harm"
    assert isinstance(bench.do(replace(there, host=bench.source)), Failed), "it is gone"


def test_memory_is_not_saved_to_storage_that_the_host_does_not_have(bench: Bench) -> None:
    save = Save(vm=bench.vm, host=bench.source, storage="elsewhere", file="contract.save")

    assert isinstance(bench.do(save), Failed)
    assert bench.view(bench.source).state is VmState.RUNNING


def test_a_copy_is_not_ended_unless_both_hosts_say_that_it_is_stale(bench: Bench) -> None:
    only_copy = EndStaleCopy(
        vm=bench.vm,
        host=bench.source,
        keep=bench.target,
        stale_reason=StateReason.USER,
        kept_reason=StateReason.MIGRATED,
        proof=1,
    )

    assert isinstance(bench.do(only_copy), Failed)
    assert bench.view(bench.source).state is VmState.RUNNING
    bench.do(Pause(vm=bench.vm, host=bench.source))
    assert isinstance(bench.do(only_copy), Failed)
    assert isinstance(bench.do(replace(only_copy, keep=bench.source)), Failed)
    assert isinstance(bench.do(replace(only_copy, keep=bench.dead_host)), Failed)
    swapped = replace(only_copy, host=bench.target, keep=bench.source)
    assert isinstance(bench.do(swapped), Failed)
    assert bench.view(bench.source).state is VmState.PAUSED


def test_starting_what_runs_already_fails(bench: Bench) -> None:
    reply = bench.do(Start(vm=bench.vm, host=bench.source))

    assert isinstance(reply, Failed)
    assert reply.code == OPERATION_INVALID


def test_the_definition_of_a_vm_that_is_off_moves(bench: Bench) -> None:
    bench.do(ShutDown(vm=bench.vm, host=bench.source))
    bench.wait_until(lambda: bench.view(bench.source).state is VmState.SHUTOFF)

    move = MoveDefinition(vm=bench.vm, host=bench.source, target=bench.target)
    assert isinstance(bench.do(move), Returned)

    assert isinstance(bench.look().views[bench.source], Absent)
    assert bench.view(bench.target).state is VmState.SHUTOFF
    assert bench.view(bench.target).persistent


def test_the_definition_of_a_running_vm_is_not_moved_offline(bench: Bench) -> None:
    move = MoveDefinition(vm=bench.vm, host=bench.source, target=bench.target)

    assert isinstance(bench.do(move), Failed)
    assert bench.look().active_on == (bench.source,)


def test_autostart_is_set_and_cleared(bench: Bench) -> None:
    for enabled in (True, False):
        command = SetAutostart(vm=bench.vm, host=bench.source, enabled=enabled)
        assert isinstance(bench.do(command), Returned)
        assert bench.view(bench.source).autostart is enabled


def test_a_migration_outlives_the_driver_that_began_it(bench: Bench) -> None:
    bench.migrate(fast=False)
    bench.wait_until(bench.is_transferring)

    bench.driver.close()
    later = replace(bench, driver=bench.reopen())

    later.do(
        SetBandwidth(vm=bench.vm, host=bench.source, bytes_per_second=bench.fast_bytes_per_second)
    )
    later.wait_until(lambda: later.look().active_on == (bench.target,))
    assert later.view(bench.target).state is VmState.RUNNING
