"""Whether a plan is over in time, even if everything takes as long as its band reaches.

A deadline is not promised on what is expected but on the upper ends: each migration takes its
`duration_upper_seconds`, and whatever would have followed it on a host, lane or slot waits.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostState, Snapshot, VmId
from rebalancer.cluster.plan import Unmoved, Verdict, VerdictKind
from rebalancer.cluster.policy import Limits
from rebalancer.planning.jobs import Job
from rebalancer.planning.order import Ordered
from rebalancer.planning.timeline import ROUNDING, Slot
from rebalancer.planning.wording import in_seconds

NAMES_SHOWN = 10


def latest_ends(moves: Sequence[Ordered], slots: Sequence[Slot], limits: Limits) -> list[float]:
    """When each migration is over at the latest, by position, in seconds from the start.

    Migrations keep the order of their starts. One waits until everything has ended that it
    needs, and that in the schedule ends before it begins on a host or lane of its own; and for
    a place in the cluster. So whoever was not side by side in the schedule is not here either,
    and no limit that the schedule keeps is broken.
    """
    jobs = [Job.of(position, ordered) for position, ordered in enumerate(moves)]
    latest = [0.0] * len(jobs)
    users: dict[str, list[int]] = defaultdict(list)
    cluster: list[float] = []
    for job in sorted(jobs, key=lambda j: (slots[j.position].start_seconds, j.position)):
        slot = slots[job.position]
        needs = {f"{job.out_slot} out", f"{job.in_slot} in", *(lane.name for lane in job.lanes)}
        waits_for = {
            other
            for need in needs
            for other in users[need]
            if slots[other].release_seconds <= slot.start_seconds + ROUNDING
        }
        starts = [slot.start_seconds]
        starts += [latest[other] for other in waits_for | job.ordered.depends_on]
        if len(cluster) == limits.cluster:
            starts.append(heapq.heappop(cluster))
        end = max(starts) + slot.estimate.duration_upper_seconds + slot.handover_seconds
        latest[job.position] = end
        heapq.heappush(cluster, end)
        for need in needs:
            users[need].append(job.position)
    return latest


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What became of a deadline."""

    latest_end_seconds: float
    breaks: tuple[VmId, ...]
    """VMs that may be too late, those that cannot leave a draining host among them."""
    refusal: Verdict | None
    """`None`: the deadline is proven."""


def prove(
    snapshot: Snapshot,
    moves: Sequence[Ordered],
    ends_seconds: Sequence[float],
    unmoved: Iterable[Unmoved],
    deadline_seconds: float,
) -> Proof:
    """Compare the latest ends of migrations with a deadline."""
    ends = list(zip(moves, ends_seconds, strict=True))
    late = [each.move.vm.id for each, end in ends if end > deadline_seconds]
    stuck = [each.vm for each in unmoved if _has_to_leave(snapshot, each.vm)]
    breaks = tuple(dict.fromkeys([*late, *stuck]))
    latest = max(ends_seconds, default=0.0)
    return Proof(
        latest_end_seconds=latest,
        breaks=breaks,
        refusal=_refusal(snapshot, late, stuck, latest, deadline_seconds) if breaks else None,
    )


def _has_to_leave(snapshot: Snapshot, vm: VmId) -> bool:
    return snapshot.host_by_id[snapshot.vm_by_id[vm].host].state is HostState.DRAINING


def _refusal(
    snapshot: Snapshot,
    late: Sequence[VmId],
    stuck: Sequence[VmId],
    latest_end_seconds: float,
    deadline_seconds: float,
) -> Verdict:
    """Say that the deadline cannot be promised, and which VMs are in its way."""
    text = f"blocked: an end within {in_seconds(deadline_seconds)} cannot be promised"
    if late:
        end = in_seconds(latest_end_seconds)
        text += f": it may take {end}, and {_names(snapshot, late)} may be late"
    if stuck:
        text += f"; {_names(snapshot, stuck)} cannot leave at all"
    return Verdict(kind=VerdictKind.BLOCKED, text=text)


def _names(snapshot: Snapshot, vms: Sequence[VmId]) -> str:
    names = sorted({snapshot.vm_by_id[vm].name for vm in vms})
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
