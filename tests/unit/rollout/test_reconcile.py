"""How a migration ended, for every pair of things that source and target can say."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, Mode, VmState
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.attempt import Attempt, Before
from rebalancer.rollout.driver import (
    Command,
    CopyDefinition,
    Migrate,
    MoveDefinition,
    Pause,
    Resume,
    SetAutostart,
    ShutDown,
    Start,
    Undefine,
)
from rebalancer.rollout.reconcile import (
    Decision,
    Ended,
    LookAgain,
    Repair,
    StillMoving,
    reconcile,
)
from rebalancer.rollout.sightings import DomainView, HostView, JobKind, StateReason
from tests.builders import GIB
from tests.unit.rollout.plans import a_migration
from tests.unit.rollout.sightings import (
    ABSENT,
    SILENT,
    a_sighting,
    a_view,
    defined,
    paused,
    running,
)

S, R = MigrationState, StateReason
MOVE = a_migration()
H1, H2 = HostId("h1"), HostId("h2")
OUT, IN = JobKind.MIGRATION_OUT, JobKind.MIGRATION_IN
PAUSE = Pause(vm=MOVE.vm, host=H1)
COPY = CopyDefinition(vm=MOVE.vm, host=H1, target=H2)
SHUT_DOWN = ShutDown(vm=MOVE.vm, host=H1)


def a_try(*issued: Command, mode: Mode = Mode.LIVE, error: str = "", **before: Any) -> Attempt:
    facts: dict[str, Any] = {
        "state": VmState.RUNNING,
        "persistent": True,
        "autostart": False,
        "memory_bytes": 4 * GIB,
    }
    request = Migrate(
        vm=MOVE.vm,
        host=H1,
        target=H2,
        bytes_per_second=1e8,
        max_downtime_seconds=0.5,
        persistent=True,
    )
    first = (request,) if mode is Mode.LIVE else ()
    return Attempt(
        migration=replace(MOVE, mode=mode),
        before=Before(**(facts | before)),
        issued=(*first, *issued),
        error=error,
    )


def decide(source: HostView, target: HostView, attempt: Attempt | None = None) -> Decision:
    return reconcile(attempt or a_try(), a_sighting(source, target))


def ends(decision: Decision) -> MigrationState:
    """The state that a decision comes to in the end, should nothing change."""
    return decision.state if isinstance(decision, Ended) else decision.then.state  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("source", "target", "end"),
    [
        (ABSENT, running(R.MIGRATED), S.COMPLETE),
        (running(R.MIGRATION_CANCELED), ABSENT, S.FAILED_SAFE),
        (running(), defined(), S.FAILED_SAFE),
        (running(), running(), S.UNKNOWN),
        (paused(R.MIGRATION), running(R.MIGRATED), S.UNKNOWN),
        (paused(R.USER), running(R.MIGRATED), S.UNKNOWN),
        (defined(R.CRASHED), ABSENT, S.FAILED_DOWN),
        (ABSENT, defined(), S.FAILED_DOWN),
        (ABSENT, ABSENT, S.FAILED_DOWN),
    ],
)
def test_what_is_clear_ends_at_once(
    source: HostView, target: HostView, end: MigrationState
) -> None:
    decision = decide(source, target)

    assert isinstance(decision, Ended)
    assert decision.state is end


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (running(job=OUT), ABSENT),
        (running(job=OUT), paused(R.MIGRATION, job=IN)),
        (paused(R.MIGRATION, job=OUT), paused(R.MIGRATION, job=IN)),
        (paused(R.MIGRATION, job=OUT), running(R.MIGRATED)),
        (running(), paused(R.STARTING_UP, job=IN)),
        (paused(R.POST_COPY), running(R.POST_COPY)),
        (ABSENT, running(R.MIGRATED, job=IN)),
    ],
)
def test_a_migration_that_still_runs_is_waited_for(source: HostView, target: HostView) -> None:
    assert isinstance(decide(source, target), StillMoving)


@pytest.mark.parametrize(
    ("source", "target", "end"),
    [
        (SILENT, ABSENT, S.UNKNOWN),
        (running(), SILENT, S.UNKNOWN),
        (SILENT, running(R.MIGRATED), S.UNKNOWN),
        (SILENT, SILENT, S.UNKNOWN),
        (running(), paused(R.MIGRATION), S.UNKNOWN),
        (paused(R.MIGRATION), paused(R.MIGRATION), S.UNKNOWN),
        (paused(R.POST_COPY_FAILED), running(R.POST_COPY), S.UNKNOWN),
        (paused(R.MIGRATION), ABSENT, S.FAILED_DOWN),
        (paused(R.IO_ERROR), ABSENT, S.FAILED_DOWN),
        (paused(R.USER), ABSENT, S.FAILED_DOWN),
        (defined(R.CRASHED), paused(R.MIGRATION), S.FAILED_DOWN),
        (ABSENT, paused(R.IO_ERROR), S.FAILED_DOWN),
    ],
)
def test_what_is_not_clear_is_looked_at_again_and_has_an_end(
    source: HostView, target: HostView, end: MigrationState
) -> None:
    decision = decide(source, target)

    assert isinstance(decision, LookAgain)
    assert decision.then.state is end


def test_two_running_copies_with_proof_of_the_target_pause_the_stale_one() -> None:
    decision = decide(running(R.MIGRATION_CANCELED), running(R.MIGRATED))

    assert isinstance(decision, Repair)
    assert decision.command == PAUSE
    assert decision.then.state is S.UNKNOWN
    assert "h1" in decision.then.text
    assert "h2" in decision.then.text


def test_two_running_copies_without_proof_are_not_touched() -> None:
    decision = decide(running(R.MIGRATION_CANCELED), running(R.OTHER))

    assert isinstance(decision, Ended)
    assert "virsh -c qemu+ssh://h1/system suspend vm1" in decision.text
    assert "virsh -c qemu+ssh://h2/system suspend vm1" in decision.text


def test_a_stale_copy_comes_with_the_commands_that_end_it() -> None:
    attempt = replace(a_try(PAUSE), stale_on_source=True)

    decision = decide(paused(R.USER), running(R.MIGRATED), attempt)

    assert isinstance(decision, Ended)
    assert "both copies ran" in decision.text
    assert "virsh -c qemu+ssh://h1/system destroy vm1" in decision.text
    assert "virsh -c qemu+ssh://h1/system undefine" in decision.text


def test_a_guest_that_we_paused_is_resumed_when_the_migration_failed() -> None:
    decision = decide(paused(R.USER), ABSENT, a_try(PAUSE))

    assert isinstance(decision, Repair)
    assert decision.command == Resume(vm=MOVE.vm, host=H1)


def test_a_stale_copy_never_runs_again_even_when_the_good_one_is_gone() -> None:
    attempt = replace(a_try(PAUSE), stale_on_source=True)

    decision = decide(paused(R.USER), defined(R.CRASHED), attempt)

    assert isinstance(decision, LookAgain)
    assert decision.then.state is S.FAILED_DOWN
    assert "Do not resume it" in decision.then.text


def test_a_guest_that_somebody_paused_on_the_target_stays_paused() -> None:
    assert isinstance(decide(ABSENT, paused(R.USER)), LookAgain)
    assert isinstance(decide(ABSENT, paused(R.USER), a_try(PAUSE)), Repair)


def test_a_guest_that_its_owner_paused_before_stays_paused() -> None:
    before = a_try(state=VmState.PAUSED)

    assert ends(decide(paused(R.USER), ABSENT, before)) is S.FAILED_SAFE
    assert ends(decide(ABSENT, paused(R.MIGRATION), before)) is S.COMPLETE


def test_a_guest_that_arrived_paused_is_resumed_only_if_the_source_let_go_of_it() -> None:
    handed_over = decide(defined(R.MIGRATED, persistent=False), paused(R.MIGRATION))
    undefined = decide(ABSENT, paused(R.MIGRATION))
    crashed = decide(defined(R.CRASHED), paused(R.MIGRATION))
    vanished = decide(ABSENT, paused(R.MIGRATION), a_try(persistent=False))

    assert isinstance(handed_over, Repair)
    assert isinstance(undefined, Repair)
    assert undefined.command == Resume(vm=MOVE.vm, host=H2)
    assert isinstance(crashed, LookAgain), "half a memory must not run"
    assert isinstance(vanished, LookAgain), "a transient VM's QEMU may just have died"


def test_a_definition_left_on_the_source_is_removed() -> None:
    decision = decide(defined(R.MIGRATED), running(R.MIGRATED))

    assert isinstance(decision, Repair)
    assert decision.command == Undefine(vm=MOVE.vm, host=H1)
    assert decision.then.state is S.COMPLETE
    assert "undefine" in decision.then.text


def test_a_definition_is_not_removed_while_any_host_is_silent() -> None:
    sighting = a_sighting(defined(R.MIGRATED), running(R.MIGRATED), others={"h3": SILENT})

    decision = reconcile(a_try(), sighting)

    assert isinstance(decision, LookAgain)
    assert decision.then.state is S.COMPLETE


def test_a_persistent_vm_that_arrived_transient_is_defined_again() -> None:
    kept = decide(defined(R.MIGRATED), running(R.MIGRATED, persistent=False))
    gone = decide(ABSENT, running(R.MIGRATED, persistent=False))

    assert isinstance(kept, Repair)
    assert kept.command == COPY
    assert isinstance(gone, Repair)
    assert gone.command == CopyDefinition(vm=MOVE.vm, host=H2, target=H2)


def test_a_transient_vm_stays_transient() -> None:
    decision = decide(ABSENT, running(R.MIGRATED, persistent=False), a_try(persistent=False))

    assert ends(decision) is S.COMPLETE
    assert isinstance(decision, Ended)


def test_autostart_follows_the_vm() -> None:
    decision = decide(ABSENT, running(R.MIGRATED), a_try(autostart=True))

    assert isinstance(decision, Repair)
    assert decision.command == SetAutostart(vm=MOVE.vm, host=H2, enabled=True)


def test_a_vm_that_somebody_moved_elsewhere_is_left_alone() -> None:
    decision = reconcile(a_try(), a_sighting(ABSENT, ABSENT, others={"h3": running()}))

    assert isinstance(decision, Ended)
    assert decision.state is S.SKIPPED
    assert "h3" in decision.text


def test_a_third_copy_is_a_split_brain() -> None:
    decision = reconcile(a_try(), a_sighting(running(), ABSENT, others={"h3": running()}))

    assert isinstance(decision, Ended)
    assert decision.state is S.UNKNOWN


def test_a_cold_move_that_did_not_succeed_starts_the_vm_where_it_was() -> None:
    attempt = a_try(SHUT_DOWN, COPY, mode=Mode.COLD)

    decision = decide(defined(), defined(), attempt)

    assert isinstance(decision, Repair)
    assert decision.command == Start(vm=MOVE.vm, host=H1)


def test_nothing_is_started_while_any_host_is_silent() -> None:
    attempt = a_try(SHUT_DOWN, mode=Mode.COLD)

    decision = reconcile(attempt, a_sighting(defined(), ABSENT, others={"h3": SILENT}))

    assert isinstance(decision, LookAgain)
    assert decision.then.state is S.UNKNOWN


def test_a_vm_that_was_not_shut_down_by_us_is_never_started() -> None:
    decision = decide(defined(R.USER), ABSENT)

    assert isinstance(decision, Ended)
    assert decision.state is S.FAILED_DOWN
    assert "virsh -c qemu+ssh://h1/system start vm1" in decision.text


def test_a_rolled_back_cold_move_removes_the_copied_definition_and_restores_autostart() -> None:
    attempt = a_try(SHUT_DOWN, COPY, mode=Mode.COLD, autostart=True)

    first = decide(running(), defined(), attempt)
    then = decide(running(), ABSENT, attempt)
    last = decide(running(autostart=True), ABSENT, attempt)

    assert isinstance(first, Repair)
    assert first.command == Undefine(vm=MOVE.vm, host=H2)
    assert isinstance(then, Repair)
    assert then.command == SetAutostart(vm=MOVE.vm, host=H1, enabled=True)
    assert ends(last) is S.FAILED_SAFE


def test_a_definition_that_was_on_the_target_before_is_never_removed() -> None:
    attempt = a_try(SHUT_DOWN, COPY, mode=Mode.COLD, target_had_definition=True)

    assert ends(decide(running(), defined(), attempt)) is S.FAILED_SAFE
    assert isinstance(decide(running(), defined(), attempt), Ended)


def test_an_offline_move_goes_on_if_it_succeeded_and_back_if_it_did_not() -> None:
    moving = MoveDefinition(vm=MOVE.vm, host=H1, target=H2)
    attempt = a_try(moving, mode=Mode.OFFLINE, state=VmState.SHUTOFF)
    failed = replace(attempt, error="it broke")

    assert ends(decide(ABSENT, defined(), attempt)) is S.COMPLETE
    assert ends(decide(defined(), ABSENT, attempt)) is S.FAILED_SAFE
    onward, back = decide(defined(), defined(), attempt), decide(defined(), defined(), failed)
    assert isinstance(onward, Repair)
    assert onward.command == Undefine(vm=MOVE.vm, host=H1)
    assert isinstance(back, Repair)
    assert back.command == Undefine(vm=MOVE.vm, host=H2)


VIEWS: list[HostView] = [
    ABSENT,
    SILENT,
    *(
        a_view(state, reason, job)
        for state in VmState
        for reason in StateReason
        for job in (None, OUT)
    ),
]


def test_no_pair_of_views_ever_leads_to_harm() -> None:
    attempts = [
        a_try(),
        a_try(PAUSE),
        a_try(SHUT_DOWN, COPY, mode=Mode.COLD),
        a_try(state=VmState.PAUSED),
        a_try(persistent=False),
    ]
    for source, target in product(VIEWS, VIEWS):
        for attempt in attempts:
            decision = decide(source, target, attempt)
            assert decision is not None
            if isinstance(decision, Repair):
                assert_harmless(decision.command, source, target)


def assert_harmless(command: Command, source: HostView, target: HostView) -> None:
    """No start beside a running copy, no undefine of one that runs, nothing in the dark."""
    sighting = a_sighting(source, target)
    assert sighting.unreachable == ()
    match command:
        case Start():
            assert sighting.active_on == ()
        case Undefine(host=host):
            assert host not in sighting.active_on
            others = [view for name, view in sighting.views.items() if name != host]
            assert any(isinstance(view, DomainView) and view.persistent for view in others)
        case Resume(host=host):
            assert sighting.active_on == (host,)


def test_what_came_of_a_request_that_nobody_saw_answered_is_said() -> None:
    unanswered = replace(a_try(), open_call=True)

    assert decide(running(), ABSENT, unanswered) == Ended(
        state=S.FAILED_SAFE,
        text="vm1 runs on h1. Nobody saw how the call that moves it ended; nothing came of it",
    )


def test_a_guest_that_was_started_again_is_said_to_have_been() -> None:
    start = Start(vm=MOVE.vm, host=H1)
    cold = a_try(SHUT_DOWN, start, mode=Mode.COLD, error="no room")

    assert decide(running(), ABSENT, cold) == Ended(
        state=S.FAILED_SAFE,
        text="vm1 runs on h1. It was shut down for the move and started again. "
        "The hypervisor said: no room",
    )
