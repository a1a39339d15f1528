"""Which of several daemons acts: one leads, the others stand by.

A row of the journal database for each cluster. It is not the lock, which is held only while VMs
are moved: a leader that thinks keeps no operator from a drain. Who takes a leader's place breaks
the lock that the leader left, in the same transaction, so that it cannot write any more should
it still be alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rebalancer.rollout import tables
from rebalancer.rollout.journal_part import JournalPart
from rebalancer.rollout.lease import Owner
from rebalancer.rollout.rows import as_instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """Who leads, as anybody may ask."""

    owner: Owner
    token: int
    """Grows with every new leader."""
    since: datetime
    heartbeat: str
    """Its last sign of life, by its own clock: to see that there was another one, no more."""
    resigned: bool

    def __str__(self) -> str:
        """Name it: `process 12 on mgmt1 leads since 2026-11-23 09:01:06 UTC`."""
        return f"{self.owner} leads since {self.since:%Y-%m-%d %H:%M:%S} UTC"


class Leaders(JournalPart):
    """The table of leaders. Any of its processes' threads may use it."""

    @property
    def is_shared(self) -> bool:
        """Whether daemons on other machines may stand by."""
        return self._database.is_shared

    def of(self, cluster: str) -> Leader | None:
        """Who leads, or did last; `None` if nobody ever did."""
        with self._reading() as db:
            return _leader(db, cluster)

    def follow(self, cluster: str, seen: Leader | None, owner: Owner) -> Leader | None:
        """Become the leader in place of the one that was `seen`, and return what that makes.

        `None`: somebody else has done so, or it showed a sign of life after all.
        """
        table, lock = tables.leaders, tables.lease
        with self._writing() as db:
            if _leader(db, cluster) != seen:
                return None
            if seen is not None:
                db.execute(
                    sa.update(lock)
                    .where(lock.c.cluster == cluster, lock.c.owner == seen.owner.to_json())
                    .where(lock.c.released.is_(False))
                    .values(released=True, token=lock.c.token + 1)
                )
            now = self._now()
            db.execute(sa.delete(table).where(table.c.cluster == cluster))
            db.execute(
                sa.insert(table).values(
                    cluster=cluster,
                    owner=owner.to_json(),
                    token=1 if seen is None else seen.token + 1,
                    since=now,
                    heartbeat_at=now,
                    released=False,
                )
            )
            return _leader(db, cluster)

    def renew(self, cluster: str, leader: Leader) -> bool:
        """Give a sign of life; return whether `leader` still leads."""
        table = tables.leaders
        with self._writing() as db:
            renewed = db.execute(
                sa.update(table)
                .where(table.c.cluster == cluster, table.c.token == leader.token)
                .where(table.c.released.is_(False))
                .values(heartbeat_at=self._now())
            )
        return renewed.rowcount == 1

    def resign(self, cluster: str, leader: Leader) -> None:
        """Let another one lead at once; nothing happens if one does already."""
        table = tables.leaders
        with self._writing() as db:
            db.execute(
                sa.update(table)
                .where(table.c.cluster == cluster, table.c.token == leader.token)
                .values(released=True)
            )


def _leader(db: sa.Connection, cluster: str) -> Leader | None:
    table = tables.leaders
    row: sa.Row[Any] | None = db.execute(sa.select(table).where(table.c.cluster == cluster)).first()
    if row is None:
        return None
    return Leader(
        owner=Owner.from_json(row.owner),
        token=row.token,
        since=as_instant(row.since),
        heartbeat=row.heartbeat_at,
        resigned=row.released,
    )
