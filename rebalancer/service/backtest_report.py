"""A back-test as people and programs read it: with the policy, and beside it without."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.console import Console

from rebalancer.service.backtest_replay import Backtest, Part
from rebalancer.service.layout import Block, Column, Line, Table, Tone, print_blocks, to_markdown
from rebalancer.service.report import Format, render_tree
from rebalancer.service.wording import (
    at_most_text,
    bytes_text,
    count_text,
    ratio_text,
    seconds_text,
    when_text,
)

JOULES_PER_KWH = 3.6e6
CYCLES_SHOWN = 20
NAMES_SHOWN = 5


def render_backtest(done: Backtest, output: Format, console: Console, *, wide: bool) -> None:
    """Write a back-test; `wide` shows every cycle that moved something."""
    if output is Format.JSON:
        render_tree(backtest_tree(done), console)
    elif output is Format.MARKDOWN:
        console.file.write(to_markdown(backtest_blocks(done, wide=wide)))
    else:
        print_blocks(backtest_blocks(done, wide=wide), console)


def backtest_blocks(done: Backtest, *, wide: bool) -> Iterator[Block]:
    """Lay a back-test out."""
    yield Line(
        text=f"{done.policy}: {count_text(done.hosts, 'host')}, {count_text(done.vms, 'VM')}, "
        f"{seconds_text(done.seconds)} from {when_text(done.start)}, a sample every "
        f"{seconds_text(done.interval_seconds)}",
        tone=Tone.STRONG,
    )
    yield Table(
        title="What would have come of it",
        columns=(
            Column(title=""),
            Column(title="with the policy", right=True),
            Column(title="doing nothing", right=True),
        ),
        rows=tuple(_rows(done)),
    )
    shown = done.acted if wide else done.acted[:CYCLES_SHOWN]
    if shown:
        left = len(done.acted) - len(shown)
        yield Table(
            title="Cycles that moved VMs",
            columns=(
                Column(title="at"),
                Column(title="VMs", right=True),
                Column(title="verdict", prose=True),
            ),
            rows=tuple((when_text(c.at), str(c.migrations), c.verdict) for c in shown),
            more=f"{count_text(left, 'cycle')} more: --wide" if left else "",
        )
    yield Line(text=_cycles_text(done))
    for cycle in done.troubles[:NAMES_SHOWN]:
        yield Line(text=f"{when_text(cycle.at)}: {cycle.verdict}", tone=Tone.BAD)
    for remark in remarks_on(done):
        yield Line(text=remark, tone=Tone.WARN)


def remarks_on(done: Backtest) -> Iterator[str]:
    """What keeps the recording from telling all."""
    if done.constant_vms:
        yield (
            f"not recorded, so taken to use what they use in the snapshot: "
            f"{count_text(len(done.constant_vms), 'VM')} ({_names(done.constant_vms)})"
        )
    if done.unknown:
        yield (
            f"recorded, but not in the cluster, and left out: "
            f"{count_text(len(done.unknown), 'name')} ({_names(done.unknown)})"
        )
    if done.gaps_ratio > 0:
        yield f"{at_most_text(done.gaps_ratio)} of the samples are missing; the last one holds"


def backtest_tree(done: Backtest) -> dict[str, Any]:
    """What `-o json` writes."""
    return {
        "policy": done.policy,
        "start": _instant(done.start),
        "seconds": done.seconds,
        "interval_seconds": done.interval_seconds,
        "hosts": done.hosts,
        "vms": done.vms,
        "recorded_vms": done.recorded_vms,
        "constant_vms": list(done.constant_vms),
        "unknown": list(done.unknown),
        "gaps_ratio": round(done.gaps_ratio, 6),
        "cycles": done.cycles,
        "verdicts": dict(sorted(done.verdicts.items())),
        "most_moved_vm": done.most_moved_vm[0] or None,
        "most_moves_of_a_vm": done.most_moved_vm[1],
        "with_policy": _part_tree(done.with_policy),
        "doing_nothing": _part_tree(done.without),
        "acted": [
            {"at": _instant(c.at), "migrations": c.migrations, "verdict": c.verdict}
            for c in done.acted
        ],
        "errors": [{"at": _instant(c.at), "text": c.verdict} for c in done.troubles],
    }


def _part_tree(part: Part) -> dict[str, float]:
    return {
        "migrations": part.moves,
        "moved_bytes": part.moved_bytes,
        "sent_bytes": round(part.sent_bytes),
        "overload_host_seconds": round(part.load.overload_seconds, 3),
        "missing_core_seconds": round(part.load.missing_core_seconds, 3),
        "peak_ratio": round(part.load.peak_ratio, 6),
        "energy_joules": round(part.energy_joules, 3),
        "migration_joules": round(part.moving_joules, 3),
        "host_seconds_on": round(part.load.on_seconds, 3),
        "sleeps": part.sleeps,
        "wakes": part.wakes,
    }


def _rows(done: Backtest) -> Iterator[tuple[str, str, str]]:
    both = done.with_policy, done.without
    week = 7 * 86_400.0 / max(done.seconds, 1.0) / max(done.vms, 1)

    def row(title: str, *cells: str) -> tuple[str, str, str]:
        return title, cells[0], cells[1]

    yield row("migrations", *(f"{part.moves:,}" for part in both))
    yield row("… for each VM and week", *(f"{part.moves * week:.2f}" for part in both))
    yield row("memory moved", *(bytes_text(part.moved_bytes) for part in both))
    yield row("sent over the network", *(bytes_text(part.sent_bytes) for part in both))
    yield row("overload, host time", *(seconds_text(p.load.overload_seconds) for p in both))
    yield row(
        "CPU wanted and not there",
        *(f"{part.load.missing_core_seconds / 3600:.2f} core h" for part in both),
    )
    yield row("fullest host", *(ratio_text(part.load.peak_ratio) for part in both))
    yield row("energy", *(f"{part.energy_joules / JOULES_PER_KWH:.2f} kWh" for part in both))
    hosts = (part.load.on_seconds / max(done.seconds, 1.0) for part in both)
    yield row("hosts on, on average", *(f"{count:.1f}" for count in hosts))
    yield row("switched off / on", *(f"{part.sleeps} / {part.wakes}" for part in both))


def _cycles_text(done: Backtest) -> str:
    kinds = sorted(done.verdicts.items(), key=lambda kind: (-kind[1], kind[0]))
    said = ", ".join(f"{kind}: {count}" for kind, count in kinds)
    most = ""
    if done.most_moved_vm[1] > 1:
        name, moves = done.most_moved_vm
        most = f". Moved most often: {name}, {moves} times"
    return f"{count_text(done.cycles, 'cycle')} ({said}){most}."


def _names(names: tuple[str, ...]) -> str:
    more = ", …" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
