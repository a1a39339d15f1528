"""The commands that only look: they have no driver, and change neither a host nor the journal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rebalancer.cluster.inventory import HostState
from rebalancer.cluster.plan import ENDED_STATES, MigrationState
from rebalancer.collect.snapshot_file import read_snapshot, write_snapshot
from rebalancer.errors import ExitCode, InvalidFileError, UsageError
from rebalancer.planning.accuracy import Past, accuracy_of, part_accuracy_of
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.leaders import Leaders
from rebalancer.rollout.lease import LeaseHolder, is_dead
from rebalancer.rollout.records import MigrationRow, RolloutRow, RolloutStatus
from rebalancer.service import options
from rebalancer.service.access import Where, open_for_reading
from rebalancer.service.account import HistoryRow, HostNote, RunningRow, Status
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import effective_settings, journal_url, load_settings
from rebalancer.service.cycle_history import CycleHistory
from rebalancer.service.file_kind import FileKind, kind_of
from rebalancer.service.maintenance_command import maintenance_texts
from rebalancer.service.old_disks import known_left_overs, left_overs_text
from rebalancer.service.plan_file import plan_of_text, read_plan
from rebalancer.service.policy_file import read_policy
from rebalancer.service.rehearsed_access import policy_of
from rebalancer.service.report import (
    Format,
    render_accuracy,
    render_history,
    render_outcomes,
    render_plan,
    render_settings,
    render_snapshot_summary,
    render_status,
)
from rebalancer.service.session import (
    Session,
    learned_from,
    observe,
    open_session,
    with_dirty_rates,
)
from rebalancer.service.steering import throttled_text
from rebalancer.simulation.scenario import read_scenario


def take_snapshot(
    file: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write it here, as JSON.")
    ] = None,
    config: options.Config = None,
    scenario: options.FromScenario = None,
    snapshot: options.FromSnapshot = None,
    probe: options.Probe = False,
    wide: options.Wide = False,
) -> ExitCode:
    """Observe the cluster; save what was seen for a replay or a bug report."""
    session = open_session(config)
    access = open_for_reading(session.settings, Where(scenario=scenario, snapshot=snapshot))
    seen = observe(session, access)
    if probe:
        seen = with_dirty_rates(session, access, seen, seen.vm_by_id)
    if file is not None:
        write_snapshot(seen, file)
    render_snapshot_summary(seen, Format.TABLE, session.out, wide=wide)
    is_partial = any(host.state is HostState.UNKNOWN for host in seen.hosts)
    return ExitCode.NOT_OBSERVED if is_partial else ExitCode.SUCCESS


def status(config: options.Config = None, output: options.Output = Format.TABLE) -> ExitCode:
    """Say who is changing the cluster, what is being moved, and which hosts are draining."""
    session = open_session(config)
    session.say_if_there_is_no_journal()
    now = status_of(session)
    render_status(now, output, session.out)
    return ExitCode.UNKNOWN_OUTCOME if now.unknown else ExitCode.SUCCESS


def history(
    config: options.Config = None,
    output: options.Output = Format.TABLE,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, newest first.")] = 20,
    everything: Annotated[
        bool, typer.Option("--all-clusters", help="Those of other clusters, too.")
    ] = False,
    accuracy: Annotated[
        bool,
        typer.Option("--accuracy", help="How right their predictions were, by pair of hosts."),
    ] = False,
) -> ExitCode:
    """List what was rolled out, by whom, and how it went."""
    session = open_session(config)
    session.say_if_there_is_no_journal()
    with session.existing_journal() as journal:
        cluster = None if everything else session.settings.cluster
        if accuracy:
            learned = learned_from(journal, session.settings.cluster)
            past = _past(journal, cluster, limit)
            judged, parts = accuracy_of(past), part_accuracy_of(past)
            render_accuracy(judged, parts, learned, output, session.out)
            return ExitCode.SUCCESS
        rows = (
            []
            if journal is None
            else [history_row(journal, row) for row in journal.rollouts(cluster, limit)]
        )
    render_history(rows, output, session.out)
    return ExitCode.SUCCESS


def show(
    what: Annotated[str, typer.Argument(help="A plan file, or the id of a plan that was applied.")],
    config: options.Config = None,
    output: options.Output = Format.TABLE,
    wide: options.Wide = False,
    commands: Annotated[
        bool, typer.Option("--print-commands", help="Add the virsh commands of every step.")
    ] = False,
) -> ExitCode:
    """Show a plan; if it was applied, how each of its migrations went."""
    session = open_session(config)
    if Path(what).exists():
        render_plan(read_plan(what), output, session.out, wide=wide, commands=commands)
        return ExitCode.SUCCESS
    with session.existing_journal() as journal:
        row = journal.rollout(int(what) if what.isdecimal() else what) if journal else None
        if journal is None or row is None:
            raise UsageError(
                f"{what} is neither a file nor a plan in the journal; `rebalancer history` lists "
                "those that were applied"
            )
        past = plan_of_text(journal.plan_text(row.id), origin=f"plan {row.plan_id} in the journal")
        outcomes = [m.outcome for m in journal.migrations(row.id) if m.outcome is not None]
    if output is not Format.JSON:
        render_plan(past, output, session.out, wide=wide, commands=commands)
    render_outcomes(past, outcomes, output, session.out)
    return ExitCode.SUCCESS


def validate(
    files: Annotated[
        list[Path], typer.Argument(help="Settings, policies, scenarios, snapshots, plans.")
    ],
) -> ExitCode:
    """Check files, and say everything that is wrong in each."""
    session = open_session(None)
    code = ExitCode.SUCCESS
    for file in files:
        try:
            kind = _checked(file)
        except InvalidFileError as error:
            session.err.print(f"rebalancer: {error}", highlight=False, markup=False, soft_wrap=True)
            code = ExitCode.INVALID_FILE
        else:
            session.out.print(f"{file}: this {kind} is valid", highlight=False)
    return code


def _checked(file: Path) -> FileKind:
    kind = kind_of(file)
    match kind:
        case FileKind.CONFIG:
            settings = load_settings(file)
            if settings.policy is not None:
                read_policy(settings.policy)
        case FileKind.POLICY:
            read_policy(file)
        case FileKind.SCENARIO:
            policy_of(read_scenario(file))
        case FileKind.SNAPSHOT:
            read_snapshot(file)
        case FileKind.PLAN:
            read_plan(file)
    return kind


def show_config(
    config: options.Config = None,
    output: options.Output = Format.TABLE,
    effective: Annotated[
        bool, typer.Option("--effective", help="What is shown in any case: what is in force.")
    ] = True,
) -> ExitCode:
    """List every setting in force, and where each comes from."""
    del effective
    session = open_session(config)
    render_settings(effective_settings(session.settings), output, session.out)
    return ExitCode.SUCCESS


def status_of(session: Session) -> Status:
    """Say what is going on, as the journal has it."""
    with session.existing_journal() as journal:
        now = _status(session, journal)
    return now if journal is None else _with_verdict(session, now)


def _status(session: Session, journal: Journal | None) -> Status:
    settings = session.settings
    if journal is None:
        return Status(
            cluster=settings.cluster, mode=settings.mode, last_verdict="", last_verdict_at=None
        )
    holder = journal.holder(settings.cluster)
    rows = [
        row
        for rollout in journal.unfinished(settings.cluster)
        for row in journal.migrations(rollout.id)
    ]
    drains = journal.drains(settings.cluster).values()
    wishes = journal.wishes(settings.cluster)
    return Status(
        cluster=settings.cluster,
        mode=settings.mode,
        last_verdict="",
        last_verdict_at=None,
        lock_holder=_holder_text(holder),
        leader=_leader_text(session),
        paused=wishes.why_paused,
        throttled=throttled_text(wishes),
        running=tuple(
            _running_row(row)
            for row in rows
            if row.state not in ENDED_STATES and row.state is not MigrationState.PENDING
        ),
        unknown=tuple(_running_row(row) for row in rows if row.state is MigrationState.UNKNOWN),
        maintenance=maintenance_texts(session),
        left_overs=left_overs_text(known_left_overs(journal_url(settings), settings.cluster)),
        hosts=tuple(
            HostNote(host=mark.host, state=HostState.DRAINING, reason=mark.reason, since=mark.since)
            for mark in sorted(drains, key=lambda mark: mark.host)
        ),
    )


def _with_verdict(session: Session, now: Status) -> Status:
    with CycleHistory.open(journal_url(session.settings)) as history:
        cycles = history.latest(session.settings.cluster)
    if not cycles:
        return now
    latest = cycles[-1]
    said = f"{latest.policy}: {latest.verdict}"
    return replace(now, last_verdict=said, last_verdict_at=latest.past.at)


def _leader_text(session: Session) -> str:
    settings = session.settings
    with Leaders.open(journal_url(settings), SystemClock()) as leaders:
        leader = leaders.of(settings.cluster)
    if leader is None or leader.resigned or is_dead(leader.owner):
        return ""
    return str(leader)


def _holder_text(holder: LeaseHolder | None) -> str:
    if holder is None:
        return ""
    died = ", which died: run rebalancer recover" if is_dead(holder.owner) else ""
    return f"{holder.owner}{died}"


def _running_row(row: MigrationRow) -> RunningRow:
    return RunningRow(
        migration=row.migration.id,
        vm_name=row.migration.vm_name,
        source=row.migration.source,
        target=row.migration.target,
        state=row.state,
        since=row.changed_at,
    )


def _past(journal: Journal | None, cluster: str | None, limit: int) -> tuple[Past, ...]:
    if journal is None:
        return ()
    return tuple(
        (row.migration, row.outcome)
        for rollout in journal.rollouts(cluster, limit)
        for row in journal.migrations(rollout.id)
        if row.outcome is not None
    )


def history_row(journal: Journal, row: RolloutRow) -> HistoryRow:
    """Say of a rollout how it went."""
    past = plan_of_text(journal.plan_text(row.id), origin=f"plan {row.plan_id} in the journal")
    died = row.status is RolloutStatus.RUNNING and row.ended_at is None
    return HistoryRow(
        rollout=str(row.id),
        plan=row.plan_id,
        policy=past.policy,
        creator=past.creator,
        started_at=row.started_at,
        finished_at=row.ended_at,
        states=tuple(migration.state for migration in journal.migrations(row.id)),
        text=row.text or ("under way, or its process died" if died else past.verdict.text),
    )
