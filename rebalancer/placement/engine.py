"""How one tier of goals is improved: the same at 8 hosts and at 1,000, as far as time goes.

1. The relaxation bounds the cost and names the units worth moving.
2. Local search, once from the present placement and once from moving those units first.
3. The whole problem as one integer program where it is small enough to be proved.
4. Programs over a few hosts at a time.

The placement that the engine begins with is a candidate throughout, so it never gets worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.bound import Relaxation, relax
from rebalancer.placement.layout import TIER_RATIO, Layout, Scale, scale_of
from rebalancer.placement.local_search import Budget, descend, improve
from rebalancer.placement.neighbourhood import improve_by_programs
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import PlacementProblem
from rebalancer.placement.program import Limits, choices_of, solve_program

WORTH_LEAVING = 0.3
"""Units that the relaxation moves by more than this are moved first."""
BINARIES_AT_MOST = 1500
"""Whole programs above this size are hardly ever proved, and local search is better sooner."""
BINARIES_SOON_PROVED = 100
"""Whole programs up to this size take milliseconds and prove more than a relaxation does."""
WHOLE_SHARE, PARTS_SHARE = 0.03, 0.06
"""Of the time limit, for the whole program and for those over a few hosts."""
GOOD_ENOUGH = 0.9999
"""Share of the possible improvement from which on nothing more is tried."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """What the engine found."""

    x: Ints
    bound: float
    """No placement has a smaller cost in the tier."""


def improve_tier(
    problem: PlacementProblem,
    tiers: Sequence[Tier],
    x: Ints,
    *,
    must_leave: Bools,
    is_bound_global: bool,
    budget: Budget,
    seed: int,
) -> Result:
    """Improve the last of `tiers` without making the goal tiers before it any worse.

    `is_bound_global` says that every placement to be compared with keeps the limits that `x`
    keeps, so that what the whole program proves holds for all of them.
    """
    scale = scale_of(tiers, TIER_RATIO)
    can_be_proved = len(tiers) == 1 and is_bound_global
    relaxation = None
    if not (can_be_proved and 0 < _count(whole_choices(problem, x)) <= BINARIES_SOON_PROVED):
        relaxation = relax(problem, tiers[-1], must_leave=must_leave, budget=_share(budget, 0.5))
    bound = relaxation.bound if relaxation else -np.inf
    best = _best(problem, scale, [x, *_local_searches(problem, scale, x, relaxation, budget)])
    if _is_good_enough(problem, scale, x, best, bound):
        return Result(x=best, bound=bound)
    answer, proved = _programs(problem, scale, best, budget, seed)
    return Result(
        x=_best(problem, scale, [best, answer]),
        bound=max(bound, proved) if can_be_proved else bound,
    )


def _programs(
    problem: PlacementProblem, scale: Scale, x: Ints, budget: Budget, seed: int
) -> tuple[Ints, float]:
    """Improve `x` by one program if that is small enough, else by many; with what it proves."""
    if choices := whole_choices(problem, x):
        part = _share(budget, WHOLE_SHARE)
        limits = Limits(budget=part, seconds=part.left())
        whole = solve_program(problem, scale, x, choices, limits)
        return whole.x, whole.bound
    rng = np.random.default_rng(seed)
    answer = improve_by_programs(problem, scale, x, _share(budget, PARTS_SHARE), rng)
    return _polished(problem, scale, answer, budget), -np.inf


def _count(choices: dict[int, list[int]]) -> int:
    return sum(map(len, choices.values()))


def _share(budget: Budget, share: float) -> Budget:
    """A part of the time that is left."""
    return replace(budget, ends_at=budget.clock() + share * budget.left())


def _local_searches(
    problem: PlacementProblem,
    scale: Scale,
    x: Ints,
    relaxation: Relaxation | None,
    budget: Budget,
) -> list[Ints]:
    found = [_polished(problem, scale, x, _share(budget, 0.3))]
    if relaxation is not None:
        layout = Layout(problem, x, scale)
        descend(layout, budget, only=relaxation.leaves > WORTH_LEAVING)
        found.append(_polished(problem, scale, layout.x, _share(budget, 0.4)))
    return found


def _polished(problem: PlacementProblem, scale: Scale, x: Ints, budget: Budget) -> Ints:
    layout = Layout(problem, x, scale)
    improve(layout, budget)
    return layout.x


def whole_choices(problem: PlacementProblem, x: Ints) -> dict[int, list[int]]:
    """All choices of all units, if that is few enough to be solved as a whole; else none."""
    if problem.unit_count * problem.host_count > 2 * BINARIES_AT_MOST:
        return {}
    choices = choices_of(problem, x, range(problem.unit_count), problem.receives)
    return choices if _count(choices) <= BINARIES_AT_MOST else {}


def _is_good_enough(
    problem: PlacementProblem, scale: Scale, start: Ints, x: Ints, bound: float
) -> bool:
    """Whether nearly all of the possible improvement is there; only told of a single tier."""
    if len(scale.tiers) > 1 or bound == -np.inf:
        return False
    before, after = scale.cost(problem, start), scale.cost(problem, x)
    return after - bound <= max(1e-7, (1 - GOOD_ENOUGH) * (before - bound))


def _best(problem: PlacementProblem, scale: Scale, candidates: Sequence[Ints]) -> Ints:
    """The cheapest, and of equally cheap ones the first."""
    return min(candidates, key=lambda x: round(scale.cost(problem, x), 9))
