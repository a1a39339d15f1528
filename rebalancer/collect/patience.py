"""Errands to hosts that may never answer: each gets so long, then it is left to itself.

A call into libvirt cannot be interrupted. Whoever would wait for it waits for ever when a host
hangs; so each errand has a thread of its own that nobody joins (invariant I21). An errand to a
host whose last one still hangs is not begun: a daemon that asks once a minute would otherwise
gather a thread and a socket each time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """No answer in time."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raised:
    error: BaseException


@dataclass(slots=True)
class _Hanging:
    thread: threading.Thread
    since_seconds: float


class Patience:
    """Runs errands beside each other and remembers which are still hanging."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        parallel: int = 100,
        retry_after_seconds: float = 600.0,
    ) -> None:
        """Take a clock, how many errands run at once, and how long one may hang unquestioned.

        After `retry_after_seconds` a second attempt is made beside the hanging one: it may hang
        on a connection that died without anybody being told.
        """
        self._monotonic = monotonic
        self._parallel = parallel
        self._retry_after_seconds = retry_after_seconds
        self._hanging: dict[str, _Hanging] = {}

    def run[T](
        self, errands: Mapping[str, Callable[[], T]], *, timeout_seconds: float
    ) -> dict[str, T | Abandoned]:
        """Run every errand for at most `timeout_seconds`; return what they returned, by key.

        An exception of an errand is a bug (they return what they expect to go wrong), and is
        raised here.
        """
        round_ = _Round(self, errands, timeout_seconds)
        return round_.results()

    def hangs(self, key: str) -> Abandoned | None:
        """Tell whether the last errand under `key` is still out and should be waited for."""
        hanging = self._hanging.get(key)
        if hanging is None:
            return None
        if not hanging.thread.is_alive():
            del self._hanging[key]
            return None
        age_seconds = self._monotonic() - hanging.since_seconds
        if age_seconds >= self._retry_after_seconds:
            return None
        return Abandoned(why=f"a call that was made {age_seconds:.0f} s ago still hangs")

    def leave(self, key: str, thread: threading.Thread, since_seconds: float) -> None:
        """Remember an errand that is not waited for any longer."""
        self._hanging[key] = _Hanging(thread, since_seconds)

    @property
    def parallel(self) -> int:
        """How many errands run at once."""
        return self._parallel

    def now_seconds(self) -> float:
        """Seconds on the clock that deadlines are told by."""
        return self._monotonic()


class _Round[T]:
    """One set of errands on its way."""

    def __init__(
        self, patience: Patience, errands: Mapping[str, Callable[[], T]], timeout_seconds: float
    ) -> None:
        self._patience = patience
        self._timeout_seconds = timeout_seconds
        self._waiting = deque(errands.items())
        self._running: dict[str, _Hanging] = {}
        self._results: dict[str, T | Abandoned] = {}
        self._inbox: SimpleQueue[tuple[str, T | _Raised]] = SimpleQueue()

    def results(self) -> dict[str, T | Abandoned]:
        while self._waiting or self._running:
            self._start_some()
            self._hear_one()
        return self._results

    def _start_some(self) -> None:
        while self._waiting and len(self._running) < self._patience.parallel:
            key, errand = self._waiting.popleft()
            if hangs := self._patience.hangs(key):
                self._results[key] = hangs
            else:
                thread = threading.Thread(
                    target=self._go, args=(key, errand), name=f"ask {key}", daemon=True
                )
                self._running[key] = _Hanging(thread, self._patience.now_seconds())
                thread.start()

    def _go(self, key: str, errand: Callable[[], T]) -> None:
        result: T | _Raised
        try:
            result = errand()
        except BaseException as error:  # noqa: BLE001 (raised again by whoever waits)
            result = _Raised(error=error)
        self._inbox.put((key, result))

    def _hear_one(self) -> None:
        if not self._running:
            return
        now_seconds = self._patience.now_seconds()
        first = min(running.since_seconds for running in self._running.values())
        try:
            patience_seconds = max(0.0, first + self._timeout_seconds - now_seconds)
            key, result = self._inbox.get(timeout=patience_seconds)
        except Empty:
            self._abandon_late()
            return
        if self._running.pop(key, None) is None:
            return  # too late: it was abandoned
        if isinstance(result, _Raised):
            raise result.error
        self._results[key] = result

    def _abandon_late(self) -> None:
        latest_start = self._patience.now_seconds() - self._timeout_seconds
        for key, running in list(self._running.items()):
            if running.since_seconds <= latest_start:
                del self._running[key]
                self._patience.leave(key, running.thread, running.since_seconds)
                why = f"no answer within {self._timeout_seconds:g} s"
                self._results[key] = Abandoned(why=why)
