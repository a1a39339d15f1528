"""Neutral snapshots turned into ours, and the policy that they are placed under."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.from_neutral import snapshot_from_neutral
from rebalancer.cluster.rules import Spread, groups_in
from rebalancer.collect.snapshot_file import read_snapshot
from rebalancer.service.policy_file import read_policy
from tests.builders import GIB, a_snapshot

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def a_neutral_snapshot() -> dict[str, Any]:
    host = {"cpu_cores": 32, "mem_mib": 65536, "power_idle_w": 100, "power_max_w": 300}
    vm = {"vcpus": 4, "mem_mib": 8192, "cpu_used_cores": 1.5, "dirty_rate_mib_s": 12.5}
    return {
        "schema": "cluster-snapshot/1",
        "name": "small",
        "limits": {"cpu_overcommit": 4.0},
        "hosts": [{"name": f"h{k}", "site": "s0", **host} for k in (1, 2)],
        "vms": [
            {"name": "a", "host": "h1", "anti_affinity": "g1", "movable": True, **vm},
            {"name": "b", "host": "h1", "anti_affinity": "g1", "movable": False, **vm},
            {"name": "c", "host": "h2", "anti_affinity": None, "movable": True, **vm},
        ],
    }


def test_what_comes_out_is_a_snapshot_file(tmp_path: Path) -> None:
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps(a_neutral_snapshot()))

    subprocess.run(
        [sys.executable, str(BENCHMARKS / "from_neutral.py"), str(source), str(target)], check=True
    )
    snapshot = read_snapshot(target)

    assert [host.id for host in snapshot.hosts] == ["h1", "h2"]
    assert snapshot.hosts[0].memory_bytes == 64 * GIB
    assert snapshot.hosts[0].idle_watts == 100
    assert [vm.movable for vm in snapshot.vms] == [True, False, True]
    assert snapshot.vms[0].dirty_bytes_per_second == 12.5 * 2**20


def test_the_policy_parts_the_groups_without_naming_them() -> None:
    policy = read_policy(BENCHMARKS / "policies" / "balance.yaml")
    [rule] = policy.rules
    assert isinstance(rule, Spread)
    assert policy.trigger is None
    assert policy.limits.migrations is None

    written = json.dumps(snapshot_from_neutral(a_neutral_snapshot()))
    vms = json.loads(written)["vms"]

    assert [vm["labels"] for vm in vms] == [{"anti_affinity": "g1"}, {"anti_affinity": "g1"}, {}]
    assert rule.by_label == "anti_affinity"
    assert groups_in(rule, a_snapshot()) == []
