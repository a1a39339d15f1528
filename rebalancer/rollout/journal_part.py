"""What the parts of the journal share: a database, a clock, and the check of the lock.

Each part knows tables of its own and nothing of the others'. Use one from one thread; whoever
works beside it opens another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import sqlalchemy as sa

from rebalancer.errors import LockHeldError
from rebalancer.rollout import tables
from rebalancer.rollout.database import Database
from rebalancer.rollout.driver import Clock
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.rows import as_text, holder_of


class JournalPart:
    """Some tables of a journal, on a clock."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Work on a database that is open, and close it in the end."""
        self._database = database
        self._clock = clock

    @classmethod
    def open(cls, url: str, clock: Clock) -> Self:
        """Open it at the journal's SQLAlchemy URL (`sqlite:////var/lib/rebalancer/journal.db`).

        Creates it when it is not there. Raises `JournalError` when it cannot be used.
        """
        return cls(Database.open(url), clock)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._database.reading() as db:
            yield db

    @contextmanager
    def _writing(self, lease: Lease | None = None) -> Iterator[sa.Connection]:
        """A transaction that is on disk when it ends, and that `lease` still allows."""
        with self._database.writing() as db:
            if lease is not None:
                _renew(db, lease, self._now())
            yield db

    def _now(self) -> str:
        return as_text(self._clock.now())


def _renew(db: sa.Connection, lease: Lease, now: str) -> None:
    """Let only the holder of the lock write, and renew it in the same transaction."""
    row = tables.lease
    renewed = db.execute(
        sa.update(row)
        .where(row.c.cluster == lease.cluster)
        .where(row.c.token == lease.token, row.c.released.is_(False))
        .values(heartbeat_at=now)
    )
    if renewed.rowcount != 1:
        holder = holder_of(db, lease.cluster)
        who = str(holder.owner) if holder else "nobody"
        raise LockHeldError(
            f"this process lost the lock on cluster {lease.cluster!r} ({who} holds it now), "
            "so it stops; migrations under way go on by themselves"
        )
