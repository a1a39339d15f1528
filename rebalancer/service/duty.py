"""One cycle of one policy, from the first look to the verdict that is written down.

    look after what was cut short → observe → hold still what was moved → plan → decide → act

The stages and their order are `cycle`'s; when cycles run is `daemon`'s. The cluster's lock is
held only while VMs are moved or looked after, so that an operator is not kept from a drain by a
daemon that thinks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rebalancer.cluster.inventory import HostId, HostState, Snapshot
from rebalancer.cluster.plan import MigrationState, Plan, PowerStep
from rebalancer.cluster.policy import Policy
from rebalancer.errors import LockHeldError
from rebalancer.forecast.demand import forecast_demand
from rebalancer.placement.imbalance import imbalance
from rebalancer.rollout.events import Event, MigrationEnded
from rebalancer.rollout.executor import RolloutResult, execute, recover
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.steps import StopRequest
from rebalancer.service import setbacks
from rebalancer.service.access import ChangeAccess, ReadAccess
from rebalancer.service.config import RunMode, Settings, journal_url
from rebalancer.service.configured import rollout_settings
from rebalancer.service.cycle import Cycle
from rebalancer.service.cycle_history import CycleHistory, CycleRecord
from rebalancer.service.evacuation import with_evacuation
from rebalancer.service.lookout import watching
from rebalancer.service.plan_file import plan_to_json
from rebalancer.service.power_duty import due_steps, power_duty_of, switch_hosts
from rebalancer.service.session import Session, observe, plan_for
from rebalancer.service.stability import (
    DAMPING_CYCLES,
    PastCycle,
    Rhythm,
    cycles_wanted,
    look_back_seconds,
    reason_not_worth_it,
    reason_to_wait,
    steadied,
    urgent_vms,
)
from rebalancer.service.verdict import exceeds
from rebalancer.service.wording import count_text

log = logging.getLogger(__name__)

FORGOTTEN_AFTER_CYCLES = 3
"""Cycles that were missed before what was seen earlier does not count any more."""
LEAST_MEMORY_SECONDS = 3600.0
CRON_MEMORY_SECONDS = 26 * 3600.0
"""A policy with hours of its own may rest for a night."""
CRON_APART_SECONDS = 30.0

_SILENT = frozenset({HostState.UNKNOWN, HostState.DOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """A policy, and what the program may do for it."""

    name: str
    policy: Policy
    mode: RunMode
    rhythm: Rhythm


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How a cycle gets at the cluster, and how it is told to stop."""

    for_reading: Callable[[], ReadAccess]
    for_change: Callable[[], ChangeAccess]
    on_event: Callable[[Event], None]
    should_stop: Callable[[], StopRequest]
    on_considered: Callable[[Duty, Considered], None] = lambda _duty, _considered: None
    """Told of every plan before anything is done about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What follows from a plan, with the sentence that says why."""

    act: bool
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Considered:
    """A plan that takes the past into account, and what follows from it."""

    cycle: Cycle
    decision: Decision
    wanted: bool
    """Whether the policy would act if this went on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a cycle came to."""

    verdict: str
    plan: str = ""
    migrations: int = 0
    power: tuple[PowerStep, ...] = ()
    """What the plan says of waking hosts and putting them to sleep."""
    past: PastCycle


def rhythm_of(policy: Policy, interval_seconds: float) -> Rhythm:
    """Say how far apart the cycles of a policy are."""
    if policy.active.cron is not None:
        return Rhythm(at_least_seconds=CRON_APART_SECONDS, at_most_seconds=CRON_MEMORY_SECONDS)
    missed = FORGOTTEN_AFTER_CYCLES * interval_seconds
    return Rhythm(
        at_least_seconds=interval_seconds / 2, at_most_seconds=max(LEAST_MEMORY_SECONDS, missed)
    )


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


def duty_of(settings: Settings, policy: Policy, mode: RunMode | None = None) -> Duty:
    """Take a policy up."""
    rhythm = rhythm_of(policy, settings.daemon.interval_seconds)
    return Duty(name=policy.name, policy=policy, mode=mode or settings.mode, rhythm=rhythm)


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
        snapshot = observe(session, read)
        considered = consider(session, duty, read, snapshot, journal)
        reach.on_considered(duty, considered)
        if not considered.decision.act:
            return _report(considered, snapshot, considered.decision.verdict, acted=False)
        if paused := journal.wishes(read.cluster).why_paused:
            said = f"paused {paused} (else: {considered.decision.verdict})"
            return _report(considered, snapshot, said, acted=False)
        plan = considered.cycle.plan
        with journal.hold(read.cluster) as lease:
            if journal.moves_since(snapshot.taken_at, read.cluster):
                raise LockHeldError(
                    "VMs were moved by somebody else while this plan was made; the next cycle "
                    "looks again"
                )
            result = carry_out(session, duty, reach, access, plan, snapshot, journal, lease)
    return _report(considered, snapshot, moved_text(plan, result), acted=True)


def _with_power(
    session: Session, duty: Duty, reach: Reach, access: ChangeAccess, report: Report
) -> Report:
    """Switch hosts as the plan says, where the settings allow it, and add that to the verdict."""
    task = power_duty_of(session, access, duty.policy, duty.name, duty.rhythm)
    steps = due_steps(report.power, moved=report.past.acted)
    said = switch_hosts(session, access, task, steps, reach.should_stop)
    return replace(report, verdict=report.verdict + said) if said else report


def look_after(
    session: Session, duty: Duty, reach: Reach, access: ChangeAccess, journal: Journal
) -> str:
    """Adopt what an earlier process left under way; return what still has to be seen to."""
    read = access.read
    seen = observe(session, read)
    with journal.hold(read.cluster) as lease, watching(read, seen) as newest:
        results = recover(
            cluster=read.cluster,
            driver=access.driver,
            clock=read.clock,
            journal=journal,
            snapshot=newest,
            settings=rollout_settings(session.settings, duty.policy, read.uris),
            lease=lease,
            on_event=reach.on_event,
            should_stop=reach.should_stop,
            hooks=access.hooks,
        )
        for result in results:
            log.info("recovered", extra={"rollout": result.rollout, "states": _states(result)})
        rows = journal.unfinished(read.cluster)
    if not rows:
        return ""
    plans = ", ".join(row.plan_id for row in rows)
    return f"blocked: plan {plans} left a VM that nobody could find; see rebalancer status"


def consider(
    session: Session,
    duty: Duty,
    access: ReadAccess,
    snapshot: Snapshot,
    journal: Journal,
    *,
    at_once: bool = False,
) -> Considered:
    """Plan with everything held still that was moved lately, and decide whether to act.

    `at_once`: somebody asked for it, so unevenness need not last first.
    """
    policy, now = duty.policy, access.clock.now()
    needed = policy.trigger.for_cycles if policy.trigger is not None else 1
    past = _past(session.settings, access.cluster, duty.name, 2 * max(needed, DAMPING_CYCLES))
    since = now - timedelta(seconds=look_back_seconds(policy.limits))
    snapshot = with_evacuation(snapshot, policy)
    held, held_policy = steadied(
        snapshot,
        policy,
        forecast_demand(snapshot),
        moves=journal.moves_since(since, access.cluster),
        past=past,
        now=now,
    )
    held = _with_rests(held, policy, journal, now)
    cycle = plan_for(session, access, held, held_policy)
    load = imbalance(snapshot, cycle.demand, policy)
    is_uneven = exceeds(load, policy)
    waited = needed if at_once else cycles_wanted(past, now, duty.rhythm)
    decision = decide(cycle.plan, held, policy, waited)
    wanted = is_uneven or bool(cycle.plan.migrations)
    return Considered(cycle=cycle, decision=decision, wanted=wanted)


def _with_rests(snapshot: Snapshot, policy: Policy, journal: Journal, now: datetime) -> Snapshot:
    lately = now - timedelta(seconds=setbacks.LOOK_BACK_SECONDS)
    failed = journal.setbacks_since(lately, snapshot.cluster)
    if not failed:
        return snapshot
    moves = journal.moves_since(lately, snapshot.cluster)
    urgent = urgent_vms(snapshot, policy, forecast_demand(snapshot))
    return setbacks.with_rests(snapshot, failed, moves, now, urgent=urgent)


def decide(plan: Plan, snapshot: Snapshot, policy: Policy, waited_cycles: int) -> Decision:
    """Say whether a plan is carried out now."""
    said = plan.verdict.text
    if not plan.migrations:
        return Decision(act=False, verdict=said)
    if snapshot.usage_fault:
        return Decision(act=False, verdict=f"plan only: {snapshot.usage_fault} ({said})")
    if why := reason_not_worth_it(plan, snapshot, policy):
        return Decision(act=False, verdict=f"{why} ({said})")
    if why := reason_to_wait(plan, policy, waited_cycles):
        return Decision(act=False, verdict=f"{why}; then {said}")
    return Decision(act=True, verdict=said)


def _past(settings: Settings, cluster: str, policy: str, count: int) -> list[PastCycle]:
    with CycleHistory.open(journal_url(settings)) as history:
        return [record.past for record in history.latest(cluster, policy, count)]


def carry_out(
    session: Session,
    duty: Duty,
    reach: Reach,
    access: ChangeAccess,
    plan: Plan,
    snapshot: Snapshot,
    journal: Journal,
    lease: Lease,
) -> RolloutResult:
    """Carry a plan out, and write a line for each of its migrations."""

    def tell(event: Event) -> None:
        reach.on_event(event)
        if isinstance(event, MigrationEnded):
            _log_migration(plan, event)

    with watching(access.read, snapshot) as newest:
        return execute(
            plan,
            driver=access.driver,
            clock=access.read.clock,
            journal=journal,
            snapshot=newest,
            settings=rollout_settings(session.settings, duty.policy, access.read.uris),
            lease=lease,
            plan_text=plan_to_json(plan),
            on_event=tell,
            should_stop=reach.should_stop,
            hooks=access.hooks,
        )


def _log_migration(plan: Plan, event: MigrationEnded) -> None:
    """The one line of a migration that a year later tells what became of it."""
    migration = next(m for m in plan.migrations if m.id == event.outcome.migration)
    outcome = event.outcome
    is_good = outcome.state in (MigrationState.COMPLETE, MigrationState.SKIPPED)
    log.log(
        logging.INFO if is_good else logging.ERROR,
        "migration",
        extra={
            "plan": plan.id,
            "vm": migration.vm_name,
            "host": migration.source,
            "target": migration.target,
            "mode": str(migration.mode),
            "state": str(outcome.state),
            "took_seconds": outcome.duration_seconds,
            "predicted_seconds": round(migration.predicted.duration_seconds, 1),
            "downtime_seconds": outcome.downtime_seconds,
            "transfer_bytes": outcome.transfer_bytes,
            "text": outcome.text,
        },
    )


def moved_text(plan: Plan, result: RolloutResult) -> str:
    """Say how a rollout went: `moved 6 VMs, peak CPU 0.91 → 0.73`."""
    done = len(result.in_state(MigrationState.COMPLETE))
    planned = len(result.outcomes)
    if done == planned:
        before = max((host.cpu_ratio_before for host in plan.hosts), default=0.0)
        after = max((host.cpu_ratio_after for host in plan.hosts), default=0.0)
        return f"moved {count_text(done, 'VM')}, peak CPU {before:.2f} → {after:.2f}"
    why = result.stopped or next(
        o.text for o in result.outcomes if o.state is not MigrationState.COMPLETE
    )
    return f"moved {done} of {count_text(planned, 'VM')} ({_states(result)}): {why}"


def _states(result: RolloutResult) -> str:
    counts = {state: len(result.in_state(state)) for state in MigrationState}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def _report(considered: Considered, snapshot: Snapshot, verdict: str, *, acted: bool) -> Report:
    plan = considered.cycle.plan
    return Report(
        verdict=verdict,
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
