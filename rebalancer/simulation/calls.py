"""Calls to simulated hypervisors, and the errors they answer with."""

from __future__ import annotations

from enum import IntEnum

from rebalancer.rollout.driver import Command, Failed, Pending, Reply


class ErrorCode(IntEnum):
    """libvirt's error numbers that the simulation answers with (`virterror.h`)."""

    INTERNAL = 1
    OPERATION_FAILED = 9
    SYSTEM_ERROR = 38
    NO_DOMAIN = 42
    OPERATION_INVALID = 55
    CONFIG_UNSUPPORTED = 67
    OPERATION_TIMEOUT = 68
    MIGRATE_PERSIST_FAILED = 69
    OPERATION_ABORTED = 78
    MIGRATE_UNSAFE = 81


def failure(code: ErrorCode | int, text: str) -> Failed:
    """Return the reply of a call that raised."""
    return Failed(text=text, code=int(code))


CONNECTION_LOST = failure(ErrorCode.INTERNAL, "internal error: client socket is closed")
"""What is said where a connection broke: of what was asked over it, it says nothing."""


class Call:
    """A call under way: what was asked, since when, and the answer once there is one."""

    def __init__(self, command: Command, issued_at: float) -> None:
        """Wait for the answer."""
        self.command = command
        self.issued_at = issued_at
        self.is_lost = False
        """The answer will never arrive."""
        self.reply: Reply = Pending()
        self._is_held_up = False
        self._held: Reply | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether an answer may still come."""
        return isinstance(self.reply, Pending) and not self.is_lost

    def give(self, reply: Reply) -> None:
        """Answer, unless that was done before or the answer gets lost."""
        if self._is_held_up:
            self._held = self._held or reply
        elif self.is_waiting:
            self.reply = reply

    def hold_up(self) -> None:
        """Keep any answer from arriving: the connection is down."""
        self._is_held_up = True

    def let_through(self) -> None:
        """Deliver what was held up: the connection outlived it."""
        self._is_held_up = False
        if self._held is not None:
            self.give(self._held)

    def break_off(self, error: Failed) -> None:
        """Answer with the error of a lost connection, whatever the real answer was."""
        self._is_held_up = False
        self.give(error)
