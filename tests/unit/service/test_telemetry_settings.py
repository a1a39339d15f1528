"""What the settings say about past CPU use."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.collect.libvirt_source import LibvirtSource
from rebalancer.collect.past_use import InventoryWithHistory, Requirement
from rebalancer.collect.prometheus_source import PrometheusSource
from rebalancer.collect.remembered_use import UseMemory
from rebalancer.errors import InvalidFileError
from rebalancer.service.access import Where, open_for_reading
from rebalancer.service.config import effective_settings, load_settings
from rebalancer.service.config_format import Settings
from rebalancer.service.configured import prometheus_names
from rebalancer.service.report import Format, render_snapshot_summary
from tests.builders import NOON, a_snapshot
from tests.unit.collect.prometheus_server import FakePrometheus, serving

HOSTS = """
schema_version: 1
hosts:
  - {name: h1, uri: "qemu+ssh://root@h1.example.org/system", peer_uri: "qemu://10.0.0.1/system"}
  - {name: h2, uri: "qemu:///system", prometheus_name: "10.0.0.2:9100", cpu_from_guests: true}
"""


def settings_with(tmp_path: Path, prometheus: str) -> Settings:
    path = tmp_path / "rebalancer.yaml"
    path.write_text(f"{HOSTS}prometheus: {prometheus}\n", encoding="utf-8")
    return load_settings(path)


def test_without_an_address_nobody_is_asked(tmp_path: Path) -> None:
    access = open_for_reading(settings_with(tmp_path, "{url: null}"), Where())

    assert isinstance(access.source, LibvirtSource)


def test_snapshots_of_configured_hosts_carry_past_use(tmp_path: Path) -> None:
    settings = settings_with(
        tmp_path, '{url: "http://prom1:9090", history_seconds: 2d, step_seconds: 2m}'
    )

    source = open_for_reading(settings, Where()).source

    assert isinstance(source, InventoryWithHistory)
    assert isinstance(source.usage, PrometheusSource)
    assert source.history_seconds == timedelta(days=2).total_seconds()
    assert (source.step_seconds, source.usage.step_seconds) == (120.0, 120.0)
    assert source.requirement == Requirement(max_age_seconds=900.0, min_ratio=0.95)
    assert source.hosts_from_guests == {HostId("h2")}
    assert set(source.usage.hosts.values()) == {HostId("h1")}


def test_a_daemons_next_look_asks_for_what_is_new_until_other_queries_are_set(
    tmp_path: Path,
) -> None:
    memory = UseMemory()

    def asked_since(fake: FakePrometheus, prometheus: str) -> timedelta:
        settings = settings_with(tmp_path, prometheus)
        source = open_for_reading(settings, Where(), memory).source
        assert isinstance(source, InventoryWithHistory)
        fake.asked.clear()
        source.usage.history([VmId("a")], NOON - timedelta(days=7), NOON)
        return timedelta(seconds=NOON.timestamp() - float(fake.asked[0]["start"]) + 300)

    with serving(FakePrometheus()) as fake:
        plain = f'{{url: "{fake.url}"}}'
        since = [asked_since(fake, plain), asked_since(fake, plain)]
        mended = asked_since(fake, f'{{url: "{fake.url}", vm_label: domain}}')

    assert since == [timedelta(days=7), timedelta(hours=1)]
    assert mended == timedelta(days=7)


def test_hosts_are_found_by_name_address_and_what_the_operator_says(tmp_path: Path) -> None:
    names = prometheus_names(settings_with(tmp_path, "{}"))

    assert names == {
        "h1": "h1",
        "h1.example.org": "h1",
        "10.0.0.1": "h1",
        "h2": "h2",
        "10.0.0.2:9100": "h2",
    }


@pytest.mark.parametrize(
    "url", ["prom1:9090", "ftp://prom1", "http://", "http://prom1:x", "http://prom 1", ""]
)
def test_an_address_that_is_none_is_refused_with_its_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidFileError, match="http://prom1:9090"):
        settings_with(tmp_path, f'{{url: "{url}"}}')


def test_an_age_that_no_sample_can_keep_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="less than two samples"):
        settings_with(tmp_path, "{max_age_seconds: 5m}")


def test_the_password_of_the_server_is_masked(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, '{url: "http://me:secret@prom1:9090"}')

    shown = {row.key: row.value for row in effective_settings(settings)}

    assert shown["prometheus.url"] == "http://me:***@prom1:9090"


def test_a_summary_says_what_is_the_matter_with_past_use() -> None:
    console = Console(width=200, record=True, quiet=False, file=None)
    snapshot = replace(a_snapshot(), usage_fault="past use could not be read: no answer")

    with console.capture() as said:
        render_snapshot_summary(snapshot, Format.TABLE, console)

    assert "past use could not be read: no answer" in said.get()
