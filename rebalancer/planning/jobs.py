"""Migrations as the schedule sees them: seconds, lanes and slots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.plan import Priority
from rebalancer.planning.cost import Estimate
from rebalancer.planning.network import Lane
from rebalancer.planning.order import Ordered

RANK = {Priority.DRAIN: 0, Priority.REPAIR: 1, Priority.BALANCE: 2}

HANDOVER_SECONDS = 3.0
"""Around each migration the rollout looks at every host, before it and after it, in half a
dozen turns of half a second. Its slot and bandwidth are kept for it meanwhile."""

LOOKS = 4
SILENT_LOOK_SECONDS = 2.5
"""Each look takes so much longer where a host does not answer: it is given up after about 3 s
("no route to host"). Where a firewall swallows the question it takes longer still."""


def handover_seconds(snapshot: Snapshot) -> float:
    """How long a migration keeps slot and bandwidth beyond its own duration, in this cluster."""
    is_silent = any(host.state is HostState.UNKNOWN for host in snapshot.hosts)
    return HANDOVER_SECONDS + (LOOKS * SILENT_LOOK_SECONDS if is_silent else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One migration to be scheduled."""

    position: int
    ordered: Ordered
    rank: int
    lanes: tuple[Lane, ...]
    """What it needs bandwidth on; nothing for a migration that transfers no memory."""
    least: float
    """Bytes per second that it must have."""
    most: float
    """Bytes per second that it can use."""
    alone: bool
    fastest: Estimate
    """What it takes with the most bandwidth: the least it can take."""
    handover_seconds: float = HANDOVER_SECONDS
    """How long it keeps what it holds before and after its own duration."""

    @classmethod
    def of(cls, position: int, ordered: Ordered, handover_seconds: float = HANDOVER_SECONDS) -> Job:
        """Look up what the schedule needs of a migration."""
        choice = ordered.move.choice
        return cls(
            position=position,
            ordered=ordered,
            rank=RANK[ordered.move.priority],
            lanes=choice.path.lanes if choice.transfers else (),
            least=choice.least_bytes_per_second,
            most=choice.most_bytes_per_second,
            alone=choice.alone,
            fastest=choice.estimate(choice.most_bytes_per_second),
            handover_seconds=handover_seconds,
        )

    @property
    def out_slot(self) -> str:
        """The host whose outgoing slot it takes."""
        return self.ordered.move.source

    @property
    def in_slot(self) -> str:
        """The host whose incoming slot it takes."""
        return self.ordered.move.target

    @property
    def seconds(self) -> float:
        """The least time for which it can hold its slot."""
        return self.fastest.duration_seconds + self.handover_seconds

    @property
    def idle_seconds(self) -> float:
        """How long it holds its bandwidth without using it."""
        habits = self.ordered.move.choice.path.habits
        return habits.setup_seconds + habits.switchover_seconds + self.handover_seconds

    @property
    def streamed_bytes(self) -> float:
        """What it could send at the bandwidth it is granted: all but the last bytes."""
        streaming = self.seconds - self.idle_seconds - self.fastest.downtime_seconds
        return max(0.0, streaming) * self.most


def by_lane(jobs: Iterable[Job]) -> Mapping[Lane, tuple[Job, ...]]:
    """The jobs that need bandwidth on each lane."""
    users: dict[Lane, list[Job]] = defaultdict(list)
    for job in jobs:
        for lane in job.lanes:
            users[lane].append(job)
    return {lane: tuple(found) for lane, found in users.items()}
