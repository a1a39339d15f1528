"""Linear models as arrays: they come to what the same model made row by row comes to."""

from __future__ import annotations

import numpy as np
import pulp
import pytest

from rebalancer.placement.model import Model, Row, Rows


def a_knapsack(*, integer: bool) -> Model:
    """Worth 6, 10 and 12 for weights 1, 2 and 3, of which 5 can be carried."""
    model = Model("knapsack", constant=100.0)
    columns = model.columns(3, -np.array([6.0, 10.0, 12.0]), high=1.0, integer=integer)
    weight = np.zeros(3, np.intp), columns, np.array([1.0, 2.0, 3.0])
    model.add(Rows.of("weight", [weight], high=5.0, count=1))
    return model


def test_what_a_relaxation_finds_is_a_bound_on_whole_things() -> None:
    parts, whole = a_knapsack(integer=False).solve(10), a_knapsack(integer=True).solve(10)

    assert parts is not None
    assert whole is not None
    assert parts.objective == pytest.approx(76.0)
    assert whole.objective == whole.bound == pytest.approx(78.0)
    assert whole.is_optimal


def test_rows_one_by_one_and_at_once_are_the_same_model() -> None:
    one_by_one = Model("rows", costs=[-6.0, -10.0], lows=[0.0, 0.0], highs=[1.0, 1.0])
    one_by_one.add([Row(name="weight", columns=[0, 1], coefficients=[1.0, 2.0], high=2.0)])
    at_once = Model("rows", costs=[-6.0, -10.0], lows=[0.0, 0.0], highs=[1.0, 1.0])
    at_once.add(Rows.stacked([Row(name="w", columns=[1, 0], coefficients=[2.0, 1.0], high=2.0)]))

    first, second = one_by_one.solve(10), at_once.solve(10)

    assert first is not None
    assert second is not None
    assert first.objective == second.objective == pytest.approx(-11.0)


def test_pulp_itself_finds_the_same() -> None:
    problem = pulp.LpProblem("knapsack", pulp.LpMinimize)
    x = [problem.add_variable(f"x{k}", 0, 1) for k in range(3)]
    problem.setObjective(-6 * x[0] - 10 * x[1] - 12 * x[2] + 100)
    problem.addConstraint(x[0] + 2 * x[1] + 3 * x[2] <= 5, "weight")
    stats = problem.solve(pulp.HiGHS(msg=False))

    solution = a_knapsack(integer=False).solve(10)

    assert solution is not None
    assert solution.objective == pytest.approx(stats.objective)


def test_a_solve_goes_on_with_the_rows_that_were_added() -> None:
    model = a_knapsack(integer=False)
    first = model.solve(10)
    model.add([Row(name="not the last", columns=[2], coefficients=[1.0], high=0.0)])

    second = model.solve(10)

    assert first is not None
    assert second is not None
    assert first.objective < second.objective == pytest.approx(84.0)
    assert second.values[2] == pytest.approx(0.0)


def test_rows_have_the_price_of_asking_for_more() -> None:
    solution = a_knapsack(integer=False).solve(10)

    assert solution is not None
    assert solution.prices.tolist() == pytest.approx([-4.0])


def test_rows_of_entries_in_any_order_are_sorted_into_rows() -> None:
    rows = Rows.of(
        "mixed",
        [
            (np.array([2, 0]), np.array([5, 6]), np.array([1.0, 2.0])),
            (np.array([0]), np.array([7]), np.array([3.0])),
        ],
        low=0.0,
        count=3,
    )

    assert rows.begins.tolist() == [0, 2, 2, 3]
    assert rows.columns.tolist() == [6, 7, 5]
    assert rows.coefficients.tolist() == [2.0, 3.0, 1.0]


def test_a_model_that_contradicts_itself_has_no_solution() -> None:
    model = a_knapsack(integer=False)
    model.add([Row(name="too much", columns=[0], coefficients=[1.0], low=2.0)])

    assert model.solve(10) is None
