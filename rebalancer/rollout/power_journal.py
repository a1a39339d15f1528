"""What was done to hosts' power: marks, and every line of how they came about.

A mark and its line are committed together, before the command that they announce is issued; and
only by who holds the cluster's lock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout import tables
from rebalancer.rollout.journal_part import JournalPart
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.power_steps import Phase, PowerMark, Size, Unneeded
from rebalancer.rollout.rows import as_instant, as_text


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRecord:
    """A line of what happened to a host's power."""

    host: HostId
    at: datetime
    owner: str
    text: str


class PowerJournal(JournalPart):
    """The tables about power."""

    def marks(self, cluster: str) -> dict[HostId, PowerMark]:
        """Hosts that are not simply awake."""
        table = tables.power_marks
        query = sa.select(table).where(table.c.cluster == cluster).order_by(table.c.host)
        with self._reading() as db:
            return {HostId(row.host): _mark_from(row) for row in db.execute(query)}

    def keep(self, host: HostId, mark: PowerMark | None, text: str, lease: Lease) -> None:
        """Write a host's mark, or that it has none, and the line that says why.

        Raises `LockHeldError` when the lock was lost: then nothing may be done any more.
        """
        table = tables.power_marks
        with self._writing(lease) as db:
            here = sa.and_(table.c.cluster == lease.cluster, table.c.host == host)
            db.execute(sa.delete(table).where(here))
            if mark is not None:
                db.execute(sa.insert(table).values(**_row_of(lease.cluster, mark)))
            db.execute(
                sa.insert(tables.power_records).values(
                    cluster=lease.cluster,
                    host=host,
                    at=self._now(),
                    owner=str(lease.owner),
                    text=text,
                )
            )

    def heartbeat(self, lease: Lease) -> None:
        """Show that the owner of the lock is alive. Raises `LockHeldError` if it lost it."""
        with self._writing(lease):
            pass

    def records(self, cluster: str, limit: int = 50) -> tuple[PowerRecord, ...]:
        """The latest lines, newest first."""
        table = tables.power_records
        here = sa.select(table).where(table.c.cluster == cluster)
        query = here.order_by(table.c.id.desc()).limit(limit)
        with self._reading() as db:
            return tuple(
                PowerRecord(
                    host=HostId(row.host), at=as_instant(row.at), owner=row.owner, text=row.text
                )
                for row in db.execute(query)
            )

    def unneeded(self, cluster: str, policy: str) -> dict[HostId, Unneeded]:
        """For how many cycles in a row a policy had no need of hosts."""
        table = tables.power_unneeded
        query = sa.select(table).where(table.c.cluster == cluster, table.c.policy == policy)
        with self._reading() as db:
            return {
                HostId(row.host): Unneeded(cycles=row.cycles, at=as_instant(row.at))
                for row in db.execute(query)
            }

    def keep_unneeded(self, cluster: str, policy: str, unneeded: Mapping[HostId, Unneeded]) -> None:
        """Write that down, in place of what was written before."""
        table = tables.power_unneeded
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
        with self._writing() as db:
            here = sa.and_(table.c.cluster == cluster, table.c.policy == policy)
            db.execute(sa.delete(table).where(here))
            if rows:
                db.execute(sa.insert(table), rows)


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
