"""The settings in force, and where each comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rebalancer.service.config import EffectiveSetting
from rebalancer.service.layout import Block, Column, Table


def settings_blocks(rows: Sequence[EffectiveSetting]) -> Iterator[Block]:
    """Lay out settings with their origins."""
    yield Table(
        title="Settings in force",
        columns=(Column(title="key"), Column(title="value"), Column(title="from")),
        rows=tuple((row.key, _value_text(row.value), row.origin) for row in rows),
    )


def _value_text(value: object) -> str:
    """Write a setting as YAML would."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return "null" if value is None else str(value)
