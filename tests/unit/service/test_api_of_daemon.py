"""The API of a daemon that really runs, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from rebalancer.errors import ExitCode

PATIENCE_SECONDS = 180.0
CONFIG = """\
schema_version: 1
cluster: test
journal: sqlite:///{folder}/journal.db
hosts:
  - {{name: h1, uri: "qemu+tcp://127.0.0.1:9/system"}}
collect: {{sampling_seconds: 0.1s, timeout_seconds: 1s}}
daemon: {{interval_seconds: 2s, jitter_share: 0}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A daemon whose one host does not answer."""

    process: subprocess.Popen[str]
    config: Path
    socket: Path

    def ask(self, path: str, *, post: bool = False) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=str(self.socket))
        with httpx.Client(transport=transport, base_url="http://x", timeout=30) as client:
            return client.post(path) if post else client.get(path)

    def listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asking:
            return asking.connect_ex(str(self.socket)) == 0

    def until(self, path: str, what: Callable[[str], bool]) -> str:
        """Ask again and again, until the answer is as wanted."""
        said, pause = "", threading.Event()
        for _ in range(int(PATIENCE_SECONDS / 0.2)):
            said = self.ask(path).text if self.listens() else "nobody listens"
            if what(said):
                return said
            assert self.process.poll() is None, "the daemon has ended"
            pause.wait(0.2)
        pytest.fail(f"{path} still is: {said}")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Running]:
    config, log = tmp_path / "rebalancer.yaml", tmp_path / "log"
    config.write_text(CONFIG.format(folder=tmp_path))
    # As systemd tells where its RuntimeDirectory= is
    environment = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "rebalancer", "run", "--config", str(config)]
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment, text=True) as process,
    ):
        try:
            yield Running(process=process, config=config, socket=tmp_path / "api.sock")
        finally:
            process.kill()


def test_a_daemon_serves_its_api_from_start_to_stop(daemon: Running) -> None:
    said = daemon.until("/v1/status", lambda said: '"result": "' in said)
    assert '"policy": "default"' in said

    assert daemon.ask("/v1/pause", post=True).status_code == 200
    daemon.until("/metrics", lambda said: "\nrebalancer_paused 1.0\n" in said)

    daemon.config.write_text("schema_version: 1\nclsuter: test\n")
    daemon.process.send_signal(signal.SIGHUP)
    log = daemon.config.parent / "log"
    daemon.until("/v1/status", lambda _: "reload_failed" in log.read_text())
    assert daemon.ask("/v1/status").status_code == 200, "the old settings stay, the API with them"

    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(timeout=PATIENCE_SECONDS) == ExitCode.TERMINATED
    assert not daemon.socket.exists()
    assert "Traceback" not in log.read_text()


def test_a_socket_that_cannot_be_made_does_not_keep_the_daemon_from_its_work(
    daemon: Running,
) -> None:
    daemon.until("/v1/status", lambda said: '"cluster": "test"' in said)
    folder = daemon.config.parent
    daemon.config.write_text(
        CONFIG.format(folder=folder) + f"api: {{socket: {folder}/missing/api.sock}}\n"
    )
    log, pause = folder / "log", threading.Event()
    daemon.process.send_signal(signal.SIGHUP)

    for _ in range(int(PATIENCE_SECONDS / 0.2)):
        after = log.read_text().partition("api_failed")[2]
        if " cycle " in after:
            break
        pause.wait(0.2)

    assert "verdict=" in after
    assert daemon.process.poll() is None
