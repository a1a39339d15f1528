"""Rows of the journal's tables, turned into values and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.rollout import tables
from rebalancer.rollout.lease import LeaseHolder, Owner
from rebalancer.rollout.records import (
    MigrationRow,
    Move,
    Record,
    RecordKind,
    RolloutRow,
    RolloutStatus,
    Setback,
    migration_from_json,
    migration_to_json,
    outcome_from_json,
)


def holder_of(db: sa.Connection, cluster: str) -> LeaseHolder | None:
    """The lease's owner. A released one is kept for its token, which must never go down."""
    row = db.execute(sa.select(tables.lease).where(tables.lease.c.cluster == cluster)).first()
    if row is None:
        return None
    at = datetime.min.replace(tzinfo=UTC) if row.released else as_instant(row.heartbeat_at)
    return LeaseHolder(owner=Owner.from_json(row.owner), token=row.token, heartbeat_at=at)


def as_text(at: datetime) -> str:
    """UTC in a form that sorts as text; every database keeps it as it is."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def as_instant(text: str) -> datetime:
    """Read an instant back."""
    return datetime.fromisoformat(text)


def new_migration_row(rollout: int, place: int, migration: Migration) -> dict[str, Any]:
    """Make the row of a migration that has not begun."""
    return {
        "rollout": rollout,
        "migration": migration.id,
        "place": place,
        "vm": migration.vm,
        "written": json.dumps(migration_to_json(migration)),
        "state": MigrationState.PENDING,
    }


def rollout_from(row: sa.Row[Any]) -> RolloutRow:
    """Read a rollout."""
    return RolloutRow(
        id=row.id,
        cluster=row.cluster,
        plan_id=row.plan_id,
        status=RolloutStatus(row.status),
        owner=row.owner,
        started_at=as_instant(row.started_at),
        ended_at=as_instant(row.ended_at) if row.ended_at else None,
        text=row.text,
    )


def migration_from(row: sa.Row[Any]) -> MigrationRow:
    """Read a migration and, if it has ended, its outcome."""
    outcome: Outcome | None = (
        outcome_from_json(json.loads(row.outcome)) if row.outcome is not None else None
    )
    return MigrationRow(
        rollout=row.rollout,
        migration=migration_from_json(json.loads(row.written)),
        state=MigrationState(row.state),
        outcome=outcome,
        changed_at=as_instant(row.changed_at) if row.changed_at else None,
    )


def record_from(row: sa.Row[Any]) -> Record:
    """Read a line."""
    return Record(
        number=row.id,
        rollout=row.rollout,
        migration=row.migration,
        at=as_instant(row.at),
        kind=RecordKind(row.kind),
        payload=json.loads(row.payload),
    )


def move_from(row: MigrationRow) -> Move:
    """Say of a migration that completed who went where."""
    assert row.changed_at is not None
    migration = row.migration
    return Move(
        vm=migration.vm,
        source=migration.source,
        target=migration.target,
        priority=migration.priority,
        at=row.changed_at,
        memory_bytes=migration.memory_bytes + migration.disk_bytes,
    )


def setback_from(row: MigrationRow) -> Setback:
    """Say of a migration that failed what was in its way."""
    assert row.changed_at is not None
    return Setback(
        vm=row.migration.vm,
        source=row.migration.source,
        target=row.migration.target,
        at=row.changed_at,
        text=row.outcome.text if row.outcome is not None else "",
    )
