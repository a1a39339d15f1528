"""`rebalancer recover`: every VM of a rollout that was cut short is looked after."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rebalancer.cluster.plan import Outcome, Plan
from rebalancer.errors import ExitCode
from rebalancer.rollout.executor import OpenMigration, RolloutResult
from rebalancer.rollout.executor import recover as recover_rollouts
from rebalancer.rollout.journal import Journal
from rebalancer.service import exit_codes, options
from rebalancer.service.access import Where
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.layout import print_blocks
from rebalancer.service.lookout import watching
from rebalancer.service.maintenance_command import is_maintenance_unclear, maintenance_texts
from rebalancer.service.plan_file import plan_of_text
from rebalancer.service.progress import display_for
from rebalancer.service.report import Format, render_recovery
from rebalancer.service.session import Session, observe, open_session, policy_for
from rebalancer.service.signals import StopSwitch
from rebalancer.service.stale_copies import StaleCopies, stale_copies, stale_copies_blocks
from rebalancer.service.unfinished import left_behind, look_after_the_rest
from rebalancer.service.work import at_work, nothing_was_changed, rollout_settings

EndStaleCopies = Annotated[
    bool,
    typer.Option(
        "--end-stale-copies",
        help="With --yes: also end paused copies that the journal proves to be older than the "
        "one that runs. All are shown with the proof first.",
    ),
]


def recover(
    config: options.Config = None,
    policy: options.PolicyFile = None,
    yes: options.Yes = False,
    end_stale_copies: EndStaleCopies = False,
    output: options.Output = Format.TABLE,
) -> ExitCode:
    """Look after every VM of a rollout that was cut short: adopt, finish, or say what to do."""
    session = open_session(config)
    if not yes:
        return _show(session, also_refused=end_stale_copies)
    return carry_out(session, policy, output, end_stale_copies=end_stale_copies)


def _show(session: Session, *, also_refused: bool) -> ExitCode:
    with session.existing_journal() as journal:
        rows = journal.unfinished(session.settings.cluster) if journal is not None else ()
        found = stale_copies(journal, session.settings.cluster)
    for row in rows:
        session.out.print(f"plan {row.plan_id} of {row.owner}: to be looked after")
    rest, maintenance = left_behind(session), maintenance_texts(session)
    _say_each((*rest, *maintenance), session.out)
    if rows:
        print_blocks(stale_copies_blocks(found, also_refused=also_refused), session.out)
        _say_how_to_end(session.out, found)
    if rows or rest:
        return nothing_was_changed(session, ExitCode.UNKNOWN_OUTCOME)
    if not maintenance:
        session.out.print("nothing has to be recovered")
    unclear = is_maintenance_unclear(session)
    return ExitCode.UNKNOWN_OUTCOME if unclear else ExitCode.SUCCESS


def carry_out(
    session: Session,
    policy: Path | None,
    output: Format,
    *,
    end_stale_copies: bool,
    access: ChangeAccess | None = None,
) -> ExitCode:
    """Look after everything, then end the stale copies that the operator wants to be ended."""
    results = _look_after(session, policy, access)
    with session.existing_journal() as journal:
        found = stale_copies(journal, session.settings.cluster)
    if found.offered or end_stale_copies:
        print_blocks(stale_copies_blocks(found, also_refused=end_stale_copies), session.err)
    # Nobody else is kept from working while an operator reads and thinks.
    if found.offered and (end_stale_copies or _confirmed(session, found)):
        ended = _look_after(session, policy, access, only=found.named)
        results = _merged(results, ended)
    elif found.offered:
        _say_how_to_end(session.err, found)
    with session.journal() as journal:
        recovered = [(_plan_of(journal, result.rollout), result.outcomes) for result in results]
    render_recovery(recovered, output, session.out)
    _say_each(maintenance_texts(session), session.err)
    code = exit_codes.for_recovery([o for _, outcomes in recovered for o in outcomes])
    unclear = code is ExitCode.SUCCESS and is_maintenance_unclear(session)
    return ExitCode.UNKNOWN_OUTCOME if unclear else code


def _look_after(
    session: Session,
    policy: Path | None,
    access: ChangeAccess | None,
    *,
    only: Collection[OpenMigration] | None = None,
) -> tuple[RolloutResult, ...]:
    """Recover everything; or end the stale copies of `only`, and touch nothing else."""
    working = at_work(session, Where(), recovering=True, access=access)
    with working as work, StopSwitch() as stop:
        read = work.access.read.for_a_rollout()
        seen = observe(session, read)
        with display_for(session.err) as display, watching(read, seen) as newest:
            results = recover_rollouts(
                cluster=read.cluster,
                driver=work.access.driver,
                clock=read.clock,
                journal=work.journal,
                snapshot=newest,
                settings=rollout_settings(session, work.access, policy_for(session, read, policy)),
                lease=work.lease,
                on_event=display.show,
                should_stop=stop.request,
                hooks=work.access.hooks,
                only=only,
                may_end_stale=only is not None,
            )
        _say_each(look_after_the_rest(work) if only is None else (), session.err)
    return results


def _say_each(lines: Iterable[str], console: Console) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _confirmed(session: Session, found: StaleCopies) -> bool:
    """Ask, where there is somebody to be asked."""
    if not (sys.stdin.isatty() and session.err.is_terminal):
        return False
    count = len(found.offered)
    copies = "the stale copy" if count == 1 else f"all {count} stale copies"
    return typer.confirm(f"End {copies} as shown above?", default=False, err=True)


def _say_how_to_end(console: Console, found: StaleCopies) -> None:
    if found.offered:
        console.print(
            "to end what is shown: rebalancer recover --yes --end-stale-copies", highlight=False
        )


def _merged(
    results: Iterable[RolloutResult], later: Iterable[RolloutResult]
) -> tuple[RolloutResult, ...]:
    """The same results with what is known of some migrations since."""
    newer: dict[tuple[int, str], Outcome] = {
        (result.rollout, outcome.migration): outcome
        for result in later
        for outcome in result.outcomes
    }
    return tuple(
        replace(
            result,
            outcomes=tuple(
                newer.get((result.rollout, outcome.migration), outcome)
                for outcome in result.outcomes
            ),
        )
        for result in results
    )


def _plan_of(journal: Journal, rollout: int) -> Plan:
    text = journal.plan_text(rollout)
    return plan_of_text(text, origin=f"rollout {rollout} in the journal")
