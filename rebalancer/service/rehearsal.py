"""`rebalancer simulate`: plan and roll out a scenario in memory, and see whether it comes true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import Outcome, Plan
from rebalancer.errors import ExitCode
from rebalancer.rollout.executor import Settings as RolloutSettings
from rebalancer.rollout.executor import execute
from rebalancer.rollout.journal import Journal
from rebalancer.service import exit_codes, options
from rebalancer.service.budgets import settings_for
from rebalancer.service.file_kind import FileKind, expecting
from rebalancer.service.lookout import watching
from rebalancer.service.plan_file import plan_to_json, write_plan
from rebalancer.service.power_rollout import exit_code_with
from rebalancer.service.rehearsed_access import policy_of, simulated
from rebalancer.service.rehearsed_day import rehearse_day
from rebalancer.service.rehearsed_power import RehearsedPower
from rebalancer.service.report import Format, render_day, render_outcomes, render_plan
from rebalancer.service.session import Session, open_session, plan_for
from rebalancer.service.verdict import stuck_on_draining
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.day import Day, check_day
from rebalancer.simulation.expectations import check
from rebalancer.simulation.scenario import Scenario, read_scenario
from rebalancer.simulation.simulated_driver import SimulatedDriver


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rehearsal:
    """A scenario that was carried through, and everything in which it disappointed."""

    plan: Plan
    outcomes: tuple[Outcome, ...]
    datacentre: Datacentre
    before: Snapshot
    after: Snapshot
    exit_code: ExitCode
    """What `apply` would have ended with."""
    unmet: tuple[str, ...]


def rehearse(session: Session, scenario: Scenario) -> Rehearsal:
    """Plan for a scenario, roll the plan out in virtual time, and check what was expected."""
    datacentre = scenario.build()
    access, policy = simulated(scenario, datacentre), policy_of(scenario)
    clock = VirtualClock(datacentre)
    before = access.source.observe()
    cycle = plan_for(session, access, before, policy)
    plan = cycle.plan
    outcomes: tuple[Outcome, ...] = ()
    power = RehearsedPower(session=session, access=access, datacentre=datacentre)
    woken = power.wake(plan, policy)
    if plan.migrations:
        with Journal.open("sqlite://", clock) as journal, watching(access, before) as newest:
            outcomes = execute(
                plan,
                driver=SimulatedDriver(datacentre),
                clock=clock,
                journal=journal,
                snapshot=newest,
                settings=settings_for(plan, RolloutSettings.of(policy)),
                plan_text=plan_to_json(plan),
            ).outcomes
    took = _seconds_taken(datacentre, plan)
    slept = power.sleep(plan, policy, outcomes)
    after = access.source.observe()
    code = exit_codes.for_rollout(outcomes) if outcomes else exit_codes.for_plan(plan)
    code = exit_code_with(code, (*woken, *slept))
    code = exit_codes.for_drain(code, left=len(stuck_on_draining(cycle.snapshot, plan.unmoved)))
    return Rehearsal(
        plan=plan,
        outcomes=outcomes,
        datacentre=datacentre,
        before=before,
        after=after,
        exit_code=code,
        unmet=check(
            scenario.expect,
            plan,
            outcomes,
            before,
            after,
            exit_code=code,
            rollout_seconds=took,
        ),
    )


def simulate(
    scenario_file: Annotated[Path, typer.Argument(metavar="SCENARIO")],
    config: options.Config = None,
    plan_out: Annotated[
        Path | None, typer.Option("--plan-out", help="Save the plan here as JSON.")
    ] = None,
    output: options.Output = Format.TABLE,
    wide: options.Wide = False,
) -> ExitCode:
    """Plan for a simulated cluster, roll the plan out there, compare with what is expected.

    Ends with 0 if everything that the scenario expects came true, with 1 otherwise.
    """
    session = open_session(config)
    with expecting(FileKind.SCENARIO, scenario_file):
        scenario = read_scenario(scenario_file)
    if scenario.day is not None:
        return _simulate_day(session, scenario, scenario.day, output)
    done = rehearse(session, scenario)
    if plan_out is not None:
        write_plan(done.plan, plan_out)
    if output is not Format.JSON:
        render_plan(done.plan, output, session.out, wide=wide)
    render_outcomes(done.plan, done.outcomes, output, session.out)
    for line in _closing(done):
        session.err.print(line, highlight=False, markup=False)
    return ExitCode.ERROR if done.unmet else ExitCode.SUCCESS


def _simulate_day(session: Session, scenario: Scenario, day: Day, output: Format) -> ExitCode:
    result = rehearse_day(session, scenario, day)
    render_day(result, output, session.out)
    unmet = check_day(day.expect, result)
    for line in unmet or ("everything that the scenario expects came true",):
        said = f"not as expected: {line}" if unmet else line
        session.err.print(said, highlight=False, markup=False)
    return ExitCode.ERROR if unmet else ExitCode.SUCCESS


def _seconds_taken(datacentre: Datacentre, plan: Plan) -> float:
    return (datacentre.now - plan.created_at).total_seconds()


def _closing(done: Rehearsal) -> Iterator[str]:
    took = _seconds_taken(done.datacentre, done.plan)
    yield f"simulated {took:.0f} s; planned {done.plan.makespan_seconds:.0f} s"
    if not done.unmet:
        yield "everything that the scenario expects came true"
    for unmet in done.unmet:
        yield f"not as expected: {unmet}"
