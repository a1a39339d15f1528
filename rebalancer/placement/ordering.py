"""Whether the moves of a placement can be made one after the other.

Every step has to respect limits with the moving unit on both hosts. A placement whose moves
wait for each other in a circle needs a third host to park on, or cannot be reached at all;
`planning` finds the real order, this only tells good placements from awkward ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.groups import TogetherGroup
from rebalancer.placement.layout import TIER_RATIO, Layout, Scale, scale_of
from rebalancer.placement.local_search import descend
from rebalancer.placement.objectives import Tier, deciding_tier, is_necessary
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource

PARKING_SHARE = 0.8
"""Only where more than this share of the gain is lost without it is parking accepted: it
moves a VM twice, and the operator has to understand it."""

_NO_GOALS = Scale(tiers=())


def make_orderable(
    problem: PlacementProblem, x: Ints, tiers: Sequence[Tier], budget: Budget
) -> Ints:
    """Return `x`, or when its moves wait for each other, something like it without that.

    Moves that cannot be made in turn are left out, and units that have not moved yet fill in
    where they can: each from the state the others lead to, so that the order stays possible.
    Units that have to leave where they are keep their place in `x`. Where that loses too much,
    `x` stays, if parking on a third host makes it possible.
    """
    reached = _walk(problem, x)
    if (reached == x).all():
        return x
    layout = Layout(problem, reached, scale_of(tiers, TIER_RATIO))
    moved = reached != problem.start
    descend(layout, budget, only=~moved)
    safe = np.where(problem.drains[layout.x], x, layout.x)
    if not _is_allowed(problem, x, safe):
        safe = layout.x
    if _loses_too_much(problem, tiers, x, safe) and is_reachable(problem, x):
        return x
    # What is left of the moves may not be worth making without those that were left out, or
    # may part what belongs together.
    is_better = deciding_tier(problem, tiers, problem.start, safe)[1] < 0
    return safe if is_better and _keeps_together(problem, safe) else problem.start


def needs_parking(problem: PlacementProblem, x: Ints) -> bool:
    """Whether some moves wait for each other."""
    return bool(stuck_moves(problem, x).any())


def _keeps_together(problem: PlacementProblem, x: Ints) -> bool:
    """Whether no group that must be together is farther apart than at the start."""
    return all(
        group.excess(x) <= group.excess(problem.start)
        for group in problem.groups
        if isinstance(group, TogetherGroup) and group.hard
    )


def _loses_too_much(problem: PlacementProblem, tiers: Sequence[Tier], x: Ints, safe: Ints) -> bool:
    """Whether `safe` leaves something necessary undone, or most of what the goals gain."""
    for tier in tiers:
        start, best, other = (tier.cost(problem, one) for one in (problem.start, x, safe))
        if abs(other - best) > 1e-6:
            return is_necessary(tier) or other - best > PARKING_SHARE * (start - best)
    return False


def _is_allowed(problem: PlacementProblem, before: Ints, x: Ints) -> bool:
    """Whether no host holds more than it may, or than it did under `before`, nor any domain."""
    limits = np.maximum(problem.limits(problem.start), problem.limits(before)) + 1e-6
    pools = problem.pools
    most = np.maximum(pools.limits(problem.start), pools.limits(before)) + 1e-6
    fits = bool((problem.load(x)[: len(LIMITED)] <= limits).all())
    return fits and pools.keeps(x, most) and _keeps_apart(problem, x)


def _keeps_apart(problem: PlacementProblem, x: Ints) -> bool:
    """Whether no domain holds more of a group than it may, or than it did at the start."""
    return all(
        (group.counts(x) <= np.maximum(group.counts(problem.start), group.at_most)).all()
        for group in problem.spreads
        if group.hard
    )


def _walk(problem: PlacementProblem, x: Ints) -> Ints:
    """How far one gets from the start towards `x` by moves that fit at once, small ones first."""
    layout = Layout(problem, problem.start, _NO_GOALS, on_the_way=True)
    _advance(layout, x)
    return layout.x


def _advance(layout: Layout, x: Ints) -> None:
    """Make every move towards `x` that fits, until none does."""
    pending = np.flatnonzero(layout.x != x)
    pending = pending[np.argsort(layout.problem.needs[Resource.MEMORY, pending], kind="stable")]
    while len(pending):
        waiting = [unit for unit in pending.tolist() if not _step(layout, unit, int(x[unit]))]
        if len(waiting) == len(pending):
            return
        pending = np.array(waiting, np.intp)


def _step(layout: Layout, unit: int, target: int) -> bool:
    if not layout.admits(unit, target):
        return False
    layout.move(unit, target)
    return True


def is_reachable(problem: PlacementProblem, x: Ints) -> bool:
    """Whether parking one unit at a time on some host with room for it leads to `x`."""
    layout = Layout(problem, problem.start, _NO_GOALS, on_the_way=True)
    _advance(layout, x)
    while (stuck := np.flatnonzero(layout.x != x)).size:
        if not any(_park(layout, unit, x) for unit in stuck.tolist()):
            return False
    return True


def _park(layout: Layout, unit: int, x: Ints) -> bool:
    """Park the unit anywhere if that lets another one arrive; undo it all if not."""
    before = layout.x.copy()
    room = layout.allowed(np.array([unit]), int(before[unit]))[0]
    for host in np.flatnonzero(room).tolist():
        if not _step(layout, unit, host):
            continue
        _advance(layout, x)
        if _left(layout, x) < int((before != x).sum()):
            return True
        for moved in np.flatnonzero(layout.x != before).tolist():
            layout.move(moved, int(before[moved]))
    return False


def _left(layout: Layout, x: Ints) -> int:
    return int((layout.x != x).sum())


def stuck_moves(problem: PlacementProblem, x: Ints) -> Bools:
    """Units whose move cannot be made without parking something first, `(U,)`."""
    return np.not_equal(_walk(problem, x), x)
