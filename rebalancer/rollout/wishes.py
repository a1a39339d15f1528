"""What operators ask of rollouts that another process carries out: pause, go slowly, stop.

Wishes are in the journal's database, so that they reach the process at work whichever it is, and
outlive it: a paused cluster stays paused over a restart of the daemon.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rebalancer.cluster.policy import Limits
from rebalancer.rollout import tables
from rebalancer.rollout.rows import as_instant, as_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is asked of the rollouts of a cluster. Without any wish everything goes as planned."""

    paused_at: datetime | None = None
    """Since when nothing new may be started; `None`: it may."""
    paused_by: str = ""
    reason: str = ""
    stop_rollout: int | None = None
    """The rollout that is to come to its end; later ones are not meant."""
    stop_by_aborting: bool = False
    """Transfers that can still be called off are, too."""
    at_once: int | None = None
    """So many migrations at a time at most, whatever the policy allows."""
    link_share: float | None = None
    """This share of each link at most, whatever the policy allows."""

    @property
    def why_paused(self) -> str:
        """Who paused the cluster, when, and what for; empty if nobody did."""
        if self.paused_at is None:
            return ""
        why = f": {self.reason}" if self.reason else ""
        return f"by {self.paused_by} since {self.paused_at:%Y-%m-%d %H:%M:%S} UTC{why}"

    def narrowed(self, limits: Limits) -> Limits:
        """The policy's limits, and nowhere more than was asked for."""
        return replace(
            limits,
            cluster=min(limits.cluster, self.at_once or limits.cluster),
            link_share=min(limits.link_share, self.link_share or limits.link_share),
        )

    def pace_ratio(self, limits: Limits) -> float:
        """What transfers under way may use of what they were granted."""
        return self.narrowed(limits).link_share / limits.link_share


def wishes_from(db: sa.Connection, cluster: str) -> Wishes:
    """Read what is asked."""
    row = db.execute(sa.select(tables.wishes).where(tables.wishes.c.cluster == cluster)).first()
    if row is None:
        return Wishes()
    return Wishes(
        paused_at=as_instant(row.paused_at) if row.paused_at else None,
        paused_by=row.paused_by,
        reason=row.reason,
        stop_rollout=row.stop_rollout,
        stop_by_aborting=row.stop_by_aborting,
        at_once=row.at_once,
        link_share=row.link_share,
    )


def row_of(cluster: str, wishes: Wishes) -> dict[str, Any]:
    """Make the row that keeps them."""
    return {
        "cluster": cluster,
        "paused_at": as_text(wishes.paused_at) if wishes.paused_at else None,
        "paused_by": wishes.paused_by,
        "reason": wishes.reason,
        "stop_rollout": wishes.stop_rollout,
        "stop_by_aborting": wishes.stop_by_aborting,
        "at_once": wishes.at_once,
        "link_share": wishes.link_share,
    }
