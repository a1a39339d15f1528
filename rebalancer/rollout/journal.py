"""The journal: what was intended, what was seen, and who is at work; in a small database.

Every write is committed before it returns, and an intent is written before the command that it
announces is issued. So whatever happens to this process, the journal names everything that may
have been done. Where VMs are it does not know: only the hypervisors do.

Its parts: `locks` (who is at work), `past` (what was done), `orders` (what operators want), and
in here what is written while a plan is carried out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from rebalancer.cluster.plan import Plan
from rebalancer.errors import JournalError, PlanRefusedError
from rebalancer.rollout import tables
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.locks import Locks
from rebalancer.rollout.orders import Orders
from rebalancer.rollout.past import Past
from rebalancer.rollout.records import Entry, RecordKind, RolloutStatus
from rebalancer.rollout.rows import new_migration_row


class Journal(Locks, Past, Orders):
    """The record of rollouts, as one who carries them out keeps it."""

    def begin(self, plan: Plan, lease: Lease, plan_text: str = "") -> int:
        """Open the record of a rollout and return its number.

        `plan_text` is the plan as it was reviewed, kept for `show`. Raises `PlanRefusedError`
        when the plan was applied before.
        """
        try:
            with self._writing(lease) as db:
                number = db.execute(
                    sa.insert(tables.rollouts)
                    .values(
                        cluster=lease.cluster,
                        plan_id=plan.id,
                        policy=plan.policy,
                        plan=plan_text,
                        status=RolloutStatus.RUNNING,
                        owner=str(lease.owner),
                        started_at=self._now(),
                        text="",
                    )
                    .returning(tables.rollouts.c.id)
                ).scalar_one()
                if plan.migrations:
                    db.execute(
                        sa.insert(tables.migrations),
                        [
                            new_migration_row(number, place, m)
                            for place, m in enumerate(plan.migrations)
                        ],
                    )
        except JournalError as error:
            if isinstance(error.__cause__, IntegrityError):
                raise PlanRefusedError(
                    f"plan {plan.id} was applied before; a plan is applied once: make a new one"
                ) from error
            raise
        return int(number)

    def write(self, rollout: int, entries: Sequence[Entry], lease: Lease) -> None:
        """Append lines, all or none. They are on disk when this returns."""
        if not entries:
            return
        now = self._now()
        with self._writing(lease) as db:
            db.execute(
                sa.insert(tables.records),
                [
                    {
                        "rollout": rollout,
                        "migration": entry.migration,
                        "at": now,
                        "kind": entry.kind,
                        "payload": json.dumps(entry.payload),
                    }
                    for entry in entries
                ],
            )
            for entry in entries:
                if entry.kind is RecordKind.STATE:
                    self._set_state(db, rollout, entry, now)

    def _set_state(self, db: sa.Connection, rollout: int, entry: Entry, now: str) -> None:
        row, outcome = tables.migrations, entry.payload.get("outcome")
        db.execute(
            sa.update(row)
            .where(row.c.rollout == rollout, row.c.migration == entry.migration)
            .values(
                state=entry.payload["state"],
                changed_at=now,
                outcome=json.dumps(outcome) if outcome is not None else None,
            )
        )

    def end(self, rollout: int, status: RolloutStatus, text: str, lease: Lease) -> None:
        """Close the record of a rollout."""
        with self._writing(lease) as db:
            db.execute(
                sa.update(tables.rollouts)
                .where(tables.rollouts.c.id == rollout)
                .values(status=status, text=text, ended_at=self._now())
            )
