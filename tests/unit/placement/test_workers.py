"""What is done at the same time, and what becomes of the rest when one part fails."""

from __future__ import annotations

import os
import threading

import pytest

from rebalancer.placement.budget import Budget
from rebalancer.placement.model import Model, Solution
from rebalancer.placement.worker import Columns, Desk, Failure, packed, part_of, question_of
from rebalancer.placement.workers import (
    IN_THIS_PROCESS,
    Task,
    at_once,
    both_at_once,
    patience_seconds,
    shared,
)
from tests.programs import Squares, a_linear_program, a_program, without_column


class TwoWorkers:
    """Stands for two workers that come to nothing; `is_closed` is set when they are stopped."""

    width = 2
    remarks: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.is_closed = threading.Event()

    def get_ready(self) -> None:
        pass

    def solve(self, model: Model, seconds: float, *, gap_ratio: float) -> Solution | None:
        del model, gap_ratio
        self.is_closed.wait(seconds)
        return None

    def do[P, R](self, task: Task[P, R], part: P, budget: Budget) -> R | None:
        del task, part, budget
        self.is_closed.wait(0.01)
        return None

    def close(self) -> None:
        self.is_closed.set()


def within(seconds: float, workers: TwoWorkers) -> Budget:
    """A budget of which nothing is ever spent."""
    return Budget(clock=lambda: 0.0, ends_at=seconds, workers=workers)


def test_answers_come_in_the_order_of_the_calls() -> None:
    calls = [lambda n=n: n for n in range(7)]

    assert at_once(TwoWorkers(), calls) == at_once(IN_THIS_PROCESS, calls) == list(range(7))


def test_calls_are_really_made_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=60)

    at_once(TwoWorkers(), [meeting.wait] * 2)
    both_at_once(TwoWorkers(), meeting.wait, meeting.wait)

    assert not meeting.broken


def test_without_workers_one_thing_is_done_after_the_other() -> None:
    done: list[str] = []

    both_at_once(IN_THIS_PROCESS, lambda: done.append("here"), lambda: done.append("beside"))

    assert done == ["here", "beside"]


def test_when_one_part_fails_workers_are_stopped_so_that_the_other_ends() -> None:
    workers = TwoWorkers()

    with pytest.raises(ZeroDivisionError):
        both_at_once(workers, lambda: 1 // 0, lambda: workers.is_closed.wait(60))

    assert workers.is_closed.is_set()


def test_what_others_come_to_nothing_with_is_done_here() -> None:
    parts = list(range(9))

    done = shared(Squares(), parts, within(60.0, TwoWorkers()))

    assert [square for square, _ in done] == [part * part for part in parts]


def test_without_time_left_the_first_part_at_least_is_there() -> None:
    done = shared(Squares(), [3, 4], within(0.0, TwoWorkers()))

    assert next(square for square, _ in done) == 9


def test_no_parts_come_to_nothing() -> None:
    assert shared(Squares(), [], within(60.0, TwoWorkers())) == []


def test_a_part_that_fails_here_stops_the_workers() -> None:
    class Broken:
        def do(self, part: int, budget: Budget) -> int:
            del budget
            return 1 // part

    workers = TwoWorkers()

    with pytest.raises(ZeroDivisionError):
        shared(Broken(), [0, 0, 0], within(60.0, workers))

    assert workers.is_closed.is_set()


@pytest.mark.parametrize(
    ("limit", "patience"), [(0.1, 1.1), (2.0, 3.0), (8.0, 10.0), (30.0, 35.0), (600.0, 605.0)]
)
def test_a_solver_may_be_late_by_a_quarter_but_not_by_much(limit: float, patience: float) -> None:
    assert patience_seconds(limit) == pytest.approx(patience)


def test_a_model_that_was_sent_is_the_same_model() -> None:
    model = a_program()
    model.starts[0] = 1.0
    model.constant = 4.0

    sent = Columns.of(model).model()

    assert (sent.costs, sent.lows, sent.highs) == (model.costs, model.lows, model.highs)
    assert (sent.integers, sent.starts, sent.constant) == (model.integers, {0: 1.0}, 4.0)


def test_rows_travel_in_few_arrays() -> None:
    model = a_program()

    (rows,) = packed(model.rows)

    assert len(rows) == len(model.rows)


def test_more_rows_of_a_known_model_are_all_that_is_sent() -> None:
    model, desk = a_linear_program(), Desk()
    desk.answer(question_of(model, 0, 60.0, 0.0))
    known = len(model.rows)
    without_column(model, 0)

    question = question_of(model, known, 60.0, 0.0)
    answer = desk.answer(question)

    assert question.columns is None
    assert [len(rows) for rows in question.rows] == [1]
    assert isinstance(answer, Solution)
    assert answer.objective == pytest.approx(1.0)


def test_a_solver_that_breaks_down_is_told_and_does_not_end_the_worker() -> None:
    model, desk = a_program(), Desk()
    question = question_of(model, 0, 60.0, 0.05)
    question.rows[0].columns[0] = 10_000  # there is no such column

    broken = desk.answer(question)

    assert isinstance(broken, Failure)
    assert "refused" in broken.text
    assert isinstance(desk.answer(question_of(model, 0, 60.0, 0.05)), Solution)


def test_a_task_is_sent_once_and_its_parts_one_by_one() -> None:
    desk, budget = Desk(), within(60.0, TwoWorkers())

    first = desk.do(part_of(Squares(), 3, budget), lambda: 0.0)
    second = desk.do(part_of(None, 4, budget), lambda: 0.0)

    assert [first, second] == [(9, os.getpid()), (16, os.getpid())]


def test_a_part_has_the_time_that_is_left_and_the_same_cap() -> None:
    class Asking:
        def do(self, part: None, budget: Budget) -> tuple[float, int | None]:
            del part
            return budget.left(), budget.moves

    asked = part_of(Asking(), None, Budget(clock=lambda: 7.0, ends_at=12.0, moves=3))

    assert Desk().do(asked, lambda: 1000.0) == (5.0, 3)


def test_a_task_that_breaks_down_is_told_and_does_not_end_the_worker() -> None:
    desk, budget = Desk(), within(60.0, TwoWorkers())

    broken = desk.do(part_of(Squares(mishap="breaks"), 3, budget), lambda: 0.0)

    assert broken == Failure(text="ZeroDivisionError: of the task")
    assert desk.do(part_of(Squares(), 3, budget), lambda: 0.0) == (9, os.getpid())
