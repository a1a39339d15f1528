"""A machine with a systemd of its own: namespaces on a copy of this one's root, thrown away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE_SECONDS = 180.0
BOOT = Path(__file__).with_name("boot.sh")
NAMESPACES = ("--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--cgroup")


def obstacle() -> str:
    """Why no systemd can be booted here; empty if one can."""
    if os.geteuid() != 0:
        return "booting systemd in namespaces of its own needs root"
    missing = [tool for tool in ("unshare", "nsenter", "systemctl") if shutil.which(tool) is None]
    if not Path("/lib/systemd/systemd").exists():
        missing.append("systemd")
    return f"not installed: {', '.join(missing)}" if missing else ""


def run_in(pid: int, *command: str, seconds: float = 90) -> subprocess.CompletedProcess[str]:
    """Run a command in the machine whose process 1 is `pid`."""
    entered = ["nsenter", "-t", str(pid), "-m", "-p", "-u", "-r", "-w", *command]
    return subprocess.run(entered, capture_output=True, text=True, timeout=seconds, check=False)


@contextmanager
def booted(folder: Path, arguments: Sequence[Path | str]) -> Iterator[int]:
    """Boot one by `boot.sh FOLDER ARGUMENTS…`, and yield the process that is its first."""
    (folder / "machine").mkdir()
    command = ["unshare", *NAMESPACES, "sh", str(BOOT), str(folder / "machine")]
    with (folder / "boot.log").open("w") as log:
        outside = subprocess.Popen([*command, *map(str, arguments)], stdout=log, stderr=log)
    inside = None
    try:
        inside = _first_process(outside, folder / "boot.log")
        yield inside
    finally:
        # Ending unshare does not end a systemd; ending process 1 of a namespace ends all of it.
        if inside is not None:
            os.kill(inside, signal.SIGKILL)
        outside.kill()
        outside.wait(timeout=30)


def _first_process(outside: subprocess.Popen[bytes], log: Path) -> int:
    children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and outside.poll() is None:
        found = children.read_text().split()
        if found and Path(f"/proc/{found[0]}/comm").read_text().strip() == "systemd":
            state = run_in(int(found[0]), "systemctl", "is-system-running").stdout.strip()
            if state in ("running", "degraded"):
                return int(found[0])
        time.sleep(0.3)
    pytest.fail(f"systemd did not come up: {log.read_text()}")
