"""Whether wishes can be met at all: of a small cluster as a whole, of a large one VM by VM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rebalancer.cluster.inventory import Assignment
from rebalancer.placement.arrays import Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.explain.case import Case
from rebalancer.placement.explain.wishes import MET, Leave, Wish, tier_of
from rebalancer.placement.layout import TIER_RATIO, Layout, Scale, scale_of
from rebalancer.placement.local_search import descend
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import PlacementProblem
from rebalancer.placement.program import Limits, choices_of, solve_program

CHOICES_AT_MOST = 1500
"""Units times hosts that are tried as a whole; larger programs take too long to be asked often."""
SECONDS_EACH = 2.0


def can_be_tried_as_a_whole(problem: PlacementProblem) -> bool:
    """Whether all VMs may be rearranged to find out what is possible."""
    return problem.unit_count * problem.host_count <= CHOICES_AT_MOST


def best_possible(
    problem: PlacementProblem, wishes: Sequence[Wish], budget: Budget
) -> tuple[Ints, float]:
    """A placement that leaves as little as possible undone, and the least that could be."""
    tier = tier_of(problem, wishes)
    greedy = _greedy(problem, tier, budget)
    if tier.cost(problem, greedy) <= MET:
        return greedy, 0.0
    units = range(problem.unit_count)
    choices = choices_of(problem, problem.start, units, problem.receives)
    if not choices:
        return problem.start, tier.cost(problem, problem.start)
    limits = Limits(budget=budget, seconds=min(SECONDS_EACH, budget.left()))
    answer = solve_program(problem, _scale(tier), problem.start, choices, limits)
    best = min((greedy, answer.x), key=lambda x: tier.cost(problem, x))
    return best, answer.bound


def can_all(case: Case, wishes: Sequence[Wish], budget: Budget) -> bool | None:
    """Whether all wishes can be met at once, any VM moving; `None` if time was up before."""
    if not wishes:
        return True
    problem = case.problem()
    best, least = best_possible(problem, wishes, budget)
    if tier_of(problem, wishes).cost(problem, best) <= MET:
        return True
    return False if least > MET else None


def can_alone(case: Case, wish: Leave, assignment: Assignment) -> bool | None:
    """Whether a VM could leave its host if all others are as assigned; `None` where unclear."""
    problem = case.problem()
    x = in_terms_of(problem, assignment)
    if x is None:
        return None
    unit = next(k for k, vms in enumerate(problem.units) if any(v.id == wish.vm for v in vms))
    layout = Layout(problem, x, Scale(tiers=()))
    gains = layout.gains_of_moving(np.array([unit]), int(x[unit]))[0]
    gains[problem.start[unit]] = -np.inf
    return bool((gains > -np.inf).any() or x[unit] != problem.start[unit])


def in_terms_of(problem: PlacementProblem, assignment: Assignment) -> Ints | None:
    """The placement as the problem has it; `None` if it tears a unit apart."""
    column = {host: index for index, host in enumerate(problem.host_ids)}
    hosts = [{assignment[vm.id] for vm in unit} for unit in problem.units]
    if any(len(where) > 1 for where in hosts):
        return None
    return np.array([column[where.pop()] for where in hosts], np.intp)


def _greedy(problem: PlacementProblem, tier: Tier, budget: Budget) -> Ints:
    layout = Layout(problem, problem.start, _scale(tier))
    descend(layout, replace(budget, moves=None))
    return layout.x


def _scale(tier: Tier) -> Scale:
    return scale_of((tier,), TIER_RATIO)
