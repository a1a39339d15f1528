from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from rebalancer.cluster.inventory import HostId, HostState
from rebalancer.cluster.sites import Link, Site
from rebalancer.collect.observations import LibvirtHost
from rebalancer.collect.snapshot_model import LinkEntry, SiteEntry
from rebalancer.errors import InvalidFileError, UsageError
from rebalancer.files import parse_yaml_text
from rebalancer.rollout.libvirt_connections import CallLimits, HostAddress
from rebalancer.rollout.steps import FailureBudget
from rebalancer.service import config_document
from rebalancer.service.config import (
    CONFIG_VARIABLE,
    effective_settings,
    journal_url,
    load_settings,
)
from rebalancer.service.config_format import (
    HostSettings,
    PolicySettings,
    RackSettings,
    RunMode,
    Settings,
)
from rebalancer.service.configured import (
    libvirt_hosts,
    links_of,
    migration_uris,
    sites_of,
)
from rebalancer.service.configured_rollout import (
    call_limits,
    failure_budget,
    host_addresses,
    rollout_times,
)

ROOT = Path(__file__).parents[3]
NOWHERE = Path("/nonexistent/rebalancer.yaml")

LAB = """
schema_version: 1
cluster: lab
journal: sqlite:////tmp/lab/journal.db
hosts:
  - {name: lab1, uri: "qemu+tcp://10.78.0.11/system", cpu_cores: 2, memory: 1GiB,
     nic_bytes_per_second: 62500000, cpu_from_guests: true}
"""

type WriteConfig = Callable[[str], Path]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but those of the test."""
    for name in list(os.environ):
        if name.startswith("REBALANCER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> WriteConfig:
    """Write a configuration file."""

    def write(text: str) -> Path:
        path = tmp_path / "rebalancer.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def settings_without_file() -> Settings:
    return load_settings(system_config=NOWHERE)


def origin_of(settings: Settings, key: str) -> str:
    return next(row.origin for row in effective_settings(settings) if row.key == key)


def test_without_any_file_there_are_the_defaults_and_they_are_harmless() -> None:
    settings = settings_without_file()

    assert settings == Settings()
    assert settings.mode is RunMode.RECOMMEND
    assert {row.origin for row in effective_settings(settings)} == {"default"}


def test_the_labs_configuration_is_read(config: WriteConfig) -> None:
    settings = load_settings(config(LAB))

    assert settings.cluster == "lab"
    assert journal_url(settings) == "sqlite:////tmp/lab/journal.db"
    assert libvirt_hosts(settings) == (
        LibvirtHost(
            name="lab1",
            uri="qemu+tcp://10.78.0.11/system",
            labels={},
            storage={},
            cpu_cores=2.0,
            memory_bytes=2**30,
            nic_bytes_per_second=62_500_000.0,
            cpu_from_guests=True,
        ),
    )


def test_every_fact_of_a_host_reaches_the_collector(config: WriteConfig) -> None:
    settings = load_settings(
        config(
            """
schema_version: 1
hosts:
  - name: h1
    uri: qemu+tls://h1/system
    peer_uri: qemu+tls://h1.mgmt/system
    migration_uri: tcp://10.0.1.1
    site: tokyo
    rack: r1
    labels: {license: oracle}
    state: maintenance
    reserved_memory: 8GiB
    storage: {vmstore: /mnt/vmstore}
    networks: [br0]
    idle_watts: 120
    max_watts: 380
  - {name: h2, uri: qemu+tls://h2/system}
"""
        )
    )

    assert libvirt_hosts(settings)[0] == LibvirtHost(
        name="h1",
        uri="qemu+tls://h1/system",
        site="tokyo",
        rack="r1",
        labels={"license": "oracle"},
        state=HostState.MAINTENANCE,
        reserved_memory_bytes=8 * 2**30,
        storage={"vmstore": "/mnt/vmstore"},
        networks=frozenset({"br0"}),
        idle_watts=120,
        max_watts=380,
    )
    assert migration_uris(settings) == {
        HostId("h1"): "qemu+tls://h1.mgmt/system",
        HostId("h2"): "qemu+tls://h2/system",
    }
    assert host_addresses(settings) == {
        HostId("h1"): HostAddress(
            uri="qemu+tls://h1/system",
            peer_uri="qemu+tls://h1.mgmt/system",
            migration_uri="tcp://10.0.1.1",
            storage={"vmstore": "/mnt/vmstore"},
        ),
        HostId("h2"): HostAddress(uri="qemu+tls://h2/system"),
    }


def test_sites_and_links_are_those_of_a_snapshot(config: WriteConfig) -> None:
    settings = load_settings(
        config(
            """
schema_version: 1
hosts: [{name: h1, uri: test:///default, site: kyoto}]
sites: [{name: tokyo, energy_price_per_kwh: 0.2, latency_ms: {kyoto: 9}}]
links:
  - {name: wan, bytes_per_second: 1.25e8, between: [tokyo, kyoto]}
  - {name: dark, bytes_per_second: 1Gbit/s, between: [kyoto, tokyo]}
"""
        )
    )

    assert sites_of(settings) == (
        Site(name="tokyo", energy_price_per_kwh=0.2, latency_seconds={"kyoto": 0.009}),
        Site(name="kyoto"),
    )
    assert links_of(settings) == (
        Link(name="wan", bytes_per_second=1.25e8, between=("tokyo", "kyoto")),
        Link(name="dark", bytes_per_second=1.25e8, between=("kyoto", "tokyo")),
    )


def test_how_patient_a_rollout_is_can_be_set() -> None:
    settings = load_settings(
        flags={
            "rollout.shutdown_timeout_seconds": 60,
            "rollout.call_timeout_seconds": 15,
            "rollout.abort_timeout_seconds": 10,
            "rollout.failure_budget": 7,
            "rollout.failure_share": 0.5,
        },
        system_config=NOWHERE,
    )

    assert rollout_times(settings).shutdown_seconds == 60
    assert call_limits(settings) == CallLimits(call_seconds=15, look_seconds=15, abort_seconds=10)
    assert failure_budget(settings) == FailureBudget(failures=7, ratio=0.5)


def test_flags_beat_variables_beat_the_file_beats_defaults(
    config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(
        "schema_version: 1\ncluster: file\n"
        "placement: {time_limit_seconds: 10}\nplan: {ttl_seconds: 1h}\n"
    )
    monkeypatch.setenv("REBALANCER_CLUSTER", "variable")
    monkeypatch.setenv("REBALANCER_PLACEMENT__TIME_LIMIT_SECONDS", "20s")

    settings = load_settings(path, {"cluster": "flag", "mode": None})

    assert settings.cluster == "flag"
    assert settings.placement.time_limit_seconds == 20
    assert settings.plan.ttl_seconds == 3600
    assert origin_of(settings, "cluster") == "flag"
    variable = "REBALANCER_PLACEMENT__TIME_LIMIT_SECONDS"
    assert origin_of(settings, "placement.time_limit_seconds") == variable
    assert origin_of(settings, "plan.ttl_seconds") == f"{path}:4"
    assert origin_of(settings, "mode") == "default"


def test_a_variable_can_hold_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REBALANCER_HOSTS", '[{"name": "h1", "uri": "test:///default"}]')

    assert [host.name for host in settings_without_file().hosts] == ["h1"]


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REBALANCER_POLICY", "")

    assert settings_without_file().policy is None


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("REBALANCER_MODE", "atuo", 'REBALANCER_MODE: "atuo" is not known here'),
        ("REBALANCER_MOED", "auto", "REBALANCER_MOED: not a setting"),
        ("REBALANCER_PLAN__TTL", "1h", "REBALANCER_PLAN__TTL: unknown key"),
        ("REBALANCER_HOSTS", "[{", "REBALANCER_HOSTS: not valid JSON; lists and"),
        ("REBALANCER_HOSTS", '[{"name": "h", "uri": "h"}]', "REBALANCER_HOSTS[0].uri"),
    ],
)
def test_a_variable_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(UsageError, match=re.escape(said)):
        settings_without_file()


def test_a_flag_that_makes_no_sense_is_named() -> None:
    with pytest.raises(UsageError, match=r"flag for placement\.time_limit_seconds: -1"):
        load_settings(flags={"placement.time_limit_seconds": -1}, system_config=NOWHERE)


def test_everything_wrong_in_the_file_is_told_with_its_line(config: WriteConfig) -> None:
    path = config(
        """
schema_version: 1
jornal: x
hosts:
  - {name: h1, uri: 10.0.0.1, memory: 1G, cpu_from_guests: yes}
mode: sometimes
"""
    )

    with pytest.raises(InvalidFileError) as caught:
        load_settings(path)

    told = str(caught.value).replace(f"{path}:", "")
    assert '3: jornal: unknown key; did you mean "journal"?' in told
    assert '5: hosts[0].uri: "10.0.0.1" is not a libvirt URI' in told
    assert "5: hosts[0].memory:" in told
    assert "5: hosts[0].cpu_from_guests:" in told
    assert "6: mode:" in told


def test_what_does_not_fit_together_in_the_file_is_told_with_its_line(config: WriteConfig) -> None:
    path = config(
        """
schema_version: 1
hosts:
  - {name: h1, uri: test:///a, site: tokyo, cpu_cores: 0}
  - {name: h1, uri: test:///b, memory: 1GiB, reserved_memory: 1GiB}
  - {name: h3, uri: test:///a, idle_watts: 100, max_watts: 50}
links: [{name: wan, bytes_per_second: 1.0, between: [tokyo, osaka]}]
"""
    )

    with pytest.raises(InvalidFileError) as caught:
        load_settings(path)

    assert {fault.key for fault in caught.value.faults} == {
        "hosts[0].cpu_cores",
        "hosts[1].name",
        "hosts[1].memory",
        "hosts[2].uri",
        "hosts[2].idle_watts",
        "links[0].between",
    }


def test_a_file_that_was_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidFileError, match="no such file"):
        load_settings(NOWHERE)

    monkeypatch.setenv(CONFIG_VARIABLE, str(NOWHERE))
    with pytest.raises(InvalidFileError, match="no such file"):
        settings_without_file()


def test_the_systems_file_is_read_when_there_is_one(config: WriteConfig) -> None:
    assert load_settings(system_config=config(LAB)).cluster == "lab"


def test_the_policy_is_looked_for_beside_the_file(config: WriteConfig) -> None:
    path = config("schema_version: 1\npolicy: policies/balance.yaml\n")

    assert load_settings(path).policy == path.parent / "policies" / "balance.yaml"


def test_the_journal_of_an_ordinary_user_is_in_their_state_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/ada/.state")

    url = journal_url(settings_without_file())

    assert url == "sqlite:////home/ada/.state/rebalancer/journal.db"


def test_a_rack_that_no_host_is_in_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "rebalancer.yaml"
    file.write_text(
        "schema_version: 1\n"
        "hosts: [{name: h1, uri: 'test:///a', rack: r1}]\n"
        "racks: [{name: R1, uplink_bytes_per_second: 25Gbit/s}]\n"
    )

    with pytest.raises(InvalidFileError, match="no host says that it is in rack R1"):
        load_settings(file)


def test_under_systemd_the_journal_is_in_the_folder_that_it_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/rebalancer")

    of_its_own = load_settings(system_config=NOWHERE)
    told = load_settings(flags={"journal": "postgresql://db/j"}, system_config=NOWHERE)

    assert journal_url(of_its_own) == "sqlite:////var/lib/rebalancer/journal.db"
    assert journal_url(told) == "postgresql://db/j"


@pytest.mark.parametrize(
    "url", ["journal.db", "mysql://db/journal", "postgres//db", "postgresql://db:port/j"]
)
def test_a_journal_that_is_neither_sqlite_nor_postgresql_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not a database address"):
        load_settings(flags={"journal": url}, system_config=NOWHERE)


def test_passwords_are_not_shown() -> None:
    settings = load_settings(
        flags={"journal": "postgresql://ada:secret@db/journal"}, system_config=NOWHERE
    )

    shown = {row.key: row.value for row in effective_settings(settings)}

    assert shown["journal"] == "postgresql://ada:***@db/journal"

    settings = load_settings(
        flags={"journal": "postgresql:///j?host=db&password=secret&sslpassword=secret"},
        system_config=NOWHERE,
    )

    shown = {row.key: row.value for row in effective_settings(settings)}

    assert shown["journal"] == "postgresql:///j?host=db&password=hidden&sslpassword=hidden"


def test_the_example_file_has_every_setting_and_each_is_the_default() -> None:
    path = ROOT / "config" / "rebalancer.yaml"

    settings = load_settings(path)

    assert settings.model_dump() == Settings().model_dump()
    rows = effective_settings(settings)
    assert [row.key for row in rows if row.origin == "default"] == []


def test_the_examples_in_the_comments_are_valid_and_have_every_key() -> None:
    text = (ROOT / "config" / "rebalancer.yaml").read_text(encoding="utf-8")
    blocks = re.findall(r"^# (\w+):\n((?:#   .*\n)+)", text, flags=re.MULTILINE)
    example = "".join(f"{key}:\n{block}" for key, block in blocks).replace("\n#", "\n")
    example = "schema_version: 1\n" + re.sub(r"^#", "", example, flags=re.MULTILINE)

    settings = parse_yaml_text(example, Settings)

    described: tuple[tuple[BaseModel, type[BaseModel]], ...] = (
        (settings.hosts[0], HostSettings),
        (settings.sites[0], SiteEntry),
        (settings.links[0], LinkEntry),
        (settings.racks[0], RackSettings),
        (settings.policies[0], PolicySettings),
    )
    for entry, model in described:
        assert set(entry.model_fields_set) == set(model.model_fields)


def test_every_setting_says_what_it_means() -> None:
    assert config_document.document().count("|  |") == 0


def test_the_page_on_configuration_is_the_one_that_the_program_writes() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

    assert page == config_document.document(), "run python -m rebalancer.service.config_document"
