"""Programs of others that tests start on a port of this machine, and end again by their handle."""

from __future__ import annotations

import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lab.deadline import wait_until

_START_SECONDS = 180.0
_END_SECONDS = 20.0


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listened on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(command: Sequence[str], *, ready_url: str, log: Path) -> Iterator[None]:
    """Run a server from the moment that `ready_url` is answered, with whatever it says in `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until(
            lambda: process.poll() is not None or _answers(ready_url),
            within_seconds=_START_SECONDS,
            what=f"{command[0]} to answer at {ready_url}",
        )
        assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    """Whether somebody answers there, be it with a refusal."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as refusal:
        return refusal.code < 500  # Prometheus says 503 until it is ready
    except OSError:
        return False
