"""`rebalancer history --accuracy`: how right predictions were, by pair of hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rebalancer.planning.accuracy import Accuracy, Errors
from rebalancer.service.layout import Block, Cell, Column, Line, Table
from rebalancer.service.wording import ratio_text


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


def _row(row: Accuracy) -> tuple[Cell, ...]:
    pair = "all" if row.source is None else f"{row.source} → {row.target}"
    errors = (row.duration, row.downtime, row.transfer)
    return (pair, str(row.migrations), *(_errors_text(each) for each in errors))


def _errors_text(errors: Errors) -> str:
    if not errors.count:
        return "–"
    parts = [ratio_text(errors.median_ratio, 1), ratio_text(errors.p90_ratio, 1)]
    if errors.in_band_ratio is not None:
        parts.append(ratio_text(errors.in_band_ratio))
    return " / ".join(parts)
