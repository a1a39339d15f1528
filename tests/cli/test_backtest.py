"""`rebalancer backtest`: recorded telemetry, played to a policy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rebalancer.errors import ExitCode
from tests.cli.conftest import ROOT, Rebalancer

CLUSTER = """\
schema_version: 1
name: pair
hosts:
  - {name: "h{1..2}", cpu_cores: 10, memory: 64GiB, idle_watts: 100, max_watts: 200}
vms:
  - {name: "web{1..4}", on: h1, vcpus: 4, memory: 4GiB, cpu: 1}
  - {name: "idle", on: h2, vcpus: 2, memory: 4GiB, cpu: 0.2}
policy:
  name: quick
  trigger: {for_cycles: 1}
"""
START = 1_763_251_200
"""2025-11-16 00:00 UTC."""


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    file = tmp_path / "pair.yaml"
    file.write_text(CLUSTER)
    return file


def a_recording(folder: Path, cores: Sequence[float]) -> Path:
    """The same use of each web server, every 10 minutes."""
    lines = [f"{START + 600 * k},{','.join([f'{used}'] * 4)}" for k, used in enumerate(cores)]
    file = folder / "use.csv"
    file.write_text("\n".join(["time,web1,web2,web3,web4", *lines, ""]))
    return file


def test_a_policy_is_compared_with_doing_nothing(
    rebalancer: Rebalancer, tmp_path: Path, pair: Path
) -> None:
    trace = a_recording(tmp_path, [1.0, 1.0, *[3.0] * 6])

    ran = rebalancer(
        "backtest", "--trace", trace, "--scenario", pair, "--every", "10m", "-o", "json"
    )

    told = json.loads(ran.out)
    assert (ran.code, ran.err) == (ExitCode.SUCCESS, "")
    nothing, acted = told["doing_nothing"], told["with_policy"]
    # Four times three cores of ten, for an hour.
    assert nothing["overload_host_seconds"] == 3600
    assert nothing["missing_core_seconds"] == pytest.approx(7200)
    assert nothing["peak_ratio"] == pytest.approx(1.2)
    assert nothing["migrations"] == 0
    # 80 min of two hosts: 100 W each, and 10 W for each core; what is not there is not drawn for.
    assert nothing["energy_joules"] == pytest.approx(4800 * 202 + 1200 * 40 + 3600 * 100)
    assert acted["migrations"] >= 1
    assert acted["overload_host_seconds"] < 3600
    assert acted["moved_bytes"] == acted["migrations"] * 4 * 1024**3
    assert told["constant_vms"] == ["idle"]


def test_the_same_recording_gives_the_same_answer(
    rebalancer: Rebalancer, tmp_path: Path, pair: Path
) -> None:
    trace = a_recording(tmp_path, [1.0, 3.0, 3.0, 1.0, 3.5, 3.5])
    command = ["backtest", "--trace", trace, "--scenario", pair, "--every", "10m", "-o", "json"]

    assert rebalancer(*command).out == rebalancer(*command).out


def test_nothing_of_a_backtest_is_kept(rebalancer: Rebalancer, tmp_path: Path, pair: Path) -> None:
    trace = a_recording(tmp_path, [3.0] * 4)

    rebalancer("backtest", "--trace", trace, "--scenario", pair, "--every", "10m")

    assert sorted(file.name for file in tmp_path.iterdir()) == ["pair.yaml", "use.csv"]


def test_the_example_of_the_project_can_be_replayed(rebalancer: Rebalancer) -> None:
    folder = ROOT / "scenarios" / "backtest"

    ran = rebalancer(
        *("backtest", "--trace", folder / "day.csv", "--scenario", folder / "cluster.yaml"),
        *("--every", "2h", "--policy", ROOT / "policies" / "relieve.yaml"),
    )

    assert ran.code == ExitCode.SUCCESS
    assert "with the policy  doing nothing" in ran.out
    assert "10 h 15 min" in ran.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hour,web1\n1,2\n", "use.csv:1:1: the first column is called 'hour'; expected time"),
        ("time,web1\n1,2\n601,x\n1201,1\n", "use.csv:3:5: 'x' is not an amount of CPU"),
        ("time,web1\n1,2\n601,-1\n1201,1\n", "use.csv:3:5: '-1' is not an amount of CPU"),
        ("time,web1\n1,2\n2026-11-23,2\n", "2026-11-23 has no time zone"),
        ("time,web1\nnoon,2\n", "use.csv:2:1: 'noon' is not a time"),
        ("time,web1\n1,2,3\n", "use.csv:2: 3 cells; expected 2, as in the header"),
        ("time,web1,web1\n1,2,3\n", "use.csv:1:11: a second column is called web1"),
        ("time,web1\n1,2\n", "use.csv: 1 time; at least 3 are needed"),
        ("time,web1\n1,2\n601,2\n", "2 different times; at least 3 are needed"),
        ("time,web1\n0,1\n0.4,1\n0.8,1\n", "all of its times are within 1 s of each other"),
        ("time,web1\n0,1\n600,1\n600,1\n1200,1\n", "use.csv:4:5: a second sample of web1"),
        ("time,web1\n0,1\n600,1\n1210,1\n", "expected every 600 s, as other samples are"),
        (
            "time,web1\n0,1\n600,1\n1200,1\n1700,1\n2400,1\n3000,1\n",
            "use.csv:5:6: a sample 1700 s after the first one; expected every 600 s",
        ),
        (
            "time,vm,cpu\n0,web1,1\n0,web2,1\n600,web1,1\n",
            "use.csv:1:6: columns called time,vm,cpu, with 'web1' below 'vm'; "
            "expected time,vm,cpu_cores for a line for each sample",
        ),
        ("time,cpu_cores,vm\n0,1,web1\n", "use.csv:1:16: columns called time,cpu_cores,vm"),
        ("time,db\n0,1\n600,1\n1200,1\n", "none of its 1 VMs is in cluster pair; expected ids"),
        (
            "time,web1\n0,NaN\n600,\n1200,nan\n",
            "use.csv: no sample of any VM of cluster pair is a number; expected cores for one",
        ),
        ('time,web1\n0,"1\n', "not CSV"),
        ("", "the file is empty"),
        ('{"status": "success"}', "$.data: this key is missing"),
        (
            '{"status": "error", "error": "too many samples"}',
            "use.csv:",
        ),
    ],
)
def test_a_recording_that_is_not_right_is_refused_with_its_place(
    rebalancer: Rebalancer, tmp_path: Path, pair: Path, text: str, said: str
) -> None:
    trace = tmp_path / "use.csv"
    trace.write_text(text)

    ran = rebalancer("backtest", "--trace", trace, "--scenario", pair)

    assert ran.code == ExitCode.INVALID_FILE
    assert said in ran.err


def test_a_pace_that_makes_no_sense_is_refused(
    rebalancer: Rebalancer, tmp_path: Path, pair: Path
) -> None:
    trace = a_recording(tmp_path, [1.0] * 4)

    ran = rebalancer("backtest", "--trace", trace, "--scenario", pair, "--every", "2d")

    assert ran.code == ExitCode.USAGE
    assert "expected 1 s to the 2400 s that were recorded" in ran.err


def test_more_cycles_than_anybody_waits_for_are_refused(
    rebalancer: Rebalancer, tmp_path: Path, pair: Path
) -> None:
    trace = a_recording(tmp_path, [1.0] * 60)

    ran = rebalancer("backtest", "--trace", trace, "--scenario", pair, "--every", "1s")

    assert ran.code == ExitCode.USAGE
    assert "36,000 cycles, expected up to 20,000: take a longer --every" in ran.err


def test_what_prometheus_answered_can_be_replayed(
    rebalancer: Rebalancer, tmp_path: Path, pair: Path
) -> None:
    series = [
        {
            "metric": {"domain": vm, "instance": "h1"},
            "values": [[START + 600 * k, "NaN" if k == 2 else "3"] for k in range(5)],
        }
        for vm in ("web1", "web2", "web3", "web4", "gone")
    ]
    answer = {"status": "success", "data": {"resultType": "matrix", "result": series}}
    trace = tmp_path / "range.json"
    trace.write_text(json.dumps(answer))
    command = ["backtest", "--trace", trace, "--scenario", pair, "--every", "10m"]

    ran = rebalancer(*command, "--vm-label", "domain")
    wrong = rebalancer(*command)

    assert ran.code == ExitCode.SUCCESS
    assert "left out: 1 name (gone)" in ran.out
    assert "20.0 % of the samples are missing" in ran.out
    assert wrong.code == ExitCode.INVALID_FILE
    assert "$.data.result[0].metric: there is no label uuid; it has domain, instance" in wrong.err
