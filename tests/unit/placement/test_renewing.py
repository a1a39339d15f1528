"""Under a cap, moves are taken back and others are made in their place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rebalancer.placement.arrays import Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.easing import search_eased
from rebalancer.placement.layout import Scale, scale_of
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.ordering import make_orderable, stuck_moves
from rebalancer.placement.problem import LIMITED, PlacementProblem
from rebalancer.placement.renewing import renewed
from tests.builders import a_policy
from tests.unit.placement.clusters import problem_of
from tests.unit.placement.test_easing import ENDLESS, GOALS, a_cluster

CAPPED = replace(ENDLESS, moves=8)


def a_case(seed: int, hosts: int = 6, vms: int = 70) -> tuple[PlacementProblem, Scale]:
    problem = problem_of(a_cluster(seed, hosts=hosts, vms=vms), a_policy(goals=GOALS))
    return problem, scale_of(find_tiers(problem), 1e4)


def searched(problem: PlacementProblem, scale: Scale, budget: Budget) -> Ints:
    """A placement that a quick search ends in, and that can be come to move by move."""
    x, *_ = search_eased(problem, scale, problem.start, None, budget, rounds=0)
    return make_orderable(problem, x, [tier for _, tier in scale.tiers], budget)


def test_moves_that_are_replaced_by_others_make_a_search_better() -> None:
    before = after = 0.0
    for seed in range(4):
        problem, scale = a_case(seed)
        x = searched(problem, scale, CAPPED)
        before += scale.cost(problem, x)
        after += scale.cost(problem, renewed(problem, scale, x, CAPPED))

    assert after < before


@given(seed=st.integers(0, 10_000), moves=st.integers(7, 12), exempt=st.integers(0, 5))
@settings(deadline=None, max_examples=10)
def test_what_is_renewed_keeps_limits_and_the_cap_and_can_be_put_in_order(
    seed: int, moves: int, exempt: int
) -> None:
    problem, scale = a_case(seed, hosts=4, vms=30)
    free = np.arange(problem.unit_count) % 5 == exempt
    budget = replace(ENDLESS, moves=moves, exempt=free)
    x = searched(problem, scale, budget)

    y = renewed(problem, scale, x, budget)

    assert scale.cost(problem, y) <= scale.cost(problem, x)
    assert ((y != problem.start) & ~free).sum() <= moves
    assert (problem.load(y)[: len(LIMITED)] <= problem.limits(problem.start) + 1e-6).all()
    assert stuck_moves(problem, y).sum() <= stuck_moves(problem, x).sum()


def test_the_same_is_found_each_time() -> None:
    problem, scale = a_case(seed=2)
    x = searched(problem, scale, CAPPED)

    one, other = (renewed(problem, scale, x, CAPPED) for _ in range(2))

    assert np.array_equal(one, other)


def test_nothing_is_renewed_where_no_cap_binds() -> None:
    problem, scale = a_case(seed=2)
    x = searched(problem, scale, CAPPED)

    assert renewed(problem, scale, x, ENDLESS) is x
    assert renewed(problem, scale, x, replace(ENDLESS, moves=60)) is x


def test_no_time_changes_nothing() -> None:
    problem, scale = a_case(seed=2)
    x = searched(problem, scale, CAPPED)

    y = renewed(problem, scale, x, replace(CAPPED, ends_at=0.0))

    assert np.array_equal(y, x)
