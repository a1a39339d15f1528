"""What past cycles came to: for `status`, and for later cycles that must not forget it.

It is kept beside the journal, in the same database. Losing it does no harm: the next cycles then
wait once more until unevenness has lasted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from rebalancer.cluster.inventory import HostId
from rebalancer.errors import JournalError
from rebalancer.rollout import database
from rebalancer.rollout.rows import as_instant, as_text
from rebalancer.service.stability import PastCycle

KEPT_DAYS = 30
"""Verdicts older than this are thrown away: a daemon writes some hundred a day."""

_metadata = sa.MetaData()
_cycles = sa.Table(
    "cycles",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cluster", sa.String, nullable=False),
    sa.Column("policy", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False, index=True),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("wanted", sa.Boolean, nullable=False),
    sa.Column("acted", sa.Boolean, nullable=False),
    sa.Column("silent_hosts", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleRecord:
    """One cycle of one policy."""

    cluster: str
    policy: str
    verdict: str
    past: PastCycle
    """What later cycles have to know of it."""


class CycleHistory:
    """The table of cycles. Use it from one thread."""

    def __init__(self, engine: sa.Engine, shown_url: str) -> None:
        self._engine = engine
        self._shown_url = shown_url

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the history at an SQLAlchemy URL, and make its table if it is not there."""
        try:
            parsed = sa.make_url(url)
            history = cls(database.connect(parsed), parsed.render_as_string(hide_password=True))
        except (SQLAlchemyError, ImportError, OSError) as error:
            raise JournalError(f"cannot open the journal {url!r}: {error}") from error
        with history._db(writes=True) as db:
            _metadata.create_all(db)
        return history

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def add(self, record: CycleRecord) -> None:
        """Keep what a cycle came to, and throw away what is too old to matter."""
        oldest = record.past.at - timedelta(days=KEPT_DAYS)
        with self._db(writes=True) as db:
            db.execute(sa.delete(_cycles).where(_cycles.c.at < as_text(oldest)))
            db.execute(
                sa.insert(_cycles).values(
                    cluster=record.cluster,
                    policy=record.policy,
                    at=as_text(record.past.at),
                    verdict=record.verdict,
                    wanted=record.past.wanted,
                    acted=record.past.acted,
                    silent_hosts=json.dumps(sorted(record.past.silent_hosts)),
                )
            )

    def latest(self, cluster: str, policy: str | None = None, count: int = 1) -> list[CycleRecord]:
        """Return the last cycles of a policy, or of all, the newest last."""
        query = sa.select(_cycles).where(_cycles.c.cluster == cluster)
        if policy is not None:
            query = query.where(_cycles.c.policy == policy)
        with self._db() as db:
            rows = db.execute(query.order_by(_cycles.c.id.desc()).limit(count)).all()
        return [_record_of(row) for row in reversed(rows)]

    @contextmanager
    def _db(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as plain:
                db = plain.execution_options(writes=writes)
                with db.begin():
                    yield db
        except SQLAlchemyError as error:
            raise JournalError(f"journal {self._shown_url}: {database.advice(error)}") from error


def _record_of(row: sa.Row[tuple[object, ...]]) -> CycleRecord:
    return CycleRecord(
        cluster=row.cluster,
        policy=row.policy,
        verdict=row.verdict,
        past=PastCycle(
            at=as_instant(row.at),
            wanted=row.wanted,
            acted=row.acted,
            silent_hosts=frozenset(HostId(host) for host in json.loads(row.silent_hosts)),
        ),
    )
