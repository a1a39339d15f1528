"""Models solved, and parts of searches done, by as many processes as there are processors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rebalancer.errors import SolverError
from rebalancer.placement.budget import Budget
from rebalancer.placement.model import Model, Solution
from rebalancer.placement.worker import Failure
from rebalancer.placement.workers import Task
from rebalancer.service.worker_process import (
    DiedError,
    OverranError,
    WorkerProcess,
    worker_command,
)

TRIES = 2
"""What a worker died of is given to another one; if that dies too, it may be the model."""
STILLBORN_AT_MOST = 2
"""Workers that end before they could be asked anything; then no more are started."""
BINARIES_HERE, ENTRIES_HERE = 48, 20_000
"""Programs with fewer binaries and linear programs with fewer coefficients are solved in
milliseconds: sooner than a process is started, and too soon to be late by much."""


class WorkerPool:
    """Up to `width` processes, each started when there is something for it to do."""

    def __init__(self, width: int, command: Sequence[str] = ()) -> None:
        """Start nothing yet; `command` is what to start in place of our own worker."""
        self._width = max(1, width)
        self._command = tuple(command) or worker_command()
        self._idle: list[WorkerProcess] = []
        self._busy: list[WorkerProcess] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._overran = self._died = self._stillborn = 0
        self._obstacle = ""

    @property
    def width(self) -> int:
        """How many things are done at the same time."""
        return 1 if self._obstacle else self._width

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that there are now."""
        with self._changed:
            return tuple(process.pid for process in (*self._idle, *self._busy))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What went wrong so far, and what was done about it: a sentence each."""
        found = []
        if self._overran:
            found.append(f"the solver did not stop in time and was killed {_times(self._overran)}")
        if self._died:
            found.append(f"a process of the solver died {_times(self._died)}; others did its work")
        if self._obstacle:
            found.append(f"{self._obstacle}; placements were searched in one process")
        return tuple(found)

    def get_ready(self) -> None:
        """Start one process, so that it imports what it needs while there is other work."""
        with self._changed:
            if not (self._is_closed or self._idle or self._busy or self._obstacle):
                with suppress(DiedError):
                    self._idle.append(self._started())

    def solve(self, model: Model, seconds: float, *, gap_ratio: float) -> Solution | None:
        """Have a process minimise; kill it if it is late."""
        if self._obstacle or model.is_begun or is_small(model):
            return model.solve(seconds, gap_ratio=gap_ratio)
        solution: Solution | None = self._answered(
            lambda process: process.ask(model, seconds, gap_ratio),
            likes=lambda process: process.knows(model),
        )
        if solution is None and self._obstacle:
            return model.solve(seconds, gap_ratio=gap_ratio)
        return solution

    def do[P, R](self, task: Task[P, R], part: P, budget: Budget) -> R | None:
        """Have a process do a part of a task; kill it if it is late."""
        result: R | None = self._answered(
            lambda process: process.do(task, part, budget),
            likes=lambda process: process.has(task),
        )
        return result

    def _answered(
        self,
        ask: Callable[[WorkerProcess], Any],
        likes: Callable[[WorkerProcess], bool],
    ) -> Any:  # noqa: ANN401  whatever was asked for
        """Ask a process, and another one if it dies; `None` if nothing came of it."""
        for _ in range(TRIES):
            if self._obstacle:
                return None
            try:
                with self._process(likes) as process:
                    answer = ask(process)
            except OverranError:
                self._overran += 1
                return None
            except DiedError:
                continue
            if isinstance(answer, Failure):
                raise SolverError(f"the solver broke down ({answer.text}); please report this")
            return answer
        return None

    def close(self) -> None:
        """Kill every process, whatever it is doing."""
        with self._changed:
            self._is_closed = True
            for process in self._busy:
                process.kill()
            for process in self._idle:
                process.close()
            self._idle.clear()
            self._changed.notify_all()

    @contextmanager
    def _process(self, likes: Callable[[WorkerProcess], bool]) -> Iterator[WorkerProcess]:
        """A process with nothing else to do, one that is liked if there is any.

        Raises `DiedError` if none can be had.
        """
        process = self._take(likes)
        try:
            yield process
        except BaseException as error:
            # If it still lives, its answer would be taken for the one to the next question.
            process.kill()
            if isinstance(error, DiedError):
                self._note_death(process)
            raise
        finally:
            self._put_back(process)

    def _take(self, likes: Callable[[WorkerProcess], bool]) -> WorkerProcess:
        """Find or start a process."""
        with self._changed:
            while not (self._idle or len(self._busy) < self._width or self._is_closed):
                self._changed.wait()
            if self._is_closed:
                raise DiedError
            for dead in [process for process in self._idle if not process.is_alive]:
                self._idle.remove(dead)
                dead.close()
            process = min(self._idle, key=lambda one: not likes(one), default=None)
            if process is None:
                process = self._started()
            else:
                self._idle.remove(process)
            self._busy.append(process)
            return process

    def _started(self) -> WorkerProcess:
        try:
            return WorkerProcess(self._command)
        except OSError as error:
            self._obstacle = f"no process can be started for the solver ({error})"
            raise DiedError from error

    def _put_back(self, process: WorkerProcess) -> None:
        with self._changed:
            self._busy.remove(process)
            if process.is_alive and not self._is_closed:
                self._idle.append(process)
            else:
                process.close()
            self._changed.notify()

    def _note_death(self, process: WorkerProcess) -> None:
        with self._changed:
            if self._is_closed:
                return
            self._died += 1
            self._stillborn += not process.was_ready
            if self._stillborn >= STILLBORN_AT_MOST:
                self._obstacle = "processes of the solver end before they can be asked anything"


def is_small(model: Model) -> bool:
    """Whether any solver is done with the model at once."""
    entries = sum(len(row.columns) for row in model.rows)
    return entries <= ENTRIES_HERE and len(model.integers) <= BINARIES_HERE


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
