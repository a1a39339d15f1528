"""Plans that the daemon recommended, and which of them somebody approved.

They are kept beside the journal, in the same database. A recommendation is good until its plan
expires, an approval for an hour: what was approved and could not be begun by then is not begun at
night, when nobody expects it any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from rebalancer.cluster.plan import Plan
from rebalancer.errors import JournalError, PlanRefusedError, UsageError
from rebalancer.rollout import database
from rebalancer.rollout.rows import as_instant, as_text
from rebalancer.service.plan_file import plan_to_json

APPROVAL_LASTS = timedelta(hours=1)
KEPT = timedelta(days=7)
"""Recommendations that expired so long ago are thrown away."""
MOST_KEPT = 50
"""Of a policy: one that recommends something every five minutes must not fill the disk."""

_metadata = sa.MetaData()
_table = sa.Table(
    "recommendations",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cluster", sa.String, nullable=False),
    sa.Column("policy", sa.String, nullable=False),
    sa.Column("plan_id", sa.String, nullable=False, unique=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("expires_at", sa.String, nullable=False),
    sa.Column("approved_at", sa.String),
    sa.Column("approved_by", sa.String, nullable=False),
    sa.Column("ended", sa.Text),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """One plan that was recommended."""

    policy: str
    """The policy of the daemon that it was made for."""
    plan_id: str
    plan_text: str
    expires_at: datetime
    approved_at: datetime | None
    approved_by: str
    ended: str | None
    """What became of it; `None`: nothing yet."""

    def why_not_approvable(self, now: datetime) -> str:
        """Say what keeps it from being approved; empty: nothing."""
        if self.ended is not None:
            return f"is over and done with: {self.ended}"
        if now > self.expires_at:
            return f"expired at {self.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        return ""

    def is_approved(self, now: datetime) -> bool:
        """Whether it may be carried out at this instant."""
        if self.approved_at is None or self.ended is not None:
            return False
        return abs(now - self.approved_at) <= APPROVAL_LASTS


class Recommendations:
    """The table of recommended plans. Use it from one thread."""

    def __init__(self, engine: sa.Engine, shown_url: str) -> None:
        self._engine = engine
        self._shown_url = shown_url

    @classmethod
    def open(cls, url: str) -> Self:
        """Open it at an SQLAlchemy URL, and make its table if it is not there."""
        try:
            parsed = sa.make_url(url)
            one = cls(database.connect(parsed), parsed.render_as_string(hide_password=True))
        except (SQLAlchemyError, ImportError, OSError) as error:
            raise JournalError(f"cannot open the journal {url!r}: {error}") from error
        try:
            with one._db(writes=True) as db:
                _metadata.create_all(db)
        except BaseException:
            one._engine.dispose()
            raise
        return one

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def keep(self, policy: str, plan: Plan, now: datetime) -> None:
        """Keep a plan that was recommended, and throw away what nobody will approve any more."""
        here = sa.and_(_table.c.cluster == plan.cluster, _table.c.policy == policy)
        with self._db(writes=True) as db:
            db.execute(sa.delete(_table).where(_table.c.expires_at < as_text(now - KEPT)))
            db.execute(
                sa.insert(_table).values(
                    cluster=plan.cluster,
                    policy=policy,
                    plan_id=plan.id,
                    plan=plan_to_json(plan),
                    expires_at=as_text(plan.expires_at),
                    approved_by="",
                )
            )
            newest = sa.select(_table.c.id).where(here).order_by(_table.c.id.desc())
            kept = list(db.execute(newest.limit(MOST_KEPT)).scalars())
            old = sa.and_(here, _table.c.id < min(kept), _table.c.approved_at.is_(None))
            db.execute(sa.delete(_table).where(old))

    def find(self, cluster: str, plan_id: str) -> Recommendation | None:
        """Return a recommendation, if there was one."""
        with self._db() as db:
            row = db.execute(_one(cluster, plan_id)).first()
        return _recommendation(row) if row is not None else None

    def approve(self, cluster: str, plan_id: str, who: str, now: datetime) -> Recommendation:
        """Have a plan carried out; raise `PlanRefusedError` if it must not be any more.

        Another plan of the same policy that was approved and not begun gives way to it.
        """
        with self._db(writes=True) as db:
            row = db.execute(_one(cluster, plan_id)).first()
            if row is None:
                raise UsageError(f"no plan {plan_id} was recommended")
            found = _recommendation(row)
            if why := found.why_not_approvable(now):
                raise PlanRefusedError(f"plan {plan_id} {why}")
            waiting = sa.and_(
                _table.c.cluster == cluster,
                _table.c.policy == found.policy,
                _table.c.approved_at.is_not(None),
                _table.c.ended.is_(None),
            )
            db.execute(
                sa.update(_table)
                .where(waiting, _table.c.plan_id != plan_id)
                .values(ended=f"plan {plan_id} was approved instead")
            )
            db.execute(
                sa.update(_table)
                .where(_table.c.plan_id == plan_id)
                .values(approved_at=as_text(now), approved_by=who)
            )
        return found

    def waiting(self, cluster: str, policy: str) -> Recommendation | None:
        """Return the plan of a policy that was approved and of which nothing has become yet."""
        query = sa.select(_table).where(
            _table.c.cluster == cluster,
            _table.c.policy == policy,
            _table.c.approved_at.is_not(None),
            _table.c.ended.is_(None),
        )
        with self._db() as db:
            row = db.execute(query).first()
        return _recommendation(row) if row is not None else None

    def end(self, plan_id: str, text: str) -> None:
        """Note what became of a plan; it cannot be approved any more."""
        with self._db(writes=True) as db:
            db.execute(sa.update(_table).where(_table.c.plan_id == plan_id).values(ended=text))

    @contextmanager
    def _db(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as plain:
                db = plain.execution_options(writes=writes)
                with db.begin():
                    yield db
        except SQLAlchemyError as error:
            raise JournalError(f"journal {self._shown_url}: {database.advice(error)}") from error


def _one(cluster: str, plan_id: str) -> sa.Select[Any]:
    return sa.select(_table).where(_table.c.cluster == cluster, _table.c.plan_id == plan_id)


def _recommendation(row: sa.Row[Any]) -> Recommendation:
    return Recommendation(
        policy=row.policy,
        plan_id=row.plan_id,
        plan_text=row.plan,
        expires_at=as_instant(row.expires_at),
        approved_at=as_instant(row.approved_at) if row.approved_at else None,
        approved_by=row.approved_by,
        ended=row.ended,
    )
