"""What past cycles came to: for `status`, and for later cycles that must not forget it.

It is kept beside the journal, in the same database. Losing it does no harm: the next cycles then
wait once more until unevenness has lasted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout import tables
from rebalancer.rollout.rows import as_instant, as_text
from rebalancer.service.journal_table import JournalTable
from rebalancer.service.stability import PastCycle

KEPT_DAYS = 30
"""Verdicts older than this are thrown away: a daemon writes some hundred a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleRecord:
    """One cycle of one policy."""

    cluster: str
    policy: str
    verdict: str
    past: PastCycle
    """What later cycles have to know of it."""


class CycleHistory(JournalTable):
    """The table of cycles. Use it from one thread."""

    def add(self, record: CycleRecord) -> None:
        """Keep what a cycle came to, and throw away what is too old to matter."""
        oldest = record.past.at - timedelta(days=KEPT_DAYS)
        with self._database.writing() as db:
            db.execute(sa.delete(tables.cycles).where(tables.cycles.c.at < as_text(oldest)))
            db.execute(
                sa.insert(tables.cycles).values(
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
        query = sa.select(tables.cycles).where(tables.cycles.c.cluster == cluster)
        if policy is not None:
            query = query.where(tables.cycles.c.policy == policy)
        with self._database.reading() as db:
            rows = db.execute(query.order_by(tables.cycles.c.id.desc()).limit(count)).all()
        return [_record_of(row) for row in reversed(rows)]


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
