"""Compare what `planning.cost` predicts with migrations that were measured.

    python benchmarks/prediction.py --data migration_measurements.csv [--halves 500] [--json]

Each point (dirty rate, bandwidth) is predicted from the guest's dirty rate, working set and
memory and from the cap alone, and compared with the median of its rows. Of the guest's memory
only what is not zero is sent. That share is taken from the *other* points, as the product takes
it from earlier migrations; `--memory whole` does without.

`--halves` tells how the figures would be on other measurements: so often the rows are dealt into
two halves by chance, and one is predicted with the memory that the other shows. Then each cap,
each dirty rate, and the rows of a quiet and of a busy machine are asked with the others known.
A half has one or two rows of each point, which differ by themselves: `noise` says how often the
median of all rows of a point, told beforehand, would have been within the limits.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from rebalancer.planning.cost import Estimate, Line, live
from rebalancer.planning.guest import Guest
from rebalancer.planning.precopy import PAGE_BYTES, DirtyLaw, cycling_writes, random_writes
from rebalancer.planning.wording import MIB

EDGE_RATIO = 0.1
"""Where a guest writes within 10 % of the bandwidth nobody can tell how it ends."""

LIMITS = {"job_time_median_error": 0.08, "job_time_p90_error": 0.2, "bytes_median_error": 0.08}
"""What is asked of the model."""

LAWS: Mapping[str, DirtyLaw] = {"cycling": cycling_writes, "random": random_writes}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured migration, in base units."""

    dirty_bytes_per_second: float
    working_set_bytes: float
    ram_bytes: float
    not_zero_bytes: float
    cap_bytes_per_second: float
    max_downtime_seconds: float
    abort_after_seconds: float
    converged: bool
    job_seconds: float
    sent_bytes: float
    load: float
    """Of the machine, in processes that want to run."""

    @classmethod
    def read(cls, row: Mapping[str, str]) -> Row:
        """Take a row of the file; MB are 10^6 bytes there and MiB 2^20."""
        zero = float(row["pages_constant_zero"]) * PAGE_BYTES
        return cls(
            dirty_bytes_per_second=float(row["dirty_rate_true_mb_per_s"]) * 1e6,
            working_set_bytes=float(row["working_set_mib"]) * MIB,
            ram_bytes=float(row["guest_ram_mib"]) * MIB,
            not_zero_bytes=float(row["memory_total_mib"]) * MIB - zero,
            cap_bytes_per_second=float(row["bandwidth_cap_mib_per_s"]) * MIB,
            max_downtime_seconds=float(row["max_downtime_ms"]) / 1e3,
            abort_after_seconds=float(row["abort_after_s"]),
            converged=row["converged"] == "1",
            job_seconds=float(row["job_time_ms"]) / 1e3,
            sent_bytes=float(row["memory_processed_mib"]) * MIB,
            load=float(row["loadavg_1m"]),
        )


@dataclass(frozen=True, kw_only=True)
class Point:
    """The rows of one dirty rate and cap, and what was predicted for them."""

    name: str
    rows: Sequence[Row]
    predicted: Estimate

    @property
    def converged(self) -> bool:
        """How most of its migrations ended."""
        return sum(row.converged for row in self.rows) * 2 > len(self.rows)

    @property
    def predicted_to_converge(self) -> bool:
        """Whether it should have ended before it was aborted."""
        in_time = self.predicted.duration_seconds <= self.rows[0].abort_after_seconds
        return self.predicted.converges and in_time

    @property
    def is_on_the_edge(self) -> bool:
        """Whether it writes so nearly as fast as it sends that any outcome is possible."""
        row = self.rows[0]
        ratio = row.dirty_bytes_per_second / row.cap_bytes_per_second
        return abs(ratio - 1) <= EDGE_RATIO

    @property
    def job_seconds(self) -> float:
        """Median of what was measured."""
        return median(row.job_seconds for row in self.rows if row.converged)

    @property
    def sent_bytes(self) -> float:
        """Median of what was measured."""
        return median(row.sent_bytes for row in self.rows if row.converged)

    @property
    def job_time_error(self) -> float:
        """Relative to the measurement."""
        return abs(self.predicted.duration_seconds / self.job_seconds - 1)

    @property
    def bytes_error(self) -> float:
        """Relative to the measurement."""
        return abs(self.predicted.transfer_bytes / self.sent_bytes - 1)


def points_of(
    rows: Mapping[str, list[Row]],
    memory: str,
    law: DirtyLaw,
    known: Mapping[str, list[Row]] | None = None,
) -> list[Point]:
    """Predict every point without looking at its own rows' results.

    `known` are the rows whose memory may be looked at: the other ones, if nothing else is said.
    """
    points, known = [], rows if known is None else known
    for name, mine in rows.items():
        others = [row for other, theirs in known.items() if other != name for row in theirs]
        points.append(Point(name=name, rows=mine, predicted=_predict(mine[0], others, memory, law)))
    return points


def _predict(point: Row, others: Sequence[Row], memory: str, law: DirtyLaw) -> Estimate:
    guest = Guest(
        memory_bytes=_memory_bytes(point, others) if memory == "resident" else point.ram_bytes,
        dirty_bytes_per_second=point.dirty_bytes_per_second,
        working_set_bytes=point.working_set_bytes,
    )
    return live(guest, Line.of(point.cap_bytes_per_second), point.max_downtime_seconds, law)


def _memory_bytes(point: Row, others: Sequence[Row]) -> float:
    """What is not zero: as of guests of the same size, else as large a share as of any."""
    alike = [row.not_zero_bytes for row in others if row.ram_bytes == point.ram_bytes]
    if alike:
        return median(alike)
    shares = [row.not_zero_bytes / row.ram_bytes for row in others]
    return point.ram_bytes * (median(shares) if shares else 1.0)


type Halving = tuple[str, Mapping[str, list[Row]], Mapping[str, list[Row]]]
"""What it is called, the rows that are asked, and those that are known."""


def halvings(rows: Mapping[str, list[Row]], times: int) -> Iterator[Halving]:
    """The ways to take rows away and ask for them: by chance, then by each of their columns."""
    chance = random.Random(0)
    for _ in range(times):
        yield "halves by chance", *_parted(rows, lambda _: chance.random() < 0.5)
    every = [row for mine in rows.values() for row in mine]
    for cap in sorted({row.cap_bytes_per_second for row in every}):
        yield f"all at {cap / MIB:.0f} MiB/s", *_parted(rows, partial(_has_cap, cap))
    for rate in sorted({round(row.dirty_bytes_per_second / 1e6) for row in every}):
        yield f"all that write {rate} MB/s", *_parted(rows, partial(_writes, rate))
    usual = median(row.load for row in every)
    yield f"load up to {usual:.0f}", *_parted(rows, lambda row: row.load <= usual)
    yield f"load above {usual:.0f}", *_parted(rows, lambda row: row.load > usual)


def _has_cap(cap_bytes_per_second: float, row: Row) -> bool:
    return row.cap_bytes_per_second == cap_bytes_per_second


def _writes(megabytes_per_second: int, row: Row) -> bool:
    return round(row.dirty_bytes_per_second / 1e6) == megabytes_per_second


def _parted(
    rows: Mapping[str, list[Row]], is_asked: Callable[[Row], bool]
) -> tuple[Mapping[str, list[Row]], Mapping[str, list[Row]]]:
    asked: dict[str, list[Row]] = defaultdict(list)
    known: dict[str, list[Row]] = defaultdict(list)
    for name, mine in rows.items():
        for row in mine:
            (asked if is_asked(row) else known)[name].append(row)
    return asked, known


def held_up(
    rows: Mapping[str, list[Row]], times: int, memory: str, law: DirtyLaw
) -> list[dict[str, float | str]]:
    """The worst, and the usual, figures of each way to take rows away."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    told: dict[str, int] = defaultdict(int)
    whole = {point.name: point for point in points_of(rows, memory, law)}
    for name, asked, known in halvings(rows, times):
        points = points_of(asked, memory, law, known)
        if any(p.converged for p in points):
            found[name].append(summary(points))
            told[name] += _is_within(summary(_told(point, whole[point.name]) for point in points))
    return [
        {
            "asked": name,
            "times": len(figures),
            "within_limits": sum(map(_is_within, figures)),
            "medians_within_limits": told[name],
            "outcomes_wrong": sum(f["outcome_total"] - f["outcome_right"] for f in figures),
            **{key: median(f[key] for f in figures) for key in LIMITS},
            **{f"worst_{key}": max(f[key] for f in figures) for key in LIMITS},
        }
        for name, figures in found.items()
    ]


def _told(point: Point, whole: Point) -> Point:
    """The same with what was measured of all rows in place of a prediction."""
    if not (point.converged and whole.converged):
        return point
    medians = replace(
        whole.predicted, duration_seconds=whole.job_seconds, transfer_bytes=whole.sent_bytes
    )
    return replace(point, predicted=medians)


def _is_within(figures: Mapping[str, float]) -> bool:
    right = figures["outcome_right"] == figures["outcome_total"]
    return right and all(figures[key] <= limit for key, limit in LIMITS.items())


def summary(points: Iterable[Point]) -> dict[str, float]:
    """Reduce the points to the figures that count."""
    points = list(points)
    ended = [p for p in points if p.converged]
    clear = [p for p in points if not p.is_on_the_edge]
    times = sorted(p.job_time_error for p in ended)
    return {
        "job_time_median_error": round(median(times), 4),
        "job_time_p90_error": round(times[math.ceil(0.9 * len(times)) - 1], 4),
        "bytes_median_error": round(median(p.bytes_error for p in ended), 4),
        "outcome_right": sum(p.converged == p.predicted_to_converge for p in clear),
        "outcome_total": len(clear),
    }


def read(path: Path) -> dict[str, list[Row]]:
    """Read the measurements, grouped by point."""
    rows: dict[str, list[Row]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[row["run_id"].rpartition("-r")[0]].append(Row.read(row))
    return rows


def _print_table(points: Iterable[Point]) -> None:
    head = ("job s", "pred.", "error", "MiB", "pred.", "error")
    print(f"{'point':10}", *(f"{title:>8}" for title in head))
    for p in points:
        predicted = p.predicted
        if not p.converged:
            said = "no" if not p.predicted_to_converge else "yes"
            print(f"{p.name:10} did not converge; predicted to: {said}")
            continue
        print(
            f"{p.name:10} {p.job_seconds:8.2f} {predicted.duration_seconds:8.2f} "
            f"{p.job_time_error:7.1%} {p.sent_bytes / MIB:8.1f} "
            f"{predicted.transfer_bytes / MIB:8.1f} {p.bytes_error:7.1%}"
        )


def _print_halves(rows: Sequence[Mapping[str, float | str]]) -> None:
    print()
    head = ("times", "within", "noise", "job med.", "worst", "job p90", "worst", "bytes", "worst")
    print(f"{'asked, the others known':24}", *(f"{title:>8}" for title in head))
    for row in rows:
        errors = (row[f"{worst}{key}"] for key in LIMITS for worst in ("", "worst_"))
        print(
            f"{row['asked']:24} {row['times']:8} {row['within_limits']:8} "
            f"{row['medians_within_limits']:8}",
            *(f"{error:8.1%}" for error in errors),
        )
    print(f"outcomes wrong: {sum(int(row['outcomes_wrong']) for row in rows)}")


def main() -> None:
    """Print how far predictions are from measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="CSV of measured migrations")
    parser.add_argument("--json", action="store_true", help="print the figures only, as JSON")
    parser.add_argument("--memory", choices=("resident", "whole"), default="resident")
    parser.add_argument("--writes", choices=tuple(LAWS), default="cycling")
    parser.add_argument(
        "--halves", type=int, default=0, metavar="TIMES", help="ask for rows that are kept aside"
    )
    asked = parser.parse_args()
    rows, law = read(asked.data), LAWS[asked.writes]
    points = points_of(rows, asked.memory, law)
    figures = summary(points)
    halves = held_up(rows, asked.halves, asked.memory, law) if asked.halves else []
    if asked.json:
        print(json.dumps({**figures, "halves": halves} if halves else figures))
        return
    _print_table(points)
    print()
    for name, value in figures.items():
        print(f"{name:24} {value:.1%}" if name.endswith("error") else f"{name:24} {value}")
    if halves:
        _print_halves(halves)


if __name__ == "__main__":
    main()
