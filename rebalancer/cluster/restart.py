"""Whether the VMs of failed hosts would find a place one by one, and not only in sum.

Ten hosts with 8 GiB free each have 80 GiB for restarts, and not one place for a VM of 16 GiB.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from math import comb

from rebalancer.cluster.policy import Policy, PowerGoal

FAILURES_TRIED = 500
"""Sets of hosts that fail together: all of them up to this number, else one for each host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranded:
    """VMs that nothing has room for once some hosts have failed."""

    failed: tuple[str, ...]
    vms: tuple[str, ...]
    missing_bytes: float


def counted_on(
    free_bytes: Mapping[str, float], occupied: Set[str], policy: Policy
) -> dict[str, float]:
    """Leave out the empty hosts that may be asleep when another one fails.

    Where a policy saves power these are all of them but as many as `min_awake` keeps on, of which
    the smallest are assumed.
    """
    awake = [goal.min_awake for goal in policy.goals if isinstance(goal, PowerGoal)]
    if not awake:
        return dict(free_bytes)
    empty = sorted((free, host) for host, free in free_bytes.items() if host not in occupied)
    kept = {host for _, host in empty[: max(0, max(awake) - len(occupied))]}
    return {host: free for host, free in free_bytes.items() if host in occupied or host in kept}


def stranded(
    free_bytes: Mapping[str, float], guests: Mapping[str, Mapping[str, float]], failures: int
) -> Iterator[Stranded]:
    """Restart the VMs of every set of so many failed hosts, and yield what finds no place.

    `free_bytes` of each host that could take VMs, and `guests` of each that could fail, by name
    with their memory. The largest VM goes first, each to the host that it fills best (best-fit
    decreasing, which needs at most 11/9 of the hosts that the best packing does: Johnson et al.,
    SIAM J. Comput. 3, 1974). What finds a place that way surely has one; what does not might.
    """
    room = sorted((max(0.0, free), host) for host, free in free_bytes.items())
    for failed in _sets_of_failures(guests, failures):
        vms = sorted(
            ((size, vm) for host in failed for vm, size in guests[host].items()),
            key=lambda vm: (-vm[0], vm[1]),
        )
        left_out = _left_out([each for each in room if each[1] not in failed], vms)
        if left_out:
            yield Stranded(
                failed=failed,
                vms=tuple(vm for _, vm in left_out),
                missing_bytes=sum(size for size, _ in left_out),
            )


def _sets_of_failures(
    guests: Mapping[str, Mapping[str, float]], failures: int
) -> Iterator[tuple[str, ...]]:
    """All sets of so many hosts, or where these are too many each host with the fullest others."""
    hosts = sorted(guests)
    together = min(failures, len(hosts))
    if together <= 0:
        return
    if together == 1 or comb(len(hosts), together) <= FAILURES_TRIED:
        yield from combinations(hosts, together)
        return
    fullest = sorted(hosts, key=lambda host: (-sum(guests[host].values()), host))[:together]
    for host in hosts:
        others = [each for each in fullest if each != host][: together - 1]
        yield tuple(sorted((host, *others)))


def _left_out(
    room: list[tuple[float, str]], vms: Sequence[tuple[float, str]]
) -> list[tuple[float, str]]:
    """The VMs, largest first, that no host has room for; `room` is sorted and used up."""
    left_out = []
    for size, vm in vms:
        place = bisect_left(room, (size, ""))
        if place == len(room):
            left_out.append((size, vm))
            continue
        free, host = room.pop(place)
        insort(room, (free - size, host))
    return left_out
