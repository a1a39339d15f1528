"""The lock on a cluster: who may change it, one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import sqlalchemy as sa

from rebalancer.errors import LockHeldError
from rebalancer.rollout import tables
from rebalancer.rollout.journal_part import JournalPart
from rebalancer.rollout.lease import (
    STALE_AFTER_SECONDS,
    Lease,
    LeaseHolder,
    Owner,
    is_dead,
    this_process,
)
from rebalancer.rollout.rows import holder_of


class Locks(JournalPart):
    """The table of locks, one row for each cluster."""

    def acquire(
        self,
        cluster: str,
        owner: Owner | None = None,
        stale_after_seconds: float = STALE_AFTER_SECONDS,
    ) -> Lease:
        """Become the one who may change `cluster`.

        Raises `LockHeldError` while another process holds it. A holder that is dead, or on
        another machine and silent for too long, loses it.
        """
        owner = owner or this_process()
        with self._writing() as db:
            holder = holder_of(db, cluster)
            if holder is not None and not self._is_free(holder, stale_after_seconds):
                age = (self._clock.now() - holder.heartbeat_at).total_seconds()
                raise LockHeldError(
                    f"{holder.owner} is changing cluster {cluster!r} (it showed signs of life "
                    f"{max(age, 0):.0f} s ago): wait for it, or stop it"
                )
            token = (holder.token if holder else 0) + 1
            db.execute(sa.delete(tables.lease).where(tables.lease.c.cluster == cluster))
            db.execute(
                sa.insert(tables.lease).values(
                    cluster=cluster,
                    owner=owner.to_json(),
                    token=token,
                    heartbeat_at=self._now(),
                    released=False,
                )
            )
        return Lease(cluster=cluster, owner=owner, token=token)

    def _is_free(self, holder: LeaseHolder, stale_after_seconds: float) -> bool:
        age = (self._clock.now() - holder.heartbeat_at).total_seconds()
        elsewhere = self._database.is_shared
        return age > stale_after_seconds or is_dead(holder.owner, may_be_elsewhere=elsewhere)

    def holder(self, cluster: str) -> LeaseHolder | None:
        """Who holds the lock on `cluster`, dead or alive; `None` when nobody does."""
        with self._reading() as db:
            holder = holder_of(db, cluster)
        # Of a lock that was given back the row stays, for its token.
        is_held = holder is not None and holder.heartbeat_at > datetime.min.replace(tzinfo=UTC)
        return holder if is_held else None

    def release(self, lease: Lease) -> None:
        """Give the lock back; nothing happens if somebody else has it by now."""
        with self._writing() as db:
            row = tables.lease
            db.execute(
                sa.update(row)
                .where(row.c.cluster == lease.cluster, row.c.token == lease.token)
                .values(released=True)
            )

    def heartbeat(self, lease: Lease) -> None:
        """Show that the owner is alive. Raises `LockHeldError` when it lost the lock."""
        with self._writing(lease):
            pass

    @contextmanager
    def hold(self, cluster: str) -> Iterator[Lease]:
        """Hold the lock on `cluster` for a while."""
        lease = self.acquire(cluster)
        try:
            yield lease
        finally:
            self.release(lease)
