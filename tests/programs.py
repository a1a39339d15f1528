"""Models and tasks for those who run them: quick ones, and some that take for ever."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.budget import Budget
from rebalancer.placement.model import Model, Row, Rows


def a_program(seed: int = 0, *, items: int = 12, bins: int = 6) -> Model:
    """Divide items of five kinds of weight among bins, so that the fullest is least full."""
    weights = np.random.default_rng(seed).integers(100, 1000, (items, 5)) / 1000
    model = Model("bins")
    chosen = [[model.column(high=1.0, is_integer=True) for _ in range(bins)] for _ in range(items)]
    fullest = model.column(1.0)
    model.add(
        Row(name=f"item {item}", columns=columns, coefficients=[1.0] * bins, low=1.0, high=1.0)
        for item, columns in enumerate(chosen)
    )
    model.add(
        Row(
            name=f"bin {number} kind {kind}",
            columns=[*(columns[number] for columns in chosen), fullest],
            coefficients=[*weights[:, kind].tolist(), -1.0],
            high=0.0,
        )
        for number in range(bins)
        for kind in range(5)
    )
    return model


def an_endless_program() -> Model:
    """One that no solver proves before anybody loses patience."""
    return a_program(items=60)


def a_linear_program(columns: int = 300) -> Model:
    """Σ x = 1 with rising costs, and many rows that say next to nothing."""
    model = Model("line")
    x = model.columns(columns, np.arange(columns, dtype=float))
    model.add([Row(name="all", columns=x.tolist(), coefficients=[1.0] * columns, low=1, high=1)])
    count = 100
    idle = (np.repeat(np.arange(count), columns), np.tile(x, count), np.ones(count * columns))
    model.add(Rows.of("idle", [idle], high=np.arange(2.0, count + 2.0), count=count))
    return model


def without_column(model: Model, column: int) -> None:
    """Add the row that the column is 0."""
    model.add([Row(name=f"not {column}", columns=[column], coefficients=[1.0], high=0.0)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Squares:
    """A task whose parts are numbers to be squared; with `mishap` where it is not done here."""

    mishap: str = ""
    here: int = 0
    """The process in which nothing befalls it."""

    def do(self, part: int, budget: Budget) -> tuple[int, int]:
        """The square, and the process that came to it."""
        if self.mishap and os.getpid() != self.here:
            self._befall(budget)
        return part * part, os.getpid()

    def _befall(self, budget: Budget) -> None:
        if self.mishap == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mishap == "breaks":
            raise ZeroDivisionError("of the task")
        while True:  # "hangs", whatever time it is
            budget.left()
