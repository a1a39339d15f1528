"""What the journal says of the hooks around drains, so that none is forgotten with its process.

That hooks are going to be run is committed before they are. So after a crash it is known which
drains have had their `before_drain` hooks, or may have, and not their `after_drain` hooks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout import tables
from rebalancer.rollout.journal_part import JournalPart
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.rows import as_instant


class DrainPhase(StrEnum):
    """How far the hooks of a drain have come."""

    ASKING = "asking"
    """`before_drain` hooks are run, or are just going to be."""
    ALLOWED = "allowed"
    REFUSED = "refused"
    """One of them objected: there is no drain, and nothing to be told."""
    TELLING = "telling"
    """`after_drain` hooks are run, or are just going to be."""
    TOLD = "told"


_OWED = (DrainPhase.ASKING, DrainPhase.ALLOWED, DrainPhase.TELLING)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainCall:
    """The hooks of one drain."""

    number: int
    hosts: tuple[HostId, ...]
    phase: DrainPhase
    at: datetime
    owner: str
    text: str


class HookJournal(JournalPart):
    """The table of hooks around drains."""

    def ask(self, hosts: Sequence[HostId], lease: Lease) -> int:
        """Note that the hooks before a drain are going to be run; return its number.

        Raises `LockHeldError` when the lock was lost, as all that writes here does.
        """
        table = tables.drain_hooks
        with self._writing(lease) as db:
            number = db.execute(
                sa.insert(table)
                .values(
                    cluster=lease.cluster,
                    hosts=json.dumps(list(hosts)),
                    phase=DrainPhase.ASKING,
                    at=self._now(),
                    owner=str(lease.owner),
                    text="",
                )
                .returning(table.c.id)
            ).scalar_one()
        return int(number)

    def note(self, number: int, phase: DrainPhase, lease: Lease, text: str = "") -> None:
        """Note how far the hooks of a drain have come."""
        table = tables.drain_hooks
        with self._writing(lease) as db:
            db.execute(
                sa.update(table)
                .where(table.c.id == number)
                .values(phase=phase, at=self._now(), text=text)
            )

    def stay_alive(self, lease: Lease) -> None:
        """Keep the lock while hooks run."""
        with self._writing(lease):
            pass

    def owed(self, cluster: str) -> tuple[DrainCall, ...]:
        """Drains whose `after_drain` hooks did not come to their end, oldest first.

        To whoever holds the lock; to others a drain that is under way looks the same.
        """
        table = tables.drain_hooks
        query = (
            sa.select(table)
            .where(table.c.cluster == cluster, table.c.phase.in_(_OWED))
            .order_by(table.c.id)
        )
        with self._reading() as db:
            return tuple(_call_from(row) for row in db.execute(query))

    def last(self, cluster: str) -> DrainCall | None:
        """The hooks of the latest drain."""
        table = tables.drain_hooks
        query = sa.select(table).where(table.c.cluster == cluster).order_by(table.c.id.desc())
        with self._reading() as db:
            row = db.execute(query.limit(1)).first()
        return _call_from(row) if row is not None else None


def _call_from(row: sa.Row[tuple[object, ...]]) -> DrainCall:
    return DrainCall(
        number=row.id,
        hosts=tuple(HostId(host) for host in json.loads(row.hosts)),
        phase=DrainPhase(row.phase),
        at=as_instant(row.at),
        owner=row.owner,
        text=row.text,
    )
