"""What was done: rollouts, their migrations and every line about them, read back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rebalancer.cluster.plan import ENDED_STATES, MigrationState
from rebalancer.rollout import tables
from rebalancer.rollout.journal_part import JournalPart
from rebalancer.rollout.records import (
    MigrationRow,
    Move,
    Record,
    RolloutRow,
    RolloutStatus,
    Setback,
)
from rebalancer.rollout.rows import (
    as_text,
    migration_from,
    move_from,
    record_from,
    rollout_from,
    setback_from,
)

HAS_PARTS = '"parts": [{'
"""In the text of an outcome that has any."""
FAILED = (MigrationState.FAILED_SAFE, MigrationState.FAILED_DOWN)


class Past(JournalPart):
    """The tables of rollouts, to look things up in."""

    def applied(self, plan_id: str) -> bool:
        """Whether a plan was applied before, completely or not."""
        query = sa.select(tables.rollouts.c.id).where(tables.rollouts.c.plan_id == plan_id)
        with self._reading() as db:
            return db.execute(query).first() is not None

    def rollouts(self, cluster: str | None = None, limit: int = 50) -> tuple[RolloutRow, ...]:
        """The latest rollouts, newest first."""
        table = tables.rollouts
        query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
        if cluster is not None:
            query = query.where(table.c.cluster == cluster)
        with self._reading() as db:
            return tuple(rollout_from(row) for row in db.execute(query))

    def rollout(self, plan_id_or_number: str | int) -> RolloutRow | None:
        """One rollout, by its number or by its plan."""
        table = tables.rollouts
        by_number = isinstance(plan_id_or_number, int)
        column: sa.Column[Any] = table.c.id if by_number else table.c.plan_id
        with self._reading() as db:
            row = db.execute(sa.select(table).where(column == plan_id_or_number)).first()
        return rollout_from(row) if row is not None else None

    def plan_text(self, rollout: int) -> str:
        """The plan of a rollout as it was handed to `begin`."""
        query = sa.select(tables.rollouts.c.plan).where(tables.rollouts.c.id == rollout)
        with self._reading() as db:
            return str(db.execute(query).scalar() or "")

    def migrations(self, rollout: int) -> tuple[MigrationRow, ...]:
        """The migrations of a rollout in the plan's order, with their outcomes."""
        table = tables.migrations
        query = sa.select(table).where(table.c.rollout == rollout).order_by(table.c.place)
        with self._reading() as db:
            return tuple(migration_from(row) for row in db.execute(query))

    def records(self, rollout: int, migration: str | None = None) -> tuple[Record, ...]:
        """The lines of a rollout, or of one of its migrations, oldest first."""
        table = tables.records
        query = sa.select(table).where(table.c.rollout == rollout).order_by(table.c.id)
        if migration is not None:
            query = query.where(table.c.migration == migration)
        with self._reading() as db:
            return tuple(record_from(row) for row in db.execute(query))

    def unfinished(self, cluster: str) -> tuple[RolloutRow, ...]:
        """Rollouts whose process died, or that left a VM with an unknown outcome, oldest first.

        To whoever holds the lock; to others a rollout that is under way looks the same.
        """
        table, part = tables.rollouts, tables.migrations
        unknown = sa.select(part.c.rollout).where(part.c.state == MigrationState.UNKNOWN)
        query = (
            sa.select(table)
            .where(table.c.cluster == cluster)
            .where(sa.or_(table.c.status == RolloutStatus.RUNNING, table.c.id.in_(unknown)))
            .order_by(table.c.id)
        )
        with self._reading() as db:
            return tuple(rollout_from(row) for row in db.execute(query))

    def unresolved(self, cluster: str) -> tuple[MigrationRow, ...]:
        """Migrations whose VMs nobody may touch before `recover` has looked at them."""
        safe = ENDED_STATES - {MigrationState.UNKNOWN} | {MigrationState.PENDING}
        return tuple(
            row
            for rollout in self.unfinished(cluster)
            for row in self.migrations(rollout.id)
            if row.state not in safe
        )

    def moves_since(
        self, since: datetime, cluster: str, policy: str | None = None
    ) -> tuple[Move, ...]:
        """VMs that were moved since an instant, by one policy or by any, oldest first."""
        table = tables.migrations
        query = (
            _migrations_in(cluster)
            .where(table.c.state == MigrationState.COMPLETE, table.c.changed_at >= as_text(since))
            .order_by(table.c.changed_at)
        )
        if policy is not None:
            query = query.where(tables.rollouts.c.policy == policy)
        with self._reading() as db:
            rows = [migration_from(row) for row in db.execute(query)]
        return tuple(move_from(row) for row in rows)

    def setbacks_since(self, since: datetime, cluster: str) -> tuple[Setback, ...]:
        """Migrations that failed since an instant, oldest first."""
        table = tables.migrations
        query = (
            _migrations_in(cluster)
            .where(table.c.state.in_(FAILED), table.c.changed_at >= as_text(since))
            .order_by(table.c.changed_at)
        )
        with self._reading() as db:
            rows = [migration_from(row) for row in db.execute(query)]
        return tuple(setback_from(row) for row in rows)

    def completed(self, cluster: str, limit: int) -> tuple[MigrationRow, ...]:
        """The migrations that came to their end as planned, newest first."""
        table = tables.migrations
        query = (
            _migrations_in(cluster)
            .where(table.c.state == MigrationState.COMPLETE)
            .order_by(table.c.changed_at.desc())
            .limit(limit)
        )
        with self._reading() as db:
            return tuple(migration_from(row) for row in db.execute(query))

    def timed_in_parts(self, cluster: str, limit: int) -> tuple[MigrationRow, ...]:
        """Migrations of which parts were measured for themselves, newest first.

        However they ended: a guest that never shut down teaches something as well.
        """
        table = tables.migrations
        query = (
            _migrations_in(cluster)
            .where(table.c.outcome.contains(HAS_PARTS, autoescape=True))
            .order_by(table.c.changed_at.desc())
            .limit(limit)
        )
        with self._reading() as db:
            return tuple(migration_from(row) for row in db.execute(query))

    def ended_since(self, since: datetime, cluster: str) -> tuple[MigrationRow, ...]:
        """The migrations that ended since an instant, whichever way, oldest first."""
        table = tables.migrations
        query = (
            _migrations_in(cluster)
            .where(table.c.state.in_(ENDED_STATES), table.c.changed_at >= as_text(since))
            .order_by(table.c.changed_at)
        )
        with self._reading() as db:
            return tuple(migration_from(row) for row in db.execute(query))


def _migrations_in(cluster: str) -> sa.Select[Any]:
    table, rollout = tables.migrations, tables.rollouts
    query = sa.select(table).join(rollout, rollout.c.id == table.c.rollout)
    return query.where(rollout.c.cluster == cluster)
