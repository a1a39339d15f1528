"""The exit code is the worst of what happened."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rebalancer.cluster.plan import MigrationState, Outcome, Verdict, VerdictKind
from rebalancer.errors import ExitCode
from rebalancer.service import exit_codes
from tests.builders import a_snapshot
from tests.unit.service.samples import a_plan


def outcomes(*states: MigrationState) -> list[Outcome]:
    return [
        Outcome(migration=f"m{number}", state=state, text="")
        for number, state in enumerate(states, 1)
    ]


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ((), ExitCode.SUCCESS),
        ((MigrationState.COMPLETE,), ExitCode.SUCCESS),
        ((MigrationState.COMPLETE, MigrationState.SKIPPED), ExitCode.PARTIAL),
        ((MigrationState.COMPLETE, MigrationState.FAILED_SAFE), ExitCode.PARTIAL),
        ((MigrationState.FAILED_DOWN, MigrationState.FAILED_SAFE), ExitCode.ERROR),
        ((MigrationState.FAILED_DOWN, MigrationState.UNKNOWN), ExitCode.UNKNOWN_OUTCOME),
    ],
)
def test_the_worst_outcome_decides(states: tuple[MigrationState, ...], code: ExitCode) -> None:
    assert exit_codes.for_rollout(outcomes(*states)) == code


def test_telemetry_too_poor_to_act_on_has_a_code_of_its_own() -> None:
    good = a_snapshot()
    poor = replace(good, usage_fault="it has no sample of any VM")

    assert exit_codes.for_cycle(a_plan(), good) == ExitCode.SUCCESS
    assert exit_codes.for_cycle(a_plan(), poor) == ExitCode.NOT_OBSERVED


def test_a_rollout_that_was_stopped_is_partial() -> None:
    assert (
        exit_codes.for_rollout(outcomes(MigrationState.COMPLETE), is_stopped=True)
        == ExitCode.PARTIAL
    )


def test_a_clean_stop_by_a_signal_has_its_own_code() -> None:
    stopped = ExitCode.TERMINATED

    assert exit_codes.after_stop(ExitCode.PARTIAL, stopped) == ExitCode.TERMINATED
    assert exit_codes.after_stop(ExitCode.UNKNOWN_OUTCOME, stopped) == ExitCode.UNKNOWN_OUTCOME
    assert exit_codes.after_stop(ExitCode.PARTIAL, None) == ExitCode.PARTIAL


def test_a_drain_that_leaves_something_is_blocked_unless_it_went_worse() -> None:
    assert exit_codes.for_drain(ExitCode.SUCCESS, left=1) == ExitCode.BLOCKED
    assert exit_codes.for_drain(ExitCode.SUCCESS, left=0) == ExitCode.SUCCESS
    assert exit_codes.for_drain(ExitCode.PARTIAL, left=1) == ExitCode.PARTIAL
    assert exit_codes.for_drain(ExitCode.UNKNOWN_OUTCOME, left=1) == ExitCode.UNKNOWN_OUTCOME


def test_a_plan_that_leaves_a_hard_rule_broken_is_blocked_though_vms_move() -> None:
    moves = Verdict(kind=VerdictKind.MOVES, text="")
    unmet = Verdict(kind=VerdictKind.MOVES, text="", is_unmet=True)

    assert exit_codes.for_plan(a_plan(verdict=moves)) == ExitCode.SUCCESS
    assert exit_codes.for_plan(a_plan(verdict=moves), detailed=True) == ExitCode.CHANGES_PRESENT
    assert exit_codes.for_plan(a_plan(verdict=unmet), detailed=True) == ExitCode.BLOCKED
