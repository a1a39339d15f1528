"""What was done to hosts' power: marks, and every line of how they came about.

In the journal's database, in tables of its own, which are made where they are missing. A mark
and its line are committed together, before the command that they announce is issued; and only
by who holds the cluster's lock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from rebalancer.cluster.inventory import HostId
from rebalancer.errors import JournalError, LockHeldError
from rebalancer.rollout import database, tables
from rebalancer.rollout.driver import Clock
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.power_steps import Phase, PowerMark, Size, Unneeded
from rebalancer.rollout.rows import as_instant, as_text, holder_of

_metadata = sa.MetaData()

_marks = sa.Table(
    "power_marks",
    _metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("host", sa.String, primary_key=True),
    sa.Column("phase", sa.String, nullable=False),
    sa.Column("since", sa.String, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("told", sa.Boolean, nullable=False),
    sa.Column("size", sa.Text),
)
_records = sa.Table(
    "power_records",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cluster", sa.String, nullable=False, index=True),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)
_unneeded = sa.Table(
    "power_unneeded",
    _metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("policy", sa.String, primary_key=True),
    sa.Column("host", sa.String, primary_key=True),
    sa.Column("cycles", sa.Integer, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRecord:
    """A line of what happened to a host's power."""

    host: HostId
    at: datetime
    owner: str
    text: str


class PowerJournal:
    """The tables about power. Use it from one thread."""

    def __init__(self, engine: sa.Engine, shown_url: str, clock: Clock) -> None:
        self._engine = engine
        self._shown_url = shown_url
        self._clock = clock

    @classmethod
    def open(cls, url: str, clock: Clock) -> Self:
        """Open it at the journal's SQLAlchemy URL, and make its tables if they are not there."""
        try:
            parsed = sa.make_url(url)
            engine = database.connect(parsed)
        except (SQLAlchemyError, ImportError, OSError) as error:
            raise JournalError(f"cannot open the journal {url!r}: {error}") from error
        journal = cls(engine, parsed.render_as_string(hide_password=True), clock)
        try:
            with journal._db(writes=True) as db:
                tables.metadata.create_all(db)
                _metadata.create_all(db)
        except BaseException:
            engine.dispose()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def marks(self, cluster: str) -> dict[HostId, PowerMark]:
        """Hosts that are not simply awake."""
        query = sa.select(_marks).where(_marks.c.cluster == cluster).order_by(_marks.c.host)
        with self._db() as db:
            return {HostId(row.host): _mark_from(row) for row in db.execute(query)}

    def keep(self, host: HostId, mark: PowerMark | None, text: str, lease: Lease) -> None:
        """Write a host's mark, or that it has none, and the line that says why.

        Raises `LockHeldError` when the lock was lost: then nothing may be done any more.
        """
        with self._db(writes=True) as db:
            _check(db, lease, as_text(self._clock.now()))
            here = sa.and_(_marks.c.cluster == lease.cluster, _marks.c.host == host)
            db.execute(sa.delete(_marks).where(here))
            if mark is not None:
                db.execute(sa.insert(_marks).values(**_row_of(lease.cluster, mark)))
            db.execute(
                sa.insert(_records).values(
                    cluster=lease.cluster,
                    host=host,
                    at=as_text(self._clock.now()),
                    owner=str(lease.owner),
                    text=text,
                )
            )

    def heartbeat(self, lease: Lease) -> None:
        """Show that the owner of the lock is alive. Raises `LockHeldError` if it lost it."""
        with self._db(writes=True) as db:
            _check(db, lease, as_text(self._clock.now()))

    def records(self, cluster: str, limit: int = 50) -> tuple[PowerRecord, ...]:
        """The latest lines, newest first."""
        query = (
            sa.select(_records)
            .where(_records.c.cluster == cluster)
            .order_by(_records.c.id.desc())
            .limit(limit)
        )
        with self._db() as db:
            return tuple(
                PowerRecord(
                    host=HostId(row.host), at=as_instant(row.at), owner=row.owner, text=row.text
                )
                for row in db.execute(query)
            )

    def unneeded(self, cluster: str, policy: str) -> dict[HostId, Unneeded]:
        """For how many cycles in a row a policy had no need of hosts."""
        query = sa.select(_unneeded).where(
            _unneeded.c.cluster == cluster, _unneeded.c.policy == policy
        )
        with self._db() as db:
            return {
                HostId(row.host): Unneeded(cycles=row.cycles, at=as_instant(row.at))
                for row in db.execute(query)
            }

    def keep_unneeded(self, cluster: str, policy: str, unneeded: Mapping[HostId, Unneeded]) -> None:
        """Write that down, in place of what was written before."""
        rows = [
            {
                "cluster": cluster,
                "policy": policy,
                "host": host,
                "cycles": one.cycles,
                "at": as_text(one.at),
            }
            for host, one in unneeded.items()
        ]
        with self._db(writes=True) as db:
            db.execute(
                sa.delete(_unneeded).where(
                    _unneeded.c.cluster == cluster, _unneeded.c.policy == policy
                )
            )
            if rows:
                db.execute(sa.insert(_unneeded), rows)

    @contextmanager
    def _db(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        """A transaction that is on disk when it ends."""
        try:
            with self._engine.connect() as plain:
                db = plain.execution_options(writes=writes)
                with db.begin():
                    yield db
        except SQLAlchemyError as error:
            raise JournalError(f"journal {self._shown_url}: {database.advice(error)}") from error


def _check(db: sa.Connection, lease: Lease, now: str) -> None:
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
        raise LockHeldError(
            f"this process lost the lock on cluster {lease.cluster!r} "
            f"({holder.owner if holder else 'nobody'} holds it now), so it switches nothing"
        )


def _row_of(cluster: str, mark: PowerMark) -> dict[str, Any]:
    return {
        "cluster": cluster,
        "host": mark.host,
        "phase": mark.phase.value,
        "since": as_text(mark.since),
        "reason": mark.reason,
        "told": mark.told,
        "size": None if mark.size is None else json.dumps(asdict(mark.size)),
    }


def _mark_from(row: sa.Row[Any]) -> PowerMark:
    return PowerMark(
        host=HostId(row.host),
        phase=Phase(row.phase),
        since=as_instant(row.since),
        reason=row.reason,
        told=row.told,
        size=None if row.size is None else Size(**json.loads(row.size)),
    )
