"""Run a program and see what it takes: time, CPU time, and memory with all of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.1
"""How often memory is looked at. What one process peaks at the kernel knows, whatever is missed."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program ended and what it took."""

    exit_code: int | None
    """`None`: it was cut off."""
    wall_seconds: float
    cpu_seconds: float
    """User and system time of the program and of the children it has waited for."""
    peak_bytes: float
    """Most memory that all of its processes held at once; what they share counts once."""
    output: str
    errors: str


def run(command: Sequence[str], *, cap_seconds: float, environment: Mapping[str, str]) -> Ended:
    """Run a program in a session of its own, and end all of that session if it takes too long."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={**_own_environment(), **environment},
            start_new_session=True,
        )
        cut_off, peak = False, 0.0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, _memory_of_session(process.pid))
            if time.monotonic() - began > cap_seconds and not cut_off:
                cut_off = True
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(SAMPLE_SECONDS)  # noqa: TID251 (a real process takes real time)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        _end_session(process.pid)
        for file in (output, errors):
            file.seek(0)
        return Ended(
            exit_code=None if cut_off else process.returncode,
            wall_seconds=wall,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_bytes=max(peak, usage.ru_maxrss * 1024.0),
            output=output.read(),
            errors=errors.read(),
        )


def _own_environment() -> dict[str, str]:
    """The environment without what would change what Python imports, or what we are set to."""
    foreign = ("PYTHON", "REBALANCER_")
    return {name: text for name, text in os.environ.items() if not name.startswith(foreign)}


def _end_session(session: int) -> None:
    """End what the program has left behind, so that it does not disturb the next one."""
    for pid in _processes_of(session):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _memory_of_session(session: int) -> float:
    return sum(_proportional_bytes(pid) for pid in _processes_of(session))


def _processes_of(session: int) -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and _session_of(folder) == session:
            yield int(folder.name)


def _session_of(folder: Path) -> int | None:
    """The sixth field of `stat`; the second, in brackets, may hold spaces."""
    try:
        fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[3])


def _proportional_bytes(pid: int) -> float:
    """Memory of a process, of shared pages only its part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return sum(1024.0 * float(line.split()[1]) for line in lines if line.startswith("Pss:"))
