"""The benchmark of the forecast reads days, sees only the past, and scores as it says."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.forecast import Day, forecasts, main, pinball


def a_day(folder: Path, day: str, columns: dict[str, list[str]]) -> None:
    lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    with gzip.open(folder / f"{day}.csv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def test_per_cent_become_cores_and_empty_cells_gaps(tmp_path: Path) -> None:
    a_day(tmp_path, "20110303", {"a": ["50", ""], "b": ["0", "100"]})

    day = Day.read(tmp_path / "20110303.csv.gz")

    assert day.names == ["a", "b"]
    np.testing.assert_array_equal(day.cores, [[0.5, np.nan], [0.0, 1.0]])


def test_too_low_costs_more_than_too_high_at_the_peak() -> None:
    actual = np.array([[1.0, 3.0]])

    np.testing.assert_allclose(pinball(actual, np.array([2.0]), 0.95), [[0.05, 0.95]])
    np.testing.assert_allclose(pinball(actual, np.array([2.0]), 0.5), [[0.5, 0.5]])


def test_no_method_sees_what_comes() -> None:
    past = np.full((2, 20), 0.25)

    for _, forecast in forecasts(past, 6, None):
        np.testing.assert_allclose(forecast.expected, 0.25)
        assert (forecast.peak >= 0.25).all()


def test_the_scores_of_a_day_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_day(tmp_path, "20110303", {"a": ["10"] * 30, "b": ["20"] * 30})
    a_day(tmp_path, "20110306", {"a": ["10", "30"] * 15, "c": ["20"] * 30})

    assert main(["--data", str(tmp_path), "--day", "20110306", "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    scores = {row["method"]: row for row in told["scores"]}
    assert told["day"] == "20110306"
    assert scores["ours"]["vms"] == 2
    assert scores["seasonal naive"]["vms"] == 1
    assert scores["seasonal naive"]["bias_points"] == pytest.approx(-10.0)


def test_a_day_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_day(tmp_path, "20110303", {"a": ["1"]})

    assert main(["--data", str(tmp_path), "--day", "20990101"]) == 64
    assert "expected 20110303" in capsys.readouterr().out
