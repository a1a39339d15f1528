"""`rebalancer plan`: what should be moved, and why. It has no driver, and changes nothing.

Of all commands it is run most, by people who wait for it; so what it does not need it does not
load.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from rebalancer.cluster.policy import Policy
from rebalancer.errors import ExitCode
from rebalancer.service import exit_codes, options
from rebalancer.service.access import ReadAccess, Where, open_for_reading
from rebalancer.service.cycle import Cycle
from rebalancer.service.found import progress_to
from rebalancer.service.plan_file import write_plan
from rebalancer.service.report import Format, render_plan
from rebalancer.service.session import (
    Session,
    apply_command,
    observe,
    open_session,
    plan_for,
    policy_for,
)
from rebalancer.service.stability import look_back_seconds, rests_ignored


def plan(
    config: options.Config = None,
    scenario: options.FromScenario = None,
    snapshot: options.FromSnapshot = None,
    policy: options.PolicyFile = None,
    out: options.PlanOut = None,
    output: options.Output = Format.TABLE,
    wide: options.Wide = False,
    commands: Annotated[
        bool, typer.Option("--print-commands", help="Add the virsh commands of every step.")
    ] = False,
    probe: options.Probe = False,
    solver_time: options.SolveTime = None,
    detailed_exitcode: options.DetailedExitCode = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Say what is found while it is searched.")
    ] = False,
) -> ExitCode:
    """Say which VMs should move where, how, how long it takes; change nothing."""
    session = open_session(config, placement__time_limit_seconds=solver_time)
    access = open_for_reading(session.settings, Where(scenario=scenario, snapshot=snapshot))
    in_force = policy_for(session, access, policy)
    seen = observe(session, access)
    tell = progress_to(session.err) if verbose else None
    cycle = plan_for(session, access, seen, in_force, tell=tell, probe=probe)
    if out is not None:
        write_plan(cycle.plan, out)
    render_plan(
        cycle.plan,
        output,
        session.out,
        wide=wide,
        commands=commands,
        apply_with=apply_command(out, config=config, scenario=scenario, policy=policy),
    )
    if cycle.snapshot.usage_fault:
        session.err.print(cycle.snapshot.usage_fault, markup=False, soft_wrap=True)
    if ignored := _rests_ignored(session, access, cycle, in_force):
        session.err.print(ignored, markup=False, soft_wrap=True)
    if out is None and cycle.plan.migrations:
        session.err.print("nothing was changed: --out plan.json saves the plan for apply")
    return exit_codes.for_plan(cycle.plan, detailed=detailed_exitcode)


def _rests_ignored(session: Session, access: ReadAccess, cycle: Cycle, policy: Policy) -> str:
    if not (access.is_real and access.has_past):
        return ""
    now = access.clock.now()
    since = now - timedelta(seconds=look_back_seconds(policy.limits))
    with session.existing_journal() as journal:
        moves = journal.moves_since(since, access.cluster) if journal is not None else ()
    return rests_ignored(cycle.plan, cycle.snapshot, policy.limits, moves, now)
