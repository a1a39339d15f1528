"""From a snapshot, a forecast and a policy to the best placement that could be found in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Assignment, Snapshot
from rebalancer.cluster.plan import LaterTier, Objective, Placement, SolveStatus, Unsolved
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.pools import relocated
from rebalancer.cluster.violations import hard_violations, overspent, worsened
from rebalancer.errors import SolverError
from rebalancer.placement.allowance import Allowance
from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.bound import Relaxation, strengthen
from rebalancer.placement.budget import Budget
from rebalancer.placement.engine import improve_tier
from rebalancer.placement.explain.above_band import hosts_above_band
from rebalancer.placement.explain.account import explanation_of
from rebalancer.placement.explain.reasons import reasons_of_moves
from rebalancer.placement.explain.spent import Besides
from rebalancer.placement.explain.unmoved import find_unmoved
from rebalancer.placement.incumbent import Incumbent, told_to
from rebalancer.placement.layout import TIER_RATIO, scale_of
from rebalancer.placement.necessary import do_what_is_necessary
from rebalancer.placement.objectives import (
    DRAIN_TIER,
    TOLERANCE,
    Tier,
    deciding_tier,
    find_tiers,
    is_necessary,
)
from rebalancer.placement.ordering import is_reachable, make_orderable, needs_parking
from rebalancer.placement.problem import (
    PlacementProblem,
    allowance_beside,
    most_moves,
    placement_problem,
)
from rebalancer.placement.renewing import renewed
from rebalancer.placement.restartable import is_restartable, kept_restartable
from rebalancer.placement.workers import IN_THIS_PROCESS, Workers

PROVED_RATIO = 1e-4
"""A placement is called optimal when at most this share of the improvement that could be
possible is missing: tangents and tolerances make a bound a little lower than it need be."""
CHOICES_WORTH_WORKERS = 200
"""With fewer VMs times hosts, all is over before a worker could be asked anything."""
PROOF_SECONDS, PROOF_RATIO = 0.4, 0.05
"""How long the answer may be compared with what is possible: so long, and as a share of the
time that it took to find."""
ECHOES, ECHO_SHARE = 2, 0.3
"""Times that the answer is searched again as if it were the present placement, and in which
share of the time that is left."""


def place(
    snapshot: Snapshot,
    demand: Demand,
    policy: Policy,
    *,
    time_limit_seconds: float = 60.0,
    clock: Callable[[], float],
    seed: int = 0,
    workers: Workers = IN_THIS_PROCESS,
    tell: Callable[[Incumbent], None] | None = None,
) -> Placement | Unsolved:
    """Find the placement that serves the policy best and breaks nothing that is not broken.

    `clock` tells seconds that only ever grow. The present placement is an answer too, so a
    shorter time limit gives a less good one and never a bad one. The same input gives the same
    answer with any `workers`, unless time runs out. `tell` is told of what is found on the way.
    """
    began = clock()
    if len(snapshot.vms) * len(snapshot.hosts) >= CHOICES_WORTH_WORKERS:
        workers.get_ready()
    case = _Case(
        snapshot=snapshot,
        demand=demand,
        policy=policy,
        budget=Budget(clock=clock, ends_at=began + time_limit_seconds, workers=workers),
        seed=seed,
    )
    problem, tiers = case.problem_and_tiers()
    budget = case.budget
    if tell is not None:
        found_so_far = told_to(tell, problem, tiers, lambda: clock() - began)
        budget = replace(budget, found=found_so_far)
    found = _settled(case, problem, tiers, _search(problem, tiers, budget, seed))
    found = _proved(problem, tiers, found, case.budget, clock() - began)
    _check(problem, found)
    return Placement(
        assignment=problem.assignment(found.x),
        objective=_objective(problem, tiers, found, case.budget, clock() - began),
        reasons=reasons_of_moves(problem, tiers, found.x),
        unmoved=find_unmoved(problem, found.x),
        above_band=hosts_above_band(problem, tiers, found.x),
        explanation=explanation_of(
            problem,
            tiers,
            found.x,
            Besides(exempt=found.exempt, allowance=found.allowance),
            case.budget,
            time_limit_seconds,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Case:
    """What is given."""

    snapshot: Snapshot
    demand: Demand
    policy: Policy
    budget: Budget
    seed: int

    def problem_and_tiers(self) -> tuple[PlacementProblem, tuple[Tier, ...]]:
        problem = placement_problem(self.snapshot, self.demand, self.policy)
        return problem, find_tiers(problem)

    def after(self, assignment: Assignment) -> _Case:
        """The case that there will be when the assignment has been carried out."""
        return replace(self, snapshot=relocated(self.snapshot, assignment))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """A placement and what is known about it."""

    x: Ints
    needed: Ints
    """What has to be done whatever the goals say; part of `x` unless `x` found a better way."""
    bounds: dict[int, float]
    """Tier -> the least cost that any placement could have."""
    relaxations: dict[int, Relaxation]
    """Tier -> what that bound comes from, where it could be stronger."""
    exempt: Bools
    """`(U,)`: units that may move although they are beyond what a plan may move."""
    allowance: Allowance | None
    """What may be moved besides."""


def _search(
    problem: PlacementProblem,
    tiers: Sequence[Tier],
    budget: Budget,
    seed: int,
    *,
    is_proving: bool = True,
) -> _Found:
    if not problem.receives.any():
        none = np.zeros(problem.unit_count, bool)
        return _Found(
            x=problem.start,
            needed=problem.start,
            bounds={},
            relaxations={},
            exempt=none,
            allowance=None,
        )
    needed = do_what_is_necessary(problem, tiers, budget)
    budget.tell(needed)
    exempt = needed != problem.start
    budget = replace(budget, moves=most_moves(problem), exempt=exempt)
    allowance = allowance_beside(problem, needed)
    problem = replace(problem, allowance=allowance)
    must_leave, is_complete = _must_leave(problem, tiers, needed)
    goals = [tier for tier in tiers if not is_necessary(tier)]
    x, bounds = needed, {}
    others: tuple[Ints, ...] = ()
    relaxations: dict[int, Relaxation] = {}
    for number, tier in enumerate(goals):
        result = improve_tier(
            problem,
            goals[: number + 1],
            x,
            must_leave=must_leave,
            is_bound_global=is_complete,
            budget=budget,
            seed=seed,
            is_proving=is_proving,
        )
        bounds[tier.number] = result.bound
        if result.relaxation is not None:
            relaxations[tier.number] = result.relaxation
        if _is_better(problem, goals, x, result.x):
            x, others = result.x, result.others
    needed = make_orderable(problem, needed, tiers, budget)
    needed = kept_restartable(problem, needed, problem.start, budget)
    x = _orderable(problem, x, others, tiers, budget)
    if not all(
        _is_closed(tier.cost(problem, problem.start), tier.cost(problem, x), bounds[tier.number])
        for tier in goals
    ):
        other = renewed(problem, scale_of(tiers, TIER_RATIO), x, budget)
        x = other if _is_better(problem, tiers, x, other) else x
    x = kept_restartable(problem, x, needed, budget)
    worth_it = _is_worth_it(problem, tiers, needed, x)
    return _Found(
        x=x if worth_it else needed,
        needed=needed,
        bounds=bounds,
        relaxations=relaxations,
        exempt=exempt,
        allowance=allowance,
    )


def _orderable(
    problem: PlacementProblem,
    x: Ints,
    others: Sequence[Ints],
    tiers: Sequence[Tier],
    budget: Budget,
) -> Ints:
    """The placement if there is a way to it, else the best that can be made of it and others."""
    found = make_orderable(problem, x, tiers, budget)
    if (found == x).all():
        return x
    for other in others:
        candidate = make_orderable(problem, other, tiers, budget)
        found = candidate if _is_better(problem, tiers, found, candidate) else found
    return found


def _must_leave(
    problem: PlacementProblem, tiers: Sequence[Tier], needed: Ints
) -> tuple[Bools, bool]:
    """Units that every good placement moves, and whether all that is necessary could be done."""
    left = sum(
        tier.cost(problem, needed) - _least(problem, tier) for tier in tiers if is_necessary(tier)
    )
    is_complete = left <= TOLERANCE
    must = problem.drains[problem.start] & ~problem.drains[needed]
    return (must if is_complete else np.zeros_like(must)), is_complete


def _least(problem: PlacementProblem, tier: Tier) -> float:
    """The cost that a necessary tier has in any case: VMs that cannot leave a draining host."""
    if tier.number != DRAIN_TIER:
        return 0.0
    units = np.flatnonzero(problem.drains[problem.start])
    stuck = ~(problem.movable[units] & problem.candidates.of(units).any(axis=1))
    return float(sum(len(problem.units[unit]) for unit in units[stuck].tolist()))


def _settled(
    case: _Case, problem: PlacementProblem, tiers: Sequence[Tier], found: _Found
) -> _Found:
    """Search on from the answer until that finds nothing more, so that a second plan is empty.

    Only done while there is time for another search as long as the ones before.
    """
    for _ in range(ECHOES):
        if (found.x == problem.start).all() or _is_half_spent(case):
            break
        if _moves_all_it_may(problem, found):
            break
        echo_case = case.after(problem.assignment(found.x))
        echo_problem, echo_tiers = echo_case.problem_and_tiers()
        left = ECHO_SHARE * case.budget.left()
        part = replace(case.budget, ends_at=case.budget.clock() + left)
        # Only the placement is wanted: its bound would be one on what is left after the first.
        echo = _search(echo_problem, echo_tiers, part, case.seed, is_proving=False)
        x = _in_terms_of(problem, echo_problem.assignment(echo.x))
        if x is None or not _is_better(problem, tiers, found.x, x):
            break
        if _moves_too_much(problem, found, x) or not _is_as_easy(problem, found.x, x):
            break
        if not is_restartable(problem, x):
            break
        found = replace(found, x=x)
    return found


def _proved(
    problem: PlacementProblem,
    tiers: Sequence[Tier],
    found: _Found,
    budget: Budget,
    seconds: float,
) -> _Found:
    """Raise the bound of the tier that counts towards what was found, as long as is reasonable."""
    goals = [tier for tier in tiers if not is_necessary(tier)]
    tier, _ = deciding_tier(problem, tiers, problem.start, found.x)
    tier = tier or next(iter(goals), None)
    relaxation = None if tier is None else found.relaxations.get(tier.number)
    if tier is None or relaxation is None:
        return found
    before, after = tier.cost(problem, problem.start), tier.cost(problem, found.x)
    bound = found.bounds[tier.number]
    if after - bound <= max(TOLERANCE, PROVED_RATIO * (before - bound)):
        return found
    ends_at = budget.clock() + PROOF_SECONDS + PROOF_RATIO * seconds
    part = replace(budget, ends_at=min(budget.ends_at, ends_at))
    stronger = strengthen(relaxation, known=after, budget=part)
    return replace(found, bounds={**found.bounds, tier.number: max(bound, stronger.bound)})


def _is_as_easy(problem: PlacementProblem, before: Ints, x: Ints) -> bool:
    """Whether there is a way to `x`, and one without parking where there is one to `before`."""
    if not needs_parking(problem, x):
        return True
    return needs_parking(problem, before) and is_reachable(problem, x)


def _is_half_spent(case: _Case) -> bool:
    return case.budget.left() < case.budget.clock() - case.budget.ends_at + 2 * case.budget.left()


def _in_terms_of(problem: PlacementProblem, assignment: Assignment) -> Ints | None:
    """The placement as the problem has it; `None` if it tears a unit apart."""
    column = {host: index for index, host in enumerate(problem.host_ids)}
    hosts = [{assignment[vm.id] for vm in unit} for unit in problem.units]
    if any(len(where) > 1 for where in hosts):
        return None
    return np.array([column[where.pop()] for where in hosts], np.intp)


def _moves_too_much(problem: PlacementProblem, found: _Found, x: Ints) -> bool:
    most = most_moves(problem)
    is_over = most is not None and int(((x != problem.start) & ~found.exempt).sum()) > most
    return is_over or (found.allowance is not None and not found.allowance.keeps(x))


def _moves_all_it_may(problem: PlacementProblem, found: _Found) -> bool:
    """Whether a search from there would find nothing but more moves than may be made."""
    most = most_moves(problem)
    return most is not None and int(((found.x != problem.start) & ~found.exempt).sum()) >= most


def _is_better(problem: PlacementProblem, tiers: Sequence[Tier], before: Ints, after: Ints) -> bool:
    return deciding_tier(problem, tiers, before, after)[1] < 0


def _is_worth_it(problem: PlacementProblem, tiers: Sequence[Tier], needed: Ints, x: Ints) -> bool:
    """Whether what goals gain beyond what is needed is the share that the policy asks for."""
    tier, rise = deciding_tier(problem, tiers, needed, x)
    trigger = problem.policy.trigger
    if tier is None or trigger is None or is_necessary(tier):
        return rise < 0
    return -rise > trigger.min_gain_ratio * abs(tier.cost(problem, needed))


def _objective(
    problem: PlacementProblem,
    tiers: Sequence[Tier],
    found: _Found,
    budget: Budget,
    seconds: float,
) -> Objective:
    """The tier that decided, in numbers; the first tier of goals if nothing moves."""
    goals = [tier for tier in tiers if not is_necessary(tier)]
    tier, _ = deciding_tier(problem, tiers, problem.start, found.x)
    tier = tier or next(iter(goals), None)
    if tier is None:
        return Objective(
            before=0.0, after=0.0, bound=0.0, status=SolveStatus.UNCHANGED, solve_seconds=seconds
        )
    terms_before, terms_after = tier.terms(problem, problem.start), tier.terms(problem, found.x)
    before, after = sum(terms_before.values()), sum(terms_after.values())
    bound = _least(problem, tier) if is_necessary(tier) else found.bounds.get(tier.number, 0.0)
    # No term of any goal is negative.
    bound = min(max(bound, 0.0), after)
    later = tuple(_later(problem, one, found) for one in _after(goals, tier))
    is_proved = _is_closed(before, after, bound) and all(
        _is_closed(one.before, one.after, one.bound) for one in later
    )
    return Objective(
        before=before,
        after=after,
        bound=bound,
        later=later,
        status=_status(problem, found, is_proved, budget),
        solve_seconds=seconds,
        terms_before=terms_before,
        terms_after=terms_after,
    )


def _after(goals: Sequence[Tier], tier: Tier) -> Sequence[Tier]:
    """The tiers of goals that come after one."""
    return [one for one in goals if one.number > tier.number]


def _later(problem: PlacementProblem, tier: Tier, found: _Found) -> LaterTier:
    terms = tier.terms(problem, found.x)
    after = sum(terms.values())
    return LaterTier(
        tier=tier.number,
        goals=tuple(sorted(terms)),
        before=tier.cost(problem, problem.start),
        after=after,
        bound=min(max(found.bounds.get(tier.number, 0.0), 0.0), after),
    )


def _is_closed(before: float, after: float, bound: float) -> bool:
    """Whether nothing that could matter is left between a cost and its bound."""
    return after - bound <= max(TOLERANCE, PROVED_RATIO * (before - bound))


def _status(
    problem: PlacementProblem, found: _Found, is_proved: bool, budget: Budget
) -> SolveStatus:
    if is_proved:
        return SolveStatus.OPTIMAL
    if budget.is_spent:
        return SolveStatus.TIME_LIMIT
    unchanged = bool((found.x == problem.start).all())
    return SolveStatus.UNCHANGED if unchanged else SolveStatus.SEARCHED


def _check(problem: PlacementProblem, found: _Found) -> None:
    """Have the answer judged by the oracle, which knows nothing of arrays and solvers."""
    facts = problem.snapshot, problem.policy, problem.demand
    before = hard_violations(*facts, problem.assignment(problem.start))
    answer = problem.assignment(found.x)
    exempt = {vm.id for unit in np.flatnonzero(found.exempt) for vm in problem.units[unit]}
    worse = (
        *worsened(before, hard_violations(*facts, answer)),
        *overspent(problem.snapshot, problem.policy, answer, exempt),
    )
    if worse:
        broken = "; ".join(violation.text for violation in worse[:3])
        raise SolverError(
            f"the placement found would break what holds now ({broken}); this is a bug, "
            "please report it with the snapshot and the policy"
        )
