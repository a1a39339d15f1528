"""Hot-first local search: good placements in milliseconds, at any size.

The costliest host first, the best move off it, as long as moves pay; then swaps, where memory
is too full for single moves. (The hot-first order is that of Meta's Rebalancer, "Optimizing
Resource Allocation in Hyperscale Datacenters", OSDI 2024.) The emptying of whole hosts, which
no single move pays for, is in `packing`.
"""

from __future__ import annotations

import numpy as np

from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import IMPOSSIBLE, Layout, movable_on
from rebalancer.placement.problem import LIMITED

LEAST_GAIN = 1e-6
"""Gains below this are rounding, not improvements."""
INVITING = 64
"""Hosts that are looked at first as targets of a move."""
HOSTS_TRIED = 24
"""Where there are many hosts, so many of the costliest ones are looked at for partners to swap
with, and as many others."""
SWAPS_TRIED = 20
"""Best-looking swaps of a host that are tried against spread and together."""


def improve(layout: Layout, budget: Budget, only: Bools | None = None) -> None:
    """Improve the layout until no move or swap does any more, or time is up."""
    while not budget.is_spent:
        descend(layout, budget, only)
        if not trade(layout, budget, only):
            return


def descend(
    layout: Layout, budget: Budget, only: Bools | None = None, *, is_thorough: bool = True
) -> bool:
    """Make the best move off the costliest host until no host has a move that pays.

    A search that is not thorough gives up a host when it has none, until a move takes place
    there, and looks at the most inviting targets only: nearly as good, in a fraction of the time.
    """
    improved = False
    tired = _without_units(layout)
    while not budget.is_spent and not tired.all():
        host = int(np.where(tired, -np.inf, layout.host_cost()).argmax())
        if (move := best_move_off(layout, host, budget, only, is_thorough=is_thorough)) is None:
            tired[host] = True
            continue
        layout.move(*move)
        # Only these two hosts are judged anew; the rest get their turn in the next sweep.
        tired[[host, move[1]]] = False
        improved = True
        if is_thorough and tired.sum() >= len(tired) - 2:
            tired = tired & _without_units(layout)
    return improved


def _without_units(layout: Layout) -> Bools:
    return np.array([not members for members in layout.members], bool)


def best_move_off(
    layout: Layout,
    host: int,
    budget: Budget,
    only: Bools | None = None,
    *,
    is_thorough: bool = True,
) -> tuple[int, int] | None:
    """The unit and target of the move off `host` that gains most, if any gains anything."""
    units = _choice(layout, host, only)
    units = units[budget.allows_first_move_of(layout, units)]
    if not len(units):
        return None
    if layout.problem.host_count > 2 * INVITING:
        inviting = layout.inviting(units, INVITING)
        found = _best_move(layout, units, host, inviting)
        if found is not None or not is_thorough:
            return found
    return _best_move(layout, units, host, np.arange(layout.problem.host_count))


def _best_move(layout: Layout, units: Ints, host: int, targets: Ints) -> tuple[int, int] | None:
    gains = layout.gains_of_moving(units, host, targets)
    row, column = np.unravel_index(gains.argmax(), gains.shape)
    if gains[row, column] <= LEAST_GAIN:
        return None
    return int(units[row]), int(targets[column])


def _choice(layout: Layout, host: int, only: Bools | None) -> Ints:
    units = movable_on(layout, host)
    return units if only is None else units[only[units]]


def trade(layout: Layout, budget: Budget, only: Bools | None = None) -> bool:
    """Let units change places, costliest host first, once for each host."""
    improved = False
    for host in np.argsort(-layout.host_cost(), kind="stable").tolist():
        while not budget.is_spent and swap_off(layout, host, budget, only):
            improved = True
    return improved


def swap_off(layout: Layout, host: int, budget: Budget, only: Bools | None = None) -> bool:
    """Make the best swap between a unit of `host` and one elsewhere, if it gains anything."""
    units = _choice(layout, host, only)
    others = _partners(layout, host, only)
    units = units[budget.allows_first_move_of(layout, units)]
    others = others[budget.allows_first_move_of(layout, others)]
    if not len(units) or not len(others):
        return False
    gains = layout.gains_of_swapping(units, host, others)
    best = np.argpartition(-gains, min(SWAPS_TRIED, gains.size - 1), axis=None)[:SWAPS_TRIED]
    for flat in best[np.argsort(-gains.flat[best], kind="stable")].tolist():
        row, column = divmod(flat, len(others))
        if gains[row, column] <= LEAST_GAIN:
            return False
        unit, other = int(units[row]), int(others[column])
        extra = layout.swap(unit, other)
        over = budget.moves is not None and budget.moves_of(layout) > budget.moves
        if gains[row, column] - extra > LEAST_GAIN and not over:
            return True
        layout.swap(unit, other)
    return False


def _partners(layout: Layout, host: int, only: Bools | None) -> Ints:
    """Units to swap with: those of all hosts, or, of many, of the costliest and of some others."""
    units = layout.problem.movable if only is None else layout.problem.movable & only
    hosts = layout.problem.host_count
    if hosts > 2 * HOSTS_TRIED:
        near = np.zeros(hosts, bool)
        near[np.argsort(-layout.host_cost(), kind="stable")[:HOSTS_TRIED]] = True
        step = hosts // HOSTS_TRIED
        near[np.arange(host % step, hosts, step)] = True
        units = units & near[layout.x]
    return np.flatnonzero(units)


def make_room(layout: Layout, unit: int, budget: Budget, only: Bools | None = None) -> bool:
    """Move `unit` to a host that is too full for it, others off that host first.

    An ejection chain of depth two: on each host that could take the unit, the smallest units
    go, largest need first, until it fits. The cheapest way is taken if it gains anything.
    """
    best: tuple[float, list[tuple[int, int]]] = (LEAST_GAIN, [])
    before = layout.scale.cost(layout.problem, layout.x)
    for target in _crowded_targets(layout, unit).tolist():
        if budget.is_spent:
            break
        moves = _squeeze_in(layout, unit, target, budget, only)
        undo = [(moved, back) for moved, back, _ in moves]
        gain = before - layout.scale.cost(layout.problem, layout.x)
        if moves and gain > best[0]:
            best = (gain, [(moved, to) for moved, _, to in moves])
        layout.restore(undo)
    for moved, to in best[1]:
        layout.move(moved, to)
    return bool(best[1])


def _crowded_targets(layout: Layout, unit: int) -> Ints:
    """Hosts that could take the unit but have no room, the least overfull ones first."""
    problem = layout.problem
    over = np.zeros(problem.host_count)
    for resource in LIMITED:
        after = layout.load[resource] + problem.needs[resource, unit]
        over += np.maximum(after - layout.limits[resource], 0) / problem.size[resource]
    could = problem.candidates.hosts_of(unit) & (over > 0)
    could[layout.x[unit]] = False
    order = np.argsort(np.where(could, over, np.inf), kind="stable")
    return order[: min(TARGETS_SQUEEZED, int(could.sum()))]


TARGETS_SQUEEZED = 12


def _squeeze_in(
    layout: Layout, unit: int, target: int, budget: Budget, only: Bools | None
) -> list[tuple[int, int, int]]:
    """Move units off `target` until `unit` fits, then move it; nothing if it never does."""
    done: list[tuple[int, int, int]] = []
    while not _fits(layout, unit, target):
        move = _eviction(layout, unit, target, budget, only)
        if move is None or len(done) >= EVICTIONS:
            layout.restore([(moved, back) for moved, back, _ in done])
            return []
        done.append((move[0], target, move[1]))
        layout.move(*move)
    done.append((unit, int(layout.x[unit]), target))
    layout.move(unit, target)
    return done


EVICTIONS = 4


def _fits(layout: Layout, unit: int, target: int) -> bool:
    gains = layout.gains_of_moving(np.array([unit]), int(layout.x[unit]))
    return bool(gains[0, target] > -IMPOSSIBLE)


def _eviction(
    layout: Layout, unit: int, target: int, budget: Budget, only: Bools | None
) -> tuple[int, int] | None:
    """The unit to move off `target` to make room: one that suffices if any does, else a big one."""
    problem = layout.problem
    units = _choice(layout, target, only)
    units = units[(units != unit) & budget.allows_first_move_of(layout, units)]
    if not len(units):
        return None
    gains = layout.gains_of_moving(units, target)
    gains[:, layout.x[unit]] = -IMPOSSIBLE
    gain = gains.max(axis=1)
    missing = [
        layout.load[r, target] + problem.needs[r, unit] - layout.limits[r, target] for r in LIMITED
    ]
    short = sum(
        np.maximum(lack - problem.needs[r, units], 0) / problem.size[r, target]
        for r, lack in zip(LIMITED, missing, strict=True)
    )
    row = int(np.lexsort((-gain, short, gain == -IMPOSSIBLE))[0])
    return None if gain[row] == -IMPOSSIBLE else (int(units[row]), int(gains[row].argmax()))
