"""The lock on a cluster: who may change it, one process at a time.

Whether a holder on another machine is dead is found out without comparing clocks. Whoever is
refused the lock notes which sign of life it saw, and when by a clock of its machine that nobody
sets. Once the same sign has been the latest for long enough by that, the lock is free. So a time
of day that is wrong, or set anew, takes the lock from nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import sqlalchemy as sa

from rebalancer.errors import JournalError, LockHeldError
from rebalancer.rollout import tables
from rebalancer.rollout.journal_part import JournalPart
from rebalancer.rollout.lease import (
    STALE_AFTER_SECONDS,
    Lease,
    LeaseHolder,
    Owner,
    is_alive,
    is_dead,
    seconds_awake,
    this_clock,
    this_process,
)
from rebalancer.rollout.rows import as_text, holder_of

_given_up: set[tuple[str, str, int]] = set()
"""Locks of this process that it could not give back, as the database did not answer: by the
database, the cluster and the token. They are nobody's; their owner lives on, and may go on."""


class Locks(JournalPart):
    """The table of locks, one row for each cluster; and who watches which of them."""

    def acquire(
        self,
        cluster: str,
        owner: Owner | None = None,
        stale_after_seconds: float = STALE_AFTER_SECONDS,
        *,
        seconds_passed: Callable[[], float] = seconds_awake,
        clock: str = "",
    ) -> Lease:
        """Become the one who may change `cluster`.

        Raises `LockHeldError` while another process holds it. A holder that is dead loses it, and
        so does one of which nobody here can tell, once it was watched giving no sign of life for
        `stale_after_seconds` of `seconds_passed`. Whoever names the same `clock` watches together.
        """
        owner = owner or this_process()
        with self._writing() as db:
            holder = holder_of(db, cluster)
            patience = 0.0
            if holder is not None and not self._is_dead_or_gone(cluster, holder):
                watched = _watched_seconds(
                    db, cluster, holder, clock or this_clock(), seconds_passed
                )
                patience = max(stale_after_seconds - watched, 0.0)
            if holder is None or patience <= 0:
                return _taken(db, cluster, owner, holder, self._now())
        raise LockHeldError(_refusal(cluster, holder, patience))

    def _is_dead_or_gone(self, cluster: str, holder: LeaseHolder) -> bool:
        is_released = holder.heartbeat_at == datetime.min.replace(tzinfo=UTC)
        is_given_up = self._named(cluster, holder.token) in _given_up
        is_ours = holder.owner == this_process()
        elsewhere = self._database.is_shared
        return (
            is_released
            or (is_ours and is_given_up)
            or is_dead(holder.owner, may_be_elsewhere=elsewhere)
        )

    def _named(self, cluster: str, token: int) -> tuple[str, str, int]:
        return str(self._database.engine.url), cluster, token

    def holder(self, cluster: str) -> LeaseHolder | None:
        """Who holds the lock on `cluster`, dead or alive; `None` when nobody does."""
        with self._reading() as db:
            holder = holder_of(db, cluster)
        # Of a lock that was given back the row stays, for its token.
        is_held = holder is not None and holder.heartbeat_at > datetime.min.replace(tzinfo=UTC)
        return holder if is_held else None

    def release(self, lease: Lease) -> None:
        """Give the lock back; nothing happens if somebody else has it by now.

        Raises `JournalError` if that cannot be written. This process may take it again then.
        """
        row = tables.lease
        try:
            with self._writing() as db:
                db.execute(
                    sa.update(row)
                    .where(row.c.cluster == lease.cluster, row.c.token == lease.token)
                    .values(released=True)
                )
        except JournalError:
            _given_up.add(self._named(lease.cluster, lease.token))
            raise

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


def _taken(
    db: sa.Connection, cluster: str, owner: Owner, before: LeaseHolder | None, now: str
) -> Lease:
    token = (before.token if before else 0) + 1
    lock, watches = tables.lease, tables.lease_watches
    db.execute(sa.delete(watches).where(watches.c.cluster == cluster))
    db.execute(sa.delete(lock).where(lock.c.cluster == cluster))
    db.execute(
        sa.insert(lock).values(
            cluster=cluster, owner=owner.to_json(), token=token, heartbeat_at=now, released=False
        )
    )
    return Lease(cluster=cluster, owner=owner, token=token)


def _watched_seconds(
    db: sa.Connection,
    cluster: str,
    holder: LeaseHolder,
    clock: str,
    seconds_passed: Callable[[], float],
) -> float:
    """For how long processes of `clock` have seen no sign of life but the one there is now."""
    table, now = tables.lease_watches, seconds_passed()
    mine = sa.and_(table.c.cluster == cluster, table.c.machine == clock)
    row = db.execute(sa.select(table).where(mine)).first()
    sign = (holder.token, as_text(holder.heartbeat_at))
    if row is not None and (row.token, row.heartbeat_at) == sign and row.since_seconds <= now:
        return now - float(row.since_seconds)
    db.execute(sa.delete(table).where(mine))
    db.execute(
        sa.insert(table).values(
            cluster=cluster,
            machine=clock,
            token=sign[0],
            heartbeat_at=sign[1],
            since_seconds=now,
        )
    )
    return 0.0


def _refusal(cluster: str, holder: LeaseHolder, patience_seconds: float) -> str:
    at = f"{holder.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC by its own clock"
    said = (
        f"{holder.owner} is changing cluster {cluster!r} (its last sign of life: {at}): wait for "
        "it, or stop it"
    )
    if is_alive(holder.owner):
        return said
    return (
        f"{said}. If it is dead, try again in {patience_seconds:.0f} s: a lock that gives no sign "
        "of life for so long is taken over"
    )
