"""Real time, for everything that takes a clock as an argument."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class SystemClock:
    """The machine's clock; implements `rollout.driver.Clock`."""

    def now(self) -> datetime:
        """The present instant, aware, UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the one place where the real time comes from

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""
        time.sleep(seconds)  # noqa: TID251 - likewise


class SteadyClock(SystemClock):
    """Goes on from the time that it was when it was made, whatever the machine's clock is set to.

    For one rollout: every wait and deadline in it is as long as it should be, also when the time
    of day is set by hours meanwhile (a management node that is itself a VM, moved or resumed). It
    stands still while the machine sleeps, so that nothing has expired when that wakes up.
    """

    def __init__(
        self,
        now: Callable[[], datetime] | None = None,
        seconds_passed: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin at `now`, which is asked once."""
        self._began_at = now() if now is not None else super().now()
        self._seconds_passed = seconds_passed
        self._began = seconds_passed()

    def now(self) -> datetime:
        """The instant of the beginning, and what has passed since then."""
        return self._began_at + timedelta(seconds=self._seconds_passed() - self._began)
