"""Every kind of fault does what it says, and leaves the VM where real hypervisors would."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from rebalancer.cluster.inventory import HostId, VmId, VmState
from rebalancer.rollout.calls import may_still_happen
from rebalancer.rollout.driver import (
    Abort,
    Command,
    Failed,
    Look,
    Migrate,
    Pause,
    Pending,
    Reply,
    Resume,
    Returned,
    ShutDown,
    Start,
    SwitchToPostCopy,
    Ticket,
    Undefine,
)
from rebalancer.rollout.sightings import (
    Absent,
    DomainView,
    HostView,
    Sighting,
    StateReason,
    Unreachable,
)
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import (
    HOST_KINDS,
    Fault,
    FaultKind,
    FaultScript,
    Stage,
    random_faults,
)
from rebalancer.simulation.simulated_driver import SimulatedDriver
from tests.builders import GIB, MIB, a_host, a_snapshot, a_vm

VM = VmId("vm1")
H1, H2 = HostId("h1"), HostId("h2")


@dataclass
class Trial:
    """One VM on h1 that is to go to h2, while something goes wrong."""

    faults: tuple[Fault, ...] = ()
    locked_disk: bool = False
    autostart: bool = False
    dirty: float = 0.0
    post_copy: bool = False
    bytes_per_second: float = 400.0 * MIB
    """The transfer takes some 10 s."""
    world: Datacentre = field(init=False)
    driver: SimulatedDriver = field(init=False)
    ticket: Ticket = field(init=False)

    def __post_init__(self) -> None:
        vm = a_vm(
            "vm1",
            memory_bytes=4 * GIB,
            dirty_bytes_per_second=self.dirty,
            working_set_bytes=2 * GIB,
            storage=frozenset({"nfs1"}) if self.locked_disk else frozenset(),
            autostart=self.autostart,
        )
        snapshot = a_snapshot([a_host("h1"), a_host("h2"), a_host("h3")], [vm])
        self.world = Datacentre.of(snapshot, faults=self.faults)
        self.driver = SimulatedDriver(self.world)

    def migrate(self, seconds: float = 120.0) -> Reply:
        """Begin the migration and let time pass."""
        self.ticket = self.driver.issue(
            Migrate(
                vm=VM,
                host=H1,
                target=H2,
                bytes_per_second=self.bytes_per_second,
                max_downtime_seconds=0.3,
                persistent=True,
                post_copy=self.post_copy,
            )
        )
        self.world.advance(seconds)
        return self.driver.poll(self.ticket)

    def do(self, command: Command, seconds: float = 5.0) -> Reply:
        """Issue a command and let time pass."""
        ticket = self.driver.issue(command)
        self.world.advance(seconds)
        return self.driver.poll(ticket)

    def view(self, host: HostId) -> HostView:
        """Return what a host says of the VM."""
        seconds = 0.1 if self.world.answers(host) else 4.0
        reply = self.do(Look(vm=VM, hosts=(host,)), seconds)
        assert isinstance(reply, Returned)
        assert isinstance(reply.value, Sighting)
        return reply.value.views[host]

    def states(self) -> tuple[str, str]:
        """Return state and reason on source and target in words."""
        return _words(self.view(H1)), _words(self.view(H2))

    def running_on(self) -> tuple[HostId, ...]:
        """Where the VM really runs."""
        return self.world.record.running_on(VM)


def _words(view: HostView) -> str:
    if isinstance(view, DomainView):
        return f"{view.state} ({view.reason})"
    return "absent" if isinstance(view, Absent) else "unreachable"


def fault(kind: FaultKind, **facts: object) -> tuple[Fault, ...]:
    return (Fault(kind=kind, **facts),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "faults",
    [
        fault(FaultKind.REFUSE),
        fault(FaultKind.OUT_OF_MEMORY),
        fault(FaultKind.STALE_DEFINITION, vm=VM, host=H2),
        fault(FaultKind.TRANSFER_BREAKS, after_seconds=3.0),
        fault(FaultKind.TRANSFER_BREAKS, stage=Stage.SWITCH_OVER),
        fault(FaultKind.TARGET_QEMU_DIES, after_seconds=3.0),
        fault(FaultKind.TARGET_QEMU_DIES, stage=Stage.FINISH),
        fault(FaultKind.ABORTED_BY_SOMEBODY, after_seconds=3.0),
        fault(FaultKind.LINK_DROPS, host=H2, after_seconds=3.0),
        fault(FaultKind.LIBVIRTD_RESTARTS, host=H1, at_seconds=3.0),
        fault(FaultKind.LIBVIRTD_RESTARTS, host=H2, at_seconds=3.0),
        fault(FaultKind.HOST_DIES, host=H2, at_seconds=3.0),
        fault(FaultKind.BACKUP_RUNS, vm=VM),
    ],
    ids=lambda faults: f"{faults[0].kind} {faults[0].stage or ''}",
)
def test_a_migration_that_fails_before_the_hand_over_leaves_the_vm_running_on_the_source(
    faults: tuple[Fault, ...],
) -> None:
    trial = Trial(faults)

    reply = trial.migrate()

    assert isinstance(reply, Failed)
    assert reply.code is not None
    assert trial.running_on() == (H1,)
    assert isinstance(trial.view(H2), Absent | Unreachable)
    assert trial.world.migrations == []
    assert trial.world.record.doubled() == ()


@pytest.mark.parametrize(
    "faults",
    [
        fault(FaultKind.LINK_DROPS, host=H2, after_seconds=3.0, duration_seconds=10.0),
        fault(FaultKind.LINK_DROPS, stage=Stage.SWITCH_OVER, duration_seconds=10.0),
        fault(FaultKind.LINK_DROPS, stage=Stage.FINISH, duration_seconds=10.0),
        fault(FaultKind.LINK_SLOWS, host=H2, factor=0.1),
        fault(FaultKind.DIRTIES_FASTER, factor=2.0),
    ],
    ids=lambda faults: f"{faults[0].kind} {faults[0].stage or ''}",
)
def test_what_hypervisors_live_through_does_not_fail_the_migration(
    faults: tuple[Fault, ...],
) -> None:
    trial = Trial(faults, dirty=10.0 * MIB)

    assert isinstance(trial.migrate(), Returned)
    assert trial.running_on() == (H2,)
    assert trial.world.record.violations() == ()


def test_a_slow_link_takes_longer() -> None:
    slow = Trial(fault(FaultKind.LINK_SLOWS, host=H2, factor=0.05), bytes_per_second=0)

    assert isinstance(slow.migrate(50.0), Pending)


def test_a_guest_that_dirties_faster_than_the_link_from_now_on_does_not_converge() -> None:
    trial = Trial(fault(FaultKind.DIRTIES_FASTER, factor=4.0), dirty=150.0 * MIB)

    assert isinstance(trial.migrate(), Pending)
    assert trial.running_on() == (H1,)


def test_a_dying_source_guest_runs_nowhere() -> None:
    trial = Trial(fault(FaultKind.SOURCE_GUEST_DIES, after_seconds=3.0))

    assert isinstance(trial.migrate(), Failed)
    assert trial.running_on() == ()
    assert trial.states() == ("crashed (crashed)", "absent")


def test_a_link_cut_at_the_switch_over_freezes_the_guest_until_it_is_back() -> None:
    trial = Trial(
        fault(FaultKind.LINK_DROPS, stage=Stage.SWITCH_OVER, duration_seconds=80.0),
        dirty=10.0 * MIB,
    )

    assert isinstance(trial.migrate(80.0), Pending)
    assert trial.running_on() == ()
    assert trial.states() == ("paused (migration)", "absent")
    resume = trial.do(Resume(vm=VM, host=H1), 31.0)
    assert isinstance(resume, Failed)
    assert resume.timed_out
    assert isinstance(trial.driver.poll(trial.ticket), Failed)
    assert trial.running_on() == (H1,)
    assert trial.states()[0] == "running (migration canceled)"


def test_a_link_cut_after_the_hand_over_leaves_two_running_copies() -> None:
    trial = Trial(fault(FaultKind.LINK_DROPS, stage=Stage.FINISH, duration_seconds=60.0))

    assert isinstance(trial.migrate(), Failed)
    assert trial.running_on() == (H1, H2)
    assert trial.states() == ("running (migration canceled)", "running (migrated)")
    assert trial.world.record.violations() != ()


def test_a_disk_lock_turns_the_second_copy_into_a_paused_one() -> None:
    trial = Trial(fault(FaultKind.SPLIT_BRAIN), locked_disk=True)

    assert isinstance(trial.migrate(), Failed)
    assert trial.running_on() == (H2,)
    assert trial.states() == ("paused (migration)", "running (migrated)")


def test_a_split_brain_is_two_running_copies_and_an_error() -> None:
    trial = Trial(fault(FaultKind.SPLIT_BRAIN))

    assert isinstance(trial.migrate(), Failed)
    assert trial.running_on() == (H1, H2)


def test_an_error_says_nothing_about_a_vm_that_arrived() -> None:
    trial = Trial(fault(FaultKind.ERROR_THOUGH_MOVED))

    assert isinstance(trial.migrate(), Failed)
    assert trial.states() == ("absent", "running (migrated)")


def test_a_vm_may_arrive_without_its_definition() -> None:
    trial = Trial(fault(FaultKind.PERSIST_FAILS))

    reply = trial.migrate()

    assert isinstance(reply, Failed)
    assert reply.code == 69
    view = trial.view(H2)
    assert isinstance(view, DomainView)
    assert view.state is VmState.RUNNING
    assert not view.persistent


def test_an_unreachable_host_breaks_the_call_and_not_the_migration() -> None:
    trial = Trial(fault(FaultKind.HOST_UNREACHABLE, host=H1, at_seconds=3.0, duration_seconds=60))

    reply = trial.migrate(50.0)

    assert isinstance(reply, Failed)
    assert isinstance(trial.view(H1), Unreachable)
    assert trial.running_on() == (H2,)


def test_a_host_that_lost_power_starts_what_has_autostart_when_it_is_back() -> None:
    trial = Trial(
        fault(FaultKind.HOST_DIES, host=H1, at_seconds=1.0, duration_seconds=60.0), autostart=True
    )

    trial.world.advance(30.0)
    assert trial.running_on() == ()
    trial.world.advance(160.0)
    assert trial.running_on() == (H1,)


@pytest.mark.parametrize("operation", ["Abort", "Pause"])
def test_a_hanging_call_is_given_up_and_nothing_was_done(operation: str) -> None:
    trial = Trial(fault(FaultKind.CALL_HANGS, operation=operation))
    trial.migrate(3.0)
    command: Command = Abort(vm=VM, host=H1) if operation == "Abort" else Pause(vm=VM, host=H1)

    reply = trial.do(command, 31.0)

    assert isinstance(reply, Failed)
    assert reply.timed_out
    assert trial.running_on() == (H2,)


def test_a_hanging_migrate_call_does_nothing_and_stays_pending() -> None:
    trial = Trial(fault(FaultKind.CALL_HANGS, operation="Migrate"))

    assert isinstance(trial.migrate(600.0), Pending)
    assert trial.running_on() == (H1,)


def test_a_lost_reply_hides_that_it_was_done() -> None:
    trial = Trial(fault(FaultKind.REPLY_LOST, operation="Migrate"))

    assert isinstance(trial.migrate(600.0), Pending)
    assert trial.running_on() == (H2,)


def test_a_hanging_look_makes_that_host_unreachable_only() -> None:
    trial = Trial(fault(FaultKind.CALL_HANGS, operation="Look", host=H1))

    reply = trial.do(Look(vm=VM, hosts=(H1, H2)))

    assert isinstance(reply, Returned)
    assert isinstance(reply.value, Sighting)
    assert reply.value.unreachable == (H1,)
    assert isinstance(trial.view(H1), DomainView)


def test_a_guest_that_ignores_the_shutdown_runs_on() -> None:
    trial = Trial(fault(FaultKind.IGNORES_SHUTDOWN))

    assert isinstance(trial.do(ShutDown(vm=VM, host=H1), 60.0), Returned)
    assert trial.running_on() == (H1,)
    trial.do(ShutDown(vm=VM, host=H1), 60.0)
    assert trial.running_on() == ()


def test_a_failed_start_leaves_the_vm_off_and_the_next_one_works() -> None:
    trial = Trial(fault(FaultKind.START_FAILS, text="no such device"))
    trial.do(ShutDown(vm=VM, host=H1), 10.0)

    first = trial.do(Start(vm=VM, host=H1))
    assert isinstance(first, Failed)
    assert first.text == "no such device"
    assert isinstance(trial.do(Start(vm=VM, host=H1)), Returned)
    assert trial.running_on() == (H1,)


def test_a_late_start_is_answered_by_a_broken_connection_and_carried_out_all_the_same() -> None:
    trial = Trial(fault(FaultKind.START_COMES_LATE, after_seconds=20.0))
    trial.do(ShutDown(vm=VM, host=H1), 10.0)

    reply = trial.do(Start(vm=VM, host=H1))

    assert isinstance(reply, Failed)
    assert may_still_happen("Start", reply)
    assert trial.running_on() == ()
    trial.world.advance(20.0)
    assert trial.running_on() == (H1,)


def test_a_late_start_never_comes_where_the_power_or_the_definition_is_gone() -> None:
    late = Fault(kind=FaultKind.START_COMES_LATE, after_seconds=20.0)
    dies = Fault(kind=FaultKind.HOST_DIES, host=H1, at_seconds=15.0)
    for faults, then in (((late, dies), None), ((late,), Undefine(vm=VM, host=H1))):
        trial = Trial(faults)
        trial.do(ShutDown(vm=VM, host=H1), 10.0)
        trial.do(Start(vm=VM, host=H1), 2.0)
        if then is not None:
            trial.do(then, 1.0)

        trial.world.advance(30.0)

        assert trial.running_on() == ()


def test_an_io_error_stops_the_guest() -> None:
    trial = Trial(fault(FaultKind.IO_ERROR, vm=VM, at_seconds=1.0))

    trial.world.advance(2.0)

    view = trial.view(H1)
    assert isinstance(view, DomainView)
    assert view.reason is StateReason.IO_ERROR


def test_post_copy_moves_a_guest_that_would_never_converge() -> None:
    trial = Trial(dirty=600.0 * MIB, post_copy=True)
    assert isinstance(trial.migrate(20.0), Pending)

    assert isinstance(trial.do(SwitchToPostCopy(vm=VM, host=H1), 1.0), Returned)
    assert trial.running_on() == (H2,)
    assert trial.states() == ("paused (post-copy)", "running (post-copy)")
    trial.world.advance(10.0)

    assert isinstance(trial.driver.poll(trial.ticket), Returned)
    assert trial.states() == ("absent", "running (migrated)")


def test_post_copy_cannot_be_aborted() -> None:
    trial = Trial(dirty=600.0 * MIB, post_copy=True)
    trial.migrate(20.0)
    trial.do(SwitchToPostCopy(vm=VM, host=H1), 1.0)

    assert isinstance(trial.do(Abort(vm=VM, host=H1), 1.0), Failed)
    assert trial.running_on() == (H2,)


def test_post_copy_needs_to_be_allowed_from_the_beginning() -> None:
    trial = Trial(dirty=600.0 * MIB)
    trial.migrate(20.0)

    assert isinstance(trial.do(SwitchToPostCopy(vm=VM, host=H1), 1.0), Failed)


def test_a_link_cut_in_post_copy_freezes_the_guest_and_it_recovers() -> None:
    trial = Trial(
        fault(FaultKind.LINK_DROPS, stage=Stage.POST_COPY, host=H2, duration_seconds=40.0),
        dirty=600.0 * MIB,
        post_copy=True,
    )
    trial.migrate(20.0)
    trial.do(SwitchToPostCopy(vm=VM, host=H1), 35.0)

    assert isinstance(trial.driver.poll(trial.ticket), Failed)
    assert trial.running_on() == ()
    assert trial.states() == ("paused (post-copy failed)", "running (post-copy)")
    trial.world.advance(120.0)
    assert trial.running_on() == (H2,)
    assert trial.states() == ("shutoff (migrated)", "running (migrated)")


def test_a_dying_target_in_post_copy_loses_the_guest() -> None:
    trial = Trial(
        fault(FaultKind.TARGET_QEMU_DIES, stage=Stage.POST_COPY),
        dirty=600.0 * MIB,
        post_copy=True,
    )
    trial.migrate(20.0)
    trial.do(SwitchToPostCopy(vm=VM, host=H1), 5.0)

    assert trial.running_on() == ()


def test_equal_faults_strike_one_after_the_other() -> None:
    refusal = Fault(kind=FaultKind.REFUSE)
    script = FaultScript([refusal, refusal])

    assert [len(script.take(Stage.REQUEST, VM, (H1, H2))) for _ in range(3)] == [1, 1, 0]


def test_a_fault_waits_for_the_vm_and_host_that_it_is_about() -> None:
    script = FaultScript([Fault(kind=FaultKind.REFUSE, vm=VM, host=H2)])

    assert script.take(Stage.REQUEST, VmId("other"), (H1, H2)) == ()
    assert script.take(Stage.REQUEST, VM, (H1, HostId("h3"))) == ()
    assert len(script.take(Stage.REQUEST, VM, (H1, H2))) == 1


@pytest.mark.parametrize("kind", sorted(HOST_KINDS))
def test_a_host_fault_without_a_host_is_refused(kind: FaultKind) -> None:
    with pytest.raises(ValueError, match="must say which host"):
        Fault(kind=kind)


def test_a_fault_of_one_stage_at_another_is_refused() -> None:
    with pytest.raises(ValueError, match="strikes at stage finish only"):
        Fault(kind=FaultKind.SPLIT_BRAIN, stage=Stage.REQUEST)


def test_random_faults_are_the_same_for_the_same_seed() -> None:
    assert random_faults(7, [VM], [H1, H2], 20) == random_faults(7, [VM], [H1, H2], 20)
    assert random_faults(7, [VM], [H1, H2], 20) != random_faults(8, [VM], [H1, H2], 20)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_goes_wrong_by_itself_the_vm_is_never_doubled(seed: int) -> None:
    trial = Trial(random_faults(seed, [VM], [H1, H2], 3), locked_disk=True, dirty=20.0 * MIB)

    trial.migrate(400.0)

    assert trial.world.record.doubled() == ()
    assert trial.world.record.overloads == []


def test_another_admin_may_move_the_vm_first() -> None:
    theirs = Fault(kind=FaultKind.MIGRATED_BY_SOMEBODY, vm=VM, host=HostId("h3"), at_seconds=1.0)
    trial = Trial((theirs,))

    trial.world.advance(60.0)

    assert trial.running_on() == (HostId("h3"),)


def test_a_vm_that_its_owner_shut_down_is_not_called_crashed() -> None:
    trial = Trial((Fault(kind=FaultKind.SHUT_DOWN_BY_OWNER, vm=VM, at_seconds=1.0),))

    trial.world.advance(2.0)

    assert trial.states()[0] == "shutoff (user)"


def test_a_vm_that_was_re_created_is_another_one() -> None:
    trial = Trial((Fault(kind=FaultKind.RE_CREATED, vm=VM, at_seconds=1.0),))

    trial.world.advance(2.0)

    assert trial.states() == ("absent", "absent")
    assert trial.world.hosts[H1].foreign_names == {"vm1"}


def test_a_vm_that_grew_needs_more_room() -> None:
    trial = Trial((Fault(kind=FaultKind.MEMORY_GROWS, vm=VM, factor=2.0, at_seconds=1.0),))

    trial.world.advance(2.0)

    assert trial.world.record.peak_memory_bytes[H1] == 8 * GIB


def test_memory_that_something_else_took_is_not_there_for_guests() -> None:
    trial = Trial((Fault(kind=FaultKind.MEMORY_TAKEN, host=H2, factor=0.99, at_seconds=0.0),))

    reply = trial.migrate()

    assert isinstance(reply, Failed)
    assert "Cannot allocate memory" in reply.text


def test_a_fault_may_strike_when_a_guest_is_asked_to_shut_down() -> None:
    trial = Trial((Fault(kind=FaultKind.HOST_DIES, host=H1, stage=Stage.SHUT_DOWN),))

    trial.do(ShutDown(vm=VM, host=H1))

    assert not trial.world.hosts[H1].powered


def test_a_fault_that_strikes_at_a_look_is_not_a_lost_look() -> None:
    trial = Trial(
        (Fault(kind=FaultKind.SOURCE_GUEST_DIES, vm=VM, stage=Stage.CALL, operation="Look"),)
    )

    assert trial.states()[0] == "crashed (crashed)"


def test_the_lock_on_a_shared_disk_keeps_a_second_copy_from_running() -> None:
    trial = Trial((Fault(kind=FaultKind.SPLIT_BRAIN, vm=VM),), locked_disk=True)
    trial.migrate()

    reply = trial.do(Resume(vm=VM, host=H1))

    assert isinstance(reply, Failed)
    assert trial.running_on() == (H2,)
