"""What operators want, until they take it back: hosts to be empty, a pause, less haste."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout import tables
from rebalancer.rollout.journal_part import JournalPart
from rebalancer.rollout.maintenance_journal import end_maintenance
from rebalancer.rollout.records import DrainMark
from rebalancer.rollout.rows import as_instant
from rebalancer.rollout.wishes import Wishes, row_of, wishes_from


class Orders(JournalPart):
    """The tables of drains and wishes."""

    def mark_drain(self, cluster: str, host: HostId, reason: str = "") -> None:
        """Note that a host is to be emptied and kept empty."""
        self._want(cluster, host, "drain", reason)

    def unmark_drain(self, cluster: str, host: HostId, reason: str = "") -> None:
        """Note that a host may be used again, and that maintenance of it is over."""
        self._want(cluster, host, "undrain", reason)

    def _want(self, cluster: str, host: HostId, wanted: str, reason: str) -> None:
        table = tables.drains
        with self._writing() as db:
            here = sa.and_(table.c.cluster == cluster, table.c.host == host)
            if wanted == "undrain":
                elsewhere = self._database.is_shared
                end_maintenance(db, cluster, host, may_be_elsewhere=elsewhere)
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
