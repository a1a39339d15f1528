"""Models solved by the workers of a Dask cluster.

Only programs go there. A linear program is solved here, by a process of our own that goes on
from one to the next as rows are added, and the parts of a local search are done here. A Dask
worker cannot be made to stop, so the answer of one that is late is not waited for, and that is
all. If the cluster fails, the work goes on here.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from rebalancer import __version__
from rebalancer.errors import SolverError, UsageError
from rebalancer.placement.budget import Budget
from rebalancer.placement.model import Model, Solution
from rebalancer.placement.worker import Answer, Failure, Question, answer_once, question_of
from rebalancer.placement.workers import Task, Workers, patience_seconds
from rebalancer.service.worker_pool import WorkerPool, is_small

CONNECT_SECONDS = 5.0
QUEUE_PATIENCE_SECONDS = 10.0
"""Waited on top: a model may have to wait for another one, or be given to another worker."""
FAILURES_IN_A_ROW = 3
"""After so many the cluster is left alone."""


def dask_workers(address: str, local: WorkerPool) -> Workers:
    """Connect to a scheduler; what cannot be reached or does not fit is replaced by `local`.

    Raises `UsageError` if Dask is not installed: then nothing could ever come of the setting.
    """
    try:
        import distributed
    except ImportError as error:
        raise UsageError(
            f"placement.executor is dask://{address}, and Dask is not installed here: "
            "pip install 'vm-rebalancer[scale]', or set placement.executor to processes"
        ) from error
    workers = DaskWorkers(local)
    try:
        workers.connect(distributed, address)
    except (OSError, TimeoutError, ValueError, RuntimeError, ImportError) as error:
        workers.give_up(f"the Dask scheduler at {address} cannot be used ({_brief(error)})")
    return workers


def versions() -> tuple[str, str]:
    """What has to be the same on both sides: of this program, and of Python's pickles."""
    return __version__, f"Python {sys.version_info.major}.{sys.version_info.minor}"


class DaskWorkers:
    """A Dask cluster, and processes of our own beside it."""

    def __init__(self, local: WorkerPool) -> None:
        """Begin without a cluster."""
        self._local = local
        self._client: Any = None
        self._width = 0
        self._failures = 0
        self._late = 0
        self._obstacle = ""
        self._lock = threading.Lock()

    def connect(self, distributed: Any, address: str) -> None:  # noqa: ANN401  no types
        """Connect to the cluster, and look whether it can do what is wanted of it."""
        self._client = distributed.Client(
            f"tcp://{address}", timeout=CONNECT_SECONDS, set_as_default=False
        )
        threads: dict[str, int] = self._client.nthreads()
        if not threads:
            raise ValueError("it has no workers")
        for worker, theirs in self._client.run(versions).items():
            if theirs != versions():
                raise ValueError(f"{worker} has {' and '.join(theirs)}, not {versions()}")
        self._width = sum(threads.values())

    @property
    def width(self) -> int:
        """How many models are solved at the same time."""
        return self._local.width if self._obstacle else self._width

    @property
    def remarks(self) -> tuple[str, ...]:
        """What went wrong so far, and what was done about it: a sentence each."""
        found = []
        if self._late:
            found.append(f"answers of the Dask cluster did not come in time: {self._late}")
        if self._obstacle:
            found.append(f"{self._obstacle}; placements were searched on this machine")
        return (*found, *self._local.remarks)

    def get_ready(self) -> None:
        """Have a process here ready for the linear programs."""
        self._local.get_ready()

    def solve(self, model: Model, seconds: float, *, gap_ratio: float) -> Solution | None:
        """Minimise on the cluster if it is a program, else here."""
        if self._obstacle or not model.integers or is_small(model):
            return self._local.solve(model, seconds, gap_ratio=gap_ratio)
        try:
            answer = self._ask(question_of(model, 0, seconds, gap_ratio))
        except TimeoutError:
            self._note_failure("its answers do not come in time")
            self._late += 1
            return None
        except Exception as error:  # noqa: BLE001  whatever it was, the search goes on without
            self._note_failure(_brief(error))
            return self._local.solve(model, seconds, gap_ratio=gap_ratio)
        self._failures = 0
        if isinstance(answer, Failure):
            raise SolverError(f"the solver broke down ({answer.text}); please report this")
        return answer

    def do[P, R](self, task: Task[P, R], part: P, budget: Budget) -> R | None:
        """Have a process here do a part of a task: it has the rest of it already."""
        return self._local.do(task, part, budget)

    def _ask(self, question: Question) -> Answer:
        future = self._client.submit(answer_once, question, pure=False)
        patience = patience_seconds(question.seconds) + QUEUE_PATIENCE_SECONDS
        try:
            answer: Answer = future.result(timeout=patience)
        except BaseException:
            future.cancel()
            raise
        return answer

    def give_up(self, why: str) -> None:
        """Use the cluster no more."""
        self._obstacle = why
        client, self._client = self._client, None
        if client is not None:
            client.close(timeout=CONNECT_SECONDS)

    def close(self) -> None:
        """Cancel what is going on there, and let go of the cluster."""
        self._local.close()
        self.give_up(self._obstacle or "the search is over")

    def _note_failure(self, why: str) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW and not self._obstacle:
                self._obstacle = f"the Dask cluster failed {self._failures} times in a row ({why})"


def _brief(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
