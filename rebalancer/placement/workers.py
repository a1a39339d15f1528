"""Who solves the models of a search: this process, or others that can be ended.

A search knows no processes and no network. It hands models to its `Workers`, and asks by
`at_once` for several things to be done at a time where there are several to do them. What it
does must not depend on how many there are, so that every answer is the same with any number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from rebalancer.placement.model import Model, Solution

GRACE_RATIO, GRACE_SECONDS_AT_LEAST, GRACE_SECONDS_AT_MOST = 0.25, 1.0, 5.0
"""Solvers look at their clock now and then, so they are late a little; how much is bearable."""


class Workers(Protocol):
    """Solves models, some of them at the same time."""

    @property
    def width(self) -> int:
        """How many models are solved at the same time."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What went wrong so far, and what was done about it: a sentence each."""

    def get_ready(self) -> None:
        """Begin with what takes a while, as models will be coming; return at once."""

    def solve(self, model: Model, seconds: float, *, gap_ratio: float) -> Solution | None:
        """Minimise within `seconds`; `None` if nothing usable came out, for whatever reason.

        May be called by several threads at the same time, with different models.
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
