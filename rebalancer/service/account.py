"""What is told from the journal: what goes on, what was rolled out.

Laid out from plain values, so that whoever has them can have it written. How a rollout went is in
`outcome_report`, what a cluster consists of in `cluster_report`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from rebalancer.cluster.inventory import HostState
from rebalancer.cluster.plan import MigrationState
from rebalancer.service.layout import Block, Cell, Column, Line, Table, Tone
from rebalancer.service.wording import (
    seconds_text,
    when_text,
)

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
    leader: str = ""
    """Which daemon looks after the cluster, and since when; empty: none."""
    hosts: tuple[HostNote, ...] = ()
    maintenance: tuple[str, ...] = ()
    """Commands of rolling maintenance that are at work, unclear, or not followed up."""
    left_overs: str = ""
    """Old disks that VMs left behind; empty: the journal knows of none."""


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
    if status.leader:
        yield Line(text=f"daemon: {status.leader}")
    if status.last_verdict:
        at = f" ({when_text(status.last_verdict_at)})" if status.last_verdict_at else ""
        is_bad = status.last_verdict.startswith(("blocked:", "failed:"))
        tone = Tone.BAD if is_bad else Tone.PLAIN
        yield Line(text=f"last verdict: {status.last_verdict}{at}", tone=tone)
    if status.paused:
        yield Line(text=f"paused {status.paused}", tone=Tone.WARN)
    if status.throttled:
        yield Line(text=status.throttled, tone=Tone.WARN)
    if status.unknown:
        yield _running_table("Unknown outcome: run rebalancer recover", status.unknown)
    for text in status.maintenance:
        yield Line(text=text, tone=Tone.WARN)
    if status.left_overs:
        yield Line(text=status.left_overs)
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
