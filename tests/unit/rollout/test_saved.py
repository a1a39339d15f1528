"""Cold moves by a saved memory: a file is used once, and no guest is run from old memory."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, Mode, VmState
from rebalancer.cluster.plan import MigrationState
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.rollout.attempt import Attempt, Before
from rebalancer.rollout.decisions import Decision, LookAgain, Repair, StillMoving
from rebalancer.rollout.driver import Command, DiscardImage, Restore, Resume, Save
from rebalancer.rollout.endings import Ended
from rebalancer.rollout.executor import Settings
from rebalancer.rollout.reconcile import reconcile
from rebalancer.rollout.sightings import Absent, DomainView, HostView, JobKind, StateReason
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind, Stage
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.rollout.crashes import Death, live_through
from tests.unit.rollout.plans import a_migration, a_plan
from tests.unit.rollout.sightings import (
    ABSENT,
    SILENT,
    a_sighting,
    a_view,
    defined,
    paused,
    running,
)
from tests.unit.rollout.ways import STORAGE, Way

S = MigrationState
H1, H2 = HostId("h1"), HostId("h2")
MOVE = a_migration(memory_bytes=GIB, **Way.SAVED.plan)
FILE: dict[str, Any] = {"vm": MOVE.vm, "storage": STORAGE, "file": "vm1.save"}
SAVE, THERE = Save(host=H1, **FILE), Restore(host=H2, **FILE)
BACK = Restore(host=H1, **FILE)
ON_THERE, ON_HERE = Resume(vm=MOVE.vm, host=H2), Resume(vm=MOVE.vm, host=H1)
SAVED, FORGOTTEN = defined(StateReason.SAVED), defined(StateReason.OTHER)


def a_try(*issued: Command) -> Attempt:
    before = Before(state=VmState.RUNNING, persistent=True, autostart=False, memory_bytes=GIB)
    return Attempt(migration=MOVE, before=before, issued=issued)


def decide(source: HostView, target: HostView, *issued: Command) -> Decision:
    return reconcile(a_try(*issued), a_sighting(source, target))


def repair(decision: Decision) -> Command | None:
    return decision.command if isinstance(decision, Repair) else None


def text(decision: Decision) -> str:
    assert isinstance(decision, Ended)
    return decision.text


def test_what_was_saved_and_not_read_back_goes_back_to_its_source() -> None:
    assert repair(decide(SAVED, ABSENT, SAVE)) == BACK
    assert repair(decide(SAVED, ABSENT, SAVE, THERE)) == BACK


def test_once_it_was_let_run_its_saved_memory_is_spent() -> None:
    for resumed in ((SAVE, THERE, ON_THERE), (SAVE, THERE, BACK, ON_HERE)):
        end = decide(SAVED, ABSENT, *resumed)

        assert "Never restore its saved memory" in text(end)
        assert isinstance(end, Ended)
        assert end.state is S.FAILED_DOWN


@pytest.mark.parametrize("reason", [StateReason.USER, StateReason.CRASHED])
def test_a_guest_that_went_off_otherwise_is_not_restored(reason: StateReason) -> None:
    assert "Never restore" in text(decide(defined(reason), ABSENT, SAVE))


def test_where_libvirt_forgot_why_it_is_off_people_decide() -> None:
    assert "restore it on ONE host" in text(decide(FORGOTTEN, ABSENT, SAVE))


def test_where_somebody_defined_it_on_the_target_people_decide() -> None:
    assert "Never restore" in text(decide(SAVED, defined(), SAVE))


def test_what_is_being_written_or_read_is_waited_for() -> None:
    saving = paused(StateReason.OTHER, job=JobKind.SAVE)
    loading = paused(StateReason.STARTING_UP, job=JobKind.RESTORE)

    assert isinstance(decide(saving, ABSENT, SAVE), StillMoving)
    assert isinstance(decide(SAVED, loading, SAVE, THERE), StillMoving)
    assert isinstance(decide(loading, ABSENT, SAVE, BACK), StillMoving)


def test_what_was_loaded_goes_on_where_it_is_if_it_is_the_newest_there_is() -> None:
    assert repair(decide(SAVED, paused(), SAVE, THERE)) == ON_THERE
    assert repair(decide(paused(), ABSENT, SAVE, BACK)) == ON_HERE
    late = decide(defined(StateReason.USER), paused(), SAVE, THERE)
    assert isinstance(late, LookAgain)
    assert "would ruin its disks" in late.then.text


def test_a_backup_of_a_loaded_guest_is_waited_for() -> None:
    busy = paused(job=JobKind.OTHER)

    assert isinstance(decide(SAVED, busy, SAVE, THERE), LookAgain)
    assert isinstance(decide(busy, ABSENT, SAVE, BACK), LookAgain)


def test_a_guest_that_somebody_paused_is_not_resumed() -> None:
    assert repair(decide(SAVED, paused(StateReason.USER), SAVE, THERE, ON_THERE)) is None


def test_the_file_goes_when_the_guest_runs_on() -> None:
    arrived = decide(ABSENT, running(), SAVE, THERE, ON_THERE)
    failed = decide(running(), ABSENT, SAVE)

    assert repair(arrived) == DiscardImage(host=H2, **FILE)
    assert repair(failed) == DiscardImage(host=H1, **FILE)
    assert isinstance(failed, Repair)
    assert failed.then.state is S.FAILED_SAFE
    assert "rebalancer-saved/vm1.save on storage vmstore" in failed.then.text


VIEWS: list[HostView] = [
    ABSENT,
    SILENT,
    *(
        a_view(state, reason, job)
        for state in (VmState.RUNNING, VmState.PAUSED, VmState.SHUTOFF)
        for reason in StateReason
        for job in (None, JobKind.SAVE, JobKind.RESTORE, JobKind.MIGRATION_OUT)
    ),
]


def test_no_pair_of_views_runs_old_memory_on_newer_disks() -> None:
    tries = [(SAVE,), (SAVE, THERE), (SAVE, THERE, ON_THERE), (SAVE, THERE, BACK, ON_HERE)]
    for issued, source, target in product(tries, VIEWS, VIEWS):
        command = repair(decide(source, target, *issued))
        if isinstance(command, Restore):
            assert command.host == H1
            assert isinstance(source, DomainView)
            assert (source.state, source.reason) == (VmState.SHUTOFF, StateReason.SAVED)
            assert isinstance(target, Absent)
            assert not any(isinstance(each, Resume) for each in issued)
        if isinstance(command, Resume):
            others = {H1: target, H2: source}[command.host]
            assert not isinstance(others, DomainView) or not others.is_active
        if isinstance(command, DiscardImage):
            views = (source, target)
            assert any(isinstance(v, DomainView) and v.is_active for v in views)


# In the simulated datacentre ----------------------------------------------------------------

SHARING = tuple(a_host(name, storage=frozenset({STORAGE})) for name in ("h1", "h2", "h3"))
SETTINGS = Settings.of(
    a_policy(migration=MigrationPermissions(allow=frozenset({Mode.COLD}), save_to=STORAGE))
)


def roll_out(folder: Path, *faults: Fault, hosts: Any = SHARING) -> tuple[Any, Datacentre]:
    snapshot = a_snapshot(hosts, [a_vm("vm1", memory_bytes=GIB, autostart=True)])
    world = Datacentre.of(snapshot, faults=faults)
    story = live_through(a_plan(MOVE), snapshot, world, folder, Death(), settings=SETTINGS)
    assert story.first is not None
    world.advance(300)
    assert world.record.violations() == ()
    return story.first.outcomes[0], world


def test_a_saved_guest_arrives_without_a_boot_and_leaves_nothing_behind(tmp_path: Path) -> None:
    outcome, world = roll_out(tmp_path)

    assert outcome.state is S.COMPLETE
    assert world.record.running_on(MOVE.vm) == (H2,)
    assert world.images == {}
    (outage,) = world.record.outages(MOVE.vm)
    assert outage.end_seconds is not None
    stood = outage.end_seconds - outage.begin_seconds
    assert outcome.downtime_seconds == pytest.approx(stood, abs=1.0)


def test_a_host_that_does_not_tell_of_the_storage_is_not_asked(tmp_path: Path) -> None:
    outcome, world = roll_out(tmp_path, hosts=(SHARING[0], a_host("h2"), SHARING[2]))

    assert outcome.state is S.SKIPPED
    assert "h2 does not reach storage vmstore" in outcome.text
    assert world.record.running_on(MOVE.vm) == (H1,)


def test_a_policy_without_the_storage_refuses_it(tmp_path: Path) -> None:
    elsewhere = Settings.of(a_policy(migration=MigrationPermissions(allow=frozenset({Mode.COLD}))))
    snapshot = a_snapshot(SHARING, [a_vm("vm1", memory_bytes=GIB)])
    world = Datacentre.of(snapshot)

    story = live_through(a_plan(MOVE), snapshot, world, tmp_path, Death(), settings=elsewhere)

    assert story.first is not None
    assert "does not let memory be saved to storage vmstore" in story.first.outcomes[0].text


def test_a_target_that_cannot_load_it_gives_it_back(tmp_path: Path) -> None:
    broken = Fault(kind=FaultKind.START_FAILS, vm=MOVE.vm, host=H2)

    outcome, world = roll_out(tmp_path, broken)

    assert outcome.state is S.FAILED_SAFE
    assert world.record.running_on(MOVE.vm) == (H1,)
    assert world.hosts[H1].domains[MOVE.vm].autostart
    assert world.images == {}


@pytest.mark.parametrize("kind", [FaultKind.CALL_HANGS, FaultKind.REPLY_LOST])
@pytest.mark.parametrize("operation", ["Save", "SetAutostart", "Restore", "Resume", "DiscardImage"])
def test_a_call_without_an_answer_loses_nothing(
    tmp_path: Path, kind: FaultKind, operation: str
) -> None:
    lost = Fault(kind=kind, vm=MOVE.vm, operation=operation)

    outcome, world = roll_out(tmp_path, lost)

    assert outcome.state in (S.COMPLETE, S.FAILED_SAFE)
    assert len(world.record.running_on(MOVE.vm)) == 1
    assert world.images == {}


def test_what_was_loaded_while_a_host_fell_silent_is_let_run_by_recover_once_that_answers(
    tmp_path: Path,
) -> None:
    silent = Fault(
        kind=FaultKind.HOST_UNREACHABLE,
        vm=MOVE.vm,
        host=HostId("h3"),
        stage=Stage.CALL,
        operation="Restore",
        duration_seconds=400.0,
    )

    outcome, world = roll_out(tmp_path, silent)

    assert outcome.state is S.UNKNOWN
    assert "h3 does not answer" in outcome.text
    assert "rebalancer recover" in outcome.text
    assert world.record.running_on(MOVE.vm) == (H2,)
    assert world.images == {}


def test_a_guest_that_ends_after_it_was_let_run_is_not_brought_back_from_the_file(
    tmp_path: Path,
) -> None:
    dies = Fault(
        kind=FaultKind.SOURCE_GUEST_DIES,
        vm=MOVE.vm,
        stage=Stage.CALL,
        operation="Resume",
        after_seconds=0.3,
    )

    outcome, world = roll_out(tmp_path, dies)

    assert outcome.state is S.FAILED_DOWN
    assert "Never restore its saved memory" in outcome.text
    assert world.record.running_on(MOVE.vm) == ()
