"""`rebalancer drain` and `undrain`: what was said on the command line, and who sees to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import VerdictKind
from rebalancer.errors import ExitCode, UsageError
from rebalancer.service import exit_codes, options
from rebalancer.service.access import Where, open_for_reading
from rebalancer.service.emptying import DrainWish, drain_hosts, foreseen, show
from rebalancer.service.maintenance_command import IfBegun, MaintenanceCommand
from rebalancer.service.naming import names_text
from rebalancer.service.plan_file import write_plan
from rebalancer.service.reopening import bring_vms_home, planned_home, show_way_home, unmark
from rebalancer.service.report import Format, render_tree
from rebalancer.service.rolling import BACK_WITHIN_SECONDS, Round, carry_out_round, rehearse_round
from rebalancer.service.session import Session, apply_command, drain_marks, open_session
from rebalancer.service.work import at_work, nothing_was_changed

BringHome = Annotated[
    bool,
    typer.Option(
        "--bring-home",
        help="Let VMs that the drain moved away come back, where rules and load allow it.",
    ),
]


def drain(
    hosts: Annotated[list[str], typer.Argument(metavar="HOST...")],
    config: options.Config = None,
    scenario: options.FromScenario = None,
    snapshot: options.FromSnapshot = None,
    policy: options.PolicyFile = None,
    out: options.PlanOut = None,
    output: options.Output = Format.TABLE,
    probe: options.Probe = False,
    allow_cold: options.AllowCold = False,
    deadline: options.Deadline = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done; so it is without --yes.")
    ] = False,
    rolling: Annotated[
        int | None,
        typer.Option("--rolling", min=1, help="One group of so many hosts after the other."),
    ] = None,
    then: Annotated[
        str | None,
        typer.Option(
            "--then",
            metavar="COMMAND",
            help="With --rolling: run this for each group, with its hosts as further arguments; "
            "without, wait for `rebalancer undrain`.",
        ),
    ] = None,
    if_begun: Annotated[
        IfBegun | None,
        typer.Option(
            "--if-begun",
            help="For hosts for which COMMAND was begun before and that are not used again since: "
            "skip takes it for done, rerun runs it once more. Without, that is refused.",
        ),
    ] = None,
    bring_home: BringHome = False,
    back_within: options.BackWithin = None,
    yes: options.Yes = False,
) -> ExitCode:
    """Empty hosts before maintenance, and keep VMs off them until `undrain`."""
    if yes and dry_run:
        raise UsageError("--yes and --dry-run contradict each other: leave one of them out")
    if then is not None and not then.strip():
        raise UsageError("--then is empty: name a command, or leave --then out to wait for undrain")
    if rolling is None and (then or bring_home):
        raise UsageError("--then and --bring-home need --rolling; see also undrain --bring-home")
    if rolling is None and back_within is not None:
        raise UsageError("--back-within needs --rolling: nothing is waited for without it")
    if if_begun is not None and then is None:
        raise UsageError("--if-begun needs --then: it says what to do if that was begun before")
    session = open_session(config)
    where = Where(scenario=scenario, snapshot=snapshot)
    wish = DrainWish(
        policy=policy,
        allow_cold=allow_cold,
        probe=probe,
        deadline_seconds=deadline,
        output=output,
    )
    if rolling is not None:
        if out is not None:
            raise UsageError("--out saves one plan, and --rolling makes one for each group")
        asked = Round(
            hosts=tuple(hosts),
            at_once=rolling,
            command=MaintenanceCommand(text=then or "", if_begun=if_begun),
            bring_home=bring_home,
            back_within_seconds=back_within or BACK_WITHIN_SECONDS,
        )
        go = carry_out_round if yes else rehearse_round
        return go(session, where, asked, wish)
    if yes:
        with at_work(session, where) as work:
            drained = drain_hosts(work, wish, hosts)
        if output is Format.JSON:
            render_tree(drained.tree(), session.out)
        return drained.exit_code
    flags = ("--allow-cold",) if allow_cold else ()
    command = apply_command(out, *flags, config=config, scenario=scenario, policy=policy)
    return _foretell(session, where, wish, hosts, out, command)


def _foretell(
    session: Session,
    where: Where,
    wish: DrainWish,
    hosts: list[str],
    out: Path | None,
    apply_with: str,
) -> ExitCode:
    prospect = foreseen(session, open_for_reading(session.settings, where), wish, hosts)
    if out is not None:
        write_plan(prospect.plan, out)
    if wish.output is Format.JSON:
        render_tree(prospect.tree(), session.out)
    else:
        show(session, prospect, wish.output, apply_with=apply_with)
    return nothing_was_changed(session, prospect.exit_code)


def undrain(
    hosts: Annotated[list[str], typer.Argument(metavar="HOST...")],
    config: options.Config = None,
    scenario: options.FromScenario = None,
    policy: options.PolicyFile = None,
    output: options.Output = Format.TABLE,
    bring_home: BringHome = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Needed with --bring-home only: the rest moves nothing.")
    ] = False,
) -> ExitCode:
    """Let VMs be placed on these hosts again. Nothing moves by that alone."""
    session = open_session(config)
    where = Where(scenario=scenario)
    access = open_for_reading(session.settings, where)
    marked = drain_marks(session, access.cluster)
    known = {*access.host_names, *marked}
    if missing := sorted(set(hosts) - known):
        raise UsageError(
            f"no host called {', '.join(missing)} in cluster {access.cluster}; "
            f"it has {names_text(known)}"
        )
    named = tuple(dict.fromkeys(HostId(host) for host in hosts))
    if not bring_home:
        with session.journal() as journal:
            unmark(journal, access.cluster, named, session.out)
        return ExitCode.SUCCESS
    if not yes:
        with session.existing_journal() as found:
            plan, _ = planned_home(session, access, found, named, policy)
        show_way_home(session, plan, output)
        if plan.verdict.kind is VerdictKind.BALANCED and not marked.keys() & set(named):
            were = "was not being drained" if len(named) == 1 else "were not being drained"
            said = f"{', '.join(named)} {were}, so there is nothing to do"
            session.err.print(said, highlight=False, markup=False, soft_wrap=True)
            return exit_codes.for_plan(plan)
        return nothing_was_changed(session, exit_codes.for_plan(plan))
    with at_work(session, where) as work:
        since = {host: marked[host].since for host in named if host in marked}
        unmark(work.journal, access.cluster, named, session.err)
        return bring_vms_home(work, named, policy, output, since)
