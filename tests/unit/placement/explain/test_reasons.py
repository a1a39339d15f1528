"""What moves are for, and what each is worth."""

from __future__ import annotations

import pytest

from rebalancer.cluster.policy import BalanceGoal, MovementGoal
from rebalancer.placement.explain.possibility import in_terms_of
from rebalancer.placement.objectives import find_tiers
from tests.builders import a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING, a_hot_host, problem_of, solve


def test_a_move_is_worth_what_the_objective_is_less_without_it() -> None:
    snapshot = a_hot_host()
    problem = problem_of(snapshot)
    tier = find_tiers(problem)[0]

    answer = solve(snapshot)

    x = in_terms_of(problem, answer.assignment)
    assert x is not None
    for gain in answer.explanation.gains:
        unit = next(k for k, vms in enumerate(problem.units) if vms[0].id == gain.vm)
        without = x.copy()
        without[unit] = problem.start[unit]
        lost = tier.cost(problem, without) - tier.cost(problem, x)
        assert gain.total == pytest.approx(lost, abs=1e-9)
        assert gain.total > 0
        assert gain.by_goal["balance"] > 0 > gain.by_goal["movement"]


def test_a_reason_names_the_relief_in_per_cent_and_the_gain_by_goal() -> None:
    reasons = set(solve(a_hot_host()).reasons.values())

    assert any("cpu of h1 75 % → 25 %, h2 0 % → 25 %; gains 0.03" in one for one in reasons)
    assert all("(balance 0." in one and "movement −0." in one for one in reasons)


def test_only_vms_that_move_have_a_gain() -> None:
    answer = solve(a_hot_host())

    moved = {vm for vm, host in answer.assignment.items() if host != "h1"}
    assert {gain.vm for gain in answer.explanation.gains} == moved


def test_a_drain_is_not_weighed_against_what_it_costs() -> None:
    snapshot = a_snapshot([a_host("h1", state=DRAINING), a_host("h2")], [a_vm("a")])

    answer = solve(snapshot, a_policy(goals=(BalanceGoal(), MovementGoal())))

    assert answer.reasons["a"].startswith("h1 is draining")  # type: ignore[index]
