"""Stopping by signal: the first asks to finish, the second to abort.

A first SIGINT or SIGTERM starts nothing new and lets running migrations come to their end; a
second one calls off those that can still be called off. SIGKILL is always safe: transfers are
peer to peer and the journal names everything that was begun.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

from rebalancer.errors import ExitCode
from rebalancer.rollout.steps import StopRequest

_EXIT_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class StopSwitch:
    """While entered, signals are counted and not obeyed; the rollout asks for `request`."""

    def __init__(self) -> None:
        self._received: list[signal.Signals] = []
        self._before: dict[signal.Signals, object] = {}

    def request(self) -> StopRequest:
        """What the operator wants by now."""
        return StopRequest(min(len(self._received), StopRequest.ABORT))

    @property
    def exit_code(self) -> ExitCode | None:
        """The code of a clean stop by the first signal; `None` if there was none."""
        return _EXIT_CODES[self._received[0]] if self._received else None

    def __enter__(self) -> Self:
        """Take the signals over."""
        for number in _EXIT_CODES:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as `signal` returned it

    def _note(self, number: int, _: FrameType | None) -> None:
        self._received.append(signal.Signals(number))
