"""Which exit code a plan or a rollout ends the command with."""

from __future__ import annotations

from collections.abc import Sequence

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import MigrationState, Outcome, Plan, VerdictKind
from rebalancer.errors import ExitCode


def for_plan(plan: Plan, *, detailed: bool = False) -> ExitCode:
    """A plan that does all that must be done is a success, whether or not it is empty."""
    if plan.verdict.kind is VerdictKind.BLOCKED or plan.verdict.is_unmet:
        return ExitCode.BLOCKED
    return ExitCode.CHANGES_PRESENT if detailed and plan.migrations else ExitCode.SUCCESS


def for_cycle(plan: Plan, snapshot: Snapshot) -> ExitCode:
    """Of a cycle that moved nothing: telemetry too poor to act on is an answer of its own."""
    return ExitCode.NOT_OBSERVED if snapshot.usage_fault else for_plan(plan)


def for_rollout(outcomes: Sequence[Outcome], *, is_stopped: bool = False) -> ExitCode:
    """The worst that happened decides."""
    states = {outcome.state for outcome in outcomes}
    if MigrationState.UNKNOWN in states:
        return ExitCode.UNKNOWN_OUTCOME
    if MigrationState.FAILED_DOWN in states:
        return ExitCode.ERROR
    is_partial = is_stopped or bool(states - {MigrationState.COMPLETE})
    return ExitCode.PARTIAL if is_partial else ExitCode.SUCCESS


def after_stop(worst: ExitCode, stopped: ExitCode | None) -> ExitCode:
    """A clean stop by a signal has its own code, unless something worse happened."""
    calm = (ExitCode.SUCCESS, ExitCode.PARTIAL)
    return stopped if stopped is not None and worst in calm else worst


def for_recovery(outcomes: Sequence[Outcome]) -> ExitCode:
    """Recovery has succeeded when it is known of every VM where it is, and each one runs."""
    code = for_rollout(outcomes)
    return ExitCode.SUCCESS if code is ExitCode.PARTIAL else code


def for_drain(rollout: ExitCode, left: int) -> ExitCode:
    """A drain has succeeded when nothing is left on the hosts; what could not go blocks it."""
    return ExitCode.BLOCKED if rollout is ExitCode.SUCCESS and left else rollout
