"""`rebalancer history --accuracy`: how right predictions were, by pair of hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rebalancer.cluster.inventory import HostId
from rebalancer.planning.accuracy import Accuracy, Errors, PartAccuracy
from rebalancer.planning.habits import Learned
from rebalancer.planning.parts import LearnedPart
from rebalancer.service.layout import Block, Cell, Column, Line, Table
from rebalancer.service.wording import bytes_text, ratio_text, seconds_text


def accuracy_blocks(rows: Sequence[Accuracy]) -> Iterator[Block]:
    """Lay out how far predictions were off: median, nine of ten, share within the band."""
    if not rows:
        yield Line(text="no migration has completed yet")
        return
    quantities = ("time", "pause", "bytes")
    yield Table(
        title="Predictions against outcomes: median error / nine of ten / within the band",
        columns=(
            Column(title="from → to"),
            Column(title="migrations", right=True),
            *(Column(title=title, right=True) for title in quantities),
        ),
        rows=tuple(_row(each) for each in rows),
    )


def learned_blocks(rows: Sequence[Learned]) -> Iterator[Block]:
    """Lay out what the next predictions are made with; nothing where nothing was learned."""
    if not any(row.habits.migrations for row in rows):
        return
    yield Table(
        title="Learned from them: the next predictions take this into account",
        columns=(
            Column(title="from → to"),
            Column(title="live ones", right=True),
            Column(title="setup", right=True),
            Column(title="of the bandwidth", right=True),
            Column(title="switch-over", right=True),
            Column(title="time at most", right=True),
            Column(title="pause at most", right=True),
        ),
        rows=tuple(_learned_row(row) for row in rows),
    )


def part_accuracy_blocks(rows: Sequence[PartAccuracy]) -> Iterator[Block]:
    """Lay out how far predictions of parts were off; nothing where none was measured."""
    if not rows:
        return
    yield Table(
        title="Parts of migrations: median error / nine of ten / within the band",
        columns=(
            Column(title="part"),
            Column(title="migrations", right=True),
            Column(title="given up", right=True),
            Column(title="time", right=True),
        ),
        rows=tuple(
            (
                row.part.value,
                str(row.migrations),
                str(row.given_up) if row.given_up else "–",
                _errors_text(row.duration),
            )
            for row in rows
        ),
    )


def learned_part_blocks(rows: Sequence[LearnedPart]) -> Iterator[Block]:
    """Lay out what the next predictions of parts are made with."""
    if not rows:
        return
    yield Table(
        title="Learned of parts: the next predictions take this into account",
        columns=(
            Column(title="part"),
            Column(title="of"),
            Column(title="seen", right=True),
            Column(title="given up", right=True),
            Column(title="takes", right=True),
            Column(title="at most", right=True),
            Column(title="bytes at"),
        ),
        rows=tuple(
            (
                row.part.value,
                row.of or "others",
                str(row.migrations),
                str(row.given_up) if row.given_up else "–",
                "–" if row.seconds is None else seconds_text(row.seconds),
                "–" if row.upper_seconds is None else seconds_text(row.upper_seconds),
                _pace_text(row),
            )
            for row in rows
        ),
    )


def _pace_text(row: LearnedPart) -> str:
    if row.efficiency_ratio is not None:
        return f"{ratio_text(row.efficiency_ratio)} of the stated rate"
    if row.bytes_per_second is not None:
        return f"{bytes_text(row.bytes_per_second)}/s"
    return "the granted rate" if row.seconds is None else "–"


def _learned_row(row: Learned) -> tuple[Cell, ...]:
    habits = row.habits
    times = sorted({habits.calm.transfer_ratio, habits.restless.transfer_ratio})
    pauses = sorted({habits.calm.downtime_ratio, habits.restless.downtime_ratio})
    return (
        _pair(row.source, row.target),
        str(habits.migrations),
        seconds_text(habits.setup_seconds),
        ratio_text(habits.efficiency_ratio),
        seconds_text(habits.switchover_seconds),
        "–".join(f"{each:.2f}×" for each in times),
        "–".join(f"{each:.2f}×" for each in pauses),
    )


def _pair(source: HostId | None, target: HostId | None) -> str:
    return "all" if source is None else f"{source} → {target}"


def _row(row: Accuracy) -> tuple[Cell, ...]:
    pair = _pair(row.source, row.target)
    errors = (row.duration, row.downtime, row.transfer)
    return (pair, str(row.migrations), *(_errors_text(each) for each in errors))


def _errors_text(errors: Errors) -> str:
    if not errors.count:
        return "–"
    parts = [ratio_text(errors.median_ratio, 1), ratio_text(errors.p90_ratio, 1)]
    if errors.in_band_ratio is not None:
        parts.append(ratio_text(errors.in_band_ratio))
    return " / ".join(parts)
