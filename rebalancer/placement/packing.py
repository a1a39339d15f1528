"""Which hosts stay on, and the emptying of the others: no single move pays for any of it.

Two questions, one after the other:

1. Which hosts to empty is a small integer program over hosts, not VMs: see `awake`.
2. `empty_hosts`: where their VMs go. Host by host, each VM to the host in use whose free room has
   most nearly the same shape as its needs (the alignment of Grandl et al., "Multi-Resource
   Packing for Cluster Schedulers", SIGCOMM 2014, doi:10.1145/2619239.2626334). First the host
   that gains most; where not all of them can be emptied in that order, also first the one whose
   VMs are hardest to place, while room still comes in large pieces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.awake import Emptying, choose, emptying_of, prices_of, prices_of_moving
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import IMPOSSIBLE, Layout, Scale
from rebalancer.placement.problem import LIMITED, SLACK, PlacementProblem, Resource
from rebalancer.placement.restartable import is_restartable

LEAST_GAIN = 1e-6
"""Gains below this are rounding, not improvements."""
SAME_PRICE = 1e-9
"""Hosts whose price for a VM differs by less are equally good; then the tighter fit decides."""
TINY = 1e-12
NO_ROOM = -1.0
"""Limit of a host that nothing is to go to: less than the load of any."""


def pack(problem: PlacementProblem, scale: Scale, x: Ints, budget: Budget) -> Ints:
    """Empty the hosts that are best emptied, beginning at `x`; never worse than that.

    Each VM goes where moving it costs least; where not all that was chosen can be emptied in
    that way, also the hardest to place first, and at last wherever they fit best.
    """
    layout = Layout(problem, x, scale)
    emptying = _emptying(layout, budget)
    chosen = choose(layout, emptying, budget)
    best_first = emptying.order[chosen[emptying.order]].tolist()
    hardest_first = hardest_to_empty_first(layout, best_first)
    found: list[Ints] = []
    for order, anywhere in ((best_first, False), (hardest_first, False), (hardest_first, True)):
        packed, is_complete = _packed(problem, scale, x, order, budget, anywhere=anywhere)
        if not is_restartable(problem, packed):
            packed = _fewer(problem, scale, x, best_first, budget, anywhere=anywhere)
        found.append(packed)
        if is_complete or budget.is_spent:
            break
    return min(found, key=lambda one: scale.cost(problem, one))


def _packed(
    problem: PlacementProblem,
    scale: Scale,
    x: Ints,
    order: Sequence[int],
    budget: Budget,
    *,
    anywhere: bool,
) -> tuple[Ints, bool]:
    """Empty the hosts of `order`, and any other that can be; say whether all of `order` were."""
    layout = Layout(problem, x, scale)
    empty_hosts(layout, order, budget, anywhere=anywhere)
    is_complete = not (layout.load[Resource.VMS, list(order)] > 0.5).any()
    # What was not chosen may work all the same, as the choice goes by sums.
    for host in _emptying(layout, budget).order.tolist():
        empty_hosts(layout, [host], budget, anywhere=anywhere)
    return layout.x, is_complete


def _fewer(
    problem: PlacementProblem,
    scale: Scale,
    x: Ints,
    order: Sequence[int],
    budget: Budget,
    *,
    anywhere: bool,
) -> Ints:
    """Empty as many of `order`, the first ones, as leave room to restart any host's VMs.

    Free room comes in smaller pieces the fewer hosts are in use, so the number is found by
    halving.
    """
    best, low, high = x, 0, len(order)
    while low < high and not budget.is_spent:
        middle = (low + high + 1) // 2
        layout = Layout(problem, x, scale)
        empty_hosts(layout, order[:middle], budget, anywhere=anywhere)
        if is_restartable(problem, layout.x):
            best, low = layout.x, middle
        else:
            high = middle - 1
    return best


def hardest_to_empty_first(layout: Layout, hosts: Sequence[int]) -> list[int]:
    """The hosts in the order of the largest unit of each, as in first fit decreasing.

    Large ones need room in large pieces, which small ones break up. How large a unit is says
    what it needs most of what is scarce: max_r w[r]·need[r], w[r] being the share that all
    units need of all there is of r, over what a mean host has.
    """
    problem, limited = layout.problem, len(LIMITED)
    needs, room = problem.needs[:limited], problem.capacity[:, problem.receives]
    scarcity = needs.sum(axis=1) / np.maximum(room.sum(axis=1), TINY)
    mean = np.maximum(problem.size[:limited].mean(axis=1), TINY)
    large: Floats = ((scarcity / mean)[:, None] * needs).max(axis=0)

    def largest(host: int) -> float:
        return float(large[list(layout.members[host])].max(initial=0.0))

    return sorted(hosts, key=largest, reverse=True)


def _emptying(layout: Layout, budget: Budget) -> Emptying:
    return emptying_of(layout, budget, layout.load[Resource.VMS] > 0.5)


def empty_hosts(
    layout: Layout, hosts: Sequence[int], budget: Budget, *, anywhere: bool = False
) -> bool:
    """Empty one host after another where that lowers the cost; nothing goes to those to come.

    What cannot be emptied, or not with any gain, stays as it was and takes VMs of the next.
    """
    limits = layout.limits.copy()
    layout.limits[:, list(hosts)] = NO_ROOM
    before = cost = layout.scale.cost(layout.problem, layout.x)
    for host in hosts:
        moved = [] if budget.is_spent else _empty(layout, host, budget, anywhere=anywhere)
        after = layout.scale.cost(layout.problem, layout.x) if moved else cost
        if moved and after < cost - LEAST_GAIN:
            cost = after
            continue
        layout.restore(moved)
        layout.limits[:, host] = limits[:, host]
    layout.limits[:] = limits
    return cost < before


def _empty(layout: Layout, host: int, budget: Budget, *, anywhere: bool) -> list[tuple[int, int]]:
    """Move all that keeps the host awake elsewhere; say what was moved, or undo it all."""
    done: list[tuple[int, int]] = []
    for unit in _active_on(layout, host).tolist():
        target = _best_fit(layout, unit, budget, anywhere=anywhere)
        if target is None:
            layout.restore(done)
            return []
        done.append((unit, host))
        layout.move(unit, target)
    return done


def _active_on(layout: Layout, host: int) -> Ints:
    """The units that keep a host awake, the largest first."""
    problem, limited = layout.problem, len(LIMITED)
    units = np.array(sorted(layout.members[host]), np.intp)
    units = units[problem.needs[Resource.VMS, units] > 0]
    share = problem.needs[:limited, units] / problem.size[:limited, [host]]
    return np.asarray(units[np.argsort(-share.sum(axis=0), kind="stable")], np.intp)


def _best_fit(layout: Layout, unit: int, budget: Budget, *, anywhere: bool) -> int | None:
    """The host in use whose room has most nearly the shape of what the unit needs.

    That is the largest cosine of the two as vectors of memory, CPU and vCPUs, relative to what
    a mean host takes: so that no host runs out of one and has another left that nobody can use.
    Of all hosts if `anywhere`, else of those to which moving the unit costs least.
    """
    problem, units, limited = layout.problem, np.array([unit]), len(LIMITED)
    if not budget.allows_first_move_of(layout, units)[0]:
        return None
    allowed = layout.gains_of_moving(units, int(layout.x[unit]))[0] > -IMPOSSIBLE
    hosts = np.flatnonzero(allowed & (layout.load[Resource.VMS] > 0.5))
    if not len(hosts):
        return None
    if not anywhere:
        price = prices_of(layout, units, prices_of_moving(layout))[0, hosts]
        hosts = hosts[price <= price.min() + SAME_PRICE]
    mean = np.maximum(problem.capacity[:, problem.receives].mean(axis=1), TINY)
    need = problem.needs[:limited, unit] / mean
    room = (layout.limits[:, hosts] - layout.load[:limited, hosts]) / mean[:, None]
    cosine = need @ room / np.maximum(np.linalg.norm(room, axis=0), TINY)
    # Sums of cores are rounded: a host is filled to the very limit only where there is no other.
    is_full = (room[Resource.CPU] - need[Resource.CPU]) * mean[Resource.CPU] < 2 * SLACK
    return int(hosts[np.lexsort((-cosine, is_full))[0]])
