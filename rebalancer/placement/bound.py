"""How good any placement can be at all: a bound, found without deciding who goes where.

The relaxation keeps only which units *leave* (one number from 0 to 1 each) and how much each
host *receives* of each resource; that what leaves arrives somewhere is asked in sum. Every
placement gives such numbers, so the least cost over them bounds the cost of every placement.
It has U + 5·H columns instead of U·H, and its solution names the units that are worth moving.
When a good placement is known, `strengthen` raises the bound towards it by whole units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rebalancer.placement.arrays import Bools, Floats
from rebalancer.placement.budget import Budget
from rebalancer.placement.leaving import LeaveReceive, RowPrices
from rebalancer.placement.lowest_prices import find_prices
from rebalancer.placement.objectives import Tier
from rebalancer.placement.patterns import Asked, Duals, best_bound
from rebalancer.placement.problem import PlacementProblem, Resource

ROUNDS = 8
"""Times that tangents are added where the last solution was; the error falls threefold or more."""
CLOSE_RATIO = 1e-3
"""Curves and tangents may differ by this share of the bound."""
PAID_BY_HOSTS = 0.5
"""Of what a unit that stays would cost to move, the share that its targets have to pay."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relaxation:
    """What the relaxation came to."""

    bound: float
    """No placement costs less."""
    leaves: Floats
    """`(U,)`: how much of each unit leaves its host; 0 or 1 for all but a few."""
    asked: Asked
    """What it is about, and at which prices: where `strengthen` goes on from."""
    duals: Duals


def relax(
    problem: PlacementProblem, tier: Tier, *, must_leave: Bools, budget: Budget
) -> Relaxation | None:
    """Bound the cost of a tier over all placements; `None` if time is up before anything is known.

    `must_leave` marks units that every placement to be compared with moves, such as those that
    a drain can free.
    """
    asked = Asked(
        problem=problem,
        tier=tier,
        prices=find_prices(problem, tier),
        must_leave=must_leave,
        moves=budget.moves,
        exempt=np.zeros(problem.unit_count, bool) if budget.exempt is None else budget.exempt,
    )
    program = LeaveReceive(
        problem,
        tier,
        asked.prices,
        must_leave=must_leave,
        moves=asked.moves,
        exempt=asked.exempt,
    )
    best: Relaxation | None = None
    for _ in range(ROUNDS):
        if budget.is_spent:
            break
        solution = budget.workers.solve(program.model, budget.left(), gap_ratio=1e-6)
        if solution is None or not solution.is_optimal:
            break
        bound = _less_tolerance(solution.bound)
        best = Relaxation(
            bound=bound,
            leaves=program.leaves(solution),
            asked=asked,
            duals=_duals(asked, program.prices(solution)),
        )
        if program.refine(solution) <= CLOSE_RATIO * max(1e-6, abs(bound)):
            break
    return best


def strengthen(relaxation: Relaxation, *, known: float, budget: Budget) -> Relaxation:
    """Raise the bound towards the cost of a placement that is `known`, by whole units."""
    bound, duals = best_bound(
        relaxation.asked, relaxation.duals, bound=relaxation.bound, target=known, budget=budget
    )
    return replace(relaxation, bound=max(relaxation.bound, _less_tolerance(bound)), duals=duals)


def _duals(asked: Asked, prices: RowPrices) -> Duals:
    """What units are worth to the linear program where they are and elsewhere.

    A unit that stays costs its host something to send away. The program does not say which of
    the two hosts pays for that; when a half of it is the target's, few units are wanted there.
    """
    problem = asked.problem
    share = 1.0 / problem.size
    arriving = ((prices.in_sum * share).mean(axis=1)) @ problem.needs
    relief = ((prices.on_host * share)[:, problem.start] * problem.needs).sum(axis=0)
    lost = asked.prices.leaving + prices.move * ~asked.exempt - relief
    slopes = prices.on_host + prices.in_sum
    if np.array_equal(problem.needs[Resource.CPU], problem.needs[Resource.CORES]):
        slopes[Resource.CORES] += slopes[Resource.CPU]
    plane = asked.plane
    return Duals(
        transfer=arriving - PAID_BY_HOSTS * np.maximum(lost, 0.0),
        move=prices.move,
        guard=prices.guard,
        slopes=slopes[list(plane)] if plane else np.zeros((2, problem.host_count)),
    )


def _less_tolerance(bound: float) -> float:
    """The bound without what the solver's tolerances could have added to it."""
    return bound - 1e-7 * max(1.0, abs(bound))
