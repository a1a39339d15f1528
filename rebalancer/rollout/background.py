"""Calls that may hang, each in a thread of its own that nobody ever waits for.

A call to a hypervisor whose monitor is blocked does not come back, and no thread can be ended
from outside. So a call that takes too long is given up: its thread is left behind, as a daemon,
and whatever it still brings about will be seen by looking.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime

from rebalancer.rollout.driver import Clock


def in_background[T](name: str, work: Callable[[], T]) -> Future[T]:
    """Begin `work` in a new thread; the future gets its result or its exception."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  it is passed on, whatever it is
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


class Link[C]:
    """One shared connection to a host: made when first needed, and made anew when it broke.

    Opening may hang, too. Then everybody who needs the connection waits for that one opening,
    each for as long as they like; only after `give_up_seconds` is another one tried.
    """

    def __init__(
        self,
        name: str,
        open_: Callable[[], C],
        is_alive: Callable[[C], bool],
        clock: Clock,
        give_up_seconds: float,
    ) -> None:
        self._name = name
        self._open = open_
        self._is_alive = is_alive
        self._clock = clock
        self._give_up_seconds = give_up_seconds
        self._lock = threading.Lock()
        self._opening: Future[C] | None = None
        self._since: datetime = clock.now()

    def get(self, timeout_seconds: float) -> C:
        """Return the connection. Raises what opening it raised, or `TimeoutError`."""
        with self._lock:
            if self._opening is None or self._is_spent(self._opening):
                self._opening = in_background(f"connect to {self._name}", self._open)
                self._since = self._clock.now()
            opening = self._opening
        return opening.result(timeout_seconds)

    def _is_spent(self, opening: Future[C]) -> bool:
        if not opening.done():
            age = (self._clock.now() - self._since).total_seconds()
            return age > self._give_up_seconds
        return opening.exception() is not None or not self._is_alive(opening.result())

    def take(self) -> C | None:
        """Give the connection away, for closing; `None` if there is none."""
        with self._lock:
            opening, self._opening = self._opening, None
        if opening is None or not opening.done() or opening.exception() is not None:
            return None
        return opening.result()
