"""Compare what `planning.cost` predicts with migrations that were measured.

    python benchmarks/prediction.py --data migration_measurements.csv [--json]

Each point (dirty rate, bandwidth) is predicted from the guest's dirty rate, working set and
memory and from the cap alone, and compared with the median of its rows. Of the guest's memory
only what is not zero is sent. That share is taken from the *other* points, as the product takes
it from earlier migrations; `--memory whole` does without.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rebalancer.planning.cost import (
    PAGE_BYTES,
    DirtyLaw,
    Estimate,
    Line,
    cycling_writes,
    live,
    random_writes,
)
from rebalancer.planning.guest import Guest
from rebalancer.planning.wording import MIB

EDGE_RATIO = 0.1
"""Where a guest writes within 10 % of the bandwidth nobody can tell how it ends."""

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


def points_of(rows: Mapping[str, list[Row]], memory: str, law: DirtyLaw) -> list[Point]:
    """Predict every point without looking at its own rows' results."""
    points = []
    for name, mine in rows.items():
        others = [row for other, theirs in rows.items() if other != name for row in theirs]
        points.append(Point(name=name, rows=mine, predicted=_predict(mine[0], others, memory, law)))
    return points


def _predict(point: Row, others: Sequence[Row], memory: str, law: DirtyLaw) -> Estimate:
    alike = [row.not_zero_bytes for row in others if row.ram_bytes == point.ram_bytes]
    known = memory == "resident" and alike
    guest = Guest(
        memory_bytes=median(alike) if known else point.ram_bytes,
        dirty_bytes_per_second=point.dirty_bytes_per_second,
        working_set_bytes=point.working_set_bytes,
    )
    return live(guest, Line.of(point.cap_bytes_per_second), point.max_downtime_seconds, law)


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


def main() -> None:
    """Print how far predictions are from measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="CSV of measured migrations")
    parser.add_argument("--json", action="store_true", help="print the figures only, as JSON")
    parser.add_argument("--memory", choices=("resident", "whole"), default="resident")
    parser.add_argument("--writes", choices=tuple(LAWS), default="cycling")
    asked = parser.parse_args()
    points = points_of(read(asked.data), asked.memory, LAWS[asked.writes])
    figures = summary(points)
    if asked.json:
        print(json.dumps(figures))
        return
    _print_table(points)
    print()
    for name, value in figures.items():
        print(f"{name:24} {value:.1%}" if name.endswith("error") else f"{name:24} {value}")


if __name__ == "__main__":
    main()
