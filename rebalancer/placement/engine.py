"""How one tier of goals is improved: the same at 8 hosts and at 1,000, as far as time goes.

1. The relaxation bounds the cost and names the units worth moving.
2. Local search: those units first, moves, and exchanges between pairs of hosts.
3. The whole problem as one integer program where it is small enough to be proved.
4. Programs over a few hosts at a time; while others solve them, the bound is made stronger.

The placement that the engine begins with is a candidate throughout, so it never gets worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.awake import is_exact, power_bound, switches
from rebalancer.placement.bound import Relaxation, relax, strengthen
from rebalancer.placement.budget import Budget
from rebalancer.placement.easing import search_eased
from rebalancer.placement.few_moves_proof import best_of_all_sets
from rebalancer.placement.layout import TIER_RATIO, Layout, Scale, scale_of
from rebalancer.placement.local_search import descend, improve
from rebalancer.placement.neighbourhood import improve_by_programs
from rebalancer.placement.objectives import Tier
from rebalancer.placement.packing import pack
from rebalancer.placement.problem import PlacementProblem
from rebalancer.placement.program import Answer, Limits, choices_of, solve_program
from rebalancer.placement.relief import relieve_tier
from rebalancer.placement.workers import both_at_once

WORTH_LEAVING = 0.3
"""Units that the relaxation moves by more than this are moved first."""
BINARIES_AT_MOST = 1500
"""Whole programs above this size are hardly ever proved, and local search is better sooner."""
BINARIES_SOON_PROVED = 100
"""Whole programs up to this size take milliseconds and prove more than a relaxation does."""
WHOLE_SHARE, PARTS_SHARE = 0.015, 0.03
"""Of the time limit, for the whole program and for those over a few hosts; the bound is made
stronger at the same time."""
SEARCH_SHARE = 0.6
"""Of the time that is left after bounding, for local search."""
GOOD_ENOUGH = 0.9999
"""Share of the possible improvement from which on nothing more is tried."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """What the engine found."""

    x: Ints
    bound: float
    """No placement has a smaller cost in the tier."""
    relaxation: Relaxation | None = None
    """What the bound comes from, if it can be strengthened by `bound.strengthen`."""
    others: tuple[Ints, ...] = ()
    """Good placements that were found on the way; one may be easier to get to than `x`."""


def improve_tier(
    problem: PlacementProblem,
    tiers: Sequence[Tier],
    x: Ints,
    *,
    must_leave: Bools,
    is_bound_global: bool,
    budget: Budget,
    seed: int,
    is_proving: bool = True,
) -> Result:
    """Improve the last of `tiers` without making the goal tiers before it any worse.

    `is_bound_global` says that every placement to be compared with keeps the limits that `x`
    keeps, so that what the whole program proves holds for all of them. Without `is_proving` no
    time is spent on a better bound.
    """
    scale = scale_of(tiers, TIER_RATIO)
    can_be_proved = len(tiers) == 1 and is_bound_global
    if (only := _moved_already(problem, tiers, x)) is not None:
        relaxed = relax(problem, tiers[-1], must_leave=must_leave, budget=_share(budget, 0.1))
        polished = _polished(problem, scale, x, budget, only)
        return Result(
            x=_best(problem, scale, [x, polished]), bound=relaxed.bound if relaxed else -np.inf
        )
    if switches(scale_of(tiers[-1:], TIER_RATIO)):
        found = _packed(problem, scale, x, must_leave, budget)
        if not can_be_proved or _is_good_enough(problem, scale, x, found.x, found.bound):
            return found
        whole = _whole(problem, scale, found.x, budget)
        proved = whole.bound if is_exact(scale) else -np.inf
        return Result(x=_best(problem, scale, [found.x, whole.x]), bound=max(found.bound, proved))
    relief = relieve_tier(problem, tiers, scale, x, budget)
    if relief is not None and relief.is_proved:
        return Result(x=_best(problem, scale, [x, relief.x]), bound=relief.bound)
    if can_be_proved and (few := best_of_all_sets(problem, tiers[-1], x, budget)) is not None:
        budget.tell(few.easiest)
        return Result(x=few.x, bound=few.bound, others=few.others)
    known = [x] if relief is None else [x, relief.x]
    start = _best(problem, scale, known)

    def bounded() -> Relaxation | None:
        if can_be_proved and 0 < _count(whole_choices(problem, x)) <= BINARIES_SOON_PROVED:
            return None
        return relax(problem, tiers[-1], must_leave=must_leave, budget=_share(budget, 0.5))

    # A worker may be at the bound while the first answer is made here.
    quick, relaxation = both_at_once(
        budget.workers, lambda: _quick(problem, scale, start, budget), bounded
    )
    bound = relaxation.bound if relaxation else -np.inf
    if relief is not None:
        bound = max(bound, relief.bound)
    likely = None if relaxation is None else relaxation.leaves > WORTH_LEAVING
    searched = search_eased(
        problem,
        scale,
        start,
        likely,
        _share(budget, SEARCH_SHARE),
    )
    best = _best(problem, scale, [*known, quick, *searched])
    others = (*searched, quick)
    if _is_good_enough(problem, scale, x, best, bound):
        return Result(x=best, bound=bound, relaxation=relaxation, others=others)

    def stronger() -> Relaxation | None:
        part = _share(budget, WHOLE_SHARE if whole_choices(problem, best) else PARTS_SHARE)
        known = tiers[-1].cost(problem, best)
        if relaxation is None or not is_proving:
            return relaxation
        return strengthen(relaxation, known=known, budget=part)

    relaxation, (answer, proved) = both_at_once(
        budget.workers, stronger, lambda: _programs(problem, scale, best, budget, seed)
    )
    bound = max(bound, relaxation.bound) if relaxation else bound
    return Result(
        x=_best(problem, scale, [best, answer]),
        bound=max(bound, proved) if can_be_proved else bound,
        relaxation=relaxation,
        others=others,
    )


def _programs(
    problem: PlacementProblem, scale: Scale, x: Ints, budget: Budget, seed: int
) -> tuple[Ints, float]:
    """Improve `x` by one program if that is small enough, else by many; with what it proves."""
    if whole_choices(problem, x):
        whole = _whole(problem, scale, x, budget)
        return whole.x, whole.bound
    rng = np.random.default_rng(seed)
    answer = improve_by_programs(problem, scale, x, _share(budget, PARTS_SHARE), rng)
    return answer, -np.inf


def _whole(problem: PlacementProblem, scale: Scale, x: Ints, budget: Budget) -> Answer:
    """Solve the whole problem as one program, where it is small enough for that."""
    part = _share(budget, WHOLE_SHARE)
    limits = Limits(budget=part, seconds=part.left())
    return solve_program(problem, scale, x, whole_choices(problem, x), limits)


def _packed(
    problem: PlacementProblem, scale: Scale, x: Ints, must_leave: Bools, budget: Budget
) -> Result:
    """Empty hosts, where the last tier asks for few of them, and bound what that could come to."""
    tier = scale.tiers[-1][1]
    bound = power_bound(problem, tier, must_leave, _share(budget, 0.2))
    if len(tier.curves) > len(switches(scale_of([tier], TIER_RATIO))):
        relaxation = relax(problem, tier, must_leave=must_leave, budget=_share(budget, 0.3))
        bound = max(bound, relaxation.bound if relaxation else bound)
    packed = _best(problem, scale, [x, pack(problem, scale, x, _share(budget, 0.7))])
    if not _is_good_enough(problem, scale, x, packed, bound):
        polished = _polished(problem, scale, packed, _share(budget, 0.2))
        packed = _best(problem, scale, [packed, polished])
    return Result(x=packed, bound=bound)


def _count(choices: dict[int, list[int]]) -> int:
    return sum(map(len, choices.values()))


def _share(budget: Budget, share: float) -> Budget:
    """A part of the time that is left."""
    return replace(budget, ends_at=budget.clock() + share * budget.left())


def _quick(problem: PlacementProblem, scale: Scale, x: Ints, budget: Budget) -> Ints:
    """An answer that is there at once."""
    layout = Layout(problem, x, scale)
    descend(layout, budget, is_thorough=False)
    budget.tell(layout.x)
    return layout.x


def _polished(
    problem: PlacementProblem, scale: Scale, x: Ints, budget: Budget, only: Bools | None = None
) -> Ints:
    layout = Layout(problem, x, scale)
    improve(layout, budget, only)
    return layout.x


def _moved_already(problem: PlacementProblem, tiers: Sequence[Tier], x: Ints) -> Bools | None:
    """The units that may still move where the first tier is about moving little; `None`: all.

    It sees to it that nothing moves that need not. A later one may then choose where those go,
    and looking at thousands of others for it takes a minute on a large cluster.
    """
    return np.not_equal(x, problem.start) if _only_charges_for_moves(tiers[0]) else None


def _only_charges_for_moves(tier: Tier) -> bool:
    return not (tier.curves or tier.guards or tier.groups) and any(
        all(each.when_moved for each in tier.linears)
        and (linear.factor > 0).all()
        and (linear.matrix > 0).all()
        for linear in tier.linears
    )


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
