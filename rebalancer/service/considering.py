"""Whether a policy's plan is carried out now, by what happened before.

Everything is held still that was moved lately or has just failed, and unevenness has to last.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import Plan, VerdictKind
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.windows import span_at
from rebalancer.forecast.demand import forecast_demand
from rebalancer.placement.imbalance import imbalance
from rebalancer.rollout.journal import Journal
from rebalancer.service import setbacks
from rebalancer.service.access import ReadAccess
from rebalancer.service.config import Settings, journal_url
from rebalancer.service.cycle_history import CycleHistory
from rebalancer.service.duty import Considered, Decision, Duty
from rebalancer.service.evacuation import with_evacuation
from rebalancer.service.session import Session, plan_for
from rebalancer.service.stability import (
    DAMPING_CYCLES,
    DAY_SECONDS,
    PastCycle,
    cycles_wanted,
    day_is_spent,
    look_back_seconds,
    reason_not_worth_it,
    reason_to_wait,
    steadied,
    urgent_vms,
    within_day,
)
from rebalancer.service.staleness import out_of_hours
from rebalancer.service.verdict import exceeds


def consider(
    session: Session,
    duty: Duty,
    access: ReadAccess,
    snapshot: Snapshot,
    journal: Journal,
    *,
    at_once: bool = False,
    probe: bool = False,
    acts: bool = False,
) -> Considered:
    """Plan with everything held still that was moved lately, and decide whether to act.

    `at_once`: somebody asked for it, so unevenness need not last first. `probe` and `acts` are
    those of `plan_for`.
    """
    policy, now = duty.policy, access.clock.now()
    needed = policy.trigger.for_cycles if policy.trigger is not None else 1
    cycles = 2 * max(needed, DAMPING_CYCLES) if access.has_past else 0
    past = _past(session.settings, access.cluster, duty.name, cycles)
    since = now - timedelta(seconds=look_back_seconds(policy.limits))
    snapshot = with_evacuation(snapshot, policy)
    held, held_policy = steadied(
        snapshot,
        policy,
        forecast_demand(snapshot, policy),
        moves=journal.moves_since(since, access.cluster) if access.has_past else (),
        past=past,
        now=now,
    )
    held = _with_rests(held, policy, journal, now) if access.has_past else held
    a_day_ago = now - timedelta(seconds=DAY_SECONDS)
    today = journal.moves_since(a_day_ago, access.cluster, policy.name) if access.has_past else ()
    held_policy = within_day(held_policy, today)
    # Guests are not disturbed for a plan that has to wait for its window anyway.
    acts = acts and (not policy.migration.windows or bool(span_at(policy.migration.windows, now)))
    cycle = plan_for(session, access, held, held_policy, probe=probe, acts=acts)
    load = imbalance(snapshot, cycle.demand, policy)
    is_uneven = exceeds(load, policy)
    waited = needed if at_once else cycles_wanted(past, now, duty.rhythm)
    decision = decide(cycle.plan, held, policy, waited)
    if decision.act and (why := out_of_hours(cycle.plan, policy, now)):
        decision = Decision(act=False, verdict=f"{why}; then {decision.verdict}")
    wanted = is_uneven or bool(cycle.plan.migrations)
    spent = day_is_spent(policy.limits, today, now)
    if spent and cycle.plan.verdict.kind is VerdictKind.NO_GAIN:
        decision = Decision(act=False, verdict=f"no gain: {spent}")
    return Considered(cycle=cycle, decision=decision, wanted=wanted)


def _with_rests(snapshot: Snapshot, policy: Policy, journal: Journal, now: datetime) -> Snapshot:
    lately = now - timedelta(seconds=setbacks.LOOK_BACK_SECONDS)
    failed = journal.setbacks_since(lately, snapshot.cluster)
    if not failed:
        return snapshot
    moves = journal.moves_since(lately, snapshot.cluster)
    urgent = urgent_vms(snapshot, policy, forecast_demand(snapshot, policy))
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
