"""A host that is switched by shell commands: ipmitool, Wake-on-LAN, ssh, a power strip."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.power import PowerState, PowerSwitchError

_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCommands:
    """Shell commands for one host; `None`: that cannot be done with it."""

    wake: str | None = None
    sleep: str | None = None
    state: str | None = None
    """Prints the word `on` or `off`, such as `ipmitool … chassis power status` does."""


class CommandSwitch:
    """Switches one host. Commands run in a shell and find the host's name in REBALANCER_HOST."""

    def __init__(self, host: HostId, commands: PowerCommands, call_seconds: float) -> None:
        """Take the commands, and how long each one may take before it is killed."""
        self._host = host
        self._commands = commands
        self._call_seconds = call_seconds

    def state(self) -> PowerState:
        """Whether the host has power."""
        if self._commands.state is None:
            return PowerState.UNKNOWN
        return state_said(self._run(self._commands.state))

    def wake(self) -> None:
        """Switch it on."""
        self._run(self._required(self._commands.wake, "wake_command"))

    def sleep(self) -> None:
        """Ask its system to shut down."""
        self._run(self._required(self._commands.sleep, "sleep_command"))

    def cut(self) -> None:
        """There is no command for this on purpose."""
        raise PowerSwitchError("the power of a host that has commands is never cut")

    def _required(self, command: str | None, key: str) -> str:
        if command is None:
            raise PowerSwitchError(f"the settings of {self._host} have no power.{key}")
        return command

    def _run(self, command: str) -> str:
        """Run a command to its end, in a process group of its own, so that all of it ends."""
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "REBALANCER_HOST": self._host},
                start_new_session=True,
            )
        except OSError as error:
            raise PowerSwitchError(f"{command!r} could not be started: {error}") from error
        with process:
            try:
                said, _ = process.communicate(timeout=self._call_seconds)
            except subprocess.TimeoutExpired as error:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise PowerSwitchError(
                    f"{command!r} took more than {self._call_seconds:.0f} s and was killed"
                ) from error
        text = said.decode("utf-8", "replace").strip()
        if process.returncode:
            raise PowerSwitchError(
                f"{command!r} ended with {process.returncode}: {text[-_SHOWN_CHARACTERS:]}"
            )
        return text


def state_said(text: str) -> PowerState:
    """Find `on` or `off` as a word; anything else, or both of them, says nothing."""
    words = set(re.findall(r"[a-z]+", text.lower())) & {"on", "off"}
    return PowerState(words.pop()) if len(words) == 1 else PowerState.UNKNOWN
