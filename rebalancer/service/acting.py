"""`rebalancer apply` and `run`: plans are carried out.

Both are dry until `--yes` (or `mode: auto`) is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import Plan
from rebalancer.cluster.policy import Policy
from rebalancer.errors import ExitCode, PlanRefusedError, UsageError
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.power_executor import PowerOutcome
from rebalancer.service import daemon, exit_codes, options, power_rollout
from rebalancer.service.access import ReadAccess, Where, open_for_reading
from rebalancer.service.config import RunMode
from rebalancer.service.considering import consider
from rebalancer.service.duty import duty_of
from rebalancer.service.permissions import with_cold_if
from rebalancer.service.plan_file import read_plan
from rebalancer.service.report import Format, render_outcomes, render_plan
from rebalancer.service.session import Session, observe, open_session, plan_for, policy_for
from rebalancer.service.signals import StopSwitch
from rebalancer.service.staleness import refuse_if_unfit
from rebalancer.service.touring import keep
from rebalancer.service.work import Carried, Work, at_work, nothing_was_changed


def apply(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="As `plan --out` saved it.")],
    config: options.Config = None,
    scenario: options.FromScenario = None,
    policy: options.PolicyFile = None,
    allow_cold: options.AllowCold = False,
    yes: options.Yes = False,
    output: options.Output = Format.TABLE,
) -> ExitCode:
    """Carry out exactly this plan, if it still fits the cluster."""
    session = open_session(config)
    plan, where = read_plan(plan_file), Where(scenario=scenario)
    if not yes:
        access = open_for_reading(session.settings, where)
        with session.existing_journal() as journal:
            refuse_if_applied(journal, plan)
        snapshot = observe(session, access)
        in_force = with_cold_if(allow_cold, policy_for(session, access, policy))
        _refuse_if_unfit(session, plan, snapshot, in_force, access)
        render_plan(plan, output, session.out)
        return nothing_was_changed(session, exit_codes.for_plan(plan))
    with at_work(session, where) as work:
        refuse_if_applied(work.journal, plan)
        read = work.access.read
        in_force = with_cold_if(allow_cold, policy_for(session, read, policy))
        snapshot = observe(session, read)
        _refuse_if_unfit(session, plan, snapshot, in_force, read)
        carried, switched = _with_power(work, plan, snapshot, in_force)
    render_outcomes(plan, carried.result.outcomes, output, session.out)
    return power_rollout.exit_code_with(carried.exit_code, switched)


def _with_power(
    work: Work, plan: Plan, snapshot: Snapshot, policy: Policy
) -> tuple[Carried, tuple[PowerOutcome, ...]]:
    """Wake first, migrate, put to sleep last; nothing sleeps if the operator stopped it."""
    with StopSwitch() as stop:
        woken = power_rollout.wake_first(work, plan, policy, stop.request)
    power_rollout.say(work, woken)
    seen = observe(work.session, work.access.read) if woken else snapshot
    carried = work.carry_out(plan, seen, policy)
    if carried.result.stopped:
        return carried, woken
    if said := power_rollout.left_to_the_operator(work, plan):
        work.session.err.print(said, highlight=False, markup=False, soft_wrap=True)
    with StopSwitch() as stop:
        slept = power_rollout.sleep_last(work, plan, policy, carried.result.outcomes, stop.request)
    power_rollout.say(work, slept)
    return carried, (*woken, *slept)


def _refuse_if_unfit(
    session: Session, plan: Plan, snapshot: Snapshot, policy: Policy, access: ReadAccess
) -> None:
    ttl = session.settings.plan.ttl_seconds
    refuse_if_unfit(plan, snapshot, policy, access.clock.now(), ttl_seconds=ttl)


def refuse_if_applied(journal: Journal | None, plan: Plan) -> None:
    """Raise `PlanRefusedError` for a plan that was rolled out before, completely or not."""
    if journal is not None and journal.applied(plan.id):
        raise PlanRefusedError(
            f"plan {plan.id} was applied already; `rebalancer show {plan.id}` says how it went, "
            "`rebalancer plan` makes a new one"
        )


def run(
    config: options.Config = None,
    scenario: options.FromScenario = None,
    policy: options.PolicyFile = None,
    once: Annotated[bool, typer.Option("--once", help="One cycle, shown, then end.")] = False,
    yes: options.Yes = False,
    output: options.Output = Format.TABLE,
    probe: options.Probe = False,
) -> ExitCode:
    """Keep the cluster as its policies say, until stopped; carry plans out if `auto` or --yes."""
    if not once:
        if scenario is not None:
            raise UsageError("the daemon looks after the configured hosts; add --once to rehearse")
        return daemon.run(config, policy, auto=yes)
    session = open_session(config)
    where = Where(scenario=scenario)
    if not yes and session.settings.mode is not RunMode.AUTO:
        access = open_for_reading(session.settings, where)
        snapshot = observe(session, access)
        in_force = policy_for(session, access, policy)
        plan = plan_for(session, access, snapshot, in_force, probe=probe).plan
        render_plan(plan, output, session.out)
        _say_if_unfit_to_act_on(session, snapshot)
        return nothing_was_changed(session, exit_codes.for_cycle(plan, snapshot))
    with at_work(session, where) as work:
        return _one_cycle(work, policy, output, probe=probe, at_once=yes, has_past=not scenario)


def _one_cycle(
    work: Work, named: Path | None, output: Format, *, probe: bool, at_once: bool, has_past: bool
) -> ExitCode:
    """Do what the daemon does once, and show it; a rehearsal on a scenario has no past."""
    session, read = work.session, work.access.read
    policy = policy_for(session, read, named)
    snapshot = observe(session, read)
    if not has_past:
        plan = plan_for(session, read, snapshot, policy, probe=probe, acts=True).plan
        acts = bool(plan.migrations or plan.power)
        _show_before(session, plan, output, acts=acts)
        if not acts:
            return exit_codes.for_cycle(plan, snapshot)
        done, switched = _with_power(work, plan, snapshot, policy)
        render_outcomes(plan, done.result.outcomes, output, session.out)
        return power_rollout.exit_code_with(done.exit_code, switched)
    task = duty_of(session.settings, policy)
    considered = consider(
        session, task, read, snapshot, work.journal, at_once=at_once, probe=probe, acts=True
    )
    plan = considered.cycle.plan
    _show_before(session, plan, output, acts=considered.decision.act)
    with StopSwitch() as stop:
        power_rollout.say(work, power_rollout.wake_first(work, plan, policy, stop.request))
    carried = work.carry_out(plan, snapshot, policy) if considered.decision.act else None
    result = carried.result if carried is not None else None
    verdict = keep(session, task, considered, snapshot, result)
    session.err.print(f"verdict: {verdict}", highlight=False, markup=False)
    outcomes = result.outcomes if result is not None else ()
    with StopSwitch() as stop:
        slept = power_rollout.count_a_cycle(work, plan, policy, outcomes, stop.request)
    power_rollout.say(work, slept)
    if carried is None:
        _say_if_unfit_to_act_on(session, snapshot)
        return exit_codes.for_cycle(plan, snapshot)
    render_outcomes(plan, outcomes, output, session.out)
    return carried.exit_code


def _say_if_unfit_to_act_on(session: Session, snapshot: Snapshot) -> None:
    if snapshot.usage_fault:
        said = f"telemetry is not good enough to act on: {snapshot.usage_fault}"
        session.err.print(said, highlight=False, markup=False, soft_wrap=True)


def _show_before(session: Session, plan: Plan, output: Format, *, acts: bool) -> None:
    # Who reads JSON reads one document: of a plan that is carried out, how it went.
    if not (acts and output is Format.JSON):
        render_plan(plan, output, session.out)
