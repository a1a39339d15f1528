"""The default queries to a real Prometheus, while a VM migrates and a counter begins again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from rebalancer.cluster.inventory import HostId, UsageHistory, VmId
from rebalancer.collect.prometheus_source import VM_CPU_QUERY, PrometheusSource, UsageQueries
from rebalancer.errors import ObservationError
from tests.lab.deadline import wait_until
from tests.prometheus.exporter import exporting
from tests.prometheus.server import BINARY, prometheus

pytestmark = pytest.mark.skipif(BINARY is None, reason="no `prometheus` on this machine")

MOVED, STEADY = VmId("11111111-aaaa"), VmId("22222222-bbbb")
H1, H2 = HostId("h1"), HostId("h2")
SCRAPED, STEP_SECONDS = "500ms", 4.0

COPIED, RESET, SWITCHED, ENDED = 6.0, 8.0, 12.0, 21.0
"""When the target has a paused copy, when a counter begins again, when the VM runs there."""


def on_h1(now: float) -> str:
    moved = _domain(MOVED, "moved", 100 + 0.5 * now, state=1) if now < SWITCHED else ""
    steady = 50 + now if now < RESET else now - RESET
    return moved + _domain(STEADY, "steady", steady, state=1)


def on_h2(now: float) -> str:
    if now < COPIED:
        return "libvirt_up 1\n"
    receiving = 0.4 * (min(now, SWITCHED) - COPIED)  # QEMU takes CPU to receive memory
    running = 0.5 * max(0.0, now - SWITCHED)
    return _domain(MOVED, "moved", receiving + running, state=3 if now < SWITCHED else 1)


def node(now: float) -> str:
    return "".join(
        f'node_cpu_seconds_total{{cpu="{cpu}",mode="{mode}"}} {rate * now}\n'
        for cpu in (0, 1, 2, 3)
        for mode, rate in (("user", 0.4), ("system", 0.1), ("idle", 0.45), ("iowait", 0.05))
    )


def _domain(uuid: VmId, name: str, cpu_seconds: float, state: int) -> str:
    labels = f'{{domain="{name}",uuid="{uuid}"}}'
    return (
        f"libvirt_domain_info_cpu_time_seconds_total{labels} {cpu_seconds}\n"
        f"libvirt_domain_state_code{labels} {state}\n"
    )


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("prometheus")
    pages = {"/h1/libvirt": on_h1, "/h2/libvirt": on_h2, "/h1/node": node}
    with exporting(pages) as port, prometheus(folder, port, SCRAPED) as server:
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > ENDED, within_seconds=120, what="a migration")
        yield server


def history(url: str, queries: UsageQueries | None = None) -> UsageHistory:
    now = datetime.now(UTC)  # noqa: TID251 - the server goes by the real clock
    source = PrometheusSource(
        url=url,
        hosts={"h1": H1, "h2": H2},
        queries=queries or UsageQueries(),
        step_seconds=STEP_SECONDS,
    )
    return source.history([MOVED, STEADY], now - timedelta(seconds=5 * STEP_SECONDS), now)


def test_a_vm_that_moved_is_counted_once_and_goes_on(url: str) -> None:
    cores = history(url).vm_cpu_cores[MOVED]

    known = cores[np.isfinite(cores)]
    assert known.size >= 4
    assert np.median(known) == pytest.approx(0.5, abs=0.15)
    assert known.max() < 0.95


def test_a_counter_that_begins_again_makes_no_spike(url: str) -> None:
    cores = history(url).vm_cpu_cores[STEADY]

    known = cores[np.isfinite(cores)]
    assert known.size >= 4
    assert known == pytest.approx(1.0, abs=0.5)


def test_a_hosts_use_is_all_but_idle_and_waiting(url: str) -> None:
    cores = history(url).host_cpu_cores

    assert np.nanmedian(cores[H1]) == pytest.approx(2.0, abs=0.3)
    assert np.isnan(cores[H2]).all()


def test_a_query_that_is_no_promql_is_refused_in_the_servers_words(url: str) -> None:
    with pytest.raises(ObservationError, match="parse error"):
        history(url, UsageQueries(vm_cpu="sum by (uuid) (rate(x[5m])"))


def test_a_few_vms_are_told_alone_as_they_are_with_all_others(url: str) -> None:
    now = datetime.now(UTC)  # noqa: TID251 - the server goes by the real clock
    source = PrometheusSource(
        url=url,
        hosts={"h1": H1, "h2": H2},
        queries=UsageQueries(vm_cpu=f"{VM_CPU_QUERY} # by uuid"),
        step_seconds=STEP_SECONDS,
    )
    began = now - timedelta(seconds=5 * STEP_SECONDS)

    few = source.history_of_few([STEADY, VmId("33333333-cccc")], began, now)

    assert few is not None
    everything = source.history([STEADY, MOVED], began, now)
    known = few.vm_cpu_cores[STEADY]
    assert np.isfinite(known).sum() >= 4
    np.testing.assert_array_equal(known, everything.vm_cpu_cores[STEADY])
    assert np.isnan(few.vm_cpu_cores[VmId("33333333-cccc")]).all()
    assert few.host_cpu_cores == {}
