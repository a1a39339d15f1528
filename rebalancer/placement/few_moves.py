"""Where only a few moves may be made: which ones go best together, many sets side by side.

With room for three moves, the best first move is seldom one of the best three. So the cheapest
sets of one move are all made longer by a second, of these the cheapest are kept and made longer
by a third, and so on: a beam search (Lowerre, "The Harpy speech recognition system", 1976).
A set may cost more on the way than at its end, so sets that gain nothing yet are kept, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from rebalancer.placement.arrays import Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import IMPOSSIBLE, Layout, movable_on

FEW = 6
"""Moves; with more to make, the order in which they are found matters little."""
WIDTH = 24
"""Sets that are kept of each length, on up to 8 hosts; fewer where a set takes longer to judge."""
HOSTS_JUDGED = 200
"""By which the width is bounded: sets times hosts."""

type Move = tuple[int, int]


def sets_of_few_moves(layout: Layout, count: int, budget: Budget) -> list[Ints]:
    """Placements that are up to `count` moves away from the layout, cheap ones by its scale.

    The layout is used to try them on, and is in the end as it was.
    """
    width = max(1, min(WIDTH, HOSTS_JUDGED // layout.problem.host_count))
    kept: list[tuple[float, tuple[Move, ...]]] = [(0.0, ())]
    found: list[Ints] = []
    for _ in range(count):
        longer = {
            frozenset(moves): (gain, moves) for gain, moves in _longer(layout, kept, width, budget)
        }
        kept = sorted(longer.values(), reverse=True)[:width]
        found += [_after(layout, moves) for _, moves in kept]
        if budget.is_spent:
            break
    return found


def _longer(
    layout: Layout,
    sets: Iterable[tuple[float, tuple[Move, ...]]],
    width: int,
    budget: Budget,
) -> Iterator[tuple[float, tuple[Move, ...]]]:
    """Each set with one more move, in the best ways there are, with what they gain in all."""
    for gained, moves in sets:
        if budget.is_spent:
            return
        undo = [(unit, int(layout.x[unit])) for unit, _ in moves]
        for unit, host in moves:
            layout.move(unit, host)
        for gain, move in _best_moves(layout, [unit for unit, _ in moves], width):
            yield gained + gain, (*moves, move)
        layout.restore(undo)


def _best_moves(layout: Layout, moved: Sequence[int], width: int) -> list[tuple[float, Move]]:
    """The moves of units other than `moved` that gain most, or lose least."""
    found: list[tuple[float, Move]] = []
    for host in range(layout.problem.host_count):
        units = np.setdiff1d(movable_on(layout, host), moved)
        if not len(units):
            continue
        gains = layout.gains_of_moving(units, host)
        best = np.argpartition(-gains, min(width, gains.size) - 1, axis=None)[:width]
        for flat in best.tolist():
            row, target = divmod(flat, gains.shape[1])
            if gains[row, target] > -IMPOSSIBLE:
                found.append((float(gains[row, target]), (int(units[row]), target)))
    return sorted(found, reverse=True)[:width]


def _after(layout: Layout, moves: Sequence[Move]) -> Ints:
    x = layout.x.copy()
    for unit, host in moves:
        x[unit] = host
    return x
