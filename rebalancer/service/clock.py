"""Real time, for everything that takes a clock as an argument."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """The machine's clock; implements `rollout.driver.Clock`."""

    def now(self) -> datetime:
        """The present instant, aware, UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the one place where the real time comes from

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""
        time.sleep(seconds)  # noqa: TID251 - likewise
