"""What no placement can be better than."""

from __future__ import annotations

import numpy as np
import pytest

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.policy import (
    BalancedResource,
    BalanceGoal,
    GeographyCriterion,
    GeographyGoal,
    MovementGoal,
    Policy,
    PowerGoal,
)
from rebalancer.cluster.sites import Site
from rebalancer.placement.bound import Relaxation, relax, strengthen
from rebalancer.placement.budget import Budget
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.problem import PlacementProblem, placement_problem
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm

FREE = (BalanceGoal(memory_weight=0.0), MovementGoal(weight=0.0))


def a_problem(snapshot: Snapshot, policy: Policy) -> PlacementProblem:
    return placement_problem(snapshot, Demand.as_measured(snapshot), policy)


def relaxed(problem: PlacementProblem, moves: int | None = None) -> Relaxation:
    nobody = np.zeros(problem.unit_count, bool)
    budget = Budget(clock=lambda: 0.0, ends_at=60.0, moves=moves)
    relaxation = relax(problem, find_tiers(problem)[-1], must_leave=nobody, budget=budget)
    assert relaxation is not None
    return relaxation


def strengthened(problem: PlacementProblem, known: float, moves: int | None = None) -> float:
    budget = Budget(clock=lambda: 0.0, ends_at=60.0, moves=moves)
    return strengthen(relaxed(problem, moves), known=known, budget=budget).bound


def three_on_one_of_two() -> Snapshot:
    """In parts they could be shared evenly; whole ones cannot."""
    vms = [a_vm(f"v{k}", on="h1", cpu_used_cores=2.0, vcpus=4) for k in range(3)]
    return a_snapshot([a_host("h1", cpu_cores=8.0), a_host("h2", cpu_cores=8.0)], vms)


def test_by_parts_of_vms_a_cluster_could_be_perfectly_even() -> None:
    problem = a_problem(three_on_one_of_two(), a_policy(goals=FREE))

    assert relaxed(problem).bound == pytest.approx(0.0, abs=1e-4)


def test_by_whole_vms_it_could_not() -> None:
    problem = a_problem(three_on_one_of_two(), a_policy(goals=FREE))
    best = 2 * (1 / 8) ** 2

    assert strengthened(problem, known=best) == pytest.approx(best, rel=0.1)


def test_what_can_be_reached_is_no_less_than_the_bound_where_moves_are_capped() -> None:
    vms = [a_vm(f"v{k}", on="h1", cpu_used_cores=1.0, memory_bytes=GIB) for k in range(6)]
    snapshot = a_snapshot([a_host(f"h{k}", cpu_cores=8.0) for k in (1, 2, 3)], vms)
    problem = a_problem(snapshot, a_policy(goals=FREE))
    tier = find_tiers(problem)[-1]
    x = problem.start.copy()
    x[0] = 1
    best = tier.cost(problem, x)

    assert relaxed(problem, moves=1).bound <= best
    assert relaxed(problem).bound < strengthened(problem, best, moves=1) <= best + 1e-7


def test_the_relaxation_names_the_vms_that_are_worth_moving() -> None:
    vms = [
        a_vm("light", on="h1", cpu_used_cores=4.0, vcpus=8, memory_bytes=GIB),
        a_vm("heavy", on="h1", cpu_used_cores=4.0, vcpus=8, memory_bytes=16 * GIB),
    ]
    goals = (BalanceGoal(memory_weight=0.0), MovementGoal(weight=0.1))
    problem = a_problem(a_snapshot([a_host("h1"), a_host("h2")], vms), a_policy(goals=goals))

    leaves = dict(
        zip([unit[0].name for unit in problem.units], relaxed(problem).leaves, strict=True)
    )

    assert leaves["light"] > 0.9 > leaves["heavy"]


def test_what_is_guarded_is_part_of_the_bound() -> None:
    """All CPU is on one host and all memory on the other: to share CPU takes memory across."""
    vms = [a_vm(f"hot{k}", on="h1", cpu_used_cores=4.0, memory_bytes=4 * GIB) for k in range(2)]
    vms += [a_vm(f"big{k}", on="h2", cpu_used_cores=0.0, memory_bytes=4 * GIB) for k in range(2)]
    snapshot = a_snapshot([a_host("h1"), a_host("h2")], vms)
    guarded = (
        BalanceGoal(memory_weight=0.0, guard=frozenset({BalancedResource.MEMORY})),
        MovementGoal(weight=0.0),
    )

    free = strengthened(a_problem(snapshot, a_policy(goals=FREE)), known=0.0)
    held = strengthened(a_problem(snapshot, a_policy(goals=guarded)), known=1e-3)

    assert free <= 1e-6
    assert free - 1e-6 <= held <= 1e-3


def test_a_price_that_goes_by_load_is_that_of_the_hosts_there_is_room_on() -> None:
    """Everything on the greener site is more than fits there."""
    sites = [Site(name="green", carbon_g_per_kwh=100), Site(name="coal", carbon_g_per_kwh=500)]
    hosts = [a_host("h1", site="green", cpu_cores=8.0), a_host("h2", site="coal", cpu_cores=8.0)]
    vms = [a_vm(f"v{k}", on="h2", cpu_used_cores=3.0, memory_bytes=GIB) for k in range(4)]
    goals = (GeographyGoal(criterion=GeographyCriterion.CARBON),)
    problem = a_problem(a_snapshot(hosts, vms, sites=sites), a_policy(goals=goals))
    tier = find_tiers(problem)[-1]
    x = problem.start.copy()
    x[:2] = 0

    bound = relaxed(problem).bound

    assert 0.75 * tier.cost(problem, x) < bound <= tier.cost(problem, x)


def test_a_use_of_next_to_nothing_does_not_spoil_the_bound() -> None:
    vm = a_vm("v", on="h1", cpu_used_cores=1e-200)
    snapshot = a_snapshot([a_host("h1"), a_host("h2")], [vm])
    problem = a_problem(snapshot, a_policy(goals=(PowerGoal(), *FREE)))
    tier = find_tiers(problem)[-1]

    assert relaxed(problem).bound <= tier.cost(problem, problem.start)


def test_a_host_that_cannot_be_emptied_draws_its_watts() -> None:
    vms = [a_vm("stays", on="h1", movable=False), a_vm("goes", on="h2")]
    problem = a_problem(
        a_snapshot([a_host("h1"), a_host("h2")], vms), a_policy(goals=(PowerGoal(min_awake=1),))
    )
    tier = find_tiers(problem)[-1]

    bound = relaxed(problem).bound

    both_on_one = tier.cost(problem, np.zeros(2, np.intp))
    assert bound == pytest.approx(both_on_one, rel=1e-3)


def test_without_time_nothing_is_known() -> None:
    problem = a_problem(three_on_one_of_two(), a_policy(goals=FREE))
    nobody = np.zeros(problem.unit_count, bool)
    spent = Budget(clock=lambda: 1.0, ends_at=1.0)

    assert relax(problem, find_tiers(problem)[-1], must_leave=nobody, budget=spent) is None
    relaxation = relaxed(problem)
    assert strengthen(relaxation, known=1.0, budget=spent).bound == relaxation.bound
