"""Scenario files: compact to write, and every fault told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostId, HostState, Mode, VmId
from rebalancer.cluster.plan import MigrationState
from rebalancer.errors import InvalidFileError
from rebalancer.simulation.expectations import Between
from rebalancer.simulation.faults import FaultKind
from rebalancer.simulation.names import expand
from rebalancer.simulation.scenario import Scenario, read_scenario
from rebalancer.simulation.traces import Recorded, Steps, Wave
from tests.builders import GIB, MIB

SCENARIOS = sorted((Path(__file__).parents[3] / "scenarios").glob("*.yaml"))

SMALL = """
schema_version: 1
name: small
hosts:
  - {name: "h{1..2}", cpu_cores: 16, memory: 64GiB}
vms:
  - {name: "web{1..3}", on: "h{1..2}", vcpus: 2, memory: 4GiB, cpu: 1.5, dirty: 10MiB/s}
policy: balance.yaml
"""


def read(tmp_path: Path, text: str) -> Scenario:
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    return read_scenario(path)


def faults(tmp_path: Path, text: str) -> str:
    with pytest.raises(InvalidFileError) as caught:
        read(tmp_path, text)
    return str(caught.value)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_of_the_project_is_valid_and_explained(path: Path) -> None:
    scenario = read_scenario(path)

    assert scenario.name == path.stem
    assert scenario.description
    assert path.read_text().startswith("# ")
    assert not isinstance(scenario.policy, Path) or scenario.policy.exists()
    assert scenario.source(scenario.build()).observe().hosts


def test_all_that_must_be_there_is_there() -> None:
    assert {path.stem for path in SCENARIOS} >= {
        "hotspot",
        "skewed",
        "swap-needed",
        "drain",
        "power-saving",
        "two-sites",
        "non-converging",
        "large",
    }


def test_one_entry_stands_for_many_and_vms_are_dealt_in_turn(tmp_path: Path) -> None:
    scenario = read(tmp_path, SMALL)

    snapshot = scenario.source(scenario.build()).observe()
    assert dict(snapshot.assignment) == {"web1": "h1", "web2": "h2", "web3": "h1"}
    vm = snapshot.vm_by_id[VmId("web1")]
    assert (vm.memory_bytes, vm.dirty_bytes_per_second) == (4 * GIB, 10 * MIB)
    assert scenario.policy == tmp_path / "balance.yaml"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("db", ("db",)),
        ("h{1..3}", ("h1", "h2", "h3")),
        ("h{09..11}", ("h09", "h10", "h11")),
        ("r{1..2}h{1..2}", ("r1h1", "r1h2", "r2h1", "r2h2")),
    ],
)
def test_names_in_braces(pattern: str, names: tuple[str, ...]) -> None:
    assert expand(pattern) == names


def test_a_policy_may_stand_in_the_scenario(tmp_path: Path) -> None:
    text = SMALL.replace("policy: balance.yaml", "policy: {name: mine, goals: []}")

    assert read(tmp_path, text).policy == {"name": "mine", "goals": []}


def test_draining_hosts_drain_from_the_start(tmp_path: Path) -> None:
    scenario = read(tmp_path, SMALL + "drain: [h1]\n")

    snapshot = scenario.source(scenario.build()).observe()
    assert snapshot.host_by_id[HostId("h1")].state is HostState.DRAINING
    assert scenario.drain == ("h1",)


def test_cpu_use_may_be_a_wave_steps_or_samples(tmp_path: Path) -> None:
    vms = """
vms:
  - {name: a, on: h1, memory: 1GiB, cpu: {mean: 2, amplitude: 1, peak_hour: 14}}
  - {name: b, on: h1, memory: 1GiB, cpu: {steps: [[0s, 1], [10m, 3]]}}
  - {name: c, on: h1, memory: 1GiB, cpu: {every: 5m, samples: [1, 2, 4]}}
"""
    text = SMALL[: SMALL.index("vms:")] + vms + "policy: {}\n"

    traces = [guest.cpu for guest in read(tmp_path, text).datacentre.guests]

    assert traces == [
        Wave(mean_cores=2, amplitude_cores=1, peak_seconds=5 * 3600.0),
        Steps(steps=((0.0, 1.0), (600.0, 3.0))),
        Recorded(interval_seconds=300.0, cores=(1.0, 2.0, 4.0)),
    ]


def test_faults_and_expectations_are_read(tmp_path: Path) -> None:
    text = (
        SMALL
        + """
faults: [{kind: link-drops, host: h2, stage: transfer, after: 3s, duration: 10s}]
expect:
  migrations: 2
  mode_counts: {live: {at_least: 1}}
  outcomes: {"web{1..2}": failed-safe}
  on: {web3: "h{1..2}"}
"""
    )

    scenario = read(tmp_path, text)

    (fault,) = scenario.datacentre.faults
    assert (fault.kind, fault.duration_seconds) == (FaultKind.LINK_DROPS, 10.0)
    assert scenario.expect.migrations == Between(at_least=2, at_most=2)
    assert scenario.expect.mode_counts == {Mode.LIVE: Between(at_least=1)}
    assert scenario.expect.outcomes == {
        "web1": MigrationState.FAILED_SAFE,
        "web2": MigrationState.FAILED_SAFE,
    }
    assert scenario.expect.on == {"web3": ("h1", "h2")}


def test_everything_wrong_in_a_file_is_told_at_once(tmp_path: Path) -> None:
    text = """
schema_version: 1
name: wrong
sites: [{name: tokyo}]
links: [{name: wan, between: [tokyo, oska], bandwidth: 1Gbit/s}]
hosts:
  - {name: h1, cpu_cores: 16, memory: 64GiB, site: tokio}
  - {name: "h{2..1}", cpu_cores: 16, memory: 64GiB}
vms:
  - {name: web, on: h9, memory: 4GiB}
  - {name: web, on: h1, memory: 4GiB}
policy: {}
drain: [h7]
faults:
  - {kind: host-dies}
  - {kind: link-drops, link: wann}
expect: {stay: [wep]}
"""
    told = faults(tmp_path, text)

    for words in (
        "no site is named 'oska'",
        "no site is named 'tokio'",
        "runs backwards",
        "no host is named 'h9'",
        "'web' is there 2 times",
        "no host is named 'h7'",
        "must say which host",
        "no link is named 'wann'",
        "no VM is named 'wep'",
    ):
        assert words in told
    lines = [int(line.split(":")[1]) for line in told.splitlines()]
    assert lines == sorted(lines)
    assert "scenario.yaml:10: vms[0].on" in told


def test_an_unknown_key_is_a_fault(tmp_path: Path) -> None:
    assert "hostss" in faults(tmp_path, SMALL.replace("hosts:", "hostss:"))


def test_vms_that_do_not_fit_their_host_are_a_fault(tmp_path: Path) -> None:
    told = faults(tmp_path, SMALL.replace("memory: 64GiB", "memory: 6GiB"))

    assert "VMs on h1 have" in told


def test_a_cluster_without_hosts_is_a_fault(tmp_path: Path) -> None:
    assert "without hosts" in faults(tmp_path, "schema_version: 1\nname: x\npolicy: {}\n")


GENERATED = """
schema_version: 1
name: drawn
generate:
  seed: 3
  crowding: 0.8
  hosts: [{count: 10, name: h, racks: 2, cpu_cores: 32, memory: 128GiB}]
  vms:
    - {count: 100, name: web, vcpus: [2, 4], memory: [2GiB, 4GiB], cpu: [5%, 50%]}
policy: {}
"""


def test_a_generated_cluster_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, second = (read(tmp_path, GENERATED).datacentre for _ in range(2))
    other = read(tmp_path, GENERATED.replace("seed: 3", "seed: 4")).datacentre

    assert first == second
    assert first.guests != other.guests
    assert len(first.hosts) == 10
    assert len(first.guests) == 100
    assert {host.host.rack for host in first.hosts} == {"r1", "r2"}


def test_a_generated_cluster_that_cannot_exist_is_a_fault(tmp_path: Path) -> None:
    assert "do not fit" in faults(tmp_path, GENERATED.replace("count: 100", "count: 5000"))
