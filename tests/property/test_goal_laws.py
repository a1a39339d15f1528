"""The laws of goals: tiers are lexicographic, weights act inside a tier, relief is the least."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import Placement, SolveStatus
from rebalancer.cluster.policy import (
    BalanceGoal,
    GeographyCriterion,
    GeographyGoal,
    Goal,
    MovementGoal,
    MovementMeasure,
    Policy,
    RelieveGoal,
)
from rebalancer.cluster.sites import Link, Site
from rebalancer.placement.arrays import Ints
from rebalancer.placement.objectives import Tier, find_tiers
from rebalancer.placement.ordering import is_reachable
from rebalancer.placement.problem import PlacementProblem, placement_problem
from rebalancer.placement.relief_bound import relief_bound
from rebalancer.placement.solver import place
from tests.builders import GIB, NOON, a_host, a_policy, a_vm
from tests.property.laws import SAME

SITES = (
    Site(name="a", energy_price_per_kwh=0.3, carbon_g_per_kwh=50, latency_seconds={"eu": 0.01}),
    Site(name="b", energy_price_per_kwh=0.1, carbon_g_per_kwh=400, latency_seconds={"eu": 0.2}),
)
LINKS = (Link(name="wan", bytes_per_second=1e8, between=("a", "b"), price_per_gib=0.01),)

RELIEVE = RelieveGoal(tier=1, cpu_ratio=0.5)
FEWEST_GIB = MovementGoal(tier=2, weight=1.0, measure=MovementMeasure.MEMORY)
GOALS: tuple[Goal, ...] = (
    BalanceGoal(),
    RelieveGoal(cpu_ratio=0.5),
    RelieveGoal(cpu_ratio=0.6, memory_ratio=0.5),
    MovementGoal(),
    MovementGoal(measure=MovementMeasure.MEMORY, weight=1.0),
    GeographyGoal(criterion=GeographyCriterion.LATENCY, users="eu"),
    GeographyGoal(criterion=GeographyCriterion.ENERGY_PRICE),
    GeographyGoal(criterion=GeographyCriterion.CARBON),
    GeographyGoal(criterion=GeographyCriterion.WAN_COST),
)


@st.composite
def clusters(draw: st.DrawFn) -> Snapshot:
    hosts = [
        a_host(
            f"h{index}",
            cpu_cores=draw(st.sampled_from([8.0, 16.0])),
            memory_bytes=draw(st.sampled_from([16, 32])) * GIB,
            site=draw(st.sampled_from(["a", "b", None])),
        )
        for index in range(draw(st.integers(2, 3)))
    ]
    vms = [
        a_vm(
            f"v{index}",
            on=draw(st.sampled_from(hosts)).id,
            memory_bytes=draw(st.sampled_from([1, 2, 4, 8])) * GIB,
            cpu_used_cores=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, 5.0])),
            movable=draw(st.sampled_from([True] * 5 + [False])),
        )
        for index in range(draw(st.integers(0, 5)))
    ]
    return Snapshot(
        cluster="test", taken_at=NOON, hosts=tuple(hosts), vms=tuple(vms), sites=SITES, links=LINKS
    )


@st.composite
def goals_of_one_tier(draw: st.DrawFn) -> tuple[Goal, ...]:
    return tuple(draw(st.lists(st.sampled_from(GOALS), min_size=1, max_size=3, unique_by=type)))


@st.composite
def tiered_goals(draw: st.DrawFn) -> tuple[Goal, ...]:
    chosen = draw(st.lists(st.sampled_from(GOALS), min_size=1, max_size=3, unique_by=type))
    return tuple(replace(goal, tier=draw(st.integers(1, 3))) for goal in chosen)


def problem_and_tiers(
    snapshot: Snapshot, policy: Policy
) -> tuple[PlacementProblem, tuple[Tier, ...]]:
    problem = placement_problem(snapshot, Demand.as_measured(snapshot), policy)
    return problem, find_tiers(problem)


def solve(snapshot: Snapshot, policy: Policy) -> Placement:
    answer = place(
        snapshot, Demand.as_measured(snapshot), policy, clock=lambda: 0.0, time_limit_seconds=60
    )
    assert isinstance(answer, Placement)
    return answer


def allowed(problem: PlacementProblem) -> Iterator[Ints]:
    """Every placement that nothing forbids and that migrations lead to."""
    choices = []
    for unit in range(problem.unit_count):
        may = problem.candidates.hosts_of(unit) & problem.movable[unit]
        may[problem.start[unit]] = True
        choices.append(np.flatnonzero(may).tolist())
    limits = problem.limits(problem.start) + 1e-6
    for places in product(*choices):
        x = np.array(places, np.intp)
        if (problem.load(x)[: len(limits)] <= limits).all() and is_reachable(problem, x):
            yield x


def costs(problem: PlacementProblem, tiers: tuple[Tier, ...], x: Ints) -> list[float]:
    return [tier.cost(problem, x) for tier in tiers]


def columns(problem: PlacementProblem, answer: Placement) -> Ints:
    column = {host: index for index, host in enumerate(problem.host_ids)}
    return np.array([column[answer.assignment[unit[0].id]] for unit in problem.units], np.intp)


@given(clusters(), tiered_goals())
def test_what_is_called_optimal_is_that_tier_by_tier(
    snapshot: Snapshot, goals: tuple[Goal, ...]
) -> None:
    """No placement is as good in the tiers before and clearly better in one."""
    policy = a_policy(goals=goals)
    problem, tiers = problem_and_tiers(snapshot, policy)
    answer = solve(snapshot, policy)
    assume(answer.objective.status is SolveStatus.OPTIMAL)
    mine = costs(problem, tiers, columns(problem, answer))

    for x in allowed(problem):
        assert not is_before(costs(problem, tiers, x), mine, by=10 * SAME)


@given(clusters(), tiered_goals())
def test_no_tier_gets_worse_for_one_after_it(snapshot: Snapshot, goals: tuple[Goal, ...]) -> None:
    policy = a_policy(goals=goals)
    problem, tiers = problem_and_tiers(snapshot, policy)
    now = costs(problem, tiers, problem.start)

    mine = costs(problem, tiers, columns(problem, solve(snapshot, policy)))

    assert not is_before(now, mine, by=SAME)


def is_before(one: list[float], other: list[float], *, by: float) -> bool:
    """Whether the first tier in which they differ is better in `one`."""
    for first, second in zip(one, other, strict=True):
        if abs(first - second) > by:
            return first < second
    return False


@given(clusters(), goals_of_one_tier())
def test_no_bound_exceeds_what_is_possible(snapshot: Snapshot, goals: tuple[Goal, ...]) -> None:
    policy = a_policy(goals=goals)
    problem, tiers = problem_and_tiers(snapshot, policy)
    assume(len(tiers) == 1)  # with several the objective is that of the one that decided
    objective = solve(snapshot, policy).objective

    least = min(tiers[0].cost(problem, x) for x in allowed(problem))

    assert objective.bound <= least + SAME
    if objective.status is SolveStatus.OPTIMAL:
        assert objective.after <= least + 10 * SAME


@given(clusters())
def test_relief_is_told_to_be_the_least_only_where_it_is(snapshot: Snapshot) -> None:
    problem, tiers = problem_and_tiers(snapshot, a_policy(goals=(RELIEVE, FEWEST_GIB)))
    placements = [(costs(problem, tiers, x), x) for x in allowed(problem)]
    least_excess = min(cost[0] for cost, _ in placements)
    best = min((c for c in placements if c[0][0] <= least_excess + 1e-7), key=lambda c: c[0][1])

    assert relief_bound(problem, tiers[:1], best[1]) <= least_excess + SAME
    assert relief_bound(problem, tiers, best[1]) <= best[0][1] + SAME


@given(clusters(), st.sampled_from([1e-3, 7.0, 1e3]))
def test_weights_of_one_tier_matter_only_relative_to_each_other(
    snapshot: Snapshot, times: float
) -> None:
    goals = (BalanceGoal(), MovementGoal())
    heavy = tuple(replace(goal, weight=goal.weight * times) for goal in goals)
    problem, (*_, tier) = problem_and_tiers(snapshot, a_policy(goals=goals))
    _, (*_, heavier) = problem_and_tiers(snapshot, a_policy(goals=heavy))

    for x in allowed(problem):
        assert heavier.cost(problem, x) == pytest.approx(times * tier.cost(problem, x))


@given(clusters(), st.sampled_from(GOALS), st.sampled_from([2.0, 10.0]))
def test_a_goal_that_weighs_more_is_not_served_less(
    snapshot: Snapshot, goal: Goal, times: float
) -> None:
    """The best placement by more weight on one goal costs no more of that goal."""
    assume(not isinstance(goal, MovementGoal))
    light: tuple[Goal, ...] = (goal, MovementGoal(weight=0.5))
    heavy: tuple[Goal, ...] = (replace(goal, weight=goal.weight * times), MovementGoal(weight=0.5))
    problem, tiers = problem_and_tiers(snapshot, a_policy(goals=light))
    _, heavier = problem_and_tiers(snapshot, a_policy(goals=heavy))
    assume(len(tiers) == 1)

    def served(x: Ints) -> float:
        terms = tiers[0].terms(problem, x)
        return sum(terms.values()) - terms["movement"]

    places = list(allowed(problem))
    best_light = min(places, key=lambda x: tiers[0].cost(problem, x))
    best_heavy = min(places, key=lambda x: heavier[0].cost(problem, x))

    assert served(best_heavy) <= served(best_light) + 1e-9
