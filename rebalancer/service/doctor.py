"""`rebalancer doctor`: tests everything that a rollout will need, and says what to do about it.

`doctor_probe` asks, `doctor_checks` and `doctor_cluster` judge, this shows. It changes nothing.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from rebalancer.errors import ExitCode
from rebalancer.service import options
from rebalancer.service.doctor_checks import host_findings, machine_findings, path_findings
from rebalancer.service.doctor_cluster import cluster_findings
from rebalancer.service.doctor_facts import Facts, Finding, Level
from rebalancer.service.doctor_probe import examine
from rebalancer.service.layout import (
    Block,
    Code,
    Column,
    Line,
    Table,
    Tone,
    print_blocks,
    to_markdown,
)
from rebalancer.service.report import Format
from rebalancer.service.session import open_session
from rebalancer.service.wording import count_text

_ALIKE_SHOWN = 5
"""Findings of one area and level; of 40 hosts that are well, five rows say enough."""
_WORDS = {Level.OK: "ok", Level.NOTE: "note", Level.WARNING: "warning", Level.ERROR: "ERROR"}


def doctor(
    config: options.Config = None,
    policy: options.PolicyFile = None,
    output: options.Output = Format.TABLE,
    wide: options.Wide = False,
) -> ExitCode:
    """Test everything that a rollout needs, and say what to do; change nothing."""
    session = open_session(config)
    findings = diagnose(examine(session, policy))
    if output is Format.JSON:
        session.out.file.write(to_json(findings))
    elif output is Format.MARKDOWN:
        session.out.file.write(to_markdown(blocks(findings, wide=True)))
    else:
        print_blocks(blocks(findings, wide=wide), session.out)
    return exit_code(findings)


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """Judge what was found out, in the order in which it would be mended."""
    return (
        *machine_findings(facts),
        *host_findings(facts),
        *path_findings(facts),
        *cluster_findings(facts),
    )


def exit_code(findings: Iterable[Finding]) -> ExitCode:
    """0: nothing is wrong that can be seen from here; 3: warnings; 4: errors."""
    worst = max((finding.level for finding in findings), default=Level.OK)
    if worst is Level.ERROR:
        return ExitCode.BLOCKED
    return ExitCode.PARTIAL if worst is Level.WARNING else ExitCode.SUCCESS


def to_json(findings: Sequence[Finding]) -> str:
    """Write findings for machines."""
    rows = [
        {
            "level": _WORDS[finding.level].lower(),
            "area": finding.area,
            "about": finding.about,
            "text": finding.text,
            "todo": finding.todo,
        }
        for finding in findings
    ]
    tree = {"schema_version": 1, "exit_code": int(exit_code(findings)), "findings": rows}
    return json.dumps(tree, indent=2) + "\n"


def blocks(findings: Sequence[Finding], *, wide: bool = False) -> Iterator[Block]:
    """Lay findings out: a row for each, then what to do, to be copied."""
    shown, left_out = (findings, 0) if wide else _abridged(findings)
    yield Table(
        title="",
        columns=(
            Column(title=""),
            Column(title="area"),
            Column(title="about"),
            Column(title="found", prose=True),
        ),
        rows=tuple((_WORDS[f.level], f.area, f.about, f.text) for f in shown),
        more=f"{left_out} more like these; --wide shows all" if left_out else "",
    )
    for level, title in ((Level.ERROR, "To be mended"), (Level.WARNING, "Better mended")):
        yield from _todo(title, [f for f in shown if f.level is level])
    yield from _todo("Worth a look", [f for f in shown if f.level is Level.NOTE])
    yield Line(text=summary(findings), tone=_tone(findings))


def _todo(title: str, findings: Sequence[Finding]) -> Iterator[Block]:
    lines = [f"{f.area}, {f.about}: {f.todo}" for f in findings if f.todo]
    if lines:
        yield Line(text=title, tone=Tone.STRONG)
        yield Code(lines=tuple(lines))


def _abridged(findings: Sequence[Finding]) -> tuple[list[Finding], int]:
    """Drop what is well, or only noted, after the first few of an area; nothing that is wrong."""
    seen: dict[tuple[str, Level], int] = defaultdict(int)
    shown = []
    for finding in findings:
        seen[finding.area, finding.level] += 1
        is_wrong = finding.level >= Level.WARNING
        if is_wrong or seen[finding.area, finding.level] <= _ALIKE_SHOWN:
            shown.append(finding)
    return shown, len(findings) - len(shown)


def summary(findings: Sequence[Finding]) -> str:
    """Say in one line how it looks."""
    counted = Counter(finding.level for finding in findings)
    errors, warnings = counted[Level.ERROR], counted[Level.WARNING]
    tested = f"{len(findings)} things tested"
    if not errors and not warnings:
        return f"{tested}: nothing is wrong that can be seen from here"
    return f"{tested}: {count_text(errors, 'error')}, {count_text(warnings, 'warning')}"


def _tone(findings: Sequence[Finding]) -> Tone:
    worst = max((finding.level for finding in findings), default=Level.OK)
    return {Level.ERROR: Tone.BAD, Level.WARNING: Tone.WARN}.get(worst, Tone.GOOD)
