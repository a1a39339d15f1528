"""One cycle of one policy, from the first look to the verdict that is written down.

    look after what was cut short → observe → hold still what was moved → plan → decide → act

The stages and their order are `cycle`'s; when cycles run is `daemon`'s. The cluster's lock is
held only while VMs are moved or looked after, so that an operator is not kept from a drain by a
daemon that thinks.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rebalancer.cluster.inventory import HostId, HostState, Snapshot
from rebalancer.cluster.plan import Plan, PowerAction
from rebalancer.errors import LockHeldError
from rebalancer.rollout.executor import RolloutResult
from rebalancer.rollout.journal import Journal
from rebalancer.service.access import ReadAccess
from rebalancer.service.carrying import (
    carry_out,
    finish_hooks_of_the_dead,
    look_after,
    moved_text,
)
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.config import RunMode, Settings, journal_url
from rebalancer.service.considering import consider
from rebalancer.service.cycle_history import CycleHistory, CycleRecord
from rebalancer.service.duty import Considered, Duty, Reach, Report
from rebalancer.service.power_duty import Switched, due_steps, power_duty_of, switch_hosts
from rebalancer.service.session import Session, observe
from rebalancer.service.stability import PastCycle

_SILENT = frozenset({HostState.UNKNOWN, HostState.DOWN})


def tour(session: Session, duty: Duty, reach: Reach) -> Report:
    """Go through one cycle, and keep what it came to for `status` and for later cycles."""
    if duty.mode is RunMode.AUTO:
        access = reach.for_change()
        try:
            report = _acting(session, duty, reach, access)
            report = _with_power(session, duty, reach, access, report)
        finally:
            access.close()
        cluster = access.read.cluster
    else:
        read = reach.for_reading()
        report, cluster = _looking(session, duty, reach, read), read.cluster
    remember(session.settings, duty.name, cluster, report.verdict, report.past)
    return report


def keep(
    session: Session,
    duty: Duty,
    considered: Considered,
    snapshot: Snapshot,
    result: RolloutResult | None,
) -> str:
    """Keep what a cycle outside the daemon came to, and return its verdict."""
    said = considered.decision.verdict
    verdict = said if result is None else moved_text(considered.cycle.plan, result)
    report = _report(considered, snapshot, verdict, acted=result is not None)
    remember(session.settings, duty.name, snapshot.cluster, verdict, report.past)
    return verdict


def remember(settings: Settings, policy: str, cluster: str, verdict: str, past: PastCycle) -> None:
    """Keep what a cycle came to."""
    with CycleHistory.open(journal_url(settings)) as history:
        history.add(CycleRecord(cluster=cluster, policy=policy, verdict=verdict, past=past))


def _looking(session: Session, duty: Duty, reach: Reach, access: ReadAccess) -> Report:
    with session.journal(access.clock) as journal:
        snapshot = observe(session, access)
        considered = consider(session, duty, access, snapshot, journal)
        reach.on_considered(duty, considered)
        remark = _cut_short(journal, access.cluster)
    decision = considered.decision
    verdict = f"recommended: {decision.verdict}" if decision.act else decision.verdict
    return _report(considered, snapshot, verdict + remark, acted=False)


def _cut_short(journal: Journal, cluster: str) -> str:
    rows = journal.unfinished(cluster)
    if not rows or journal.holder(cluster) is not None:
        return ""
    plans = ", ".join(row.plan_id for row in rows)
    return f"; the rollout of plan {plans} was cut short: run rebalancer recover --yes"


def _acting(session: Session, duty: Duty, reach: Reach, access: ChangeAccess) -> Report:
    read = access.read
    with session.journal(read.clock) as journal:
        if journal.unfinished(read.cluster) and (
            left := look_after(session, duty, reach, access, journal)
        ):
            return Report(verdict=left, past=_nothing_at(read.clock.now()))
        finish_hooks_of_the_dead(session, access, journal)
        snapshot = observe(session, read)
        considered = consider(session, duty, read, snapshot, journal, acts=True)
        reach.on_considered(duty, considered)
        woken = _woken(session, duty, reach, access, considered.cycle.plan)
        if not considered.decision.act:
            said = considered.decision.verdict
            return _report(considered, snapshot, said, woken, acted=False)
        if paused := journal.wishes(read.cluster).why_paused:
            said = f"paused {paused} (else: {considered.decision.verdict})"
            return _report(considered, snapshot, said, woken, acted=False)
        plan = considered.cycle.plan
        with journal.hold(read.cluster) as lease:
            if journal.moves_since(snapshot.taken_at, read.cluster):
                raise LockHeldError(
                    "VMs were moved by somebody else while this plan was made; the next cycle "
                    "looks again"
                )
            result = carry_out(session, duty, reach, access, plan, snapshot, journal, lease)
    return _report(considered, snapshot, moved_text(plan, result), woken, acted=True)


def _woken(
    session: Session, duty: Duty, reach: Reach, access: ChangeAccess, plan: Plan
) -> Switched:
    """Wake what the plan needs before anything is moved: load does not wait for migrations."""
    steps = [step for step in plan.power if step.action is PowerAction.WAKE]
    if not steps:
        return Switched()
    task = power_duty_of(session, access, duty.policy, duty.name, duty.rhythm)
    return switch_hosts(session, access, task, steps, reach.should_stop)


def _with_power(
    session: Session, duty: Duty, reach: Reach, access: ChangeAccess, report: Report
) -> Report:
    """Switch hosts as the plan says, where the settings allow it, and add that to the verdict."""
    task = power_duty_of(session, access, duty.policy, duty.name, duty.rhythm)
    sleeping = [step for step in report.power if step.action is PowerAction.SLEEP]
    steps = due_steps(sleeping, moved=report.past.acted)
    switched = switch_hosts(session, access, task, steps, reach.should_stop)
    verdict, woke = report.verdict + switched.said, report.woke or switched.woke
    return replace(report, verdict=verdict, woke=woke)


def _report(
    considered: Considered,
    snapshot: Snapshot,
    verdict: str,
    woken: Switched | None = None,
    *,
    acted: bool,
) -> Report:
    plan, woken = considered.cycle.plan, woken or Switched()
    return Report(
        verdict=verdict + woken.said,
        woke=woken.woke,
        plan=plan.id,
        migrations=len(plan.migrations),
        power=plan.power,
        past=PastCycle(
            at=snapshot.taken_at,
            wanted=considered.wanted,
            acted=acted,
            silent_hosts=_silent(snapshot),
        ),
    )


def _silent(snapshot: Snapshot) -> frozenset[HostId]:
    return frozenset(host.id for host in snapshot.hosts if host.state in _SILENT)


def _nothing_at(at: datetime) -> PastCycle:
    return PastCycle(at=at, wanted=False, acted=False)
