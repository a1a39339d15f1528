"""Plans that the daemon recommended, and which of them somebody approved.

They are kept beside the journal, in the same database. A recommendation is good until its plan
expires, an approval for an hour: what was approved and could not be begun by then is not begun at
night, when nobody expects it any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from rebalancer.cluster.plan import Plan
from rebalancer.errors import PlanRefusedError, UsageError
from rebalancer.rollout import tables
from rebalancer.rollout.rows import as_instant, as_text
from rebalancer.service.journal_table import JournalTable
from rebalancer.service.plan_file import plan_to_json

APPROVAL_LASTS = timedelta(hours=1)
KEPT = timedelta(days=7)
"""Recommendations that expired so long ago are thrown away."""
MOST_KEPT = 50
"""Of a policy: one that recommends something every five minutes must not fill the disk."""

_table = tables.recommendations


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


class Recommendations(JournalTable):
    """The table of recommended plans. Use it from one thread."""

    def keep(self, policy: str, plan: Plan, now: datetime) -> None:
        """Keep a plan that was recommended, and throw away what nobody will approve any more."""
        here = sa.and_(_table.c.cluster == plan.cluster, _table.c.policy == policy)
        with self._database.writing() as db:
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
        with self._database.reading() as db:
            row = db.execute(_one(cluster, plan_id)).first()
        return _recommendation(row) if row is not None else None

    def approve(self, cluster: str, plan_id: str, who: str, now: datetime) -> Recommendation:
        """Have a plan carried out; raise `PlanRefusedError` if it must not be any more.

        Another plan of the same policy that was approved and not begun gives way to it.
        """
        with self._database.writing() as db:
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

    def reject(self, cluster: str, plan_id: str, text: str) -> None:
        """Have a plan not carried out; raise `PlanRefusedError` if it is over and done with."""
        with self._database.writing() as db:
            row = db.execute(_one(cluster, plan_id)).first()
            if row is None:
                raise UsageError(f"no plan {plan_id} was recommended")
            if row.ended is not None:
                raise PlanRefusedError(f"plan {plan_id} is over and done with: {row.ended}")
            db.execute(sa.update(_table).where(_table.c.plan_id == plan_id).values(ended=text))

    def approvable(self, cluster: str, now: datetime) -> list[Recommendation]:
        """The plans that may be approved, or were and have not begun, the newest last."""
        here = sa.and_(_table.c.cluster == cluster, _table.c.ended.is_(None))
        with self._database.reading() as db:
            rows = db.execute(sa.select(_table).where(here).order_by(_table.c.id)).all()
        found = (_recommendation(row) for row in rows)
        return [one for one in found if not one.why_not_approvable(now)]

    def waiting(self, cluster: str, policy: str) -> Recommendation | None:
        """Return the plan of a policy that was approved and of which nothing has become yet."""
        query = sa.select(_table).where(
            _table.c.cluster == cluster,
            _table.c.policy == policy,
            _table.c.approved_at.is_not(None),
            _table.c.ended.is_(None),
        )
        with self._database.reading() as db:
            row = db.execute(query).first()
        return _recommendation(row) if row is not None else None

    def end(self, plan_id: str, text: str) -> None:
        """Note what became of a plan; it cannot be approved any more."""
        with self._database.writing() as db:
            db.execute(sa.update(_table).where(_table.c.plan_id == plan_id).values(ended=text))


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
