"""Fixed concurrency as other systems have it: a queue for each host, and two places.

oVirt and Nova let a host send so many VMs at a time (2, and 1, by default) and receive so many.
A host takes the next of its queue as soon as one of its places is free; if the target has no
place just then, the migration waits for one, and holds its own. Nothing goes ahead of it, and
nobody looks which host will be done last.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Sequence

from rebalancer.planning.jobs import Job

ROUNDING = 1e-6


def queued_seconds(jobs: Sequence[Job], places: int, cluster: int) -> float:
    """How long it takes until all are over, each with the bandwidth that it is given alone.

    A link is never given away twice: where it is full, migrations wait for it as well.
    What a migration depends on has to be over before it is taken from the queue; those that
    cannot be taken yet are passed over, which is kinder than those systems are.
    """
    return _Queues(jobs, places, cluster).seconds()


class _Queues:
    def __init__(self, jobs: Sequence[Job], places: int, cluster: int) -> None:
        self._jobs = jobs
        self._out: dict[str, int] = defaultdict(lambda: places)
        self._in: dict[str, int] = defaultdict(lambda: places)
        self._cluster = cluster
        self._free = {lane.name: lane.budget_bytes_per_second for job in jobs for lane in job.lanes}
        self._queue: dict[str, deque[Job]] = defaultdict(deque)
        for job in jobs:
            self._queue[job.out_slot].append(job)
        self._waiting: deque[Job] = deque()
        """Taken from their queues, without a place on their targets."""
        self._over: set[int] = set()
        self._running: list[tuple[float, int]] = []

    def seconds(self) -> float:
        now = 0.0
        while len(self._over) < len(self._jobs):
            self._take()
            self._start(now)
            now, position = heapq.heappop(self._running)
            self._end(self._jobs[position])
        return now

    def _take(self) -> None:
        for host, queue in self._queue.items():
            while self._out[host]:
                job = next((j for j in queue if self._over >= j.ordered.depends_on), None)
                if job is None:
                    break
                queue.remove(job)
                self._out[host] -= 1
                self._waiting.append(job)

    def _start(self, now: float) -> None:
        for job in tuple(self._waiting):
            has_room = all(self._free[lane.name] + ROUNDING >= job.most for lane in job.lanes)
            if self._cluster and self._in[job.in_slot] and has_room:
                self._waiting.remove(job)
                self._use(job, -job.most)
                self._cluster -= 1
                self._in[job.in_slot] -= 1
                choice = job.ordered.move.choice
                took = choice.estimate(job.most).duration_seconds + job.handover_seconds
                heapq.heappush(self._running, (now + took, job.position))

    def _end(self, job: Job) -> None:
        self._over.add(job.position)
        self._use(job, job.most)
        self._cluster += 1
        self._out[job.out_slot] += 1
        self._in[job.in_slot] += 1

    def _use(self, job: Job, bytes_per_second: float) -> None:
        """Take bandwidth off what is free on its links, or give it back."""
        for lane in job.lanes:
            self._free[lane.name] += bytes_per_second
