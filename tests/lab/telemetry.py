"""Exporters and a Prometheus for a lab.

The exporters stand in for node exporter and Debian's libvirt exporter, under the same names:
those would tell of the whole machine, which all lab hosts share.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.lab.host import libvirt, opened
from tests.prometheus.exporter import exporting
from tests.prometheus.server import prometheus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.lab.cluster import Lab
    from tests.lab.host import LabHost

SCRAPED_EVERY = "1s"
NANO = 1e-9

_JOB = """
  - job_name: {job}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
    relabel_configs: [{{target_label: instance, replacement: "{instance}"}}]
    metrics_path: {path}
"""


@contextmanager
def monitored(lab: Lab, folder: Path) -> Iterator[str]:
    """Measure the lab's hosts as long as this lasts; yields the address of Prometheus."""
    folder.mkdir(exist_ok=True)
    pages: dict[str, Callable[[float], str]] = {}
    for host in lab.hosts:
        pages[f"/{host.name}/libvirt"] = lambda _, host=host: domains_page(host)  # type: ignore[misc]
        pages[f"/{host.name}/node"] = lambda _, host=host: node_page(host)  # type: ignore[misc]
    with exporting(pages) as port:
        jobs = "".join(
            _JOB.format(
                job=f"{kind}-{host.name}",
                port=port,
                instance=f"{host.name}:{number}",
                path=f"/{host.name}/{kind}",
            )
            for host in lab.hosts
            for kind, number in (("libvirt", 9177), ("node", 9100))
        )
        config = f"global: {{scrape_interval: {SCRAPED_EVERY}}}\nscrape_configs:\n{jobs}"
        with prometheus(folder, port, SCRAPED_EVERY, config=config) as url:
            yield url


def domains_page(host: LabHost) -> str:
    """What the libvirt exporter of a host tells."""
    return "".join(
        f"libvirt_domain_info_cpu_time_seconds_total{labels} {cpu_seconds}\n"
        f"libvirt_domain_state_code{labels} {state}\n"
        for labels, state, cpu_seconds in _domains(host)
    )


def node_page(host: LabHost) -> str:
    """What the node exporter would tell if the machine were the host's own: its guests' use."""
    used = sum(cpu_seconds for _, _, cpu_seconds in _domains(host))
    return f'node_cpu_seconds_total{{cpu="0",mode="user"}} {used}\n'


def _domains(host: LabHost) -> list[tuple[str, int, float]]:
    found = []
    with opened(host.uri) as connection:
        for domain in connection.listAllDomains(libvirt().VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            state, _, _, _, cpu_nanoseconds = domain.info()
            labels = f'{{domain="{domain.name()}",uuid="{domain.UUIDString()}"}}'
            found.append((labels, state, cpu_nanoseconds * NANO))
    return found
