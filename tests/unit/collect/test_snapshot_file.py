"""Snapshot files: every value survives, every fault is told with its place."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from rebalancer.cluster.inventory import HostState, Mode, Snapshot, UsageHistory, VmState, faults_of
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.collect.snapshot_file import (
    SnapshotFile,
    read_snapshot,
    snapshot_to_json,
    write_snapshot,
)
from rebalancer.errors import InvalidFileError, UsageError
from tests.builders import NOON, a_host, a_snapshot, a_vm
from tests.strategies import snapshots

TINY: dict[str, Any] = {
    "schema_version": 1,
    "cluster": "dc1",
    "taken_at": "2026-11-23T00:00:00Z",
    "hosts": [{"name": "h1", "cpu_cores": 32, "memory_bytes": 274877906944}],
    "vms": [{"id": "u1", "name": "db1", "host": "h1", "memory_bytes": 8589934592}],
}


def written(tree: Any, folder: Path) -> Path:
    path = folder / "snapshot.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path


def with_vm(**changed: Any) -> dict[str, Any]:
    return TINY | {"vms": [TINY["vms"][0] | changed]}


def with_host(**changed: Any) -> dict[str, Any]:
    return TINY | {"hosts": [TINY["hosts"][0] | changed]}


def faults(tree: Any, folder: Path) -> dict[str, str]:
    """Read what is wrong, by place."""
    with pytest.raises(InvalidFileError) as raised:
        read_snapshot(written(tree, folder))
    return {fault.where: f"{fault.problem} {fault.expected}" for fault in raised.value.faults}


def assert_same(one: Snapshot, other: Snapshot) -> None:
    """Snapshots have no equality of their own, because of the arrays."""
    for field in ("cluster", "taken_at", "sites", "links", "hosts", "vms"):
        assert getattr(one, field) == getattr(other, field)
    if one.usage is None or other.usage is None:
        assert one.usage is other.usage
        return
    assert one.usage.start == other.usage.start
    assert one.usage.interval_seconds == other.usage.interval_seconds
    for series in ("vm_cpu_cores", "host_cpu_cores"):
        expected, found = getattr(one.usage, series), getattr(other.usage, series)
        assert set(expected) == set(found)
        for key in expected:
            np.testing.assert_array_equal(expected[key], found[key])


@given(snapshot=snapshots())
@settings(
    deadline=None,  # it writes to a disk that may be busy
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_is_written_is_read_back(snapshot: Snapshot, tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    write_snapshot(snapshot, path)

    assert_same(read_snapshot(path), snapshot)


def test_racks_and_the_error_of_a_dirty_rate_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    racks = (Rack(name="r1", uplink_bytes_per_second=3.125e9),)
    vm = a_vm("a", dirty_bytes_per_second=1e7, dirty_error_bytes_per_second=2e6)
    write_snapshot(replace(a_snapshot(vms=[vm]), racks=racks), path)

    found = read_snapshot(path)

    assert found.racks == racks
    assert found.vms == (vm,)


@given(snapshot=snapshots())
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_the_strategy_draws_snapshots_that_hold_together(snapshot: Snapshot) -> None:
    assert list(faults_of(snapshot.hosts, snapshot.vms)) == []


def test_what_is_left_out_has_the_documented_defaults(tmp_path: Path) -> None:
    snapshot = read_snapshot(written(TINY, tmp_path))

    host, vm = snapshot.hosts[0], snapshot.vms[0]
    assert (host.id, host.name, host.state) == ("h1", "h1", HostState.UP)
    assert host.nic_bytes_per_second == 1.25e9
    assert host.storage is None
    assert (vm.vcpus, vm.state, vm.movable, vm.persistent) == (1, VmState.RUNNING, True, True)
    assert vm.dirty_bytes_per_second is None
    assert vm.blockers == ()


def test_the_documented_example_is_read(tmp_path: Path) -> None:
    tree = {
        "schema_version": 1,
        "cluster": "dc1",
        "taken_at": "2026-11-23T09:00:00+09:00",
        "sites": [{"name": "tokyo", "latency_ms": {"osaka": 9}}, {"name": "osaka"}],
        "links": [{"name": "wan", "bytes_per_second": 1.25e8, "between": ["tokyo", "osaka"]}],
        "hosts": [
            {"id": "h1", "name": "h1", "site": "tokyo", "rack": "r1", "state": "up",
             "cpu_cores": 32, "memory_bytes": 274877906944, "reserved_memory_bytes": 4294967296,
             "cpu_used_cores": 11.2, "cpu_model": "EPYC-Milan", "arch": "x86_64",
             "nic_bytes_per_second": 1.25e9, "labels": {"rack": "r1"}, "storage": ["nfs1"],
             "networks": ["br0"], "idle_watts": 120, "max_watts": 380, "numa_nodes": None}
        ],
        "vms": [
            {"id": "uuid", "name": "db1", "host": "h1", "state": "running", "vcpus": 4,
             "memory_bytes": 8589934592, "cpu_used_cores": 1.7,
             "dirty_bytes_per_second": 52428800, "working_set_bytes": 1073741824,
             "labels": {"app": "db"}, "storage": ["nfs1"], "networks": ["br0"],
             "local_disk_bytes": 0, "cpu_model": None, "movable": True, "blockers": [],
             "autostart": True}
        ],
        "usage": {"interval_seconds": 300, "start": "2026-11-22T00:00:00Z",
                  "vm_cpu_cores": {"uuid": [1, None, 2.5]}, "host_cpu_cores": {}},
    }  # fmt: skip

    snapshot = read_snapshot(written(tree, tmp_path))

    assert snapshot.taken_at == datetime(2026, 11, 23, tzinfo=UTC)
    assert snapshot.sites[0].latency_seconds == {"osaka": 0.009}
    assert snapshot.links[0].between == ("tokyo", "osaka")
    assert snapshot.hosts[0].storage == frozenset({"nfs1"})
    assert snapshot.usage is not None
    np.testing.assert_array_equal(snapshot.usage.vm_cpu_cores[snapshot.vms[0].id], [1, np.nan, 2.5])


def test_a_host_that_reaches_no_storage_is_not_one_of_which_nothing_is_known(
    tmp_path: Path,
) -> None:
    hosts = [a_host("none", storage=frozenset()), a_host("unknown", storage=None)]
    write_snapshot(a_snapshot(hosts), tmp_path / "s.json")

    read = read_snapshot(tmp_path / "s.json")

    assert [host.storage for host in read.hosts] == [frozenset(), None]


def test_every_fault_is_told_at_once_with_its_path(tmp_path: Path) -> None:
    tree = {
        "schema_version": 1,
        "cluster": "dc1",
        "taken_at": "2026-11-23T00:00:00",
        "sites": [{"name": "tokyo"}, {"name": "tokyo"}],
        "links": [{"name": "wan", "bytes_per_second": 0, "between": ["tokyo", "osaka"]}],
        "hosts": [
            {"name": "h1", "cpu_cores": 8, "memory_bytes": -1},
            {"name": "h1", "cpu_cores": 8, "memory_bytes": 10, "reserved_memory_bytes": 11},
            {"name": "h3", "cpu_cores": 8, "memory_bytes": 10, "colour": "red"},
        ],
        "vms": [
            {"id": "u1", "host": "h9", "memory_bytes": 1},
            {"id": "u1", "host": "h1", "memory_bytes": 1, "state": "runing"},
            {"host": "h1", "memory_bytes": 1},
        ],
        "usage": {
            "start": "2026-11-22T00:00:00Z",
            "interval_seconds": 300,
            "vm_cpu_cores": {"u1": [1, 2], "u2": [1, 2, 3]},
        },
    }

    found = faults(tree, tmp_path)

    assert set(found) == {
        "$.taken_at",
        "$.sites[1].name",
        "$.links[0].bytes_per_second",
        "$.links[0].between[1]",
        "$.hosts[0].memory_bytes",
        "$.hosts[1].name",
        "$.hosts[1].reserved_memory_bytes",
        "$.hosts[2].colour",
        "$.vms[0].host",
        "$.vms[1].id",
        "$.vms[1].state",
        "$.vms[2].id",
        "$.usage.vm_cpu_cores.u2",
    }


def test_a_misspelt_host_is_guessed(tmp_path: Path) -> None:
    found = faults(with_vm(host="h11"), tmp_path)

    assert found == {"$.vms[0].host": '"h11" is not among the hosts did you mean "h1"?'}


@pytest.mark.parametrize(
    "tree",
    [
        with_vm(memory_bytes=-1),
        with_vm(memory_bytes=True),
        with_vm(memory_bytes="8GiB"),
        with_vm(memory_bytes=10**30),
        with_vm(cpu_used_cores=-0.1),
        with_vm(cpu_used_cores=float("nan")),
        with_vm(dirty_bytes_per_second=float("inf")),
        with_vm(vcpus=1.5),
        with_vm(vcpus=0),
        with_vm(labels={"app": 1}),
        with_vm(labels={"": "x"}),
        with_vm(name="\x1b[31mred"),
        with_vm(allowed_modes=["teleport"]),
        with_host(cpu_cores=0),
        with_host(memory_bytes=0),
        with_host(nic_bytes_per_second=0),
        with_host(idle_watts=200, max_watts=100),
        with_host(hugepages=[{"page_bytes": 2097152, "total_pages": 1, "free_pages": 2}]),
        with_host(labels="rack=r1"),
        TINY | {"hosts": {}},
        TINY | {"hosts": [1], "vms": [[]]},
        TINY | {"vms": [{"id": {}, "name": [], "host": [], "memory_bytes": {}}]},
        TINY | {"schema_version": 2},
        TINY | {"taken_at": "0001-01-01T00:00:00+14:00"},
        TINY | {"usage": {"start": "2026-11-22T00:00:00Z", "interval_seconds": 0}},
        TINY | {"usage": []},
        [],
        "{",
        "",
        "\x00\x01",
    ],
)
def test_bad_input_is_an_invalid_file_and_nothing_worse(tree: Any, tmp_path: Path) -> None:
    assert faults(tree, tmp_path)


@pytest.mark.parametrize("state", ["unknown", "asleep", "down", "maintenance"])
def test_a_host_that_nobody_could_ask_may_have_no_capacity(state: str, tmp_path: Path) -> None:
    tree = TINY | {"hosts": [{"name": "h1", "state": state, "cpu_cores": 0, "memory_bytes": 0}]}

    assert read_snapshot(written(tree, tmp_path)).hosts[0].cpu_cores == 0


def test_sites_need_not_be_listed(tmp_path: Path) -> None:
    assert read_snapshot(written(with_host(site="tokyo"), tmp_path)).hosts[0].site == "tokyo"


def test_once_sites_are_listed_another_one_is_a_fault(tmp_path: Path) -> None:
    tree = with_host(site="tokio") | {"sites": [{"name": "tokyo"}]}

    assert set(faults(tree, tmp_path)) == {"$.hosts[0].site"}


def test_a_history_of_something_else_is_a_fault(tmp_path: Path) -> None:
    usage = {"start": "2026-11-22T00:00:00Z", "interval_seconds": 300}
    tree = TINY | {"usage": usage | {"host_cpu_cores": {"h2": [1]}}}

    assert set(faults(tree, tmp_path)) == {"$.usage.host_cpu_cores.h2"}


@pytest.mark.parametrize(
    ("start", "is_fine"),
    [
        ("2026-11-22T23:50:00Z", True),
        ("2026-11-22T23:59:00Z", True),  # clocks differ a little
        ("2026-11-23T00:05:00Z", False),
        ("2027-11-23T00:00:00Z", False),
        ("2027-11-23T09:00:00+09:00", False),
    ],
)
def test_past_use_that_lies_after_the_snapshot_is_a_fault(
    start: str, is_fine: bool, tmp_path: Path
) -> None:
    usage = {"start": start, "interval_seconds": 300, "vm_cpu_cores": {"u1": [1, 2]}}
    tree = TINY | {"usage": usage}

    if is_fine:
        assert read_snapshot(written(tree, tmp_path)).usage is not None
    else:
        (said,) = faults(tree, tmp_path).items()
        assert said[0] == "$.usage.start"
        assert "s after taken_at, 2026-11-23T00:00:00+00:00" in said[1]


def test_the_file_source_reads_anew_each_time(tmp_path: Path) -> None:
    path = written(TINY, tmp_path)
    source = SnapshotFile(path)
    assert source.observe().cluster == "dc1"

    written(TINY | {"cluster": "dc2"}, tmp_path)

    assert source.observe().cluster == "dc2"


def test_a_file_that_cannot_be_written_is_said_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_snapshot(a_snapshot(), tmp_path / "nowhere" / "s.json")

    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_cannot_be_told_in_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = written(TINY, tmp_path)

    with pytest.raises(ValueError, match="JSON"):
        write_snapshot(a_snapshot(vms=[a_vm(cpu_used_cores=float("nan"))]), path)

    assert read_snapshot(path).cluster == "dc1"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_has_one_host_or_vm_a_line(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    write_snapshot(a_snapshot(vms=[a_vm("a"), a_vm("b")]), path)

    starts = [line.strip()[:12] for line in path.read_text().splitlines()]
    assert starts.count('{"id": "h1",') == 1
    assert starts.count('{"id": "b", ') == 1


def test_json_says_what_the_nouns_say() -> None:
    vm = a_vm(allowed_modes=frozenset({Mode.LIVE, Mode.COLD}), max_downtime_seconds=0.3)
    snapshot = Snapshot(
        cluster="dc1",
        taken_at=NOON,
        hosts=(a_host("h1"),),
        vms=(vm,),
        sites=(Site(name="tokyo", latency_seconds={"osaka": 0.009}),),
        links=(Link(name="wan", bytes_per_second=1e8, between=("tokyo", "osaka")),),
        usage=UsageHistory(
            start=NOON,
            interval_seconds=300.0,
            vm_cpu_cores={vm.id: np.array([1.0, np.nan])},
            host_cpu_cores={},
        ),
    )

    tree = snapshot_to_json(snapshot)

    assert tree["taken_at"] == "2026-11-23T12:00:00Z"
    assert tree["sites"] == [{"name": "tokyo", "latency_ms": {"osaka": 9.0}}]
    assert tree["vms"][0]["allowed_modes"] == ["cold", "live"]
    assert tree["usage"]["vm_cpu_cores"] == {"vm1": [1.0, None]}
    assert "dirty_bytes_per_second" in tree["vms"][0]
    assert "blockers" not in tree["vms"][0]


def test_a_table_by_the_hour_has_a_value_for_each_hour(tmp_path: Path) -> None:
    site = {"name": "tokyo", "energy_price_per_kwh_by_hour": [0.1] * 23}
    path = tmp_path / "s.json"
    path.write_text(
        json.dumps(
            {
                "schema_version": 1,
                "cluster": "c",
                "taken_at": "2026-01-01T00:00:00Z",
                "sites": [site],
                "hosts": [],
            }
        ),
        encoding="utf-8",
    )

    with pytest.raises(InvalidFileError, match=r"has 23 values.*24 values, one for each hour"):
        read_snapshot(path)


@pytest.mark.parametrize("key", ["hosts", "vms"])
def test_a_snapshot_that_does_not_say_what_there_is_is_not_taken_for_empty(
    tmp_path: Path, key: str
) -> None:
    tree = {name: value for name, value in TINY.items() if name != key}

    with pytest.raises(InvalidFileError) as caught:
        read_snapshot(written(tree, tmp_path))

    assert (f"$.{key}", "this key is missing") in [
        (fault.where, fault.problem) for fault in caught.value.faults
    ]


def test_a_cluster_without_vms_may_be_said_to_have_none(tmp_path: Path) -> None:
    assert read_snapshot(written(TINY | {"vms": []}, tmp_path)).vms == ()


@pytest.mark.parametrize("unseen", ["\x1b[2J", "\n", "\x9b2J", "\x7f"])
def test_names_that_would_steer_a_terminal_are_refused_and_shown_harmlessly(
    tmp_path: Path, unseen: str
) -> None:
    tree = TINY | {"vms": [TINY["vms"][0] | {"name": f"db{unseen}1"}]}

    with pytest.raises(InvalidFileError) as raised:
        read_snapshot(written(tree, tmp_path))

    assert str(raised.value).endswith(
        "has control characters in it; expected characters that can be seen, and spaces"
    )
    assert unseen not in str(raised.value)
