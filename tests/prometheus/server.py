"""A real Prometheus on a free port of 127.0.0.1, with its data in a temporary folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.deadline import wait_until

BINARY = shutil.which("prometheus")
_START_SECONDS = 60.0

_CONFIG = """
global: {{scrape_interval: {every}}}
scrape_configs:
  - job_name: libvirt
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
    relabel_configs: [{{target_label: instance, replacement: "h1:9177"}}]
    metrics_path: /h1/libvirt
  - job_name: libvirt-2
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
    relabel_configs: [{{target_label: instance, replacement: "h2:9177"}}]
    metrics_path: /h2/libvirt
  - job_name: node
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
    relabel_configs: [{{target_label: instance, replacement: "h1:9100"}}]
    metrics_path: /h1/node
"""


@contextmanager
def prometheus(
    folder: Path, exporter_port: int, every: str, config: str | None = None
) -> Iterator[str]:
    """Start it scraping the exporter, and yield its address; it is ended by its own handle."""
    assert BINARY is not None
    file = folder / "prometheus.yml"
    file.write_text(config or _CONFIG.format(every=every, port=exporter_port), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                BINARY,
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_ready(f"http://{address}", process, folder / "log")
        yield f"http://{address}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def is_ready_or_gone() -> bool:
        if process.poll() is not None:
            return True
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                return True
        except OSError:
            return False

    wait_until(is_ready_or_gone, within_seconds=_START_SECONDS, what="Prometheus to start")
    assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
