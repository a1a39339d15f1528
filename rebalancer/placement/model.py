"""A linear model under construction, and the solver behind it: PuLP with HiGHS.

Columns are known by number and rows by name, so that rows can be written by functions that
yield them, and read by people when a model turns out infeasible. Where there are thousands of
a kind they come as arrays, and they go to the solver as arrays: PuLP's own loading, which
looks at every coefficient in Python, took longer than solving.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from rebalancer.errors import SolverError
from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.solver_library import highspy, pulp


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One inequality: low ≤ Σ coefficients[k] · column[columns[k]] ≤ high."""

    name: str
    columns: Sequence[int]
    coefficients: Sequence[float]
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Many inequalities of one kind: row k has the entries from `begins[k]` to `begins[k + 1]`."""

    name: str
    begins: Ints
    """`(n + 1,)`"""
    columns: Ints
    coefficients: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(
        cls,
        name: str,
        entries: Iterable[tuple[Ints, Ints, Floats]],
        *,
        low: Floats | float = -np.inf,
        high: Floats | float = np.inf,
        count: int,
    ) -> Self:
        """Put `count` rows together from entries given as rows, columns and coefficients."""
        row, column, value = (
            np.concatenate([np.asarray(part) for part in parts])
            for parts in zip(*entries, strict=True)
        )
        order = np.argsort(row, kind="stable")
        return cls(
            name=name,
            begins=np.searchsorted(row[order], np.arange(count + 1)),
            columns=column[order].astype(np.intp),
            coefficients=value[order].astype(float),
            low=np.broadcast_to(low, count).astype(float),
            high=np.broadcast_to(high, count).astype(float),
        )

    @classmethod
    def stacked(cls, rows: Sequence[Row]) -> Self:
        """The same rows as arrays."""
        sizes = [0, *(len(row.columns) for row in rows)]
        return cls(
            name="",
            begins=np.cumsum(sizes),
            columns=np.array([c for row in rows for c in row.columns], np.intp),
            coefficients=np.array([c for row in rows for c in row.coefficients], float),
            low=np.array([row.low for row in rows], float),
            high=np.array([row.high for row in rows], float),
        )

    def __len__(self) -> int:
        return len(self.low)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """What came out of a solve."""

    values: Floats
    objective: float
    bound: float
    """No solution of the model has a smaller objective."""
    is_optimal: bool
    prices: Floats
    """By how much the objective rises with the limit of each row; of linear models only."""


@dataclass(slots=True, eq=False)
class Model:
    """Columns, rows and costs of a minimisation.

    Rows may be added after a solve: the next one goes on from where that ended, which for
    linear models is a fraction of the work. Columns and costs are final with the first solve.
    """

    name: str
    costs: list[float] = field(default_factory=list)
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    integers: set[int] = field(default_factory=set)
    starts: dict[int, float] = field(default_factory=dict)
    rows: list[Row | Rows] = field(default_factory=list)
    constant: float = 0.0
    token: object = field(default_factory=object)
    """What a worker process knows the model by; no other model ever has the same."""
    _problem: pulp.LpProblem | None = None
    _loaded: int = 0
    """How many of `rows` the solver knows."""

    @property
    def is_begun(self) -> bool:
        """Whether a solver in this process has it already, and goes on from where that was."""
        return self._problem is not None

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

    def columns(
        self,
        count: int,
        cost: Floats | float = 0.0,
        *,
        low: Floats | float = 0.0,
        high: Floats | float = np.inf,
        integer: Bools | bool = False,
    ) -> Ints:
        """Add columns and return their numbers."""
        first = len(self.costs)
        self.costs.extend(np.broadcast_to(cost, count).tolist())
        self.lows.extend(np.broadcast_to(low, count).tolist())
        self.highs.extend(np.broadcast_to(high, count).tolist())
        self.integers.update((first + np.flatnonzero(np.broadcast_to(integer, count))).tolist())
        return np.arange(first, first + count)

    def add(self, rows: Iterable[Row] | Rows) -> None:
        """Add rows."""
        if isinstance(rows, Rows):
            self.rows.append(rows)
        else:
            self.rows.extend(rows)

    def solve(
        self, seconds: float, *, gap_ratio: float = 1e-6, threads: int = 1
    ) -> Solution | None:
        """Minimise within about `seconds`; `None` if nothing usable came out.

        That may be for want of time, because the rows contradict each other, or because the
        solver failed. Callers always have an answer already, so they need not know which.
        """
        solver = _Solver(
            self,
            msg=False,
            timeLimit=max(0.05, seconds),
            gapRel=gap_ratio,
            threads=threads,
            random_seed=0,
        )
        self._problem = self._problem or pulp.LpProblem(self.name, pulp.LpMinimize)
        try:
            stats = self._problem.solve(solver)
        except pulp.PulpError:
            return None
        if not stats.has_solution:
            return None
        highs: Any = self._problem.solverModel
        solution = highs.getSolution()
        values = np.array(solution.col_value, float)
        objective = float(np.dot(self.costs, values)) + self.constant
        optimal = stats.status == pulp.LpSolveStatus.Optimal
        if self.integers:
            bound = float(highs.getInfo().mip_dual_bound)
        else:
            bound = objective if optimal else -np.inf
        return Solution(
            values=values,
            objective=objective,
            bound=min(bound, objective) if np.isfinite(bound) else -np.inf,
            is_optimal=optimal,
            prices=np.array(solution.row_dual, float),
        )

    def load(self, highs: Any) -> None:  # noqa: ANN401 (highspy has no types)
        """Hand over to the solver what it does not know yet."""
        none = np.zeros(0, np.int32)
        if not self._loaded:
            count = len(self.costs)
            bounds = np.array(self.lows), np.array(self.highs)
            highs.addCols(count, np.array(self.costs), *bounds, 0, none, none, np.zeros(0))
            highs.changeObjectiveOffset(self.constant)
            if self.integers:
                integers = np.array(sorted(self.integers), np.int32)
                kind = np.full(len(integers), highspy.HighsVarType.kInteger)
                highs.changeColsIntegrality(len(integers), integers, kind)
        for rows in self._new_rows():
            status = highs.addRows(
                len(rows),
                rows.low,
                rows.high,
                len(rows.columns),
                rows.begins[:-1].astype(np.int32),
                rows.columns.astype(np.int32),
                rows.coefficients,
            )
            if status == highspy.HighsStatus.kError:
                # It would go on without them, and call something optimal that is not allowed.
                raise SolverError(f"the solver refused {len(rows)} rows {rows.name}; this is a bug")
        if self.starts and not self._loaded:
            where = np.array(list(self.starts), np.int32)
            highs.setSolution(len(where), where, np.array(list(self.starts.values()), float))
        self._loaded = len(self.rows)

    def _new_rows(self) -> list[Rows]:
        new = self.rows[self._loaded :]
        single = [row for row in new if isinstance(row, Row)]
        return [
            *(rows for rows in new if isinstance(rows, Rows)),
            *([Rows.stacked(single)] if single else []),
        ]


class _Solver(pulp.HiGHS):
    """HiGHS behind PuLP, fed with arrays and kept from one solve of a model to the next."""

    def __init__(self, model: Model, **options: Any) -> None:  # noqa: ANN401 (they are HiGHS')
        super().__init__(**options)
        self._model = model

    def createAndConfigureSolver(self, lp: pulp.LpProblem) -> None:  # noqa: N802 (PuLP's name)
        """Make the solver, or let it go on with the time that it is given now."""
        if lp.solverModel is None:
            super().createAndConfigureSolver(lp)
        else:
            # Its clock goes on from solve to solve.
            ends_at = lp.solverModel.getRunTime() + float(self.timeLimit or 0.0)
            lp.solverModel.setOptionValue("time_limit", ends_at)

    def buildSolverModel(self, lp: pulp.LpProblem) -> None:  # noqa: N802 (PuLP's name)
        """Load the arrays of the model, not the (empty) problem of PuLP's."""
        self._model.load(lp.solverModel)
