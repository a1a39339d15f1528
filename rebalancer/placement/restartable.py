"""Keeping the VMs of a failed host restartable one by one, where the goals would fragment it.

What is free in sum is a limit that searches know. Whether it comes in pieces that are large
enough depends on where everything is, so it is judged at the end, and moves are left out until
it holds: of `n` moves and `d` that have to go some d·log n are judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rebalancer.cluster.restart import counted_on, stranded
from rebalancer.placement.arrays import Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import Layout, Scale
from rebalancer.placement.problem import PlacementProblem, Resource

_NO_GOALS = Scale(tiers=())
SLACK_BYTES = 1.0


def is_restartable(problem: PlacementProblem, x: Ints) -> bool:
    """Whether `x` leaves no more VMs without a place after a host failure than the start does."""
    return not _is_asked(problem) or missing_bytes(problem, x) <= _most(problem)


def kept_restartable(problem: PlacementProblem, x: Ints, needed: Ints, budget: Budget) -> Ints:
    """Return `x`, less moves that would leave more VMs without a place after a host failure.

    Compared with the start. `needed` is what `x` may fall back to. While a host drains nothing
    is asked: whoever drains it wants it empty more than anything.
    """
    if is_restartable(problem, x):
        return x
    most = _most(problem)
    layout = Layout(problem, needed, _NO_GOALS)
    moves = [(unit, int(x[unit])) for unit in np.flatnonzero(x != needed).tolist()]
    moves.sort(key=lambda move: (problem.needs[Resource.MEMORY, move[0]], move[0]))
    _add(layout, moves, most, budget)
    # What was needed may have been too much by itself.
    return layout.x if missing_bytes(problem, layout.x) <= most else problem.start


def _is_asked(problem: PlacementProblem) -> bool:
    """Whether host failures are to be survived, and there is room in sum for that."""
    if problem.survivable_bytes == np.inf or problem.drains[problem.start].any():
        return False
    on_those_up = problem.start_load[Resource.MEMORY, problem.is_up]
    return float(on_those_up.sum()) <= problem.survivable_bytes


def _most(problem: PlacementProblem) -> float:
    return missing_bytes(problem, problem.start) + SLACK_BYTES


def _add(layout: Layout, moves: Sequence[tuple[int, int]], most: float, budget: Budget) -> None:
    """Make the moves that leave no more missing than `most`: all, or by halves what can be made."""
    done = []
    for unit, host in moves:
        here = int(layout.x[unit])
        if layout.allowed(np.array([unit]), here)[0, host] and layout.admits(unit, host):
            layout.move(unit, host)
            done.append((unit, here))
    if missing_bytes(layout.problem, layout.x) <= most:
        return
    layout.restore(done)
    if len(moves) > 1 and not budget.is_spent:
        middle = len(moves) // 2
        _add(layout, moves[:middle], most, budget)
        _add(layout, moves[middle:], most, budget)


def missing_bytes(problem: PlacementProblem, x: Ints) -> float:
    """Memory of VMs without a place, summed over everything that could fail."""
    load = problem.load(x)[Resource.MEMORY]
    guests: dict[str, dict[str, float]] = {
        host: {} for host, is_up in zip(problem.host_ids, problem.is_up, strict=True) if is_up
    }
    for unit, column in enumerate(x.tolist()):
        host = problem.host_ids[column]
        if host in guests:
            guests[host].update({v.id: v.memory_bytes for v in problem.units[unit] if v.is_active})
    free: dict[str, float] = {
        host: float(problem.capacity[Resource.MEMORY, column] - load[column])
        for column, host in enumerate(problem.host_ids)
        if problem.is_up[column]
    }
    free = counted_on(free, {host for host in guests if guests[host]}, problem.policy)
    failures = problem.policy.headroom.host_failures
    return sum(each.missing_bytes for each in stranded(free, guests, failures))
