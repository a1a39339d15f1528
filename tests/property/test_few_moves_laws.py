"""Law 8 where few moves are allowed: brute force finds nothing better than the best of all sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.policy import (
    BalancedResource,
    BalanceGoal,
    GeographyCriterion,
    GeographyGoal,
    Goal,
    Limits,
    MovementGoal,
    Policy,
    RelieveGoal,
    Trigger,
)
from rebalancer.cluster.violations import overspent
from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.few_moves_proof import best_of_all_sets
from rebalancer.placement.necessary import do_what_is_necessary
from rebalancer.placement.objectives import TOLERANCE, find_tiers, is_necessary
from rebalancer.placement.problem import PlacementProblem, allowance_beside, placement_problem
from tests.property.laws import law
from tests.property.test_placement_laws import (
    allowed_placements,
    clusters,
    has_an_order,
    policies,
)

SAME = 1e-7


def goal_choices() -> list[tuple[Goal, ...]]:
    """Goals of one tier, with every kind of term that is a sum over hosts."""
    both = frozenset(BalancedResource)
    memory = frozenset({BalancedResource.MEMORY})
    return [
        (BalanceGoal(), MovementGoal()),
        (BalanceGoal(memory_weight=0.0, guard=memory), MovementGoal(weight=0.01)),
        (BalanceGoal(memory_weight=0.1, guard=memory), MovementGoal(weight=0.3)),
        (BalanceGoal(guard=both), MovementGoal(weight=0.01)),
        (BalanceGoal(memory_weight=0.0, guard=memory),),
        (RelieveGoal(cpu_ratio=0.4, memory_ratio=0.5), MovementGoal(weight=0.01)),
        (RelieveGoal(cpu_ratio=0.3), BalanceGoal(weight=0.1)),
        (
            GeographyGoal(criterion=GeographyCriterion.ENERGY_PRICE),
            BalanceGoal(weight=0.1),
            MovementGoal(weight=0.01),
        ),
    ]


def limit_choices() -> list[Limits]:
    """Caps by size and place beside the one on moves."""
    none = Limits(migrations=None)
    return [
        none,
        none,
        replace(none, moved_bytes=8 * 2**30),
        replace(none, moves_into_host=1, moves_out_of_host=2),
        replace(none, moves_between_sites=1),
    ]


@law()
@given(
    clusters(max_hosts=3, max_vms=6),
    policies(),
    st.sampled_from(goal_choices()),
    st.sampled_from(limit_choices()),
    st.sampled_from([0, 1, 2, 2, 3, 3, 3]),
    st.sampled_from([0.3, 0.85]),
)
def test_law_8_no_set_of_few_moves_is_better_than_the_best_one_found(
    snapshot: Snapshot,
    policy: Policy,
    goals: tuple[Goal, ...],
    limits: Limits,
    moves: int,
    hot: float,
) -> None:
    limits = replace(limits, migrations=moves)
    policy = replace(policy, goals=goals, limits=limits, trigger=Trigger(hot_ratio=hot))
    problem = placement_problem(snapshot, Demand.as_measured(snapshot), policy)
    budget = Budget(clock=lambda: 0.0, ends_at=60.0)
    tiers = find_tiers(problem)
    needed = problem.start
    if problem.receives.any():
        needed = do_what_is_necessary(problem, tiers, budget)
    exempt = needed != problem.start
    problem = replace(problem, allowance=allowance_beside(problem, needed))
    necessary = [tier for tier in tiers if is_necessary(tier)]
    if any(tier.cost(problem, needed) > TOLERANCE for tier in necessary):
        return  # Placements that mend more than the first one are none to compare with.
    goal = tiers[-1]

    found = best_of_all_sets(problem, goal, needed, replace(budget, moves=moves, exempt=exempt))

    if found is None:
        assert exempt.any()  # What has to move may be anywhere: left to searches.
        return
    others = [
        x
        for x in few_moves_away(problem, moves, exempt)
        if all(tier.cost(problem, x) <= TOLERANCE for tier in necessary)
    ]
    least = min(goal.cost(problem, x) for x in others)
    assert found.bound <= least + SAME
    assert goal.cost(problem, found.x) == pytest.approx(found.bound, abs=1e-6)
    assert any((found.x == x).all() for x in others)
    if (ordered := [x for x in others if has_an_order(problem, x.tolist())]) and not found.others:
        assert goal.cost(problem, found.x) <= min(goal.cost(problem, x) for x in ordered) + SAME
    assert all(any((other == x).all() for x in others) for other in found.others)


def few_moves_away(problem: PlacementProblem, moves: int, exempt: Bools) -> Iterator[Ints]:
    """Every allowed placement with so many moves at most, besides those that do not count."""
    excused = {vm.id for unit in np.flatnonzero(exempt) for vm in problem.units[unit]}
    for hosts in allowed_placements(problem):
        x = np.array(hosts, np.intp)
        is_few = ((x != problem.start) & ~exempt).sum() <= moves
        # What has to move counts towards the cap onto a host where that can be kept.
        is_few &= problem.allowance is None or problem.allowance.keeps(x)
        assignment = problem.assignment(x)
        if is_few and not overspent(problem.snapshot, problem.policy, assignment, excused):
            yield x
