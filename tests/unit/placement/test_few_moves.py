"""Sets of few moves: side by side, so that the best first move need not be one of the best two."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from rebalancer.cluster.inventory import Snapshot
from rebalancer.placement.budget import Budget
from rebalancer.placement.few_moves import sets_of_few_moves
from rebalancer.placement.layout import Layout, Scale, scale_of
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.ordering import stuck_moves
from rebalancer.placement.problem import LIMITED, PlacementProblem
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import problem_of
from tests.unit.placement.test_easing import ENDLESS, GOALS, a_cluster


def a_case(seed: int) -> tuple[PlacementProblem, Scale]:
    problem = problem_of(a_cluster(seed, hosts=3, vms=10), a_policy(goals=GOALS))
    return problem, scale_of(find_tiers(problem), 1e4)


def cheapest_of_all(problem: PlacementProblem, scale: Scale, count: int) -> float:
    """The least cost that up to `count` moves lead to, by trying all of them."""
    limits = problem.limits(problem.start) + 1e-6
    costs = [scale.cost(problem, problem.start)]
    for units in combinations(range(problem.unit_count), count):
        for hosts in product(range(problem.host_count), repeat=count):
            x = problem.start.copy()
            x[list(units)] = hosts
            if (problem.load(x)[: len(LIMITED)] <= limits).all():
                costs.append(scale.cost(problem, x))
    return min(costs)


@pytest.mark.parametrize("seed", range(6))
def test_the_best_pair_of_moves_is_found(seed: int) -> None:
    problem, scale = a_case(seed)

    found = sets_of_few_moves(Layout(problem, problem.start, scale), 2, ENDLESS)

    cheapest = min(scale.cost(problem, x) for x in [problem.start, *found])
    assert cheapest == pytest.approx(cheapest_of_all(problem, scale, 2))


def test_moves_that_only_pay_together_are_found() -> None:
    """Two VMs change places: memory of each host is as it was, after a step in between."""
    cluster = a_snapshot(
        [a_host(f"h{k}", cpu_cores=8.0, reserved_memory_bytes=0) for k in range(2)],
        [
            a_vm("busy", on="h0", vcpus=4, cpu_used_cores=4.0, memory_bytes=8 * GIB),
            a_vm("busy-too", on="h0", vcpus=4, cpu_used_cores=4.0, memory_bytes=8 * GIB),
            a_vm("idle", on="h1", vcpus=4, cpu_used_cores=0.0, memory_bytes=8 * GIB),
            a_vm("idle-too", on="h1", vcpus=4, cpu_used_cores=0.0, memory_bytes=8 * GIB),
        ],
    )

    assert costs_after(cluster, 1) == []
    assert len(costs_after(cluster, 2)) > 0


def costs_after(cluster: Snapshot, count: int) -> list[float]:
    """Costs below that of the present placement, of sets of so many moves."""
    problem = problem_of(cluster, a_policy(goals=GOALS))
    scale = scale_of(find_tiers(problem), 1e4)
    found = sets_of_few_moves(Layout(problem, problem.start, scale), count, ENDLESS)
    before = scale.cost(problem, problem.start)
    return [cost for x in found if (cost := scale.cost(problem, x)) < before]


@pytest.mark.parametrize("seed", range(6))
def test_every_set_can_be_made_one_move_after_the_other(seed: int) -> None:
    problem, scale = a_case(seed)

    for x in sets_of_few_moves(Layout(problem, problem.start, scale), 3, ENDLESS):
        assert 0 < (x != problem.start).sum() <= 3
        assert not stuck_moves(problem, x).any()


def test_the_layout_is_as_it_was_afterwards() -> None:
    problem, scale = a_case(seed=1)
    layout = Layout(problem, problem.start, scale)

    sets_of_few_moves(layout, 3, ENDLESS)

    assert (layout.x == problem.start).all()
    assert layout.load == pytest.approx(problem.load(problem.start))


def test_no_time_finds_no_set() -> None:
    problem, scale = a_case(seed=1)
    spent = Budget(clock=lambda: 0.0, ends_at=0.0)

    assert sets_of_few_moves(Layout(problem, problem.start, scale), 3, spent) == []
