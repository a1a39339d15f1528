"""What the journal says of the commands of rolling maintenance, so that none is run twice unseen.

That a command is going to be run for some hosts is committed before it is, which process it
became right after that, and how it ended when it has. So after a crash it is known of which hosts
a command ran, runs, or may have run. A host has one row, about the latest command: it is over
once an operator, or the round itself, lets the host be used again (`Orders.unmark_drain`).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout import tables
from rebalancer.rollout.journal_part import JournalPart
from rebalancer.rollout.lease import Lease, Owner, is_alive, is_dead
from rebalancer.rollout.rows import as_instant


class MaintenancePhase(StrEnum):
    """How far a command has come."""

    BEGUN = "begun"
    """It is run, or just going to be. If its process died, nobody knows whether it was."""
    ENDED = "ended"
    """It came to its end, and its hosts are not used again yet."""
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceRun:
    """A command that was run for some hosts, or may have been."""

    name: str
    hosts: tuple[HostId, ...]
    """Those for which nothing was run since, and which are not used again yet."""
    command: str
    """As it was given with `--then`."""
    phase: MaintenancePhase
    begun_at: datetime
    owner: Owner
    """The process that ran the round."""
    process: Owner | None
    """What it started; `None`: that is not known."""
    ended_at: datetime | None
    failure: str
    """How it failed, such as `ended with 1`; empty: it did not."""

    @property
    def runs(self) -> bool:
        """Whether it is certain to be at work, on this machine."""
        if self.phase is not MaintenancePhase.BEGUN:
            return False
        return is_alive(self.owner) or (self.process is not None and is_alive(self.process))

    def is_cut_short(self, *, may_be_elsewhere: bool) -> bool:
        """Whether nobody is left who would say how it ended."""
        processes = [self.owner] if self.process is None else [self.owner, self.process]
        return self.phase is MaintenancePhase.BEGUN and all(
            is_dead(each, may_be_elsewhere=may_be_elsewhere) for each in processes
        )


class MaintenanceJournal(JournalPart):
    """The table of commands for hosts under maintenance."""

    @property
    def is_shared(self) -> bool:
        """Whether processes on other machines may use it."""
        return self._database.is_shared

    def begin(self, hosts: Sequence[HostId], command: str, lease: Lease) -> str:
        """Note that a command is going to be run for hosts; return what it is called in here.

        Raises `LockHeldError` when the lock was lost.
        """
        name, table = secrets.token_hex(8), tables.maintenance
        with self._writing(lease) as db:
            here = sa.and_(table.c.cluster == lease.cluster, table.c.host.in_(hosts))
            db.execute(sa.delete(table).where(here))
            db.execute(
                sa.insert(table),
                [
                    {
                        "cluster": lease.cluster,
                        "host": host,
                        "run": name,
                        "command": command,
                        "phase": MaintenancePhase.BEGUN,
                        "begun_at": self._now(),
                        "owner": lease.owner.to_json(),
                        "failure": "",
                    }
                    for host in hosts
                ],
            )
        return name

    def started(self, name: str, process: Owner) -> None:
        """Note which process a command became."""
        table = tables.maintenance
        with self._writing() as db:
            db.execute(
                sa.update(table).where(table.c.run == name).values(process=process.to_json())
            )

    def ended(self, name: str, failure: str = "") -> None:
        """Note how a command ended; no `failure`: well.

        For hosts whose drains were taken back while it ran it is over with that.
        """
        table, drains = tables.maintenance, tables.drains
        how = {"failure": failure, "ended_at": self._now()}
        is_kept_empty = (
            sa.select(drains.c.host)
            .where(drains.c.cluster == table.c.cluster, drains.c.host == table.c.host)
            .where(drains.c.wanted == "drain")
            .exists()
        )
        with self._writing() as db:
            for phase, hosts in (
                (MaintenancePhase.ENDED, is_kept_empty),
                (MaintenancePhase.OVER, ~is_kept_empty),
            ):
                of_run = sa.update(table).where(table.c.run == name, hosts)
                db.execute(of_run.values(phase=phase, **how))

    def not_over(self, cluster: str) -> tuple[MaintenanceRun, ...]:
        """Return commands whose hosts are not used again yet, oldest first."""
        table = tables.maintenance
        query = (
            sa.select(table)
            .where(table.c.cluster == cluster, table.c.phase != MaintenancePhase.OVER)
            .order_by(table.c.begun_at, table.c.run, table.c.host)
        )
        found: dict[str, list[sa.Row[Any]]] = {}
        with self._reading() as db:
            for row in db.execute(query):
                found.setdefault(row.run, []).append(row)
        return tuple(_run_from(rows) for rows in found.values())


def end_maintenance(
    db: sa.Connection, cluster: str, host: HostId, *, may_be_elsewhere: bool
) -> None:
    """Note that a host may be used again, unless a command for it may be at work still."""
    table = tables.maintenance
    here = sa.and_(
        table.c.cluster == cluster,
        table.c.host == host,
        table.c.phase != MaintenancePhase.OVER,
    )
    row = db.execute(sa.select(table).where(here)).first()
    if row is None:
        return
    run = _run_from([row])
    if run.phase is MaintenancePhase.ENDED or run.is_cut_short(may_be_elsewhere=may_be_elsewhere):
        db.execute(sa.update(table).where(here).values(phase=MaintenancePhase.OVER))


def _run_from(rows: Sequence[sa.Row[Any]]) -> MaintenanceRun:
    row = rows[0]
    return MaintenanceRun(
        name=row.run,
        hosts=tuple(HostId(each.host) for each in rows),
        command=row.command,
        phase=MaintenancePhase(row.phase),
        begun_at=as_instant(row.begun_at),
        owner=Owner.from_json(row.owner),
        process=Owner.from_json(row.process) if row.process else None,
        ended_at=as_instant(row.ended_at) if row.ended_at else None,
        failure=row.failure,
    )
