"""The power part of a plan as people read it: which hosts could sleep, and what that saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import PowerAction, PowerStep
from rebalancer.service.layout import Block, Column, Line, Table
from rebalancer.service.wording import count_text

MIGRATIONS_NAMED = 3


def power_blocks(steps: Sequence[PowerStep], names: Mapping[HostId, str]) -> Iterator[Block]:
    """Hosts to wake and to put to sleep, and what that saves."""
    yield Table(
        title="Power",
        columns=(
            Column(title="host"),
            Column(title="action"),
            Column(title="after"),
            Column(title="VMs off it", right=True),
            Column(title="saves", right=True),
            Column(title="reason", prose=True),
        ),
        rows=tuple(
            (
                names.get(step.host, step.host),
                step.action.value,
                _after_text(step.depends_on),
                str(step.vms),
                f"{step.saved_watts:,.0f} W",
                step.reason,
            )
            for step in steps
        ),
    )
    yield Line(text=_power_text(steps))


def _after_text(migrations: Sequence[str]) -> str:
    if len(migrations) > MIGRATIONS_NAMED:
        return f"{migrations[0]} … {migrations[-1]} ({len(migrations)})"
    return ", ".join(migrations) or "at once"


def _power_text(steps: Sequence[PowerStep]) -> str:
    asleep = [step for step in steps if step.action is PowerAction.SLEEP]
    woken = len(steps) - len(asleep)
    parts = []
    if woken:
        parts.append(f"{count_text(woken, 'host')} to wake")
    if asleep:
        watts = sum(step.saved_watts for step in asleep)
        parts.append(f"{count_text(len(asleep), 'host')} can sleep and save {watts:,.0f} W")
    return (
        f"{'; '.join(parts)}. Only the daemon switches hosts by itself, with power.switch: true; "
        "by hand: rebalancer power sleep|wake HOST --yes."
    )
