"""What a worker process does: it reads models, solves them, and writes what came out.

Questions carry all that there is to know of a model, or of one that the worker has already,
only the rows that are new: then the solver goes on from where it was. A worker knows nothing of
clusters, so nothing has to be sent out before the first question, and one that died can be
replaced by any other.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.model import Model, Row, Rows, Solution

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The solver broke down, which is a bug, and no answer about the model."""

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
    """Answers questions; keeps the last model, as more may be asked about it."""

    def __init__(self) -> None:
        """Begin without a model."""
        self._model: Model | None = None

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
            return Failure(text=f"{type(error).__name__}: {error}")


def answer_once(question: Question) -> Answer:
    """Answer a question that stands for itself."""
    return Desk().answer(question)


def serve() -> None:
    """Answer questions from standard input until that ends, which it does with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    incoming, outgoing = _private_streams()
    questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, questions), daemon=True).start()
    desk = Desk()
    _say(outgoing, READY)
    while True:
        _say(outgoing, desk.answer(questions.get()))


def _private_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output, out of reach of whatever a solver may print."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return incoming, outgoing


def _listen(incoming: IO[bytes], questions: queue.SimpleQueue[Question]) -> None:
    """Take in questions, also while one is being answered; end the process with the parent."""
    while True:
        try:
            questions.put(pickle.load(incoming))
        except (EOFError, OSError, pickle.UnpicklingError):
            os._exit(0)


def _say(outgoing: IO[bytes], answer: Answer | str) -> None:
    try:
        pickle.dump(answer, outgoing, protocol=pickle.HIGHEST_PROTOCOL)
        outgoing.flush()
    except BrokenPipeError:
        os._exit(0)
