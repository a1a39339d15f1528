"""How the migrations of a plan ended, beside what was predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import Migration, MigrationState, Outcome, Plan
from rebalancer.service.layout import Block, Cell, Column, Line, Table, Tone
from rebalancer.service.plan_report import host_names
from rebalancer.service.wording import (
    bytes_text,
    count_text,
    seconds_text,
)

_NOTHING = "–"
"""In a cell for which there is no value."""

_END_STALE_COPIES = "--end-stale-copies"
"""In what is said of a VM with two copies, if it is known which is the older one."""
_LOST = "where a VM is could not be found out"


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
    if unknown := [one for one in outcomes if one.state is MigrationState.UNKNOWN]:
        is_known = all(_END_STALE_COPIES in outcome.text for outcome in unknown)
        what = "an older copy of a VM waits for your word" if is_known else _LOST
        yield Line(text=f"{what}; run: rebalancer recover", tone=Tone.BAD)


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
