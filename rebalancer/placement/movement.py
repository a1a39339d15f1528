"""The movement goal: what it costs to move a VM, so that a plan has to pay for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from rebalancer.cluster.inventory import Host, Vm
from rebalancer.cluster.policy import MovementGoal, MovementMeasure
from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.prices import Linear
from rebalancer.placement.problem import PlacementProblem, Resource

MOVE_PRICE = 0.1
"""Cost, at weight 1, of moving as much memory as a mean host has.

The unit of the balance goal is a host whose load differs from the mean by its whole capacity,
squared. So with weight 0.1 a VM of 1/100 of a host's memory has to earn 1e-4: it takes 1 % of
load from a host that is about half a per cent above another one, or less from a hotter one.
"""
MOVE_OVERHEAD_BYTES = 2**28
"""Added to the bytes of each move: device state, connections, and the risk of moving at all."""
ASSUMED_DIRTY_RATIO = 0.1
"""Share of a link that a VM dirties when it was not measured."""
LARGEST_RESEND_RATIO = 3.0
"""A VM that dirties as fast as its link carries is throttled or suspended, not sent for ever."""
LEAST_MEAN_CORES = 0.01
"""Where VMs use less than this on average, none has more to do than others."""
TIMED = (MovementMeasure.LINK_SECONDS, MovementMeasure.DISTURBANCE)
"""What is measured in time on a link, and so differs from way to way."""
LARGEST_IMPATIENCE = 10.0
"""A VM whose owner allows hardly any pause is dear to move, not impossible to."""


def movement(problem: PlacementProblem, goal: MovementGoal) -> Iterator[Linear]:
    """Move little: Σ over moved VMs of bytes[v]·dear[v]·stretch[source, target] / host memory.

    Measured in link seconds, bytes are the memory and what is dirtied meanwhile, and `stretch`
    is how much longer they take between the two hosts than over a mean NIC. By disturbance they
    are (mean bytes + bytes[v]·(1 + 2·cores[v] / mean cores)) / 4, cores being those used now: for
    being moved at all, for the time, and for what the VM could do in it. Measured in memory, bytes
    are the memory and `stretch` is 1; by count they are those of a mean VM. `dear` is what the
    policy and the VM's owner say.
    """
    if not problem.scored.any():
        return
    bytes_of = _bytes_of(problem, goal)
    allowed_seconds = problem.policy.migration.max_downtime_seconds
    price = [
        sum(bytes_of(vm) * dearness(vm, goal, allowed_seconds) for vm in unit)
        for unit in problem.units
    ]
    kind, stretch = _stretch(problem, goal)
    host_bytes = float(problem.size[Resource.MEMORY, problem.scored].mean())
    yield Linear(
        goal="movement",
        factor=goal.weight * MOVE_PRICE * np.array(price, float) / host_bytes,
        kind=kind[problem.start],
        matrix=stretch,
        when_moved=True,
    )


def _bytes_of(problem: PlacementProblem, goal: MovementGoal) -> Callable[[Vm], float]:
    """What a VM is counted as having to send, as the goal measures it."""
    active = [vm.memory_bytes for vm in problem.snapshot.vms if vm.is_active]
    mean, nic = sum(active) / max(1, len(active)), mean_nic(problem)
    match goal.measure:
        case MovementMeasure.LINK_SECONDS:
            return lambda vm: bytes_sent(vm, nic)
        case MovementMeasure.DISTURBANCE:
            return _disturbance(problem, nic)
        case MovementMeasure.MEMORY:
            return lambda vm: float(vm.moved_bytes)
        case MovementMeasure.COUNT:
            return lambda vm: mean if vm.is_active else 0.0


def _disturbance(problem: PlacementProblem, nic: float) -> Callable[[Vm], float]:
    """What a mean VM sends, what this one does, and twice that times its CPU: a quarter each.

    CPU is relative to what a mean VM uses now: the less a VM does, the less it loses while it
    runs slower on its way.
    """
    active = [vm for vm in problem.snapshot.vms if vm.is_active]
    count = max(1, len(active))
    sent = sum(bytes_sent(vm, nic) for vm in active) / count
    usual = max(LEAST_MEAN_CORES, sum(vm.cpu_used_cores for vm in active) / count)

    def of(vm: Vm) -> float:
        own = bytes_sent(vm, nic)
        return (sent + own * (1 + 2 * vm.cpu_used_cores / usual)) / 4 if vm.is_active else own

    return of


def bytes_sent(vm: Vm, nic_bytes_per_second: float) -> float:
    """About what a migration of the VM sends; `planning` predicts it in detail."""
    if not vm.is_active:
        return MOVE_OVERHEAD_BYTES
    dirty = vm.dirty_bytes_per_second
    share = ASSUMED_DIRTY_RATIO if dirty is None else dirty / nic_bytes_per_second
    resent = min(LARGEST_RESEND_RATIO, share / max(1e-9, 1 - share) if share < 1 else np.inf)
    return MOVE_OVERHEAD_BYTES + vm.memory_bytes * (1 + resent) + vm.local_disk_bytes


def mean_nic(problem: PlacementProblem) -> float:
    """Bytes per second of a mean host's migration network."""
    rates = [host.nic_bytes_per_second for host in problem.snapshot.hosts]
    return max(1.0, float(np.mean(rates)))


def dearness(vm: Vm, goal: MovementGoal, allowed_downtime_seconds: float) -> float:
    """How many times its bytes a move of the VM costs: the policy's factor, times impatience.

    Impatience is max_downtime of the policy / max_downtime of the VM, from 1 to 10: a pause
    that the owner says is hard to bear makes the VM one to leave alone where another will do.
    """
    times = goal.dear_times if goal.dear is not None and goal.dear.matches(vm) else 1.0
    if goal.measure not in TIMED or vm.max_downtime_seconds is None:
        return times
    impatience = allowed_downtime_seconds / max(1e-3, vm.max_downtime_seconds)
    return times * min(LARGEST_IMPATIENCE, max(1.0, impatience))


def _stretch(problem: PlacementProblem, goal: MovementGoal) -> tuple[Ints, Floats]:
    """Kind of each host as a source `(H,)`; from each kind to each host, time over a mean NIC's."""
    hosts = [problem.snapshot.host_by_id[host] for host in problem.host_ids]
    if goal.measure not in TIMED:
        return np.zeros(len(hosts), np.intp), np.ones((1, len(hosts)))
    kinds: dict[tuple[str | None, float], int] = {}
    kind = np.array(
        [kinds.setdefault((h.site, h.nic_bytes_per_second), len(kinds)) for h in hosts], np.intp
    )
    first = [hosts[int(np.flatnonzero(kind == number)[0])] for number in range(len(kinds))]
    nics = np.array([max(1.0, host.nic_bytes_per_second) for host in hosts])
    stretch = np.empty((len(kinds), len(hosts)))
    for number, source in enumerate(first):
        links = np.array([_slowest_link(problem, source, host) for host in hosts])
        narrowest = np.minimum(np.minimum(links, nics), max(1.0, source.nic_bytes_per_second))
        stretch[number] = mean_nic(problem) / narrowest
    return kind, stretch


def _slowest_link(problem: PlacementProblem, source: Host, target: Host) -> float:
    links = problem.snapshot.links_between(source, target)
    return min((link.bytes_per_second for link in links), default=np.inf)
