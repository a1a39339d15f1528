"""Why a VM is where it is, as people read it and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId
from rebalancer.placement.explain.reasons import by_goal_text
from rebalancer.placement.explain.rises import Change
from rebalancer.placement.explain.why_here import Alternative, HostLoad, WhyHere
from rebalancer.service.layout import Block, Column, Line, Table, Tone, abridged
from rebalancer.service.plan_report import SIZE_UNKNOWN
from rebalancer.service.wording import bytes_text, count_text, ratio_text, seconds_text

HOSTS_SHOWN = 10
REASONS_SHOWN = 12
SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """What it would take to move the VM to one host."""

    mode: str
    duration_seconds: float
    downtime_seconds: float
    transfer_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyReport:
    """Everything that was found out about one VM, and about one host if one was asked about."""

    why: WhyHere
    host_names: Mapping[HostId, str]
    policy: str
    verdict: str
    """What the plan as a whole came to."""
    reason: str
    """Why the plan moves it; empty if it does not."""
    stays_as: tuple[str, ...]
    """Why it does not move, if it does not."""
    asked: Alternative | None = None
    """The host that was asked about; `None` if none was, or the one where the plan has it."""
    is_there: bool = False
    """Whether the plan has it on the host that was asked about."""
    journey: Journey | None = None
    no_journey: tuple[str, ...] = ()
    """Why it could not be moved there in any mode that is permitted."""


def why_blocks(report: WhyReport, *, wide: bool = False) -> Iterator[Block]:
    """Lay the answer out: where it is and why, then the host asked about, or all others."""
    yield Line(text=_headline(report), tone=Tone.STRONG)
    yield from (Line(text=text) for text in _because(report))
    if report.asked is not None:
        yield from (Line(text=text) for text in _about_one(report, report.asked))
    if report.asked is not None or report.is_there:
        return
    if report.why.possible:
        yield _possible_table(report.why.possible, wide=wide)
    if report.why.impossible:
        yield _impossible_table(report.why.impossible, wide=wide)
    if len(report.why.impossible) > HOSTS_SHOWN and report.why.obstacles:
        yield _counts_table(report.why.obstacles)


def why_tree(report: WhyReport) -> dict[str, object]:
    """The same for machines."""
    why = report.why
    tree: dict[str, object] = {
        "vm": why.vm.id,
        "vm_name": why.vm.name,
        "policy": report.policy,
        "verdict": report.verdict,
        "moves_with": why.moves_with,
        "present_host": why.present,
        "planned_host": why.planned,
        "reason": report.reason,
        "stays_because": report.stays_as,
        "if_it_stayed": _change_tree(why.if_it_stayed) if why.if_it_stayed else None,
        "cpu_ratio": why.load.cpu_ratio,
        "memory_ratio": why.load.memory_ratio,
        "keeps": why.keeps,
    }
    if report.asked is not None:
        journey = report.journey
        return tree | {
            "asked": _alternative_tree(report.asked),
            "migration": journey,
            "no_migration": report.no_journey,
        }
    return tree | {
        "possible": [_alternative_tree(one) for one in why.possible],
        "impossible": [_alternative_tree(one) for one in why.impossible],
        "obstacles": why.obstacles,
    }


def _headline(report: WhyReport) -> str:
    why = report.why
    present = report.host_names[why.present]
    with_others = f", together with {', '.join(why.moves_with)}" if why.moves_with else ""
    full = (
        f"CPU {ratio_text(why.load.cpu_ratio)}, memory {ratio_text(why.load.memory_ratio)}"
        if _is_known(why.load)
        else SIZE_UNKNOWN
    )
    if why.planned == why.present:
        return f"{why.vm.name} stays on {present} ({full}){with_others}"
    planned = report.host_names[why.planned]
    return f"{why.vm.name} moves from {present} to {planned} (then {full}){with_others}"


def _because(report: WhyReport) -> Iterator[str]:
    if report.reason:
        yield f"why: {report.reason}"
    if (stayed := report.why.if_it_stayed) is not None:
        yield f"if it stayed, the objective would be {_change_text(stayed)}"
    yield from (f"why: {text}" for text in report.stays_as)


def _about_one(report: WhyReport, asked: Alternative) -> Iterator[str]:
    """What keeps the VM off the host, or what would happen."""
    here = report.host_names[report.why.planned]
    yield f"on {asked.name} instead of {here}, the objective would be {_change_text(asked.change)}"
    yield f"{_then_text(asked.name, asked.load)}, {_then_text(here, asked.left)}"
    against = (*report.why.keeps, *asked.obstacles)
    yield from (f"not possible: {text}" for text in against)
    yield from (f"no way to move it there: {text}" for text in report.no_journey)
    if not against:
        yield from (f"not in this plan: {text}" for text in asked.limits)
    if (journey := report.journey) is not None and not against:
        yield (
            f"moving it there: {journey.mode}, {bytes_text(journey.transfer_bytes)}, "
            f"{seconds_text(journey.duration_seconds)}, "
            f"a pause of {seconds_text(journey.downtime_seconds)}"
        )


def _possible_table(hosts: Sequence[Alternative], *, wide: bool) -> Table:
    shown, left_out = abridged(hosts, None if wide else HOSTS_SHOWN)
    return Table(
        title="Where it could be instead, best first",
        columns=(
            Column(title="host"),
            Column(title="CPU then", right=True),
            Column(title="memory then", right=True),
            Column(title="objective", prose=True),
        ),
        rows=tuple(
            (
                one.name,
                ratio_text(one.load.cpu_ratio),
                ratio_text(one.load.memory_ratio),
                _change_text(one.change),
            )
            for one in shown
        ),
        more=f"{count_text(left_out, 'host')} more, none of them better" if left_out else "",
    )


def _impossible_table(hosts: Sequence[Alternative], *, wide: bool) -> Table:
    shown, left_out = abridged(hosts, None if wide else HOSTS_SHOWN)
    return Table(
        title="Where it cannot be, what would gain most first",
        columns=(
            Column(title="host"),
            Column(title="objective", right=True),
            Column(title="why not", prose=True),
        ),
        rows=tuple(
            (one.name, _signed(one.change.total), "; ".join(one.obstacles) or "it cannot be moved")
            for one in shown
        ),
        more=f"{count_text(left_out, 'host')} more" if left_out else "",
    )


def _counts_table(obstacles: Mapping[str, int]) -> Table:
    shown, left_out = abridged(list(obstacles.items()), REASONS_SHOWN)
    return Table(
        title="What keeps it off how many hosts",
        columns=(Column(title="hosts", right=True), Column(title="why", prose=True)),
        rows=tuple((f"{count:,}", text) for text, count in shown),
        more=f"{count_text(left_out, 'reason')} more" if left_out else "",
    )


def _change_text(change: Change) -> str:
    """`0.0012 better (balance 0.0014, movement −0.0002)`, in the unit of the objective."""
    if abs(change.total) <= SAME:
        return "the same"
    sign = 1 if change.total > 0 else -1
    by_goal = by_goal_text({goal: sign * rise for goal, rise in change.by_goal.items()})
    return f"{abs(change.total):.2g} {'worse' if sign > 0 else 'better'}{by_goal}"


def _signed(total: float) -> str:
    if abs(total) <= SAME:
        return "same"
    return f"{total:+.2g}".replace("-", "−", 1)


def _then_text(name: str, load: HostLoad) -> str:
    if not _is_known(load):
        return f"how full {name} is nobody knows ({SIZE_UNKNOWN})"
    cpu, memory = ratio_text(load.cpu_ratio), ratio_text(load.memory_ratio)
    return f"{name} would be at CPU {cpu} and memory {memory}"


def _is_known(load: HostLoad) -> bool:
    return math.isfinite(load.cpu_ratio) and math.isfinite(load.memory_ratio)


def _change_tree(change: Change) -> dict[str, object]:
    return {"tier": change.tier, "objective": change.total, "by_goal": dict(change.by_goal)}


def _alternative_tree(one: Alternative) -> dict[str, object]:
    return {
        "host": one.host,
        "name": one.name,
        "change": _change_tree(one.change),
        "obstacles": one.obstacles,
        "limits": one.limits,
        "cpu_ratio_after": one.load.cpu_ratio,
        "memory_ratio_after": one.load.memory_ratio,
        "left_cpu_ratio_after": one.left.cpu_ratio,
        "left_memory_ratio_after": one.left.memory_ratio,
    }
