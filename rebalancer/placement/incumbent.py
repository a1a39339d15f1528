"""What a search has found so far: told on the way, for those who watch it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Ints
from rebalancer.placement.objectives import Tier, deciding_tier
from rebalancer.placement.problem import PlacementProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """A placement that could be taken, if the search ended now."""

    seconds: float
    """Since the search began, the making of arrays included."""
    moves: int
    """VMs that would move."""
    before: float
    after: float
    """Cost in the most important tier of goals that it changes; equal if it changes none."""


def told_to(
    tell: Callable[[Incumbent], None],
    problem: PlacementProblem,
    tiers: Sequence[Tier],
    seconds_passed: Callable[[], float],
) -> Callable[[Ints], None]:
    """Return what takes placements, and tells of them in words of the problem."""

    def found(x: Ints) -> None:
        tier, _ = deciding_tier(problem, tiers, problem.start, x)
        moved = np.flatnonzero(x != problem.start).tolist()
        tell(
            Incumbent(
                seconds=seconds_passed(),
                moves=sum(len(problem.units[unit]) for unit in moved),
                before=tier.cost(problem, problem.start) if tier else 0.0,
                after=tier.cost(problem, x) if tier else 0.0,
            )
        )

    return found
