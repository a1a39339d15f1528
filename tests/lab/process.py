"""Processes that the lab started.

A process is ended by its id, and only while it demonstrably is the lab's: it lives in a network
namespace that the lab made. Ids are used again, so a process is told apart by its start time as
well. Names are never looked for.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.lab.deadline import wait_until

_NETNS_FOLDER = Path("/run/netns")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedProcess:
    """A process id together with the moment it began, which only one process ever had."""

    pid: int
    start_ticks: int

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return start_ticks(self.pid) == self.start_ticks

    def kill(self) -> None:
        """End it at once (SIGKILL), and return when it is gone."""
        if self.is_alive:
            _kill(self.pid)
        wait_until(lambda: not self.is_alive, within_seconds=30, what=f"process {self.pid} to end")

    @classmethod
    def load(cls, file: Path) -> RecordedProcess | None:
        """Read a file that holds a process id; None if there is no file or no such process."""
        try:
            text = file.read_text().strip()
        except FileNotFoundError:
            return None
        begun = start_ticks(int(text)) if text else None
        return None if begun is None else cls(pid=int(text), start_ticks=begun)


def start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None for a zombie or no process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name may contain anything, so count from the last closing bracket: field 3 on.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def pids_in_namespace(namespace: str) -> tuple[int, ...]:
    """The processes that live in a named network namespace; none if there is no such namespace."""
    try:
        wanted = (_NETNS_FOLDER / namespace).stat()
    except FileNotFoundError:
        return ()
    return tuple(pid for pid in _pids() if _network_of(pid) == (wanted.st_dev, wanted.st_ino))


def is_in_namespace(pid: int, namespace: str) -> bool:
    """Whether a process lives in a named network namespace."""
    try:
        wanted = (_NETNS_FOLDER / namespace).stat()
    except FileNotFoundError:
        return False
    return _network_of(pid) == (wanted.st_dev, wanted.st_ino)


def kill_in_namespace(pid: int, namespace: str) -> None:
    """End a process at once if it lives in the namespace; return when it is gone."""
    begun = start_ticks(pid)
    if begun is not None and is_in_namespace(pid, namespace):
        RecordedProcess(pid=pid, start_ticks=begun).kill()


def pids_mentioning(path: Path) -> tuple[int, ...]:
    """The processes that have a path below `path` on their command line."""
    return tuple(pid for pid in _pids() if f"{path}/" in _command_line(pid))


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _network_of(pid: int) -> tuple[int, int] | None:
    try:
        found = Path(f"/proc/{pid}/ns/net").stat()
    except OSError:  # it ended, or is a zombie
        return None
    return found.st_dev, found.st_ino


def _command_line(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
