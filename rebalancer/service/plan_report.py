"""A plan as people read it: what would happen, why, how long it takes and what it costs.

The verdict comes first, the command to go on with last. Rows are in a fixed order and the text
depends on nothing but the plan and the width, so that two reports can be compared.
What became of a plan is told in `outcome_report`; `report` puts either on a screen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import assert_never

from rebalancer.cluster.inventory import HostId, HostState, Mode
from rebalancer.cluster.plan import (
    HostOutlook,
    Migration,
    Objective,
    Plan,
    SolveStatus,
    VerdictKind,
)
from rebalancer.cluster.prediction import Confidence
from rebalancer.service.explanation_report import explanation_blocks
from rebalancer.service.goal_report import above_band_table, later_lines
from rebalancer.service.layout import (
    Bar,
    Block,
    Cell,
    Code,
    Column,
    Line,
    Table,
    Tone,
    abridged,
)
from rebalancer.service.overpromise import WHAT_THREATENS, left_overpromised
from rebalancer.service.power_report import power_blocks
from rebalancer.service.wording import (
    at_least_text,
    at_most_text,
    bytes_text,
    count_text,
    offset_text,
    rate_text,
    ratio_text,
    seconds_text,
    when_text,
)

HOSTS_SHOWN = 20
STEPS_SHOWN = 60
UNMOVED_SHOWN = 20
VIOLATIONS_SHOWN = 10

HOT_RATIO = 0.85
"""From here on a bar is drawn as a warning, as the default trigger has it."""

NOT_KNOWN = "not known"
"""Instead of the load of a host that did not answer."""

SIZE_UNKNOWN = "size unknown"
"""Instead of the load of a host of which nobody knows how large it is: it never answered."""

_SAME_RATIO = 0.0005
"""Ratios that differ by less are printed alike."""

_TONES = {
    VerdictKind.MOVES: Tone.STRONG,
    VerdictKind.BALANCED: Tone.GOOD,
    VerdictKind.BELOW_THRESHOLD: Tone.GOOD,
    VerdictKind.NO_GAIN: Tone.WARN,
    VerdictKind.BLOCKED: Tone.BAD,
}


def plan_blocks(
    plan: Plan, *, wide: bool = False, commands: bool = False, apply_with: str = ""
) -> Iterator[Block]:
    """Lay a plan out: verdict, objective, hosts, steps, what stays, totals, how to go on.

    `apply_with` is the command that carries it out; empty where there is none to recommend.
    """
    tone = Tone.BAD if plan.verdict.is_unmet else _TONES[plan.verdict.kind]
    yield Line(text=plan.verdict.text, tone=tone)
    if left_overpromised(plan):
        yield Line(text=WHAT_THREATENS, tone=Tone.BAD)
    if plan.objective is not None:
        as_made = "as it was made: " if plan.is_edited else ""
        yield Line(text=as_made + objective_text(plan.objective), tone=Tone.DIM)
        yield from later_lines(plan.objective)
    elif plan.verdict.kind is VerdictKind.BALANCED:
        yield Line(
            text="no better placement was searched for: nothing calls for one", tone=Tone.DIM
        )
    if plan.hosts:
        table = hosts_table(plan.hosts, wide=wide)
        yield replace(table, title="Hosts, as it was made") if plan.is_edited else table
    if plan.migrations:
        yield steps_table(plan, wide=wide)
    if plan.power:
        yield from power_blocks(plan.power, host_names(plan))
    yield from _violations_tables(plan, wide=wide)
    if plan.unmoved:
        yield _unmoved_table(plan, wide=wide)
    if plan.above_band:
        yield above_band_table(plan.above_band, wide=wide)
    yield from explanation_blocks(plan.explanation, host_names(plan), wide=wide)
    if plan.migrations:
        yield Line(text=totals_text(plan))
    if commands and plan.commands:
        yield Line(text="The same by hand:", tone=Tone.STRONG)
        yield Code(lines=_command_lines(plan))
    if apply_with and (plan.migrations or plan.power):
        yield from _ending(plan, apply_with)


def objective_text(objective: Objective) -> str:
    """Say how good the placement is, and how far it can be from the best possible."""
    solved = f"{_status_text(objective.status)} after {seconds_text(objective.solve_seconds)}"
    if objective.status is SolveStatus.INFEASIBLE:
        return f"objective {objective.before:.4g}, unchanged; {solved}"
    if objective.before == objective.after == 0:
        return f"objective 0, unchanged; {solved}"  # nothing to gain, so no share of it either
    # With a bound of 0 the gap is all there is, which says nothing.
    says_nothing = objective.bound <= 0 and objective.gap_ratio > 0
    gap = f"gap ≤ {at_most_text(objective.gap_ratio)} to the best possible, "
    proof = (
        f"{'' if says_nothing else gap}"
        f"captured {at_least_text(objective.captured_ratio)} of the possible improvement; {solved}"
    )
    if objective.status is SolveStatus.UNCHANGED or objective.after == objective.before:
        return f"objective {objective.before:.4g}, unchanged, {proof}"
    change = ""
    if objective.before > 0:
        change = f" (−{ratio_text(1 - objective.after / objective.before)})".replace("−-", "+")
    return f"objective {objective.before:.4g} → {objective.after:.4g}{change}, {proof}"


def totals_text(plan: Plan) -> str:
    """Sum a plan up: bytes, wall time beside its lower bound, downtime."""
    predictions = [migration.predicted for migration in plan.migrations]
    downtimes = [prediction.downtime_seconds for prediction in predictions]
    total = sum(prediction.transfer_bytes for prediction in predictions)
    as_made = "as it was made, it " if plan.is_edited else ""
    return (
        f"{count_text(len(plan.migrations), 'migration')}, {bytes_text(total)} to transfer; "
        f"{as_made}takes {seconds_text(plan.makespan_seconds)}, not possible in less than "
        f"{seconds_text(plan.makespan_lower_bound_seconds)}; {_deadline_text(plan)}"
        f"guests stand still for {seconds_text(sum(downtimes))} in all, "
        f"{seconds_text(max(downtimes, default=0.0))} at most for one"
    )


def _deadline_text(plan: Plan) -> str:
    if plan.deadline_seconds is None or plan.makespan_upper_seconds is None:
        return ""
    kept = "not kept" if plan.breaks_deadline else "kept"
    return (
        f"the deadline of {seconds_text(plan.deadline_seconds)} is {kept}, as it may take up to "
        f"{seconds_text(plan.makespan_upper_seconds)}; "
    )


def hosts_table(hosts: Sequence[HostOutlook], *, wide: bool = False) -> Table:
    """Draw every host before and after; of many hosts the changed and hottest ones."""
    shown, left_out = abridged(hosts_by_interest(hosts), None if wide else HOSTS_SHOWN)
    rest = hosts_by_interest(hosts)[len(shown) :]
    unchanged = sum(not is_changed(host) for host in rest)
    return Table(
        title="Hosts",
        columns=(
            Column(title="host"),
            Column(title="state"),
            Column(title=""),
            Column(title="CPU"),
            Column(title="memory"),
            Column(title="VMs", right=True),
        ),
        rows=tuple(row for host in shown for row in _host_rows(host)),
        more=_more_hosts(left_out, unchanged),
    )


def hosts_by_interest(hosts: Sequence[HostOutlook]) -> list[HostOutlook]:
    """Sort few hosts by name; of many, changed ones come first, then the hottest."""
    by_name = sorted(hosts, key=lambda host: natural(host.name))
    if len(hosts) <= HOSTS_SHOWN + 2:
        return by_name
    return sorted(by_name, key=lambda host: (not is_changed(host), -_heat(host)))


def is_changed(host: HostOutlook) -> bool:
    """Whether the plan makes a visible difference to the host."""
    return (
        host.vms_before != host.vms_after
        or _differ(host.cpu_ratio_before, host.cpu_ratio_after)
        or _differ(host.memory_ratio_before, host.memory_ratio_after)
    )


def _differ(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and abs(before - after) >= _SAME_RATIO


def natural(name: str) -> tuple[tuple[str, int], ...]:
    """Make a key that sorts `h2` before `h10`."""
    parts = re.findall(r"([^0-9]*)([0-9]*)", name)
    return tuple((text, int(digits or -1)) for text, digits in parts)


def steps_table(plan: Plan, *, wide: bool = False) -> Table:
    """List the migrations in the order of their start."""
    shown, left_out = abridged(plan.migrations, None if wide else STEPS_SHOWN)
    names = host_names(plan)
    return Table(
        title="Steps",
        columns=(
            Column(title="#"),
            Column(title="wave", right=True, minor=True),
            Column(title="VM"),
            Column(title="from → to"),
            Column(title="mode"),
            Column(title="bandwidth", right=True, minor=True),
            Column(title="sends", right=True, minor=True),
            Column(title="time", right=True),
            Column(title="downtime", right=True),
            Column(title="start", right=True),
            Column(title="finish", right=True),
            Column(title="reason", prose=True),
        ),
        rows=tuple(_step_row(migration, names, wide=wide) for migration in shown),
        more=f"{count_text(left_out, 'step')} more" if left_out else "",
    )


def host_names(plan: Plan) -> dict[HostId, str]:
    """What hosts are called; one that the plan does not describe goes by its id."""
    return {host.host: host.name for host in plan.hosts}


def _host_rows(host: HostOutlook) -> Iterator[tuple[Cell, ...]]:
    if host.state is HostState.UNKNOWN and not host.vms_before:
        # Nobody has seen anything of it, and that is not the same as nothing.
        yield (host.name, host.state.value, "stays", NOT_KNOWN, NOT_KNOWN, "?")
        return
    before = (
        _bar(host.cpu_ratio_before),
        _bar(host.memory_ratio_before),
        str(host.vms_before),
    )
    state = "" if host.state is HostState.UP else host.state.value
    if not is_changed(host):
        yield (host.name, state, "stays", *before)
        return
    after = (_bar(host.cpu_ratio_after), _bar(host.memory_ratio_after), str(host.vms_after))
    yield (host.name, state, "before", *before)
    yield ("", "", "after", *after)


def _bar(ratio: float | None) -> Cell:
    if ratio is None:
        return SIZE_UNKNOWN
    return Bar(ratio=ratio, text=ratio_text(ratio), hot=ratio > HOT_RATIO)


def _heat(host: HostOutlook) -> float:
    return max(
        host.cpu_ratio_before or 0.0,
        host.cpu_ratio_after or 0.0,
        host.memory_ratio_before or 0.0,
        host.memory_ratio_after or 0.0,
    )


def _more_hosts(left_out: int, unchanged: int) -> str:
    if not left_out:
        return ""
    changed = left_out - unchanged
    how = "unchanged" if not changed else f"{changed} of them changed"
    return f"{count_text(left_out, 'host')} more, {how}"


def _step_row(migration: Migration, names: dict[HostId, str], *, wide: bool) -> tuple[Cell, ...]:
    predicted = migration.predicted
    # That a VM goes alive needs no reason, unless somebody wants to see all there is.
    why_so = migration.mode_reason if wide or migration.mode is not Mode.LIVE else ""
    source = names.get(migration.source, migration.source)
    target = names.get(migration.target, migration.target)
    # A guess is marked as one: nobody should promise a finish time on an unknown dirty rate.
    about = "~" if predicted.confidence is Confidence.LOW else ""
    return (
        migration.id,
        str(migration.wave),
        migration.vm_name,
        f"{source} → {target}",
        migration.mode.value,
        rate_text(migration.bytes_per_second),
        bytes_text(predicted.transfer_bytes),
        about + _band(predicted.duration_seconds, predicted.duration_upper_seconds, wide=wide),
        about + _band(predicted.downtime_seconds, predicted.downtime_upper_seconds, wide=wide),
        offset_text(predicted.start_seconds),
        offset_text(predicted.finish_seconds),
        "; ".join(part for part in (migration.reason, why_so) if part),
    )


def _band(seconds: float, upper_seconds: float, *, wide: bool) -> str:
    """Say what is expected; to whoever wants to see all there is, also what may become of it."""
    text = seconds_text(seconds)
    return f"{text} ≤ {seconds_text(upper_seconds)}" if wide and upper_seconds > seconds else text


def _violations_tables(plan: Plan, *, wide: bool) -> Iterator[Table]:
    broken_after = {violation.rule for violation in plan.violations_after}
    mended = [v for v in plan.violations_before if v.rule not in broken_after]
    for title, violations in (("Mended", mended), ("Still broken", plan.violations_after)):
        shown, left_out = abridged(violations, None if wide else VIOLATIONS_SHOWN)
        if shown:
            yield Table(
                title=title,
                columns=(Column(title="rule"), Column(title="what", prose=True)),
                rows=tuple((violation.rule, violation.text) for violation in shown),
                more=f"{left_out:,} more" if left_out else "",
            )


def _unmoved_table(plan: Plan, *, wide: bool) -> Table:
    shown, left_out = abridged(plan.unmoved, None if wide else UNMOVED_SHOWN)
    return Table(
        title="Not moved",
        columns=(Column(title="VM"), Column(title="why", prose=True)),
        rows=tuple((vm.vm_name or vm.vm, "; ".join(vm.reasons)) for vm in shown),
        more=f"{count_text(left_out, 'VM')} more" if left_out else "",
    )


def _command_lines(plan: Plan) -> tuple[str, ...]:
    return tuple(
        line
        for migration in plan.migrations
        if migration.id in plan.commands
        for line in (f"# {migration.id}: {migration.vm_name}", *plan.commands[migration.id])
    )


def _ending(plan: Plan, apply_with: str) -> Iterator[Line]:
    yield Line(text=f"to apply: {apply_with}", tone=Tone.STRONG)
    yield Line(text=f"valid until {when_text(plan.expires_at)}", tone=Tone.DIM)


def _status_text(status: SolveStatus) -> str:
    match status:
        case SolveStatus.OPTIMAL:
            return "proved optimal"
        case SolveStatus.TIME_LIMIT:
            return "best found when time ran out,"
        case SolveStatus.SEARCHED:
            return "best found, search ended"
        case SolveStatus.UNCHANGED:
            return "nothing better found"
        case SolveStatus.INFEASIBLE:
            return "infeasible"
        case _:
            assert_never(status)
