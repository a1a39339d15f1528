"""The faces of the program: what each command writes, as tables, Markdown or JSON.

What is said about what is in modules of its own (`plan_report`, `outcome_report`, …), how it is
laid out in `layout`. Tables are for people and may change; JSON is for programs and has a
`schema_version`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from rich.console import Console

from rebalancer.cluster.inventory import HostId, Snapshot
from rebalancer.cluster.plan import Outcome, Plan
from rebalancer.planning.accuracy import Accuracy, PartAccuracy
from rebalancer.planning.habits import Calibration
from rebalancer.service.account import HistoryRow, Status, history_blocks, status_blocks
from rebalancer.service.accuracy_report import (
    accuracy_blocks,
    learned_blocks,
    learned_part_blocks,
    part_accuracy_blocks,
)
from rebalancer.service.cluster_report import snapshot_blocks
from rebalancer.service.config import EffectiveSetting
from rebalancer.service.day_report import day_blocks, day_tree
from rebalancer.service.drain_outlook import DrainOutlook
from rebalancer.service.drain_report import drain_blocks
from rebalancer.service.layout import Block, Line, print_blocks, to_markdown
from rebalancer.service.outcome_report import outcomes_blocks, outcomes_tree
from rebalancer.service.plan_file import plan_to_json
from rebalancer.service.plan_report import plan_blocks
from rebalancer.service.settings_report import settings_blocks
from rebalancer.service.why_report import WhyReport, why_blocks, why_tree

if TYPE_CHECKING:
    from rebalancer.simulation.day import DayResult


class Format(StrEnum):
    """What a command writes to standard output."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


def render_plan(
    plan: Plan,
    output: Format,
    console: Console,
    *,
    wide: bool = False,
    commands: bool = False,
    apply_with: str = "",
) -> None:
    """Write a plan.

    `wide` shows every host and step, however many; `commands` adds what a human would type;
    `apply_with` is the command that would carry the plan out, if it was saved.
    """
    if output is Format.JSON:
        _write(plan_to_json(plan), console)
        return
    _render(plan_blocks(plan, wide=wide, commands=commands, apply_with=apply_with), output, console)


def render_outcomes(
    plan: Plan, outcomes: Sequence[Outcome], output: Format, console: Console
) -> None:
    """Write how the migrations of a plan ended, beside what was predicted."""
    if output is Format.JSON:
        _write_json(outcomes_tree(plan, outcomes), console)
    else:
        _render(outcomes_blocks(plan, outcomes), output, console)


def render_drain(
    outlook: DrainOutlook, names: Mapping[HostId, str], output: Format, console: Console
) -> None:
    """Write what becomes of each VM on hosts that are to be emptied."""
    _render(drain_blocks(outlook, names), output, console)
    if output is Format.TABLE:
        console.print()


def drain_plan_tree(plan: Plan, about: Mapping[str, object]) -> dict[str, object]:
    """The plan of a drain for machines, with what becomes of each VM beside it."""
    return {**json.loads(plan_to_json(plan)), "drain": about}


def drained_tree(
    plan: Plan, outcomes: Sequence[Outcome], about: Mapping[str, object]
) -> dict[str, object]:
    """How a drain went, for machines."""
    return {**outcomes_tree(plan, outcomes), "drain": about}


def render_tree(tree: Mapping[str, object], console: Console) -> None:
    """Write what machines read."""
    _write_json(tree, console)


def render_day(result: DayResult, output: Format, console: Console) -> None:
    """Write what came of a day of a scenario."""
    if output is Format.JSON:
        _write_json(day_tree(result), console)
    else:
        _render(day_blocks(result), output, console)


def render_recovery(
    recovered: Sequence[tuple[Plan, Sequence[Outcome]]], output: Format, console: Console
) -> None:
    """Write how the migrations of rollouts that were cut short ended at last."""
    if output is Format.JSON:
        _write_json({"rollouts": [outcomes_tree(*one) for one in recovered]}, console)
        return
    if not recovered:
        _render([Line(text="nothing has to be recovered")], output, console)
    for plan, outcomes in recovered:
        _render(outcomes_blocks(plan, outcomes), output, console)


def render_snapshot_summary(
    snapshot: Snapshot, output: Format, console: Console, *, wide: bool = False
) -> None:
    """Write what a cluster consists of, in short; its JSON is `collect.snapshot_file`'s."""
    _render(snapshot_blocks(snapshot, wide=wide), output, console)


def render_history(rows: Sequence[HistoryRow], output: Format, console: Console) -> None:
    """Write past rollouts in the order given."""
    if output is Format.JSON:
        _write_json({"rollouts": rows}, console)
    else:
        _render(history_blocks(rows), output, console)


def render_accuracy(
    rows: Sequence[Accuracy],
    parts: Sequence[PartAccuracy],
    learned: Calibration,
    output: Format,
    console: Console,
) -> None:
    """Write how right predictions were, and what that taught: all pairs of hosts together first."""
    habits, of_parts = learned.listed(), tuple(learned.parts.listed())
    if output is Format.JSON:
        tree = {"accuracy": rows, "parts": parts, "learned": habits, "learned_parts": of_parts}
        _write_json(tree, console)
        return
    blocks = (
        *accuracy_blocks(rows),
        *part_accuracy_blocks(parts),
        *learned_blocks(habits),
        *learned_part_blocks(of_parts),
    )
    _render(blocks, output, console)


def render_why(report: WhyReport, output: Format, console: Console, *, wide: bool = False) -> None:
    """Write why a VM is where it is; `wide` shows every host."""
    if output is Format.JSON:
        _write_json(why_tree(report), console)
    else:
        _render(why_blocks(report, wide=wide), output, console)


def render_status(status: Status, output: Format, console: Console) -> None:
    """Write what is going on now."""
    if output is Format.JSON:
        _write_json(status, console)
    else:
        _render(status_blocks(status), output, console)


def render_settings(rows: Sequence[EffectiveSetting], output: Format, console: Console) -> None:
    """Write the settings in force and where each comes from."""
    if output is Format.JSON:
        _write_json({"settings": rows}, console)
    else:
        _render(settings_blocks(rows), output, console)


def _render(blocks: Iterable[Block], output: Format, console: Console) -> None:
    if output is Format.MARKDOWN:
        _write(to_markdown(blocks), console)
    else:
        print_blocks(blocks, console)


def _write(text: str, console: Console) -> None:
    """Write as it is what machines read: rich would wrap it and colour its brackets."""
    if console.options.ascii_only:
        text = re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)
    try:
        console.file.write(text)
        console.file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()  # as for what rich writes


def _write_json(value: object, console: Console) -> None:
    _write(to_json(value) + "\n", console)


def to_json(value: object) -> str:
    """Write an account (a dataclass, or a mapping) as JSON that names its version."""
    tree = _plain(value)
    assert isinstance(tree, dict)
    tree = {"schema_version": 1, **tree}
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
