"""Which missed bars of the comparison anybody could reach: proved, found, or left alone."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
HOST = {"cpu_cores": 16, "mem_mib": 65536}
VM = {
    "vcpus": 4,
    "mem_mib": 4096,
    "cpu_used_cores": 4.0,
    "anti_affinity": None,
    "movable": True,
    "host": "h1",
}


@pytest.fixture
def unreached(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("unreached")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "snapshots").mkdir()
    snapshot = {
        "limits": {"cpu_overcommit": 4.0},
        "hosts": [{"name": name, **HOST} for name in ("h1", "h2")],
        "vms": [{"name": f"v{number}", **VM} for number in range(4)],
    }
    (tmp_path / "snapshots" / "small-skewed-s1.json").write_text(json.dumps(snapshot))
    return tmp_path


def compared(out: Path, *, ours: float, theirs: float, their_gib: float, most: float) -> None:
    """Keep a comparison: spread of ours and theirs, and GiB that theirs moved."""
    runs = importlib.import_module("placement_runs")
    fits = {"kind": "balance-5pct", "snapshot": "small-skewed-s1", "version": "1", "status": "ok"}
    file = out / "runs.csv"
    runs.add_run(
        file,
        runs.Run(contestant=runs.OURS, spread=ours, gib=8.0, most_moves=most, feasible=1.0, **fits),
    )
    runs.add_run(
        file, runs.Run(contestant=runs.THEIRS, spread=theirs, gib=their_gib, moves=2.0, **fits)
    )


@pytest.mark.parametrize(
    ("their_gib", "most", "verdict"),
    [(10.0, 2, "possible"), (10.0, 1, "impossible"), (9.0, 2, "impossible")],
)
def test_a_missed_bar_is_proved_out_of_reach_or_an_answer_is_found(
    unreached: ModuleType,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    their_gib: float,
    most: int,
    verdict: str,
) -> None:
    # Two of four VMs of 4 GiB each have to move, and 0.8 of what theirs moved may be moved.
    compared(out, ours=0.25, theirs=0.01, their_gib=their_gib, most=most)

    assert unreached.main(["--out", str(out), "--json"]) == 0

    (answer,) = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["moves"]) == (verdict, most)
    assert answer["gib"] == pytest.approx(0.8 * their_gib)


def test_rows_that_reach_their_bars_are_not_asked_about(
    unreached: ModuleType, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared(out, ours=0.01, theirs=0.02, their_gib=20.0, most=2)

    assert unreached.main(["--out", str(out), "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == []
