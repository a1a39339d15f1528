"""Who solves the models of a search: this process, or others that can be ended.

A search knows no processes and no network. It hands models to its `Workers`, and parts of
searches, and asks by `at_once` and `shared` for several things to be done at a time where there
are several to do them. What it does must not depend on how many there are, so that every answer
is the same with any number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from rebalancer.placement.model import Model, Solution

if TYPE_CHECKING:
    from rebalancer.placement.budget import Budget

GRACE_RATIO, GRACE_SECONDS_AT_LEAST, GRACE_SECONDS_AT_MOST = 0.25, 1.0, 5.0
"""Solvers look at their clock now and then, so they are late a little; how much is bearable."""


class Task[P, R](Protocol):
    """Work in parts, each of which can be done by itself, and in any process: it is pickled."""

    def do(self, part: P, budget: Budget) -> R:
        """Do a part of it, and always come to the same, unless time runs out."""


class Workers(Protocol):
    """Solves models and does parts of tasks, some of them at the same time."""

    @property
    def width(self) -> int:
        """How many things are done at the same time."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What went wrong so far, and what was done about it: a sentence each."""

    def get_ready(self) -> None:
        """Begin with what takes a while, as models will be coming; return at once."""

    def solve(self, model: Model, seconds: float, *, gap_ratio: float) -> Solution | None:
        """Minimise within `seconds`; `None` if nothing usable came out, for whatever reason.

        May be called by several threads at the same time, with different models.
        """

    def do[P, R](self, task: Task[P, R], part: P, budget: Budget) -> R | None:
        """Have another process do a part of a task; `None` if nothing came of it.

        The task must not change: a process that had it is sent the next part only.
        """

    def close(self) -> None:
        """Stop everything at once: what is being solved comes to nothing."""


class InThisProcess:
    """Solves here, one model after the other: for what is small, and where nothing may start.

    Nobody watches the solver here, and it may be late.
    """

    width = 1
    remarks: tuple[str, ...] = ()

    def get_ready(self) -> None:
        """Nothing takes a while."""

    def solve(self, model: Model, seconds: float, *, gap_ratio: float) -> Solution | None:
        """Minimise within about `seconds`."""
        return model.solve(seconds, gap_ratio=gap_ratio)

    def do[P, R](self, task: Task[P, R], part: P, budget: Budget) -> R | None:
        """Do it."""
        return task.do(part, budget)

    def close(self) -> None:
        """Nothing is going on."""


IN_THIS_PROCESS = InThisProcess()


def patience_seconds(seconds: float) -> float:
    """How long to wait for a solver that was told to stop after `seconds`."""
    grace = GRACE_RATIO * seconds
    return seconds + min(GRACE_SECONDS_AT_MOST, max(GRACE_SECONDS_AT_LEAST, grace))


def at_once[T](workers: Workers, calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make all the calls, as many at a time as there are workers; return what they returned.

    Threads only wait for workers, so this pays for calls that mostly solve models.
    """
    if workers.width == 1 or len(calls) <= 1:
        return [call() for call in calls]
    with ThreadPoolExecutor(workers.width, thread_name_prefix="search") as threads:
        futures = [threads.submit(call) for call in calls]
        try:
            return [future.result() for future in futures]
        except BaseException:
            # Nobody wants the other answers any more, and the threads have to come to an end.
            for future in futures:
                future.cancel()
            workers.close()
            raise


def both_at_once[A, B](
    workers: Workers, here: Callable[[], A], beside: Callable[[], B]
) -> tuple[A, B]:
    """Make both calls, one of them in a thread beside this one if there are workers for it."""
    if workers.width == 1:
        return here(), beside()
    with ThreadPoolExecutor(1, thread_name_prefix="search") as thread:
        future = thread.submit(beside)
        try:
            return here(), future.result()
        except BaseException:
            future.cancel()
            workers.close()
            raise


def shared[P, R](task: Task[P, R], parts: Sequence[P], budget: Budget) -> list[R]:
    """Do all parts of a task: one after the other here, and others beside at the same time.

    What came out is in the order of the parts. One that another process came to nothing with is
    done here if there is time, and is missing otherwise; the first is always there.
    """
    done: dict[int, R] = {}
    waiting = deque(range(len(parts)))

    def work_through(do: Callable[[P], R | None]) -> None:
        while waiting:
            try:
                number = waiting.popleft()
            except IndexError:  # somebody else took it
                return
            if (result := do(parts[number])) is not None:
                done[number] = result

    def here(part: P) -> R:
        return task.do(part, budget)

    def beside() -> None:
        work_through(lambda part: budget.workers.do(task, part, budget))

    others = min(budget.workers.width, len(parts)) - 1
    if others <= 0:
        return [here(part) for part in parts]
    first = waiting.popleft()
    with ThreadPoolExecutor(others, thread_name_prefix="search") as threads:
        futures = [threads.submit(beside) for _ in range(others)]
        try:
            done[first] = here(parts[first])
            work_through(here)
            for future in futures:
                future.result()
        except BaseException:
            waiting.clear()
            budget.workers.close()
            raise
    for number in range(len(parts)):
        if number not in done and not budget.is_spent:
            done[number] = here(parts[number])
    return [done[number] for number in sorted(done)]
