"""The best of all sets of up to three moves, with the proof, or nothing where that is too much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rebalancer.cluster.plan import SolveStatus
from rebalancer.cluster.policy import Limits
from rebalancer.placement.budget import Budget
from rebalancer.placement.few_moves_proof import Proved, best_of_all_sets
from rebalancer.placement.layout import scale_of
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.problem import PlacementProblem
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import moves, problem_of, solve
from tests.unit.placement.test_easing import ENDLESS, GOALS, a_cluster
from tests.unit.placement.test_few_moves import cheapest_of_all


def best_of(
    problem: PlacementProblem, count: int | None, budget: Budget = ENDLESS
) -> Proved | None:
    tier = find_tiers(problem)[-1]
    return best_of_all_sets(problem, tier, problem.start, replace(budget, moves=count))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_brute_force_finds_nothing_cheaper(seed: int, count: int) -> None:
    problem = problem_of(a_cluster(seed, hosts=3, vms=9), a_policy(goals=GOALS))
    tiers = find_tiers(problem)

    found = best_of(problem, count)

    assert found is not None
    cheapest = cheapest_of_all(problem, scale_of(tiers, 1e4), count)
    assert found.bound == pytest.approx(cheapest, abs=1e-8)
    assert tiers[-1].cost(problem, found.x) == pytest.approx(cheapest, abs=1e-8)
    assert (found.x != problem.start).sum() <= count


def test_a_plan_of_few_moves_is_called_optimal() -> None:
    cluster = a_cluster(seed=2, hosts=8, vms=60)
    policy = a_policy(goals=GOALS, limits=Limits(migrations=3))

    answer = solve(cluster, policy)

    assert answer.objective.status is SolveStatus.OPTIMAL
    assert len(moves(cluster, answer)) == 3


def test_where_the_best_moves_wait_for_each_other_the_best_others_are_known_too() -> None:
    """Only "busy" and "idle" that change places cost no memory, and neither host has room."""
    cluster = a_snapshot(
        [
            a_host(f"h{k}", cpu_cores=8.0, memory_bytes=16 * GIB, reserved_memory_bytes=0)
            for k in range(2)
        ],
        [
            a_vm("busy", on="h0", vcpus=4, cpu_used_cores=4.0, memory_bytes=8 * GIB),
            a_vm("busy-too", on="h0", vcpus=4, cpu_used_cores=4.0, memory_bytes=8 * GIB),
            a_vm("idle", on="h1", vcpus=4, cpu_used_cores=0.0, memory_bytes=8 * GIB),
            a_vm("idle-too", on="h1", vcpus=4, cpu_used_cores=0.0, memory_bytes=8 * GIB),
        ],
    )
    problem = problem_of(cluster, a_policy(goals=GOALS))

    found = best_of(problem, 2)

    assert found is not None
    assert np.bincount(found.x[:2], minlength=2).tolist() == [1, 1]
    assert found.others[0].tolist() == problem.start.tolist()
    assert found.easiest.tolist() == problem.start.tolist()


def test_what_has_to_move_is_left_to_searches() -> None:
    problem = problem_of(a_cluster(seed=1, hosts=3, vms=9), a_policy(goals=GOALS))
    x = problem.start.copy()
    x[0] = (x[0] + 1) % 3
    budget = replace(ENDLESS, moves=1, exempt=x != problem.start)

    assert best_of_all_sets(problem, find_tiers(problem)[-1], x, budget) is None


@pytest.mark.parametrize("count", [None, 4])
def test_more_than_three_moves_are_left_to_searches(count: int | None) -> None:
    assert best_of(problem_of(a_cluster(seed=1), a_policy(goals=GOALS)), count) is None


def test_too_many_moves_to_choose_from_are_left_to_searches() -> None:
    cluster = a_cluster(seed=1, hosts=20, vms=100)

    assert best_of(problem_of(cluster, a_policy(goals=GOALS)), 3) is None


def test_without_time_nothing_is_said() -> None:
    problem = problem_of(a_cluster(seed=1), a_policy(goals=GOALS))

    assert best_of(problem, 3, Budget(clock=lambda: 0.0, ends_at=0.0)) is None
