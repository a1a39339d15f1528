"""The journal: what was intended, what was seen, and who is at work; in a small database.

Every write is committed before it returns, and an intent is written before the command that it
announces is issued. So whatever happens to this process, the journal names everything that may
have been done. Where VMs are it does not know: only the hypervisors do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import ENDED_STATES, MigrationState, Plan
from rebalancer.errors import JournalError, LockHeldError, PlanRefusedError
from rebalancer.rollout import database, tables
from rebalancer.rollout.driver import Clock
from rebalancer.rollout.lease import (
    STALE_AFTER_SECONDS,
    Lease,
    LeaseHolder,
    Owner,
    is_dead,
    this_process,
)
from rebalancer.rollout.records import (
    DrainMark,
    Entry,
    MigrationRow,
    Move,
    Record,
    RecordKind,
    RolloutRow,
    RolloutStatus,
    Setback,
)
from rebalancer.rollout.rows import (
    as_instant,
    as_text,
    holder_of,
    migration_from,
    move_from,
    new_migration_row,
    record_from,
    rollout_from,
    setback_from,
)
from rebalancer.rollout.wishes import Wishes, row_of, wishes_from

FAILED = (MigrationState.FAILED_SAFE, MigrationState.FAILED_DOWN)


class Journal:
    """The database of rollouts. Use it from one thread; readers open one of their own."""

    def __init__(self, engine: sa.Engine, url: str, clock: Clock) -> None:
        self._engine = engine
        self._url = url
        self._clock = clock

    @classmethod
    def open(cls, url: str, clock: Clock) -> Self:
        """Open the journal at an SQLAlchemy URL (`sqlite:////var/lib/rebalancer/journal.db`).

        Creates it when it is not there. Raises `JournalError` when it cannot be used.
        """
        try:
            parsed = sa.make_url(url)
            engine = database.connect(parsed)
        except (SQLAlchemyError, ImportError, OSError) as error:
            raise JournalError(f"cannot open the journal {url!r}: {error}") from error
        journal = cls(engine, parsed.render_as_string(hide_password=True), clock)
        try:
            journal._prepare()
        except BaseException:
            engine.dispose()
            raise
        return journal

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        with self._writing() as db:
            tables.metadata.create_all(db)
            found = db.execute(sa.select(tables.schema_version.c.version)).scalar()
            if found is None:
                db.execute(sa.insert(tables.schema_version).values(version=tables.VERSION))
            elif found != tables.VERSION:
                raise JournalError(
                    f"the journal {self._url} has version {found}, this program reads version "
                    f"{tables.VERSION}: install the rebalancer that wrote it, or move the file "
                    "away after `recover`"
                )

    # The lock --------------------------------------------------------------------------------

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
        return age > stale_after_seconds or is_dead(holder.owner)

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

    # Writing -----------------------------------------------------------------------------------

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

    # Reading -----------------------------------------------------------------------------------

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

    def moves_since(self, since: datetime, cluster: str) -> tuple[Move, ...]:
        """VMs that were moved since an instant, oldest first."""
        table, rollout = tables.migrations, tables.rollouts
        query = (
            sa.select(table)
            .join(rollout, rollout.c.id == table.c.rollout)
            .where(rollout.c.cluster == cluster)
            .where(table.c.state == MigrationState.COMPLETE, table.c.changed_at >= as_text(since))
            .order_by(table.c.changed_at)
        )
        with self._reading() as db:
            rows = [migration_from(row) for row in db.execute(query)]
        return tuple(move_from(row) for row in rows)

    def setbacks_since(self, since: datetime, cluster: str) -> tuple[Setback, ...]:
        """Migrations that failed since an instant, oldest first."""
        table, rollout = tables.migrations, tables.rollouts
        query = (
            sa.select(table)
            .join(rollout, rollout.c.id == table.c.rollout)
            .where(rollout.c.cluster == cluster)
            .where(table.c.state.in_(FAILED), table.c.changed_at >= as_text(since))
            .order_by(table.c.changed_at)
        )
        with self._reading() as db:
            rows = [migration_from(row) for row in db.execute(query)]
        return tuple(setback_from(row) for row in rows)

    def completed(self, cluster: str, limit: int) -> tuple[MigrationRow, ...]:
        """The migrations that came to their end as planned, newest first."""
        table, rollout = tables.migrations, tables.rollouts
        query = (
            sa.select(table)
            .join(rollout, rollout.c.id == table.c.rollout)
            .where(rollout.c.cluster == cluster)
            .where(table.c.state == MigrationState.COMPLETE)
            .order_by(table.c.changed_at.desc())
            .limit(limit)
        )
        with self._reading() as db:
            return tuple(migration_from(row) for row in db.execute(query))

    def ended_since(self, since: datetime, cluster: str) -> tuple[MigrationRow, ...]:
        """The migrations that ended since an instant, whichever way, oldest first."""
        table, rollout = tables.migrations, tables.rollouts
        query = (
            sa.select(table)
            .join(rollout, rollout.c.id == table.c.rollout)
            .where(rollout.c.cluster == cluster)
            .where(table.c.state.in_(ENDED_STATES), table.c.changed_at >= as_text(since))
            .order_by(table.c.changed_at)
        )
        with self._reading() as db:
            return tuple(migration_from(row) for row in db.execute(query))

    # Drains ------------------------------------------------------------------------------------

    def mark_drain(self, cluster: str, host: HostId, reason: str = "") -> None:
        """Note that a host is to be emptied and kept empty."""
        self._want(cluster, host, "drain", reason)

    def unmark_drain(self, cluster: str, host: HostId, reason: str = "") -> None:
        """Note that a host may be used again."""
        self._want(cluster, host, "undrain", reason)

    def _want(self, cluster: str, host: HostId, wanted: str, reason: str) -> None:
        table = tables.drains
        with self._writing() as db:
            here = sa.and_(table.c.cluster == cluster, table.c.host == host)
            same = db.execute(sa.select(table.c.wanted).where(here)).scalar() == wanted
            if same:
                return
            db.execute(sa.delete(table).where(here))
            db.execute(
                sa.insert(table).values(
                    cluster=cluster, host=host, wanted=wanted, since=self._now(), reason=reason
                )
            )

    def drains(self, cluster: str) -> dict[HostId, DrainMark]:
        """Hosts that are to be empty, with since when and why."""
        table = tables.drains
        query = sa.select(table).where(table.c.cluster == cluster, table.c.wanted == "drain")
        with self._reading() as db:
            return {
                HostId(row.host): DrainMark(
                    host=HostId(row.host), since=as_instant(row.since), reason=row.reason
                )
                for row in db.execute(query)
            }

    # Wishes ------------------------------------------------------------------------------------

    def wishes(self, cluster: str) -> Wishes:
        """What operators ask of whoever changes the cluster."""
        with self._reading() as db:
            return wishes_from(db, cluster)

    def wish(self, cluster: str, change: Callable[[Wishes], Wishes]) -> Wishes:
        """Change what is asked; return what is asked then."""
        table = tables.wishes
        with self._writing() as db:
            wanted = change(wishes_from(db, cluster))
            db.execute(sa.delete(table).where(table.c.cluster == cluster))
            db.execute(sa.insert(table).values(**row_of(cluster, wanted)))
        return wanted

    # The database ------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._translated(), self._engine.connect() as db:
            yield db

    @contextmanager
    def _writing(self, lease: Lease | None = None) -> Iterator[sa.Connection]:
        """A transaction that is on disk when it ends, and that `lease` still allows."""
        with self._translated(), self._engine.connect() as plain:
            db = plain.execution_options(writes=True)
            with db.begin():
                if lease is not None:
                    self._check(db, lease)
                yield db

    def _check(self, db: sa.Connection, lease: Lease) -> None:
        row = tables.lease
        renewed = db.execute(
            sa.update(row)
            .where(row.c.cluster == lease.cluster)
            .where(row.c.token == lease.token, row.c.released.is_(False))
            .values(heartbeat_at=self._now())
        )
        if renewed.rowcount != 1:
            holder = holder_of(db, lease.cluster)
            who = str(holder.owner) if holder else "nobody"
            raise LockHeldError(
                f"this process lost the lock on cluster {lease.cluster!r} ({who} holds it now), "
                "so it stops; migrations under way go on by themselves"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise JournalError(f"journal {self._url}: {database.advice(error)}") from error

    def _now(self) -> str:
        return as_text(self._clock.now())
