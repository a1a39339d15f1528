"""Recorded telemetry: what VMs used of CPU over some time, from a file.

Three forms are read. CSV with a column for each VM:

    time,web1,web2
    2026-11-23T09:00:00Z,1.5,0.2
    2026-11-23T09:05:00Z,1.4,

CSV with a line for each sample (`time,vm,cpu_cores`). And what Prometheus answers to a range query
(`/api/v1/query_range`), whose series have the VM in a label. Times are RFC 3339 or Unix seconds,
values are cores. A cell that is empty or `NaN`, or a time that is left out, is a gap.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rebalancer.errors import Fault, InvalidFileError
from rebalancer.files import FileModel, read_table_text
from rebalancer.files.json_text import parse as parse_json

TIME, LONG_HEADER = "time", ("time", "vm", "cpu_cores")
MOST_CORES = 100_000.0
MOST_SAMPLES = 100_000_000
"""Gigabytes of memory, and hours of work."""
LEAST_INSTANTS = 3
"""With fewer there is nothing to replay."""
GRID_SECONDS = 1.0
"""So much later or earlier than the others a sample may be."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedUse:
    """CPU use of VMs on one regular grid, by what the file calls them."""

    start: datetime
    interval_seconds: float
    cores: Mapping[str, NDArray[np.float64]]
    """Sample `k` covers the interval that begins `k * interval_seconds` after `start`; NaN is a
    gap."""

    @property
    def instants(self) -> int:
        """How many samples each VM has, gaps included."""
        return len(next(iter(self.cores.values())))

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.instants * self.interval_seconds


def read_recorded_use(path: Path | str, vm_label: str) -> RecordedUse:
    """Read recorded telemetry; raise `InvalidFileError` with what is wrong in it, and where.

    `vm_label` is the label that has the VM's name or id in what Prometheus answered.
    """
    text = read_table_text(path)
    is_json = text.lstrip()[:1] in ("{", "[")
    samples = _of_json(text, str(path), vm_label) if is_json else _of_csv(text, str(path))
    return samples.on_a_grid()


@dataclass(slots=True, kw_only=True)
class _Samples:
    """What was read so far: (seconds, cores, where in the file) by VM."""

    file: str
    by_vm: dict[str, list[tuple[float, float, str]]] = field(default_factory=dict)
    count: int = 0

    def add(self, vm: str, seconds: float, cores: float, where: str) -> None:
        self.count += 1
        if self.count > MOST_SAMPLES:
            raise self.fault("", f"more than {MOST_SAMPLES:,} samples", "replay a shorter time")
        self.by_vm.setdefault(vm, []).append((seconds, cores, where))

    def fault(self, where: str, problem: str, expected: str = "") -> InvalidFileError:
        return InvalidFileError(
            [Fault(file=self.file, where=where, problem=problem, expected=expected)]
        )

    def on_a_grid(self) -> RecordedUse:
        instants = sorted({seconds for samples in self.by_vm.values() for seconds, _, _ in samples})
        if len(instants) < LEAST_INSTANTS:
            times = "1 time" if len(instants) == 1 else f"{len(instants)} different times"
            raise self.fault("", times, f"at least {LEAST_INSTANTS} are needed")
        start = instants[0]
        apart = [later - sooner for sooner, later in pairwise(instants)]
        interval = _interval([seconds for seconds in apart if seconds > GRID_SECONDS], instants)
        if interval == 0.0:
            raise self.fault("", f"all of its times are within {GRID_SECONDS:g} s of each other")
        self._refuse_off_grid(start, interval)
        count = round((instants[-1] - start) / interval) + 1
        if count * len(self.by_vm) > MOST_SAMPLES:
            raise self.fault(
                "",
                f"{count:,} times {interval:g} s apart of {len(self.by_vm)} VMs",
                "is a time wrong, or in milliseconds?",
            )
        cores = {}
        for vm, samples in self.by_vm.items():
            row = np.full(count, np.nan)
            seen: set[int] = set()
            for seconds, used, where in samples:
                column = round((seconds - start) / interval)
                if column in seen:
                    raise self.fault(where, f"a second sample of {vm} for the same time")
                seen.add(column)
                row[column] = used
            cores[vm] = row
        return RecordedUse(
            start=datetime.fromtimestamp(start, UTC), interval_seconds=interval, cores=cores
        )

    def _refuse_off_grid(self, start: float, interval: float) -> None:
        off = [
            (seconds, where)
            for samples in self.by_vm.values()
            for seconds, _, where in samples
            if _off_grid(seconds - start, interval) > GRID_SECONDS
        ]
        if off:
            seconds, where = min(off, key=lambda each: each[0])
            raise self.fault(
                where,
                f"a sample {seconds - start:g} s after the first one",
                f"expected every {interval:g} s, as other samples are",
            )


def _interval(apart: Sequence[float], instants: Sequence[float]) -> float:
    """How far apart samples are: the least that any two are, or else what most are; 0 for none.

    Where not all fit the least, one of these two is off: the others say which interval was meant.
    """
    least = min(apart, default=0.0)
    if not apart or all(_off_grid(at - instants[0], least) <= GRID_SECONDS for at in instants):
        return least
    seconds, _ = max(Counter(map(round, apart)).items(), key=lambda each: (each[1], -each[0]))
    exact = Counter(each for each in apart if round(each) == seconds)
    usual, times = exact.most_common(1)[0]
    return usual if times > 1 else float(seconds)


def _off_grid(passed: float, interval: float) -> float:
    """How many seconds a sample is from the nearest point of the grid."""
    return abs(passed - round(passed / interval) * interval)


# CSV ----------------------------------------------------------------------------------------


def _of_csv(text: str, file: str) -> _Samples:
    samples = _Samples(file=file)
    lines = _cells_of(text, samples)
    number, header = next(lines)
    names = [name.strip() for name in header]
    if names[0] != TIME:
        raise samples.fault(
            f"line {number}, column 1",
            f"the first column is called {names[0]!r}",
            f"expected {TIME}, and then the names of VMs, or {','.join(LONG_HEADER)}",
        )
    if tuple(names) == LONG_HEADER:
        _read_long(lines, samples)
        return samples
    for place, name in enumerate(names[1:], start=1):
        where = f"line {number}, column {_column(header, place)}"
        if not name:
            raise samples.fault(where, "a column without a name", "expected the name of a VM")
        if names.index(name) < place:
            raise samples.fault(where, f"a second column is called {name}")
    if len(names) == 1:
        raise samples.fault(f"line {number}", "no column but the time", "expected names of VMs")
    top = number
    for number, cells in lines:
        if len(cells) != len(names):
            raise samples.fault(
                f"line {number}", f"{len(cells)} cells", f"expected {len(names)}, as in the header"
            )
        if number_of_vm := _long_by_mistake(names, cells):
            raise samples.fault(
                f"line {top}, column {_column(header, number_of_vm)}",
                f"columns called {','.join(names)}, with {cells[number_of_vm].strip()!r} below "
                f"{names[number_of_vm]!r}",
                f"expected {','.join(LONG_HEADER)} for a line for each sample, or a column for "
                "each VM, with its cores",
            )
        seconds = _seconds(cells[0], f"line {number}, column 1", samples)
        for place, name in enumerate(names[1:], start=1):
            where = f"line {number}, column {_column(cells, place)}"
            samples.add(name, seconds, _cores(cells[place], where, samples), where)
    return samples


def _long_by_mistake(names: Sequence[str], cells: Sequence[str]) -> int:
    """Which column has names of VMs in it instead of cores, in a file of three; 0 for none.

    Such is a line for each sample, under a header that does not say so.
    """
    if len(names) != len(LONG_HEADER):
        return 0
    return next((place for place in (1, 2) if not _is_number(cells[place])), 0)


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return not text.strip()
    return True


def _cells_of(text: str, samples: _Samples) -> Iterator[tuple[int, Sequence[str]]]:
    """Lines that say something, with their numbers."""
    reader = csv.reader(io.StringIO(text), strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise samples.fault(f"line {reader.line_num}", f"not CSV: {error}") from error
        if any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _read_long(lines: Iterator[tuple[int, Sequence[str]]], samples: _Samples) -> None:
    for number, cells in lines:
        if len(cells) != len(LONG_HEADER):
            raise samples.fault(
                f"line {number}", f"{len(cells)} cells", f"expected {','.join(LONG_HEADER)}"
            )
        seconds = _seconds(cells[0], f"line {number}, column 1", samples)
        vm = cells[1].strip()
        if not vm:
            where = f"line {number}, column {_column(cells, 1)}"
            raise samples.fault(where, "no name of a VM")
        where = f"line {number}, column {_column(cells, 2)}"
        samples.add(vm, seconds, _cores(cells[2], where, samples), where)


def _column(cells: Sequence[str], place: int) -> int:
    """Where a cell begins in its line, as long as no cell is quoted."""
    return sum(len(cell) + 1 for cell in cells[:place]) + 1


def _seconds(text: str, where: str, samples: _Samples) -> float:
    word = text.strip()
    try:
        return _finite(float(word))
    except ValueError:
        pass
    try:
        instant = datetime.fromisoformat(word)
    except ValueError:
        raise samples.fault(
            where, f"{word!r} is not a time", "expected such as 2026-11-23T09:00:00Z"
        ) from None
    if instant.tzinfo is None:
        raise samples.fault(where, f"{word} has no time zone", f"expected such as {word}Z")
    return instant.timestamp()


def _finite(number: float) -> float:
    # Beyond the year 9999 there are no dates.
    if not math.isfinite(number) or not 0 <= number < 253_402_300_000:
        raise ValueError(number)
    return number


def _cores(text: str, where: str, samples: _Samples) -> float:
    word = text.strip()
    if word.lower() in ("", "nan"):
        return math.nan
    try:
        cores = float(word)
    except ValueError:
        cores = -1.0
    if not 0 <= cores <= MOST_CORES:
        raise samples.fault(
            where, f"{word!r} is not an amount of CPU", f"expected cores, 0 to {MOST_CORES:,.0f}"
        )
    return cores


# Prometheus ---------------------------------------------------------------------------------


class _Series(FileModel):
    metric: dict[str, str]
    values: list[tuple[float, str]]


class _Matrix(FileModel):
    resultType: Literal["matrix"]  # noqa: N815
    result: list[_Series]
    stats: Any = None


class _Answer(FileModel):
    status: Literal["success"]
    data: _Matrix
    warnings: list[str] = []
    infos: list[str] = []


def _of_json(text: str, file: str, vm_label: str) -> _Samples:
    samples = _Samples(file=file)
    answer = parse_json(text, file).read(_Answer)
    for index, series in enumerate(answer.data.result):
        where = f"$.data.result[{index}]"
        vm = series.metric.get(vm_label)
        if not vm:
            labels = ", ".join(sorted(series.metric)) or "none"
            raise samples.fault(
                f"{where}.metric",
                f"there is no label {vm_label}",
                f"it has {labels}: name the one with the VM by --vm-label",
            )
        for place, (seconds, value) in enumerate(series.values):
            at = f"{where}.values[{place}]"
            try:
                _finite(seconds)
            except ValueError:
                raise samples.fault(at, f"{seconds} is not a time in Unix seconds") from None
            samples.add(vm, seconds, _cores(value, at, samples), at)
    if not samples.by_vm:
        raise samples.fault("$.data.result", "there is no series in it")
    return samples
