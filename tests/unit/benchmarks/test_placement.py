"""The comparison of placements: what a row has to reach, and that runs are kept and judged."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

GENERATOR = """
import argparse, json
p = argparse.ArgumentParser()
for name in ("size", "flavour", "seed"):
    p.add_argument("--" + name)
p.add_argument("-o")
a = p.parse_args()
host = {"cpu_cores": 16, "mem_mib": 65536, "power_idle_w": 100, "power_max_w": 300, "site": "s"}
vm = {"vcpus": 4, "mem_mib": 4096, "cpu_used_cores": 3.0, "dirty_rate_mib_s": 1.0,
      "anti_affinity": None, "movable": True, "host": "h1"}
json.dump({"schema": "cluster-snapshot/1", "name": "tiny", "limits": {"cpu_overcommit": 4.0},
           "hosts": [{"name": n, **host} for n in ("h1", "h2")],
           "vms": [{"name": f"v{k}", **vm} for k in range(4)]}, open(a.o, "w"))
"""
SCORER = """
def score(snapshot, moves):
    moved = dict(moves)
    left = sum(moved.get(vm["name"], "h1") == "h1" for vm in snapshot["vms"])
    return {"migrations": len(moved), "migrated_gib": 4.0 * len(moved),
            "cpu_std_before": 0.375, "cpu_std_after": abs(left - 2) * 0.1875,
            "cpu_max_after": max(left, 4 - left) * 3 / 16,
            "mem_std_before": 0.125, "mem_std_after": abs(left - 2) * 0.0625,
            "watts_before": 350.0, "watts_after": 350.0, "stuck_moves": 0, "feasible": True}
"""
ADAPTER = """
import json, sys
asked = dict(zip(sys.argv[1::2], sys.argv[2::2]))
moves = [["v0", "h2"], ["v1", "h2"], ["v2", "h2"]][:int(asked["--max-moves"]) or None]
json.dump({"moves": moves}, open(asked["--out"], "w"))
"""


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    folder = tmp_path / "bench"
    (folder / "peers").mkdir(parents=True)
    (folder / "gen_cluster.py").write_text(GENERATOR)
    (folder / "score.py").write_text(SCORER)
    (folder / "peers" / "rebalancer_adapter.py").write_text(ADAPTER)
    return folder


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("placement_table")


def a_run(contestant: str = "ours", **changed: Any) -> Any:
    runs = importlib.import_module("placement_runs")
    facts: dict[str, Any] = {
        "kind": "balance",
        "snapshot": "small-skewed-s1",
        "version": "1",
        "status": "ok",
        "wall_seconds": 2.0,
        "cpu_seconds": 2.0,
        "peak_mib": 100.0,
        "moves": 3.0,
        "gib": 8.0,
        "spread": 0.02,
        "memory_spread_before": 0.1,
        "memory_spread": 0.1,
        "stuck": 0.0,
        "feasible": 1.0,
        "captured": 0.99,
        "proof": "searched",
    }
    return runs.Run(contestant=contestant, **facts | changed)


def missed(table: ModuleType, ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, ...]:
    pair = table.Pair(ours=a_run(**ours), theirs=a_run("theirs", **theirs))
    found: tuple[str, ...] = table.misses(pair)
    return found


def test_as_even_as_theirs_for_four_fifths_of_the_memory_is_enough(table: ModuleType) -> None:
    assert missed(table, {"gib": 8.0}, {"gib": 10.0}) == ()
    assert missed(table, {"gib": 8.1}, {"gib": 10.0}) == ("GiB",)
    assert missed(table, {"spread": 0.021}, {"gib": 10.0}) == ("spread",)


@pytest.mark.parametrize(
    ("ours", "bar"),
    [
        ({"memory_spread": 0.11}, "memory spread"),
        ({"most_moves": 2.0}, "moves"),
        ({"feasible": 0.0}, "feasible"),
        ({"stuck": 1.0}, "stuck"),
        ({"captured": 0.97}, "captured"),
        ({"peak_mib": 3000.0}, "memory"),
        ({"first_seconds": 4.0}, "first answer"),
        ({"wall_seconds": 9.0, "cpu_seconds": 8.0}, "time"),
        ({"status": "cut off"}, "cut off"),
    ],
)
def test_each_bar_is_told_by_name(table: ModuleType, ours: dict[str, Any], bar: str) -> None:
    assert missed(table, ours, {"gib": 10.0}) == (bar,)


def test_waiting_for_a_busy_machine_is_not_held_against_us(table: ModuleType) -> None:
    assert missed(table, {"wall_seconds": 60.0, "cpu_seconds": 2.0}, {"gib": 10.0}) == ()


def test_a_hot_host_is_only_left_where_that_is_proved(table: ModuleType) -> None:
    relieve = {"kind": "relieve", "hot": 1.0}

    assert missed(table, relieve, {}) == ("hot", "not proved")
    assert missed(table, {**relieve, "proof": "optimal"}, {}) == ()


def test_power_takes_no_more_watts_and_moves_than_theirs(table: ModuleType) -> None:
    power = {"kind": "power", "snapshot": "small-sparse-s1", "watts": 100.0, "hottest": 0.8}

    assert missed(table, power, {"watts": 100.0, "moves": 3.0}) == ()
    assert missed(table, power, {"watts": 99.0, "moves": 2.0}) == ("watts", "moves")
    assert missed(table, power | {"hottest": 0.81}, {"watts": 100.0}) == ("ceiling",)


def compare(bench: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "placement.py"), "--bench", str(bench)]
    command += ["--out", str(out), "--sizes", "small", "--flavours", "hotspot", "--seeds", "7"]
    command += ["--rows", "balance", "--solver-time", "5", *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


PEER_ROWS = """\
contestant,snapshot,budget,status,wall_s,cpu_s,peak_rss_mib,migrations,migrated_gib,cpu_std_before,\
cpu_std_after,cpu_max_after,mem_std_before,mem_std_after,watts_before,watts_after,stuck_moves,\
feasible
reb-lean,small-hotspot-s7,all,ok,0.1,0.1,50,3,12,0.375,0.1875,0.5625,0.125,0.0625,350,350,0,True
"""


def test_both_are_compared_on_a_cluster_that_is_made_for_it(bench: Path, tmp_path: Path) -> None:
    rows = tmp_path / "peers.csv"
    rows.write_text(PEER_ROWS)

    ended = compare(bench, tmp_path / "out", "--peer-rows", str(rows), "--json")

    (row,) = json.loads(ended.stdout)
    assert row["snapshot"] == "small-hotspot-s7"
    assert (row["ours"]["moves"], row["ours"]["spread"]) == (2, 0)
    assert (row["theirs"]["moves"], row["theirs"]["gib"]) == (3, 12)
    assert "GiB" in row["misses"]


def test_an_interrupted_comparison_goes_on_where_it_was(bench: Path, tmp_path: Path) -> None:
    first = compare(bench, tmp_path, "--ours-only")
    second = compare(bench, tmp_path, "--ours-only")

    assert "ours balance small-hotspot-s7: ok, 2 moves" in first.stderr
    assert second.stderr == ""
    assert second.stdout == first.stdout
    assert "| small-hotspot-s7 |" in first.stdout
