"""Waiting for something real, with an end to every wait.

The lab's machine is small and shared, so the limits are generous: they end a wait that is hopeless,
and never judge how fast something was.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable


class DeadlineError(LabError):
    """Something did not happen in time."""


def wait_until(
    condition: Callable[[], bool], *, within_seconds: float, what: str, every_seconds: float = 0.1
) -> None:
    """Return once `condition` holds.

    Raises:
        DeadlineError: it did not hold within the time; `what` completes "waited for ...".
    """
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DeadlineError(f"waited {within_seconds:.0f} s in vain for {what}")
        time.sleep(every_seconds)


def call_within[T](seconds: float, function: Callable[[], T], *, what: str) -> T:
    """Call a function that may never return, such as libvirt's on a guest whose link is cut.

    It runs in a thread of its own, which is left behind when the time is over: a blocked call into
    libvirt cannot be interrupted.

    Raises:
        DeadlineError: no answer within the time; `what` completes "no answer from ...".
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(function())
        except BaseException as error:  # noqa: BLE001  (raised again below, in the caller's thread)
            errors.append(error)

    thread = threading.Thread(target=run, name=f"lab: {what}", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise DeadlineError(f"no answer within {seconds:.0f} s from {what}")
    return answers[0]
