"""One process that solves models and does parts of searches, and that is killed when it is late.

It is started afresh and not forked: the daemon has threads, and a forked copy of those is
broken. It is sent nothing but models and tasks in arrays and knows nothing else
(`placement.worker`). It ends when this process does, however that ends: then its standard input
comes to an end.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from rebalancer.placement.budget import Budget
from rebalancer.placement.model import Model
from rebalancer.placement.worker import READY, Answer, Part, Question, part_of, question_of
from rebalancer.placement.workers import Task, patience_seconds

START_SECONDS = 30.0
"""A process that cannot be asked anything by then never will be."""

# With -I neither the present folder nor variables say what is imported: it is imported from
# where this process imports from, and from nowhere else.
_PROGRAM = """\
import json, sys, time
sys.path[:] = json.loads(sys.argv[1])
from rebalancer.placement.worker import serve
serve(time.monotonic)
"""


class DiedError(Exception):
    """The process is no more, though nobody here ended it."""


class OverranError(Exception):
    """The solver did not stop when it should have, and was killed."""


class WorkerProcess:
    """A process, the model and the task that it has, and pipes to it."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it; raises `OSError` where that is not possible."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is sent to all processes of a terminal's group, and is not for this one.
            process_group=0,
            # The solver is asked for one thread, and nothing else in there needs any.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self.was_ready = False
        self._token: object | None = None
        self._rows_known = 0
        self._task: Task[Any, Any] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def knows(self, model: Model) -> bool:
        """Whether it has the model, or an earlier state of it."""
        return self._token is model.token

    def has(self, task: Task[Any, Any]) -> bool:
        """Whether it has the task."""
        return self._task is task

    def ask(self, model: Model, seconds: float, gap_ratio: float) -> Answer:
        """Have the model solved; raises `OverranError`, `DiedError`."""
        known = self._rows_known if self.knows(model) else 0
        question = question_of(model, known, seconds, gap_ratio)
        self._await_readiness()
        self._token, self._rows_known = None, 0
        answer: Answer = self._answer_to(question)
        self._token, self._rows_known = model.token, len(model.rows)
        return answer

    def do(self, task: Task[Any, Any], part: object, budget: Budget) -> Any:  # noqa: ANN401
        """Have a part of the task done; raises `OverranError`, `DiedError`."""
        self._await_readiness()
        asked = part_of(None if self.has(task) else task, part, budget)
        self._task = None
        answer = self._answer_to(asked)
        self._task = task
        return answer

    def _await_readiness(self) -> None:
        if not self.was_ready:
            with self._limited_to(START_SECONDS):
                assert self._read() == READY
            self.was_ready = True

    def _answer_to(self, question: Question | Part) -> Any:  # noqa: ANN401  what we wrote ourselves
        with self._limited_to(patience_seconds(question.seconds)):
            pickle.dump(question, self._stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._stdin.flush()
            return self._read()

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it, and let go of the pipes; nobody may be asking it anything any more."""
        self.kill()
        for stream in (self._stdin, self._stdout):
            with suppress(BrokenPipeError):  # half a question was still on its way
                stream.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _read(self) -> Any:  # noqa: ANN401  what we wrote ourselves
        return pickle.load(self._stdout)

    @contextmanager
    def _limited_to(self, seconds: float) -> Iterator[None]:
        """Kill the process unless what is inside ends in time."""
        overran = threading.Event()

        def end() -> None:
            overran.set()
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise (OverranError if overran.is_set() else DiedError) from error
        finally:
            timer.cancel()


def worker_command() -> tuple[str, ...]:
    """The command line of a worker: this interpreter, and what it imports from."""
    path = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100  the empty one as well
    return (sys.executable, "-I", "-c", _PROGRAM, json.dumps(path))
