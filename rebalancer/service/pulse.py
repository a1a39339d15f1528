"""Whether what works for long in another thread still gets on, for whoever has to answer for it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pulse:
    """Whether the worker gets on: it beats whenever it has done something."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Measure time by `monotonic`."""
        self._monotonic = monotonic
        self._last = monotonic()
        self.busy = False

    def beat(self) -> None:
        """Show that something was done."""
        self._last = self._monotonic()

    def is_stuck(self, patience_seconds: float) -> bool:
        """Whether the worker is in the middle of something and nothing has happened for long."""
        return self.busy and self._monotonic() - self._last > patience_seconds
