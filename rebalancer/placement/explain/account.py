"""Everything that a placement says about itself, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rebalancer.cluster.explanation import Explanation
from rebalancer.placement.arrays import Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.explain.conflicts import find_conflicts, possible_all_the_same
from rebalancer.placement.explain.reasons import gains_of_moves
from rebalancer.placement.explain.rejected import rejected_hosts, rejected_moves
from rebalancer.placement.explain.spent import Besides
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import PlacementProblem

CONFLICTS_SHARE, CONFLICTS_SECONDS = 0.05, 3.0
"""Of the time that was left for a search, and at most, to find out what contradicts what."""


def explanation_of(
    problem: PlacementProblem,
    tiers: Sequence[Tier],
    x: Ints,
    besides: Besides,
    budget: Budget,
    seconds: float,
) -> Explanation:
    """Explain placement `x`, which took a search with a limit of `seconds`.

    `besides` is what was allowed to move besides what had to.
    The explanation of what is impossible comes on top of that limit: nobody asks for it in vain.
    """
    least = min(CONFLICTS_SECONDS, CONFLICTS_SHARE * seconds)
    ends_at = max(budget.clock() + least, min(budget.ends_at, budget.clock() + CONFLICTS_SECONDS))
    budget = replace(budget, ends_at=ends_at, moves=None)
    conflicts = find_conflicts(problem, x, budget)
    barred = "" if conflicts else possible_all_the_same(problem, x, budget)
    return Explanation(
        gains=gains_of_moves(problem, tiers, x),
        rejected_moves=rejected_moves(problem, tiers, x, besides),
        rejected_hosts=rejected_hosts(problem, x),
        conflicts=conflicts,
        notes=(barred,) if barred else (),
    )
