"""What came of a day of a scenario, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rebalancer.service.layout import Block, Column, Line, Table, Tone
from rebalancer.service.wording import count_text, ratio_text, when_text

if TYPE_CHECKING:
    from rebalancer.simulation.day import DayResult

_KWH = 3.6e6


def day_blocks(result: DayResult) -> Iterator[Block]:
    """Lay out what happened: the cycles that did something, and what that saved."""
    yield Line(text=day_text(result), tone=Tone.STRONG)
    told = [cycle for cycle in result.cycles if _says_something(cycle.verdict)]
    yield Table(
        title="Cycles in which something happened",
        columns=(
            Column(title="ended"),
            Column(title="awake", right=True),
            Column(title="verdict", prose=True),
        ),
        rows=tuple((when_text(c.at), str(c.awake), c.verdict) for c in told),
    )


def day_text(result: DayResult) -> str:
    """Sum a day up in a sentence."""
    return (
        f"{count_text(len(result.cycles), 'cycle')}: hosts put to sleep {result.slept} times, "
        f"woken {result.woken} times; {result.joules / _KWH:.1f} kWh instead of "
        f"{result.joules_all_on / _KWH:.1f} kWh with all hosts on, "
        f"{ratio_text(result.saved_ratio)} saved"
    )


def day_tree(result: DayResult) -> dict[str, object]:
    """The same for machines."""
    return {
        "cycles": [
            {"at": cycle.at, "verdict": cycle.verdict, "awake": cycle.awake}
            for cycle in result.cycles
        ],
        "slept": result.slept,
        "woken": result.woken,
        "joules": result.joules,
        "joules_all_on": result.joules_all_on,
        "saved_ratio": result.saved_ratio,
        "quarantined": list(result.quarantined),
    }


def _says_something(verdict: str) -> bool:
    return verdict.startswith("moved") or any(f"; {what} " in verdict for what in ("wake", "sleep"))
