"""What operators ask of a rollout at work, from other terminals, through the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.driver import Clock
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.steps import StopRequest
from rebalancer.rollout.wishes import Wishes

WISHES_SECONDS = 2.0
"""So often it is looked up what operators ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drains:
    """Hosts that are being drained, as far as they concern a rollout."""

    closed: Mapping[HostId, str]
    """Why nothing may be moved to them."""
    taken_back: frozenset[HostId]
    """Those whose drain was taken back since the rollout began."""


class Listener:
    """Listens for one rollout."""

    def __init__(self, journal: Journal, clock: Clock, cluster: str) -> None:
        """Have heard nothing yet."""
        self._journal = journal
        self._clock = clock
        self._cluster = cluster
        self._wishes = Wishes()
        self._wishes_at: datetime | None = None
        self._were_drained: set[HostId] = set()

    def wishes(self) -> Wishes:
        """What is asked of all that moves VMs in the cluster; not older than `WISHES_SECONDS`."""
        now = self._clock.now()
        if self._wishes_at is None or (now - self._wishes_at).total_seconds() >= WISHES_SECONDS:
            self._wishes = self._journal.wishes(self._cluster)
            self._wishes_at = now
        return self._wishes

    def drains(self) -> Drains:
        """What is drained at this moment."""
        marks = self._journal.drains(self._cluster)
        self._were_drained |= marks.keys()
        return self._drains(
            {host: f"it is being drained. {mark.reason}" for host, mark in marks.items()}
        )

    def no_drains(self) -> Drains:
        """The same where nothing may begin any more, so that nobody has to be asked."""
        return self._drains({})

    def _drains(self, closed: Mapping[HostId, str]) -> Drains:
        return Drains(closed=closed, taken_back=frozenset(self._were_drained - closed.keys()))


def stop_of(rollout: int, wishes: Wishes) -> StopRequest:
    """How far operators want a rollout to be stopped."""
    if wishes.stop_rollout != rollout:
        return StopRequest.NO
    return StopRequest.ABORT if wishes.stop_by_aborting else StopRequest.FINISH
