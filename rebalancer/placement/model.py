"""A linear model under construction, and the solver behind it: PuLP with HiGHS.

Columns are known by number and rows by name, so that rows can be written by functions that
yield them, and read by people when a model turns out infeasible.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pulp

from rebalancer.placement.arrays import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One inequality: low ≤ Σ coefficients[k] · column[columns[k]] ≤ high."""

    name: str
    columns: Sequence[int]
    coefficients: Sequence[float]
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """What came out of a solve."""

    values: Floats
    objective: float
    bound: float
    """No solution of the model has a smaller objective."""
    is_optimal: bool


@dataclass(slots=True, eq=False)
class Model:
    """Columns, rows and costs of a minimisation."""

    name: str
    costs: list[float] = field(default_factory=list)
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    integers: set[int] = field(default_factory=set)
    starts: dict[int, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    constant: float = 0.0

    def column(
        self,
        cost: float = 0.0,
        *,
        low: float = 0.0,
        high: float = np.inf,
        is_integer: bool = False,
        start: float | None = None,
    ) -> int:
        """Add a column and return its number."""
        number = len(self.costs)
        self.costs.append(cost)
        self.lows.append(low)
        self.highs.append(high)
        if is_integer:
            self.integers.add(number)
        if start is not None:
            self.starts[number] = start
        return number

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows."""
        self.rows.extend(rows)

    def solve(
        self, seconds: float, *, gap_ratio: float = 1e-6, threads: int = 1
    ) -> Solution | None:
        """Minimise within about `seconds`; `None` if nothing usable came out.

        That may be for want of time, because the rows contradict each other, or because the
        solver failed. Callers always have an answer already, so they need not know which.
        """
        problem, variables = self._as_pulp()
        solver = pulp.HiGHS(
            msg=False,
            timeLimit=max(0.05, seconds),
            gapRel=gap_ratio,
            threads=threads,
            warmStart=bool(self.starts),
            random_seed=0,
        )
        try:
            stats = problem.solve(solver)
        except pulp.PulpError:
            return None
        if not stats.has_solution:
            return None
        values = np.array([variable.varValue for variable in variables], float)
        objective = float(np.dot(self.costs, values)) + self.constant
        optimal = stats.status == pulp.LpSolveStatus.Optimal
        bound = stats.best_bound
        if bound is None:
            bound = objective if optimal and not self.integers else -np.inf
        return Solution(
            values=values, objective=objective, bound=min(bound, objective), is_optimal=optimal
        )

    def _as_pulp(self) -> tuple[pulp.LpProblem, list[pulp.LpVariable]]:
        problem = pulp.LpProblem(self.name, pulp.LpMinimize)
        variables = [
            problem.add_variable(
                f"x{number}",
                None if low == -np.inf else low,
                None if high == np.inf else high,
                "Integer" if number in self.integers else "Continuous",
            )
            for number, (low, high) in enumerate(zip(self.lows, self.highs, strict=True))
        ]
        for number, value in self.starts.items():
            variables[number].setInitialValue(value)
        costs = pulp.lpSum_vars_coefs(zip(variables, self.costs, strict=True))
        problem.setObjective(costs + self.constant)
        for row in self.rows:
            chosen = [variables[column] for column in row.columns]
            sum_of = pulp.lpSum_vars_coefs(zip(chosen, row.coefficients, strict=True))
            if row.low == row.high:
                problem.addConstraint(sum_of == row.high, row.name)
                continue
            if row.high < np.inf:
                problem.addConstraint(sum_of <= row.high, row.name)
            if row.low > -np.inf:
                problem.addConstraint(sum_of >= row.low, f"{row.name} low")
        return problem, variables
