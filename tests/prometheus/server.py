"""A real Prometheus on a free port of 127.0.0.1, with its data in a temporary folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.real_servers import free_port, running

BINARY = shutil.which("prometheus")

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
    address = f"127.0.0.1:{free_port()}"
    command = [
        BINARY,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with running(command, ready_url=f"http://{address}/-/ready", log=folder / "log"):
        yield f"http://{address}"
