"""What is told besides plans: how a rollout went, what is going on, what there is.

Each account is laid out from plain values, so that whoever has them (a rollout that just ended,
the journal, a simulation) can have it written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING

from rebalancer.cluster.inventory import Host, HostId, HostState, Snapshot, Vm
from rebalancer.cluster.plan import Migration, MigrationState, Outcome, Plan
from rebalancer.service.layout import Bar, Block, Cell, Column, Line, Table, Tone, abridged
from rebalancer.service.plan_report import HOT_RATIO, host_names, natural
from rebalancer.service.wording import (
    bytes_text,
    count_text,
    ratio_text,
    seconds_text,
    when_text,
)

if TYPE_CHECKING:
    from rebalancer.service.config import EffectiveSetting

HOSTS_SHOWN = 40

_NOTHING = "–"
"""In a cell for which there is no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """One past rollout."""

    rollout: str
    plan: str
    policy: str
    creator: str
    started_at: datetime
    finished_at: datetime | None
    """`None`: it still goes on, or the program died in it."""
    states: tuple[MigrationState, ...]
    """How its migrations stand, in the order of the plan."""
    text: str = ""
    """The verdict, or why it stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRow:
    """A migration that is being carried out."""

    migration: str
    vm_name: str
    source: str
    target: str
    state: MigrationState
    since: datetime | None
    """`None`: the journal does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNote:
    """Something that was decided about a host: drained, in maintenance, asleep."""

    host: str
    state: HostState
    reason: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is going on with a cluster, as the journal has it."""

    cluster: str
    mode: str
    last_verdict: str
    last_verdict_at: datetime | None
    lock_holder: str = ""
    """Who is changing the cluster just now; empty: nobody."""
    paused: str = ""
    """By whom, since when and why nothing may be started; empty: it may."""
    throttled: str = ""
    """What migrations are held to beyond their policy; empty: nothing."""
    running: tuple[RunningRow, ...] = ()
    unknown: tuple[RunningRow, ...] = ()
    """Migrations of which nobody knows how they ended."""
    hosts: tuple[HostNote, ...] = ()


def outcomes_blocks(plan: Plan, outcomes: Sequence[Outcome]) -> Iterator[Block]:
    """Lay out how migrations ended, predicted beside actual."""
    yield Line(text=outcomes_text(outcomes), tone=_outcomes_tone(outcomes))
    by_id = {outcome.migration: outcome for outcome in outcomes}
    names = host_names(plan)
    rows = tuple(
        _outcome_row(migration, by_id.get(migration.id), names) for migration in plan.migrations
    )
    if rows:
        yield Table(title="Migrations", columns=_OUTCOME_COLUMNS, rows=rows)
    if accuracy := accuracy_text(plan, outcomes):
        yield Line(text=accuracy)
    if any(outcome.state is MigrationState.UNKNOWN for outcome in outcomes):
        yield Line(
            text="where a VM is could not be found out; run: rebalancer recover", tone=Tone.BAD
        )


_OUTCOME_COLUMNS = (
    Column(title="#"),
    Column(title="VM"),
    Column(title="from → to"),
    Column(title="mode", minor=True),
    Column(title="ended"),
    Column(title="time", right=True),
    Column(title="planned", right=True),
    Column(title="downtime", right=True),
    Column(title="planned", right=True),
    Column(title="sent", right=True, minor=True),
    Column(title="what happened", prose=True),
)


def outcomes_text(outcomes: Sequence[Outcome]) -> str:
    """Count how migrations ended: `5 of 7 complete, 1 skipped, 1 failed-safe`."""
    if not outcomes:
        return "nothing to do"
    counts = Counter(outcome.state for outcome in outcomes)
    complete = counts.pop(MigrationState.COMPLETE, 0)
    others = (f"{counts[state]} {state}" for state in MigrationState if state in counts)
    return ", ".join([f"{complete} of {count_text(len(outcomes), 'migration')} complete", *others])


def accuracy_text(plan: Plan, outcomes: Sequence[Outcome]) -> str:
    """Say how predictions compare with what really happened; empty if nothing can be compared."""
    by_id = {migration.id: migration.predicted for migration in plan.migrations}
    done = [o for o in outcomes if o.state is MigrationState.COMPLETE and o.migration in by_id]
    times = [
        o.duration_seconds / by_id[o.migration].duration_seconds
        for o in done
        if o.duration_seconds is not None and by_id[o.migration].duration_seconds > 0
    ]
    pauses = [o.downtime_seconds for o in done if o.downtime_seconds is not None]
    parts = []
    if times:
        parts.append(f"migrations took {median(times):.2f} × the predicted time (median)")
    if pauses:
        within = sum(
            o.downtime_seconds <= by_id[o.migration].downtime_upper_seconds
            for o in done
            if o.downtime_seconds is not None
        )
        parts.append(
            f"guests stood still for {seconds_text(sum(pauses))} in all, "
            f"{within} of {len(pauses)} within the predicted upper limit"
        )
    return "; ".join(parts)


def outcomes_tree(plan: Plan, outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Put outcomes and predictions together for JSON."""
    by_id = {outcome.migration: outcome for outcome in outcomes}
    return {
        "plan": plan.id,
        "cluster": plan.cluster,
        "text": outcomes_text(outcomes),
        "migrations": [
            {
                "id": migration.id,
                "vm": migration.vm,
                "vm_name": migration.vm_name,
                "source": migration.source,
                "target": migration.target,
                "mode": migration.mode,
                "predicted": migration.predicted,
                "outcome": by_id.get(migration.id),
            }
            for migration in plan.migrations
        ],
    }


def snapshot_blocks(snapshot: Snapshot, *, wide: bool = False) -> Iterator[Block]:
    """Lay out what a cluster consists of."""
    yield Line(text=snapshot_text(snapshot), tone=Tone.STRONG)
    yield from (Line(text=text, tone=Tone.WARN) for text in _doubts(snapshot))
    hosts = sorted(snapshot.hosts, key=lambda host: natural(host.name))
    shown, left_out = abridged(hosts, None if wide else HOSTS_SHOWN)
    yield Table(
        title="Hosts",
        columns=(
            Column(title="host"),
            Column(title="state"),
            Column(title="site"),
            Column(title="cores", right=True),
            Column(title="CPU"),
            Column(title="memory", right=True),
            Column(title="promised"),
            Column(title="VMs", right=True),
            Column(title="why", prose=True),
        ),
        rows=tuple(_host_row(host, snapshot.vms_by_host[host.id]) for host in shown),
        more=f"{count_text(left_out, 'host')} more" if left_out else "",
    )


def snapshot_text(snapshot: Snapshot) -> str:
    """Sum a cluster up in one sentence."""
    active = [vm for vm in snapshot.vms if vm.is_active]
    capacity = sum(host.guest_memory_bytes for host in snapshot.hosts)
    promised = sum(vm.memory_bytes for vm in active)
    cores = sum(host.cpu_cores for host in snapshot.hosts)
    used = sum(vm.cpu_used_cores for vm in active)
    return (
        f"{snapshot.cluster} at {when_text(snapshot.taken_at)}: "
        f"{count_text(len(snapshot.hosts), 'host')}, {count_text(len(snapshot.vms), 'VM')} "
        f"({len(active)} active), guests use {used:.1f} of {cores:g} cores and were promised "
        f"{bytes_text(promised)} of {bytes_text(capacity)}"
    )


def history_blocks(rows: Sequence[HistoryRow]) -> Iterator[Block]:
    """Lay out past rollouts."""
    if not rows:
        yield Line(text="nothing was rolled out yet")
        return
    yield Table(
        title="Rollouts",
        columns=(
            Column(title="started"),
            Column(title="took", right=True),
            Column(title="plan"),
            Column(title="policy"),
            Column(title="by"),
            Column(title="migrations"),
            Column(title="what", prose=True),
        ),
        rows=tuple(_history_row(row) for row in rows),
    )


def status_blocks(status: Status) -> Iterator[Block]:
    """Lay out what is going on."""
    yield Line(text=f"cluster {status.cluster}, mode {status.mode}", tone=Tone.STRONG)
    if status.last_verdict:
        at = f" ({when_text(status.last_verdict_at)})" if status.last_verdict_at else ""
        yield Line(text=f"last verdict: {status.last_verdict}{at}")
    if status.paused:
        yield Line(text=f"paused {status.paused}", tone=Tone.WARN)
    if status.throttled:
        yield Line(text=status.throttled, tone=Tone.WARN)
    if status.unknown:
        yield _running_table("Unknown outcome: run rebalancer recover", status.unknown)
    if status.running:
        yield _running_table(f"Running, held by {status.lock_holder or 'nobody'}", status.running)
    else:
        yield Line(text="nothing is being moved")
    if status.hosts:
        yield Table(
            title="Hosts",
            columns=(
                Column(title="host"),
                Column(title="state"),
                Column(title="since"),
                Column(title="why", prose=True),
            ),
            rows=tuple(
                (
                    note.host,
                    note.state.value,
                    when_text(note.since) if note.since else _NOTHING,
                    note.reason,
                )
                for note in status.hosts
            ),
        )


def settings_blocks(rows: Sequence[EffectiveSetting]) -> Iterator[Block]:
    """Lay out settings with their origins."""
    yield Table(
        title="Settings in force",
        columns=(Column(title="key"), Column(title="value"), Column(title="from")),
        rows=tuple((row.key, _value_text(row.value), row.origin) for row in rows),
    )


def _value_text(value: object) -> str:
    """Write a setting as YAML would."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return "null" if value is None else str(value)


def _outcome_row(
    migration: Migration, outcome: Outcome | None, names: dict[HostId, str]
) -> tuple[Cell, ...]:
    source = names.get(migration.source, migration.source)
    target = names.get(migration.target, migration.target)
    state = outcome.state.value if outcome else MigrationState.PENDING.value
    return (
        migration.id,
        migration.vm_name,
        f"{source} → {target}",
        migration.mode.value,
        state,
        _optional(outcome.duration_seconds if outcome else None),
        seconds_text(migration.predicted.duration_seconds),
        _optional(outcome.downtime_seconds if outcome else None),
        seconds_text(migration.predicted.downtime_seconds),
        bytes_text(outcome.transfer_bytes)
        if outcome and outcome.transfer_bytes is not None
        else _NOTHING,
        outcome.text if outcome else "not begun",
    )


def _optional(seconds: float | None) -> str:
    return _NOTHING if seconds is None else seconds_text(seconds)


def _outcomes_tone(outcomes: Sequence[Outcome]) -> Tone:
    states = {outcome.state for outcome in outcomes}
    if states & {MigrationState.FAILED_DOWN, MigrationState.UNKNOWN}:
        return Tone.BAD
    return Tone.GOOD if states <= {MigrationState.COMPLETE} else Tone.WARN


def _doubts(snapshot: Snapshot) -> Iterator[str]:
    """What is not known, or in the way: an operator should see it before a plan says so."""
    silent = [host for host in snapshot.hosts if host.state is HostState.UNKNOWN]
    if silent:
        names = ", ".join(sorted(host.name for host in silent)[:10])
        yield f"{count_text(len(silent), 'host')} did not answer: {names}"
    if snapshot.usage_fault:
        yield snapshot.usage_fault
    unmeasured = sum(vm.is_active and vm.dirty_bytes_per_second is None for vm in snapshot.vms)
    if unmeasured:
        yield f"dirty rate unknown for {count_text(unmeasured, 'VM')}; predictions will be guesses"
    stuck = sum(not vm.can_move for vm in snapshot.vms)
    if stuck:
        yield f"{count_text(stuck, 'VM')} cannot be moved just now"


def _host_row(host: Host, vms: Sequence[Vm]) -> tuple[Cell, ...]:
    active = [vm for vm in vms if vm.is_active]
    used = host.cpu_used_cores
    cores = sum(vm.cpu_used_cores for vm in active) if used is None else used
    promised = sum(vm.memory_bytes for vm in active)
    return (
        host.name,
        host.state.value,
        host.site or _NOTHING,
        f"{host.cpu_cores:g}",
        _bar(cores, host.cpu_cores),
        bytes_text(host.guest_memory_bytes),
        _bar(promised, host.guest_memory_bytes),
        str(len(vms)),
        host.state_reason,
    )


def _bar(used: float, capacity: float) -> Bar:
    ratio = used / capacity if capacity > 0 else 0.0
    return Bar(ratio=ratio, text=ratio_text(ratio), hot=ratio > HOT_RATIO)


def _history_row(row: HistoryRow) -> tuple[Cell, ...]:
    took = (row.finished_at - row.started_at).total_seconds() if row.finished_at else None
    counts = Counter(row.states)
    ended = ", ".join(f"{counts[state]} {state}" for state in MigrationState if state in counts)
    return (
        when_text(row.started_at),
        "not ended" if took is None else seconds_text(took),
        row.plan,
        row.policy,
        row.creator,
        ended or "none",
        row.text,
    )


def _running_table(title: str, rows: Sequence[RunningRow]) -> Table:
    return Table(
        title=title,
        columns=(
            Column(title="#"),
            Column(title="VM"),
            Column(title="from → to"),
            Column(title="stage"),
            Column(title="since"),
        ),
        rows=tuple(
            (
                row.migration,
                row.vm_name,
                f"{row.source} → {row.target}",
                row.state.value,
                when_text(row.since) if row.since else _NOTHING,
            )
            for row in rows
        ),
    )
