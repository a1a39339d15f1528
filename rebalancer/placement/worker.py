"""What a worker process does: it reads models, solves them, and writes what came out.

Questions carry all that there is to know of a model, or of one that the worker has already,
only the rows that are new: then the solver goes on from where it was. With parts of tasks it is
the same: the task comes with the first part. A worker knows nothing of clusters, so nothing has
to be sent out before the first question, and one that died can be replaced by any other.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.model import Model, Row, Rows, Solution
from rebalancer.placement.workers import Task

READY = "ready"
"""What a worker says first, when it could be asked something."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """The columns of a model, as arrays."""

    costs: Floats
    lows: Floats
    highs: Floats
    integers: Ints
    started: Ints
    """Columns with a value to start from, and in `starts` these values."""
    starts: Floats
    constant: float

    @classmethod
    def of(cls, model: Model) -> Columns:
        """Take them from a model."""
        return cls(
            costs=np.array(model.costs, float),
            lows=np.array(model.lows, float),
            highs=np.array(model.highs, float),
            integers=np.array(sorted(model.integers), np.intp),
            started=np.array(list(model.starts), np.intp),
            starts=np.array(list(model.starts.values()), float),
            constant=model.constant,
        )

    def model(self) -> Model:
        """A model of these columns, without rows."""
        return Model(
            "model",
            costs=self.costs.tolist(),
            lows=self.lows.tolist(),
            highs=self.highs.tolist(),
            integers=set(self.integers.tolist()),
            starts=dict(zip(self.started.tolist(), self.starts.tolist(), strict=True)),
            constant=self.constant,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """A model to be solved."""

    columns: Columns | None
    """`None`: that of the last question, with more rows."""
    rows: Sequence[Rows]
    seconds: float
    gap_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """A part of a task to be done."""

    task: Task[Any, Any] | None
    """`None`: that of the last part."""
    part: Any
    seconds: float
    moves: int | None
    exempt: Bools | None
    """As in a `Budget`; seconds are what is left of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The solver or a search broke down, which is a bug, and no answer."""

    text: str


type Answer = Solution | Failure | None


def question_of(model: Model, known: int, seconds: float, gap_ratio: float) -> Question:
    """Ask about a model of which the first `known` rows were sent before; 0: nothing was."""
    return Question(
        columns=None if known else Columns.of(model),
        rows=packed(model.rows[known:]),
        seconds=seconds,
        gap_ratio=gap_ratio,
    )


def part_of[P](task: Task[P, Any] | None, part: P, budget: Budget) -> Part:
    """Ask for a part of a task to be done in what is left of the budget."""
    return Part(
        task=task, part=part, seconds=budget.left(), moves=budget.moves, exempt=budget.exempt
    )


def packed(rows: Sequence[Row | Rows]) -> list[Rows]:
    """The same rows in few arrays: objects by the thousand travel slowly.

    They are in the order that `Model.load` gives them, so that prices of rows come out alike.
    """
    single = [row for row in rows if isinstance(row, Row)]
    return [
        *(row for row in rows if isinstance(row, Rows)),
        *([Rows.stacked(single)] if single else []),
    ]


class Desk:
    """Answers questions; keeps the last model and task, as more may be asked about them."""

    def __init__(self) -> None:
        """Begin without a model or a task."""
        self._model: Model | None = None
        self._task: Task[Any, Any] | None = None

    def answer(self, question: Question) -> Answer:
        """Solve the model that is asked about."""
        if question.columns is not None:
            self._model = question.columns.model()
        assert self._model is not None, "the first question brings its columns"
        for rows in question.rows:
            self._model.add(rows)
        try:
            return self._model.solve(question.seconds, gap_ratio=question.gap_ratio)
        except MemoryError:
            return None
        except Exception as error:  # noqa: BLE001  whatever it is, it is told over there
            return _failure(error)

    def do(self, asked: Part, clock: Callable[[], float]) -> Any | Failure | None:  # noqa: ANN401
        """Do a part of a task; `clock` tells seconds that only ever grow."""
        self._task = asked.task or self._task
        assert self._task is not None, "the first part brings its task"
        budget = Budget(
            clock=clock, ends_at=clock() + asked.seconds, moves=asked.moves, exempt=asked.exempt
        )
        try:
            return self._task.do(asked.part, budget)
        except MemoryError:
            return None
        except Exception as error:  # noqa: BLE001  as above
            return _failure(error)


def _failure(error: Exception) -> Failure:
    return Failure(text=f"{type(error).__name__}: {error}")


def answer_once(question: Question) -> Answer:
    """Answer a question that stands for itself."""
    return Desk().answer(question)


def serve(clock: Callable[[], float]) -> None:
    """Answer questions from standard input until that ends, which it does with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    incoming, outgoing = _private_streams()
    questions: queue.SimpleQueue[Question | Part] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, questions), daemon=True).start()
    desk = Desk()
    _say(outgoing, READY)
    while True:
        asked = questions.get()
        _say(outgoing, desk.do(asked, clock) if isinstance(asked, Part) else desk.answer(asked))


def _private_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output, out of reach of whatever a solver may print."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return incoming, outgoing


def _listen(incoming: IO[bytes], questions: queue.SimpleQueue[Question | Part]) -> None:
    """Take in questions, also while one is being answered; end the process with the parent."""
    while True:
        try:
            questions.put(pickle.load(incoming))
        except (EOFError, OSError, pickle.UnpicklingError):
            os._exit(0)


def _say(outgoing: IO[bytes], answer: object) -> None:
    try:
        pickle.dump(answer, outgoing, protocol=pickle.HIGHEST_PROTOCOL)
        outgoing.flush()
    except BrokenPipeError:
        os._exit(0)
