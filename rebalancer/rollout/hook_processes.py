"""Hooks as processes: commands of the operator, each with a time limit it cannot outlive.

Every hook leads a process group of its own, so that one that hangs is killed together with what
it started. It reads a JSON document from its standard input; of what it writes the end is kept.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import IO

from rebalancer.rollout.background import in_background
from rebalancer.rollout.hooks import HookCall, HookReply, HookTicket, Moment, Objected, Passed

GRACE_SECONDS = 2.0
"""From SIGTERM to SIGKILL."""
_KEPT_BYTES = 4096
_SAID_CHARACTERS = 300
_LOOK_SECONDS = 0.02
_SLACK_SECONDS = 5.0
"""A process that not even SIGKILL ends (its disk is gone) is left behind after so much more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookCommand:
    """One command; its words are not read by a shell."""

    words: tuple[str, ...]
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    future: Future[HookReply]
    called_off: threading.Event
    give_up_at: float
    moment: Moment


class HookProcesses:
    """Runs the configured commands; see `Hooks`."""

    def __init__(self, commands: Mapping[Moment, Sequence[HookCommand]]) -> None:
        """Take the commands of each moment, in their order."""
        self._commands = {moment: tuple(found) for moment, found in commands.items() if found}
        self._running: dict[HookTicket, _Running] = {}
        self._started = 0

    def has(self, moment: Moment) -> bool:
        """Whether there is a hook for that moment."""
        return moment in self._commands

    def start(self, call: HookCall) -> HookTicket:
        """Begin to run the hooks of a moment, one after the other."""
        commands = self._commands[call.moment]
        self._started += 1
        ticket, called_off = HookTicket(self._started), threading.Event()
        patience = sum(c.timeout_seconds + GRACE_SECONDS for c in commands) + _SLACK_SECONDS
        self._running[ticket] = _Running(
            future=in_background(f"hook {call.moment}", partial(_all, commands, call, called_off)),
            called_off=called_off,
            give_up_at=time.monotonic() + patience,
            moment=call.moment,
        )
        return ticket

    def poll(self, ticket: HookTicket) -> HookReply | None:
        """Tell how they ended; `None` while they run. After a reply the ticket is spent."""
        running = self._running[ticket]
        if running.future.done():
            del self._running[ticket]
            return running.future.result()
        if time.monotonic() > running.give_up_at:
            del self._running[ticket]
            return Objected(
                why=f"a {running.moment} hook cannot even be killed; it was left behind"
            )
        return None

    def cancel(self, ticket: HookTicket) -> None:
        """Kill what runs; its reply is an objection."""
        self._running[ticket].called_off.set()

    def close(self) -> None:
        """Kill whatever still runs."""
        for running in self._running.values():
            running.called_off.set()
        for running in self._running.values():
            with contextlib.suppress(TimeoutError):
                running.future.result(GRACE_SECONDS + 1.0)
        self._running.clear()


def _all(commands: Sequence[HookCommand], call: HookCall, called_off: threading.Event) -> HookReply:
    """Run the commands in turn; the first objection ends a `before`, an `after` goes on."""
    document, objections = call.document(), []
    for command in commands:
        reply = _run(command, document, called_off)
        if isinstance(reply, Objected):
            objections.append(reply.why)
            if call.moment.may_object or called_off.is_set():
                break
    return Objected(why="; ".join(objections)) if objections else Passed()


def _run(command: HookCommand, document: str, called_off: threading.Event) -> HookReply:
    name = command.words[0]
    try:
        # A file and not a pipe: a hook need not read what it is told, however long it is.
        with tempfile.TemporaryFile() as told:
            told.write(document.encode())
            told.seek(0)
            process = subprocess.Popen(
                command.words,
                stdin=told,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:
        return Objected(why=f"hook {name} cannot be run: {error.strerror or error}")
    said = _Said(process.stdout)
    ended_in_time = _wait(process, command.timeout_seconds, called_off)
    if not ended_in_time:
        _kill(process)
    text = said.text()
    if not ended_in_time:
        late = f"hook {name} did not end within {command.timeout_seconds:g} s and was killed"
        off = f"hook {name} was called off and killed"
        return Objected(why=_with(text, off if called_off.is_set() else late))
    code = process.returncode
    if code == 0:
        return Passed()
    how = f"exit code {code}" if code > 0 else f"signal {-code}"
    return Objected(why=_with(text, f"hook {name} ended with {how}"))


def _with(said: str, what: str) -> str:
    return f"{what}: {said}" if said else what


def _wait(
    process: subprocess.Popen[bytes], timeout_seconds: float, called_off: threading.Event
) -> bool:
    """Wait for a process; whether it ended by itself, in time."""
    until = time.monotonic() + timeout_seconds
    while process.poll() is None:
        if time.monotonic() >= until or called_off.wait(_LOOK_SECONDS):
            return False
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: with a word of warning, then without."""
    _signal(process.pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    # Not `poll`: as long as nobody has asked for its exit code, its number is not given to others.
    while time.monotonic() < until and not os.waitid(
        os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
    ):
        threading.Event().wait(_LOOK_SECONDS)
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


class _Said:
    """The end of what a process writes; it may write as much as it likes, and never waits."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self._stream = stream
        self._end = b""
        # What a hook left running in the background may keep the stream open: nobody waits for it.
        self._reader = threading.Thread(target=self._read, name="hook output", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._stream as stream:
            while chunk := os.read(stream.fileno(), _KEPT_BYTES):
                self._end = (self._end + chunk)[-_KEPT_BYTES:]

    def text(self) -> str:
        """The last line, fit to be shown."""
        self._reader.join(0.5)
        lines = [line.strip() for line in self._end.decode(errors="replace").splitlines()]
        last = next((line for line in reversed(lines) if line), "")
        return "".join(c for c in last if c.isprintable())[:_SAID_CHARACTERS]
