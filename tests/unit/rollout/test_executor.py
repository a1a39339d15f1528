"""Whole rollouts in the simulated datacentre: what is done, what is told, what is left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rebalancer.cluster.inventory import Host, HostId, Mode, Snapshot, Vm, VmId, VmState
from rebalancer.cluster.plan import MigrationState, Plan, Priority
from rebalancer.cluster.policy import Limits, MigrationPermissions
from rebalancer.cluster.rules import Spread
from rebalancer.cluster.selection import VmSelector
from rebalancer.cluster.sites import Rack
from rebalancer.cluster.windows import Window
from rebalancer.errors import LockHeldError, PlanRefusedError
from rebalancer.rollout.driver import (
    Command,
    SetAutostart,
    Ticket,
)
from rebalancer.rollout.events import (
    Event,
    Heartbeat,
    MigrationEnded,
    MigrationStarted,
    Note,
    Progress,
    RolloutEnded,
    RolloutStarted,
    StageChanged,
)
from rebalancer.rollout.executor import RolloutResult, Settings, execute
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Owner
from rebalancer.rollout.records import RecordKind, RolloutStatus
from rebalancer.rollout.steps import FailureBudget, StopRequest
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind, Stage
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_source import SimulatedSource
from tests.builders import GIB, MIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.rollout.plans import a_migration, a_plan
from tests.unit.rollout.ways import STORAGE, Way

S = MigrationState
HOSTS = (a_host("h1"), a_host("h2"), a_host("h3"))
HOT: dict[str, Any] = {"dirty_bytes_per_second": 400.0 * MIB, "working_set_bytes": 512 * MIB}
HOTTER: dict[str, Any] = {"dirty_bytes_per_second": 4000.0 * MIB, "working_set_bytes": 3 * GIB}


class World:
    """A simulated datacentre with a journal, and everything that a rollout told."""

    def __init__(
        self, folder: Path, vms: Sequence[Vm], hosts: Sequence[Host], faults: Sequence[Fault]
    ) -> None:
        self.snapshot = a_snapshot(hosts, vms)
        self.datacentre = Datacentre.of(self.snapshot, faults=faults)
        self.clock = VirtualClock(self.datacentre)
        self.driver = SimulatedDriver(self.datacentre)
        self.journal = Journal.open(f"sqlite:///{folder}/journal.db", self.clock)
        self.events: list[Event] = []

    def roll_out(self, plan: Plan, **options: Any) -> RolloutResult:
        defaults: dict[str, Any] = {
            "driver": self.driver,
            "snapshot": self.snapshot,
            "on_event": self.events.append,
        }
        return execute(plan, clock=self.clock, journal=self.journal, **(defaults | options))

    def states(self, result: RolloutResult) -> list[MigrationState]:
        return [outcome.state for outcome in result.outcomes]

    def running_on(self, vm: str) -> tuple[HostId, ...]:
        return self.datacentre.record.running_on(VmId(vm))

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def issued(self) -> list[str]:
        return [
            record.payload["command"]["do"]
            for record in self.journal.records(1)
            if record.kind is RecordKind.INTENT
        ]


type MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[MakeWorld]:
    made: list[World] = []

    def make(*vms: Vm, hosts: Sequence[Host] = HOSTS, faults: Sequence[Fault] = ()) -> World:
        made.append(World(tmp_path, vms or (a_vm("vm1"),), hosts, faults))
        return made[-1]

    yield make
    for world in made:
        assert world.datacentre.record.violations() == ()
        world.journal.close()


def test_a_live_migration_passes_all_stages_and_is_measured(make_world: MakeWorld) -> None:
    world = make_world()

    result = world.roll_out(a_plan(a_migration()))

    assert result.is_complete
    outcome = result.outcomes[0]
    assert [event.after for event in world.told(StageChanged)] == [
        S.PREPARE,
        S.REQUEST,
        S.TRANSFER,
        S.FINISH,
        S.COMPLETE,
    ]
    assert outcome.transfer_bytes is not None
    assert outcome.transfer_bytes > 4 * GIB
    assert outcome.duration_seconds is not None
    assert 15 < outcome.duration_seconds < 30
    assert outcome.downtime_seconds is not None
    assert world.running_on("vm1") == ("h2",)


@pytest.mark.parametrize(
    ("mode", "changed", "commands"),
    [
        (Mode.LIVE, {}, ["Migrate"]),
        (Mode.AUTO_CONVERGE, {}, ["Migrate"]),
        (Mode.SUSPEND, HOT, ["Migrate", "Pause"]),
        (Mode.POST_COPY, HOT, ["Migrate", "SwitchToPostCopy"]),
        (Mode.COLD, {}, ["ShutDown", "CopyDefinition", "Start", "Undefine"]),
        (Mode.OFFLINE, {"state": VmState.SHUTOFF}, ["MoveDefinition"]),
    ],
)
def test_every_mode_does_what_it_says(
    make_world: MakeWorld, mode: Mode, changed: dict[str, Any], commands: list[str]
) -> None:
    world = make_world(a_vm("vm1", **changed))

    result = world.roll_out(a_plan(a_migration(mode=mode)))

    assert result.is_complete, result
    assert world.issued() == commands
    assert world.running_on("vm1") == (() if mode is Mode.OFFLINE else ("h2",))


def test_autostart_and_pause_survive_a_move(make_world: MakeWorld) -> None:
    world = make_world(
        a_vm("vm1", autostart=True), a_vm("vm2", state=VmState.PAUSED, autostart=True)
    )

    result = world.roll_out(a_plan(a_migration(), a_migration("vm2", id="m2")))

    assert result.is_complete, result
    for vm, state in (("vm1", VmState.RUNNING), ("vm2", VmState.PAUSED)):
        view: Any = world.datacentre.hosts[HostId("h2")].view(VmId(vm))
        assert view.state is state
        assert view.autostart


class WatchingDriver(SimulatedDriver):
    """Notes for each change which intents were on disk when it was issued."""

    def __init__(self, world: World) -> None:
        super().__init__(world.datacentre)
        self._world = world
        self.seen: list[tuple[str, list[str]]] = []

    def issue(self, command: Command) -> Ticket:
        if command.changes:
            self.seen.append((type(command).__name__, self._world.issued()))
        return super().issue(command)


def test_intents_are_on_disk_before_commands_are_issued(make_world: MakeWorld) -> None:
    world = make_world()
    driver = WatchingDriver(world)

    world.roll_out(a_plan(a_migration(mode=Mode.COLD)), driver=driver)

    assert [command for command, _ in driver.seen] == world.issued()
    assert all(on_disk[-1] == command for command, on_disk in driver.seen)


def test_what_depends_on_a_migration_waits_for_it(make_world: MakeWorld) -> None:
    world = make_world(a_vm("vm1"), a_vm("vm2", on="h3"))
    second = a_migration("vm2", "h3", "h1", id="m2", depends_on=("m1",))

    world.roll_out(a_plan(a_migration(), second))

    told = [(type(e), getattr(e, "migration", None)) for e in world.events]
    ended = next(i for i, e in enumerate(world.events) if isinstance(e, MigrationEnded))
    assert ended < told.index((MigrationStarted, "m2"))


def test_what_depends_on_a_failed_migration_is_skipped_with_the_reason(
    make_world: MakeWorld,
) -> None:
    world = make_world(
        a_vm("vm1"),
        a_vm("vm2", on="h3"),
        faults=[Fault(kind=FaultKind.REFUSE, vm=VmId("vm1"))],
    )
    second = a_migration("vm2", "h3", "h1", id="m2", depends_on=("m1",))

    result = world.roll_out(a_plan(a_migration(), second))

    assert world.states(result) == [S.FAILED_SAFE, S.SKIPPED]
    assert result.outcomes[1].text == "it needs m1, which ended failed-safe"
    assert "the target refused" in result.outcomes[0].text


def test_a_missing_vm_is_skipped_and_the_rest_goes_on(make_world: MakeWorld) -> None:
    world = make_world(a_vm("vm1"))

    result = world.roll_out(a_plan(a_migration("gone", id="m0"), a_migration()))

    assert world.states(result) == [S.SKIPPED, S.COMPLETE]


def test_the_same_plan_is_not_applied_twice(make_world: MakeWorld) -> None:
    world = make_world()
    world.roll_out(a_plan(a_migration()))

    with pytest.raises(PlanRefusedError):
        world.roll_out(a_plan(a_migration()))


def test_two_rollouts_at_once_are_one_too_many(make_world: MakeWorld) -> None:
    world = make_world()
    world.journal.acquire("test", owner=Owner(host="elsewhere", pid=7))

    with pytest.raises(LockHeldError, match="process 7 on elsewhere"):
        world.roll_out(a_plan(a_migration()))
    assert world.running_on("vm1") == ("h1",)


def test_a_stop_lets_running_migrations_finish_and_starts_no_other(
    make_world: MakeWorld,
) -> None:
    world = make_world(a_vm("vm1"), a_vm("vm2", on="h3"))
    second = a_migration("vm2", "h3", "h1", id="m2")
    one_at_a_time = Settings(limits=Limits(cluster=1))

    result = world.roll_out(
        a_plan(a_migration(), second),
        settings=one_at_a_time,
        should_stop=lambda: bool(world.told(Progress)),
    )

    assert world.states(result) == [S.COMPLETE, S.SKIPPED]
    assert result.stopped == "the operator stopped the rollout"
    row = world.journal.rollout(result.rollout)
    assert row is not None
    assert row.status is RolloutStatus.STOPPED


def test_an_abort_calls_running_migrations_off(make_world: MakeWorld) -> None:
    world = make_world()

    result = world.roll_out(
        a_plan(a_migration()),
        should_stop=lambda: StopRequest.ABORT if world.told(Progress) else StopRequest.NO,
    )

    assert world.states(result) == [S.ABORTED]
    assert world.running_on("vm1") == ("h1",)


def test_an_abort_does_not_stop_a_cold_move_half_way(make_world: MakeWorld) -> None:
    world = make_world()

    result = world.roll_out(
        a_plan(a_migration(mode=Mode.COLD)),
        should_stop=lambda: StopRequest.ABORT if "ShutDown" in world.issued() else StopRequest.NO,
    )

    assert result.is_complete
    assert world.running_on("vm1") == ("h2",)


def test_too_many_failures_stop_the_rest(make_world: MakeWorld) -> None:
    vms = [a_vm(f"vm{n}") for n in range(1, 6)]
    world = make_world(*vms, faults=[Fault(kind=FaultKind.REFUSE, vm=vm.id) for vm in vms])
    migrations = [a_migration(vm.name, id=f"m{n}") for n, vm in enumerate(vms, 1)]

    result = world.roll_out(a_plan(*migrations), settings=Settings(limits=Limits(cluster=1)))

    assert world.states(result) == [S.FAILED_SAFE, S.FAILED_SAFE, S.SKIPPED, S.SKIPPED, S.SKIPPED]
    assert "2 of 5 migrations failed" in result.stopped


@pytest.mark.parametrize(
    ("failed", "planned", "goes_on"),
    [(1, 1, True), (1, 5, True), (2, 5, False), (2, 14, False), (2, 15, True), (3, 99, False)],
)
def test_the_failure_budget(failed: int, planned: int, goes_on: bool) -> None:
    assert FailureBudget().allows(failed, planned) is goes_on


def test_limits_are_kept_while_many_migrations_run(make_world: MakeWorld) -> None:
    vms = [a_vm(f"vm{n}", memory_bytes=GIB) for n in range(1, 11)]
    world = make_world(*vms)
    migrations = [
        a_migration(vm.name, "h1", f"h{2 + n % 2}", id=f"m{n}", bytes_per_second=600.0 * MIB)
        for n, vm in enumerate(vms)
    ]

    result = world.roll_out(a_plan(*migrations))

    record = world.datacentre.record
    assert result.is_complete
    assert record.peak_out[HostId("h1")] <= 2
    assert max(record.peak_granted_bytes_per_second.values()) <= 0.7 * 1.25e9


def test_the_uplink_of_a_rack_is_never_promised_twice(make_world: MakeWorld) -> None:
    hosts = [a_host(f"h{n}", rack="r1" if n < 4 else "r2") for n in range(1, 7)]
    vms = [a_vm(f"vm{n}", f"h{n}", memory_bytes=GIB) for n in (1, 2, 3)]
    world = make_world(*vms, hosts=hosts)
    uplink = Rack(name="r1", uplink_bytes_per_second=500.0 * MIB)
    snapshot = replace(world.snapshot, racks=(uplink,))
    moves = [
        a_migration(f"vm{n}", f"h{n}", f"h{n + 3}", id=f"m{n}", bytes_per_second=200.0 * MIB)
        for n in (1, 2, 3)
    ]

    result = world.roll_out(a_plan(*moves), snapshot=snapshot)

    # 350 MiB/s are for migrations: room for one of them at a time.
    assert result.is_complete
    assert world.told(StageChanged)
    assert max(_side_by_side(world.told(StageChanged))) == 1


def _side_by_side(changes: Sequence[StageChanged]) -> list[int]:
    """How many transfers were under way after each change."""
    flying: set[str] = set()
    counts = []
    for change in changes:
        (flying.add if change.after is S.TRANSFER else flying.discard)(change.migration)
        counts.append(len(flying))
    return counts


def test_a_move_that_can_wait_does_not_start_shortly_before_the_window_closes(
    make_world: MakeWorld,
) -> None:
    vms = [a_vm(f"vm{n}", memory_bytes=4 * GIB, dirty_bytes_per_second=0.0) for n in (1, 2, 3, 4)]
    world = make_world(*vms)
    closes_soon = Window(from_minute=11 * 60, to_minute=12 * 60 + 1)
    policy = a_policy(
        limits=Limits(cluster=1), migration=MigrationPermissions(windows=(closes_soon,))
    )
    moves = [
        a_migration(vm.name, id=f"m{n}", priority=Priority.DRAIN if n == 3 else Priority.BALANCE)
        for n, vm in enumerate(vms)
    ]

    result = world.roll_out(a_plan(*moves), settings=Settings.of(policy))

    # One takes 25 s, and up to 40: the second would be over at 12:01:05 at the latest.
    assert world.states(result) == [S.COMPLETE, S.SKIPPED, S.SKIPPED, S.COMPLETE]
    assert "the maintenance window closes at Mon 2026-11-23 12:01 UTC" in result.outcomes[1].text


def test_a_drained_host_receives_nothing(make_world: MakeWorld) -> None:
    world = make_world()
    world.journal.mark_drain("test", HostId("h2"), "new memory")

    result = world.roll_out(a_plan(a_migration()))

    assert world.states(result) == [S.SKIPPED]
    assert "new memory" in result.outcomes[0].text


def test_a_full_target_is_noticed_in_the_newest_snapshot(make_world: MakeWorld) -> None:
    world = make_world()
    crowd = [a_vm(f"new{n}", on="h2", memory_bytes=31 * GIB) for n in range(2)]
    newer = a_snapshot(HOSTS, [a_vm("vm1"), *crowd])

    def observe() -> Snapshot:
        return newer

    result = world.roll_out(a_plan(a_migration()), snapshot=observe)

    assert world.states(result) == [S.SKIPPED]
    assert "bytes it needs" in result.outcomes[0].text


def test_what_cannot_converge_is_called_off_and_says_why(make_world: MakeWorld) -> None:
    world = make_world(a_vm("vm1", **HOTTER, allowed_modes=frozenset({Mode.LIVE})))

    result = world.roll_out(a_plan(a_migration()))

    assert world.states(result) == [S.FAILED_SAFE]
    assert "did not converge" in result.outcomes[0].text
    assert "Abort" in world.issued()
    assert world.running_on("vm1") == ("h1",)


def test_a_guest_that_turns_out_hotter_is_paused_if_the_policy_allows_it(
    make_world: MakeWorld,
) -> None:
    full = [a_host(name, nic_bytes_per_second=200 * MIB / 0.7) for name in ("h1", "h2")]
    world = make_world(a_vm("vm1", **HOT), hosts=full)

    result = world.roll_out(a_plan(a_migration()))

    assert result.is_complete, result
    assert world.issued() == ["Migrate", "Pause"]


def test_a_guest_that_turns_out_hotter_gets_what_others_leave_of_the_links(
    make_world: MakeWorld,
) -> None:
    world = make_world(a_vm("vm1", **HOT))

    result = world.roll_out(a_plan(a_migration()))

    assert result.is_complete, result
    assert world.issued() == ["Migrate", "SetBandwidth"]
    assert any("which others have left" in note.text for note in world.told(Note))


def test_two_that_turn_out_hotter_never_take_the_same_bandwidth(make_world: MakeWorld) -> None:
    names = ("vm1", "vm2")
    world = make_world(*(a_vm(name, **HOT) for name in names))
    moves = [a_migration(name, id=f"m-{name}") for name in names]

    result = world.roll_out(a_plan(*moves))

    assert result.is_complete, result
    most = Limits().link_share * HOSTS[0].nic_bytes_per_second
    granted = world.datacentre.record.peak_granted_bytes_per_second
    assert granted
    assert max(granted.values()) <= most * (1 + 1e-9)
    assert "SetBandwidth" in world.issued()


def test_a_guest_that_ignores_shutdown_is_not_destroyed(make_world: MakeWorld) -> None:
    world = make_world(faults=[Fault(kind=FaultKind.IGNORES_SHUTDOWN)])

    result = world.roll_out(a_plan(a_migration(mode=Mode.COLD)))

    assert world.states(result) == [S.FAILED_SAFE]
    assert "ignored" in result.outcomes[0].text
    assert world.issued() == ["ShutDown"]
    assert world.running_on("vm1") == ("h1",)


def test_a_cold_move_whose_start_fails_goes_back(make_world: MakeWorld) -> None:
    world = make_world(a_vm("vm1", autostart=True), faults=[Fault(kind=FaultKind.START_FAILS)])

    result = world.roll_out(a_plan(a_migration(mode=Mode.COLD)))

    assert world.states(result) == [S.FAILED_SAFE]
    assert world.running_on("vm1") == ("h1",)
    here: Any = world.datacentre.hosts[HostId("h1")].view(VmId("vm1"))
    assert here.autostart
    there = world.datacentre.hosts[HostId("h2")].view(VmId("vm1"))
    assert not getattr(there, "persistent", False)


class KeepsAutostart(SimulatedDriver):
    """A source whose file system became read-only: no autostart can be changed there."""

    def issue(self, command: Command) -> Ticket:
        if isinstance(command, SetAutostart) and command.host == HostId("h1"):
            command = replace(command, enabled=True)
        return super().issue(command)


def test_a_cold_move_is_not_started_elsewhere_while_its_source_would_start_it_when_it_boots(
    make_world: MakeWorld,
) -> None:
    world = make_world(a_vm("vm1", autostart=True))
    driver = KeepsAutostart(world.datacentre)

    result = world.roll_out(a_plan(a_migration(mode=Mode.COLD)), driver=driver)

    assert world.states(result) == [S.FAILED_SAFE]
    assert "its autostart on h1 cannot be switched off" in result.outcomes[0].text
    assert world.running_on("vm1") == ("h1",)


@pytest.mark.parametrize("way", [Way.COLD, Way.SAVED])
def test_a_start_whose_answer_broke_off_may_come_late_and_is_waited_for(
    make_world: MakeWorld, way: Way
) -> None:
    hosts = [a_host(name, storage=frozenset({STORAGE})) for name in ("h1", "h2")]
    late = Fault(kind=FaultKind.START_COMES_LATE, host=HostId("h2"), after_seconds=2.5)
    world = make_world(hosts=hosts, faults=[late])

    result = world.roll_out(a_plan(a_migration(**way.plan)))
    world.clock.sleep(60)

    assert world.states(result) == [S.COMPLETE]
    assert world.running_on("vm1") == ("h2",)


@pytest.mark.parametrize("way", [Way.COLD, Way.SAVED])
def test_what_is_brought_back_late_is_not_given_up_before_it_could_come(
    make_world: MakeWorld, way: Way
) -> None:
    hosts = [a_host(name, storage=frozenset({STORAGE})) for name in ("h1", "h2")]
    fails = Fault(kind=FaultKind.START_FAILS, host=HostId("h2"), code=9)
    late = Fault(kind=FaultKind.START_COMES_LATE, host=HostId("h1"), after_seconds=20.0)
    world = make_world(hosts=hosts, faults=[fails, late, late, late])

    result = world.roll_out(a_plan(a_migration(**way.plan)))

    assert world.states(result) == [S.FAILED_SAFE]
    assert world.running_on("vm1") == ("h1",)


def test_a_target_that_dies_while_its_statistics_are_asked_for_is_looked_at_again(
    make_world: MakeWorld,
) -> None:
    dies = Fault(
        kind=FaultKind.HOST_DIES, host=HostId("h2"), stage=Stage.CALL, operation="ReadResult"
    )
    world = make_world(faults=[dies])

    result = world.roll_out(a_plan(a_migration()))

    assert world.states(result) == [S.UNKNOWN]
    assert "h2 does not answer" in result.outcomes[0].text


def test_an_error_is_no_outcome(make_world: MakeWorld) -> None:
    world = make_world(faults=[Fault(kind=FaultKind.ERROR_THOUGH_MOVED)])

    result = world.roll_out(a_plan(a_migration()))

    assert result.is_complete
    assert world.running_on("vm1") == ("h2",)


def test_a_reply_that_never_comes_is_no_outcome(make_world: MakeWorld) -> None:
    world = make_world(faults=[Fault(kind=FaultKind.REPLY_LOST, operation="Migrate")])

    result = world.roll_out(a_plan(a_migration()))

    assert result.outcomes[0].state in (S.COMPLETE, S.UNKNOWN)
    assert world.running_on("vm1") == ("h2",)


def test_a_lost_answer_does_not_keep_a_post_copy_migration_waiting_for_ever(
    make_world: MakeWorld,
) -> None:
    lost = Fault(kind=FaultKind.REPLY_LOST, operation="Migrate")
    world = make_world(a_vm("vm1", **HOT), faults=[lost])

    result = world.roll_out(a_plan(a_migration(mode=Mode.POST_COPY)))

    assert world.states(result) == [S.COMPLETE]
    assert (result.ended_at - result.started_at).total_seconds() < 600


def test_a_switch_to_post_copy_that_hangs_is_tried_again(make_world: MakeWorld) -> None:
    hangs = Fault(kind=FaultKind.CALL_HANGS, operation="SwitchToPostCopy")
    world = make_world(a_vm("vm1", **HOT), faults=[hangs])

    result = world.roll_out(a_plan(a_migration(mode=Mode.POST_COPY)))

    assert world.states(result) == [S.COMPLETE]
    assert world.issued() == ["Migrate", "SwitchToPostCopy", "SwitchToPostCopy"]


def test_a_switch_to_post_copy_that_never_works_is_called_off(make_world: MakeWorld) -> None:
    hangs = [Fault(kind=FaultKind.CALL_HANGS, operation="SwitchToPostCopy")] * 3
    world = make_world(a_vm("vm1", **HOT), faults=hangs)

    result = world.roll_out(a_plan(a_migration(mode=Mode.POST_COPY)))

    assert world.states(result) == [S.FAILED_SAFE]
    assert "the switch to post-copy has no effect" in result.outcomes[0].text
    assert world.running_on("vm1") == ("h1",)


def test_a_switch_to_post_copy_whose_answer_is_lost_is_not_aborted(make_world: MakeWorld) -> None:
    lost = Fault(kind=FaultKind.REPLY_LOST, operation="SwitchToPostCopy")
    world = make_world(a_vm("vm1", **HOT), faults=[lost])

    result = world.roll_out(a_plan(a_migration(mode=Mode.POST_COPY)))

    assert world.states(result) == [S.COMPLETE]
    assert world.issued() == ["Migrate", "SwitchToPostCopy"]


def test_a_migration_that_outlives_our_connection_is_adopted(make_world: MakeWorld) -> None:
    cut = Fault(kind=FaultKind.HOST_UNREACHABLE, host=HostId("h1"), at_seconds=5.0)
    back = replace(cut, duration_seconds=40.0)
    world = make_world(faults=[back])

    result = world.roll_out(a_plan(a_migration(bytes_per_second=50.0 * MIB)))

    assert world.states(result) == [S.COMPLETE]
    assert any("adopted" in event.text for event in world.told(Note))


def test_a_guest_that_follows_a_request_whose_answer_broke_off_is_started_again(
    make_world: MakeWorld,
) -> None:
    gone = Fault(kind=FaultKind.LIBVIRTD_RESTARTS, host=HostId("h1"), stage=Stage.SHUT_DOWN)
    world = make_world(faults=[gone])

    result = world.roll_out(a_plan(a_migration(mode=Mode.COLD)))

    assert world.states(result) == [S.FAILED_SAFE]
    assert world.running_on("vm1") == ("h1",)


def test_a_host_that_leaves_the_configuration_stops_nothing_else(make_world: MakeWorld) -> None:
    vms = [a_vm(f"vm{n}", labels={"app": "db"}) for n in (1, 2)]
    world = make_world(*vms)
    rule = Spread(name="apart", vms=VmSelector(labels={"app": ("db",)}))
    shrunk = replace(world.snapshot, hosts=(HOSTS[0], HOSTS[2]))

    result = world.roll_out(
        a_plan(a_migration(), a_migration("vm2", "h1", "h3", id="m2", depends_on=())),
        snapshot=lambda: shrunk if world.told(Progress) else world.snapshot,
        settings=replace(Settings.of(a_policy(rule)), limits=Limits(cluster=1)),
    )

    assert world.states(result) == [S.COMPLETE, S.COMPLETE]


def test_a_host_on_which_nothing_comes_through_is_left_alone(make_world: MakeWorld) -> None:
    vms = [a_vm(f"vm{n}") for n in range(1, 6)]
    refuses = Fault(kind=FaultKind.REFUSE, host=HostId("h2"), stage=Stage.REQUEST)
    world = make_world(*vms, faults=[replace(refuses, vm=vm.id) for vm in vms])
    to_h2 = [a_migration(f"vm{n}", "h1", "h2", id=f"m{n}", depends_on=()) for n in range(1, 5)]
    to_h3 = a_migration("vm5", "h1", "h3", id="m5", depends_on=())

    result = world.roll_out(
        a_plan(*to_h2, to_h3),
        settings=Settings(limits=Limits(cluster=1), budget=FailureBudget(failures=9, ratio=1.0)),
    )

    assert world.states(result) == [*[S.FAILED_SAFE] * 2, *[S.SKIPPED] * 2, S.COMPLETE]
    assert "none came through" in result.outcomes[2].text


def test_an_unknown_outcome_keeps_later_plans_off_the_vm(make_world: MakeWorld) -> None:
    world = make_world(
        a_vm("vm1"),
        a_vm("vm2"),
        faults=[Fault(kind=FaultKind.HOST_UNREACHABLE, host=HostId("h1"), at_seconds=5.0)],
    )

    first = world.roll_out(a_plan(a_migration()))
    second = world.roll_out(a_plan(a_migration(), id="p2"))

    assert world.states(first) == [S.UNKNOWN]
    assert world.states(second) == [S.SKIPPED]
    assert "recover" in second.outcomes[0].text


def test_a_silent_host_is_told_of_and_waited_for_only_as_long_as_the_operator_likes(
    make_world: MakeWorld,
) -> None:
    faults = [Fault(kind=FaultKind.HOST_UNREACHABLE, host=HostId("h1"), at_seconds=5.0)]
    world = make_world(faults=faults)

    def wants() -> StopRequest:
        waits = any("waiting up to" in note.text for note in world.told(Note))
        return StopRequest.ABORT if waits else StopRequest.NO

    result = world.roll_out(a_plan(a_migration()), should_stop=wants)

    assert world.states(result) == [S.UNKNOWN]
    told = next(note for note in world.told(Note) if "waiting up to" in note.text)
    assert "h1" in told.text
    assert (result.ended_at - told.at).total_seconds() < 60


def test_the_onlooker_hears_something_every_ten_seconds(make_world: MakeWorld) -> None:
    world = make_world(faults=[Fault(kind=FaultKind.CALL_HANGS, operation="ReadProgress")])

    world.roll_out(a_plan(a_migration(mode=Mode.COLD)))

    times = [event.at for event in world.events]
    gaps = [(b - a).total_seconds() for a, b in pairwise(times)]
    assert max(gaps) <= 11
    assert isinstance(world.events[0], RolloutStarted)
    assert isinstance(world.events[-1], RolloutEnded)
    assert all(isinstance(event.running, int) for event in world.told(Heartbeat))


def test_progress_is_told_with_an_end_in_sight(make_world: MakeWorld) -> None:
    world = make_world()

    world.roll_out(a_plan(a_migration()))

    progress = world.told(Progress)
    assert len(progress) > 10
    assert progress[-2].eta_seconds is not None
    assert progress[-2].bytes_per_second == pytest.approx(200 * MIB, rel=0.2)


def test_an_empty_plan_is_a_rollout_too(make_world: MakeWorld) -> None:
    world = make_world()

    result = world.roll_out(a_plan())

    assert result.is_complete
    assert result.outcomes == ()


def test_a_link_too_slow_for_any_migration_is_no_reason_to_wait_for_ever(
    make_world: MakeWorld,
) -> None:
    slow = [replace(host, nic_bytes_per_second=0.5 * MIB) for host in HOSTS]
    world = make_world(hosts=slow)

    result = world.roll_out(a_plan(a_migration()))

    assert world.states(result) == [S.SKIPPED]


def with_a_migration_of_somebody_else(make_world: MakeWorld, **facts: Any) -> World:
    """Another administrator moves vm2 from h1 to h3, and began a moment before we look."""
    theirs = Fault(
        kind=FaultKind.MIGRATED_BY_SOMEBODY, vm=VmId("vm2"), host=HostId("h3"), at_seconds=0.0
    )
    world = make_world(a_vm("vm1"), a_vm("vm2", **facts), faults=[theirs])
    world.datacentre.advance(5)
    return world


def out_of_h1_one_at_a_time(world: World) -> RolloutResult:
    return world.roll_out(
        a_plan(a_migration()),
        snapshot=SimulatedSource(world.datacentre).observe,
        settings=Settings(limits=Limits(per_host_out=1)),
    )


def test_a_migration_of_somebody_else_takes_its_place_among_those_of_a_host(
    make_world: MakeWorld,
) -> None:
    world = with_a_migration_of_somebody_else(make_world, memory_bytes=8 * GIB)

    result = out_of_h1_one_at_a_time(world)

    assert result.is_complete
    assert world.running_on("vm1") == (HostId("h2"),)
    assert world.running_on("vm2") == (HostId("h3"),)
    assert world.datacentre.record.peak_out[HostId("h1")] == 1
    assert [note.text for note in world.told(Note)] == [
        "somebody else is migrating vm2, and with that the limits of hosts and links allow no more"
    ]


def test_what_somebody_else_takes_of_a_link_is_not_granted_a_second_time(
    make_world: MakeWorld,
) -> None:
    """Theirs takes nearly all of h1's NIC, so that of two that may leave it one waits."""
    world = with_a_migration_of_somebody_else(make_world, memory_bytes=8 * GIB)

    result = world.roll_out(
        a_plan(a_migration()),
        snapshot=SimulatedSource(world.datacentre).observe,
        settings=Settings(limits=Limits(per_host_out=2)),
    )

    assert result.is_complete
    assert world.datacentre.record.peak_out[HostId("h1")] == 1
    assert "limits of hosts and links allow no more" in world.told(Note)[0].text


def test_a_place_that_somebody_else_never_leaves_is_not_waited_for_for_ever(
    make_world: MakeWorld,
) -> None:
    world = with_a_migration_of_somebody_else(make_world, memory_bytes=8 * GIB, **HOTTER)

    outcome = out_of_h1_one_at_a_time(world).outcomes[0]

    assert outcome.state is S.SKIPPED
    assert "somebody else is migrating vm2, and with that the limits" in outcome.text
    assert world.running_on("vm1") == (HostId("h1"),)
