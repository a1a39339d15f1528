"""Judge `forecast` on recorded CPU traces, against forecasts that anybody can make.

    python benchmarks/forecast.py --data DIR --day 20110303 [--every 1] [--json]

`DIR` holds one `DAY.csv.gz` a day: a line of VM names, then a line of per cents every 5 minutes,
one column a VM. At every sample each method foresees the next half hour of every VM from the
samples so far, and is judged on each sample of that half hour.

Pinball loss of quantile q, in percentage points of a VM, less is better:
max(q·(y − f), (q − 1)·(y − f)), averaged (Koenker and Bassett, 1978). Coverage is the share of
samples at or below the forecast peak; it should be 0.95. `seasonal naive` is what the VM of the
same name did at that time on the last earlier day in `DIR`, and judged on those VMs alone, for
which the row `ours, same VMs` is there as well.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rebalancer.forecast.outlook import HORIZON_SECONDS, PEAK_QUANTILE, Question, foresee
from rebalancer.forecast.quantile import Array

INTERVAL_SECONDS = 300.0
AVERAGED_SAMPLES = 12
"""The moving average is over an hour."""
OURS, SAME_VMS, SEASONAL = "ours", "ours, same VMs", "seasonal naive"


@dataclass(frozen=True, kw_only=True)
class Day:
    """The traces of one day."""

    names: Sequence[str]
    cores: Array
    """Use of one vCPU, shape (V, T)."""

    @classmethod
    def read(cls, file: Path) -> Day:
        """Read a compressed table; an empty cell is a missing sample."""
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            names = next(lines).rstrip("\n").split(",")
            rows = [
                [float(c) if c else np.nan for c in line.rstrip("\n").split(",")] for line in lines
            ]
        return cls(names=names, cores=np.array(rows).T / 100)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What one method foresees, in cores, shape (V,) or (V, horizon)."""

    expected: Array
    peak: Array


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well one method did, over a day."""

    method: str
    vms: int
    pinball_50_points: float
    pinball_95_points: float
    coverage_95: float
    bias_points: float
    """Mean of expected less actual: a host's load is the sum of what is expected of its VMs."""


def forecasts(past: Array, ahead: int, yesterday: Array | None) -> Iterator[tuple[str, Forecast]]:
    """Let every method foresee the next samples of each VM from `past`, shape (V, t)."""
    now = past.shape[1]
    question = Question(interval_seconds=INTERVAL_SECONDS)
    ours = foresee(past, np.ones(len(past)), past[:, -1], question)
    yield OURS, Forecast(expected=ours.expected, peak=ours.peak)
    if yesterday is not None:
        yield SAME_VMS, Forecast(expected=ours.expected, peak=ours.peak)
        same_time = yesterday[:, now : now + ahead]
        yield SEASONAL, Forecast(expected=same_time, peak=same_time)
    yield "last value", Forecast(expected=past[:, -1], peak=past[:, -1])
    average = past[:, -AVERAGED_SAMPLES:].mean(axis=1)
    yield "moving average", Forecast(expected=average, peak=average)
    median, high = np.quantile(past, [0.5, PEAK_QUANTILE], axis=1)
    yield "quantiles so far", Forecast(expected=median, peak=high)


def pinball(actual: Array, forecast: Array, quantile: float) -> Array:
    """The loss of each sample; `actual` (V, horizon), `forecast` the same or (V,)."""
    off = actual - _columns(forecast)
    return np.asarray(np.maximum(quantile * off, (quantile - 1) * off))


def judge(day: Day, earlier: Day | None, every: int) -> list[Score]:
    """Score every method over a day, seeing at each time only the samples up to then."""
    ahead = round(HORIZON_SECONDS / INTERVAL_SECONDS)
    yesterday = _same_vms(day, earlier)
    sums: dict[str, list[Sequence[float]]] = defaultdict(list)
    for now in range(1, day.cores.shape[1] - ahead + 1, every):
        actual = day.cores[:, now : now + ahead]
        for method, foreseen in forecasts(day.cores[:, :now], ahead, yesterday):
            sums[method].append(_losses(actual, foreseen, _judged(method, yesterday, day)))
    return [
        Score(
            method=method,
            vms=int(_judged(method, yesterday, day).sum()),
            pinball_50_points=100 * means[0],
            pinball_95_points=100 * means[1],
            coverage_95=means[2],
            bias_points=100 * means[3],
        )
        for method, rows in sums.items()
        for means in [np.mean(rows, axis=0).tolist()]
    ]


def _losses(actual: Array, foreseen: Forecast, rows: Array) -> Sequence[float]:
    chosen = rows.astype(bool)
    real, expected, peak = actual[chosen], foreseen.expected[chosen], foreseen.peak[chosen]
    return (
        float(np.nanmean(pinball(real, expected, 0.5))),
        float(np.nanmean(pinball(real, peak, PEAK_QUANTILE))),
        float(np.nanmean(real <= _columns(peak) + 1e-9)),
        float(np.nanmean(_columns(expected) - real)),
    )


def _judged(method: str, yesterday: Array | None, day: Day) -> Array:
    if yesterday is None or method not in {SAME_VMS, SEASONAL}:
        return np.ones(len(day.names))
    return np.isfinite(yesterday).all(axis=1).astype(float)


def _same_vms(day: Day, earlier: Day | None) -> Array | None:
    if earlier is None:
        return None
    known: Mapping[str, Array] = dict(zip(earlier.names, earlier.cores, strict=True))
    unknown = np.full(day.cores.shape[1], np.nan)
    return np.stack([known.get(name, unknown) for name in day.names])


def _columns(forecast: Array) -> Array:
    return forecast[:, None] if forecast.ndim == 1 else forecast


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scores of one day."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder with DAY.csv.gz")
    parser.add_argument("--day", required=True, help="such as 20110303")
    parser.add_argument("--every", type=int, default=1, help="foresee at every so many samples")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    files = {file.name.removesuffix(".csv.gz"): file for file in given.data.glob("*.csv.gz")}
    if given.day not in files:
        print(f"no {given.day}.csv.gz in {given.data}: expected {', '.join(sorted(files))}")
        return 64
    past_days = sorted(name for name in files if name < given.day)
    earlier = Day.read(files[past_days[-1]]) if past_days else None
    began = time.perf_counter()
    scores = judge(Day.read(files[given.day]), earlier, max(1, given.every))
    if given.json:
        rows = [{name: getattr(s, name) for name in s.__dataclass_fields__} for s in scores]
        print(json.dumps({"day": given.day, "scores": rows}, indent=1))
    else:
        print(f"{given.day}, {time.perf_counter() - began:.0f} s")
        print(f"{'method':18}{'VMs':>6}{'q=0.5':>8}{'q=0.95':>8}{'coverage':>10}{'bias':>8}")
        for s in scores:
            print(
                f"{s.method:18}{s.vms:6}{s.pinball_50_points:8.3f}{s.pinball_95_points:8.3f}"
                f"{s.coverage_95:10.3f}{s.bias_points:+8.3f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
