"""What the journal says of old disks: which were left where, and what was done about them.

That one is going to be deleted is committed before it is, with what was seen of it; how that
ended, after. A deletion that was cut short has no end in here, and the file stays listed until a
host has said that it is gone.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import sqlalchemy as sa

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout import tables
from rebalancer.rollout.journal_part import JournalPart
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.left_over_commands import DiskFile
from rebalancer.rollout.left_overs import LeftOver, Removed, left_overs
from rebalancer.rollout.rows import as_instant, migration_from

GONE = "gone"


class LeftOverJournal(JournalPart):
    """The tables of completed migrations, and of what was deleted after them."""

    def left_overs(self, cluster: str) -> tuple[LeftOver, ...]:
        """Which old disks must still be where they were left, by host and path."""
        table, rollout = tables.migrations, tables.rollouts
        moved = (
            sa.select(table)
            .join(rollout, rollout.c.id == table.c.rollout)
            .where(rollout.c.cluster == cluster, table.c.state == MigrationState.COMPLETE)
            # Those without local disks do not have the word in them.
            .where(table.c.written.contains('"disks"'))
            .order_by(table.c.changed_at, table.c.rollout, table.c.place)
        )
        done = tables.left_over_removals
        gone = sa.select(done).where(done.c.cluster == cluster, done.c.outcome == GONE)
        with self._reading() as db:
            rows = [migration_from(row) for row in db.execute(moved)]
            removed = [
                Removed(host=HostId(row.host), path=row.path, at=as_instant(row.ended_at))
                for row in db.execute(gone)
            ]
        return left_overs(rows, removed)

    def begin(self, left: LeftOver, keep: HostId | None, seen: DiskFile, lease: Lease) -> int:
        """Note that a file is going to be deleted, and why that is right; return its number."""
        return self._insert(left, lease, keep=keep, seen=json.dumps(asdict(seen), default=str))

    def found_gone(self, left: LeftOver, lease: Lease) -> None:
        """Note that a host said that there is no such file any more."""
        self.ended(
            self._insert(left, lease, keep=None, seen=""),
            "it was not there any more",
            lease,
            is_gone=True,
        )

    def ended(self, number: int, text: str, lease: Lease, *, is_gone: bool) -> None:
        """Note what came of it."""
        table = tables.left_over_removals
        with self._writing(lease) as db:
            db.execute(
                sa.update(table)
                .where(table.c.id == number)
                .values(ended_at=self._now(), outcome=GONE if is_gone else "stays", text=text)
            )

    def _insert(self, left: LeftOver, lease: Lease, *, keep: HostId | None, seen: str) -> int:
        with self._writing(lease) as db:
            number = db.execute(
                sa.insert(tables.left_over_removals)
                .values(
                    cluster=lease.cluster,
                    host=left.host,
                    path=left.disk.path,
                    vm=left.vm,
                    rollout=left.rollout,
                    migration=left.migration,
                    keep=keep or "",
                    seen=seen,
                    owner=str(lease.owner),
                    asked_at=self._now(),
                    text="",
                )
                .returning(tables.left_over_removals.c.id)
            ).scalar_one()
        return int(number)
