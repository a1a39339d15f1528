"""The daemon carries out a plan that it recommended and somebody approved.

It is what `rebalancer apply PLAN --yes` does, and is refused for the same reasons: a plan that does
not fit the cluster any more, or was applied before, moves nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rebalancer.cluster.plan import Plan
from rebalancer.errors import PlanRefusedError, UnknownOutcomeError
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.power_executor import PowerOutcome
from rebalancer.service.carrying import carry_out, moved_text
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.config import RunMode, Settings, journal_url
from rebalancer.service.duty import Considered, Duty, Reach, Report
from rebalancer.service.plan_file import plan_of_text
from rebalancer.service.power_duty import Switched
from rebalancer.service.power_rollout import sleep_last, wake_first
from rebalancer.service.recommendations import Recommendation, Recommendations
from rebalancer.service.session import Session, observe
from rebalancer.service.stability import PastCycle
from rebalancer.service.staleness import refuse_if_unfit
from rebalancer.service.touring import remember
from rebalancer.service.work import Work


def keep_if_recommended(settings: Settings, duty: Duty, considered: Considered) -> None:
    """Keep a plan that would be carried out now if only the daemon were allowed to."""
    if duty.mode is RunMode.RECOMMEND and considered.decision.act:
        plan = considered.cycle.plan
        with Recommendations.open(journal_url(settings)) as kept:
            kept.keep(duty.name, plan, plan.created_at)


def carry_out_approved(session: Session, duty: Duty, reach: Reach) -> Report | None:
    """Carry out what was approved for a policy; `None` if nothing was."""
    if duty.mode is not RunMode.RECOMMEND:
        return None
    settings = session.settings
    with Recommendations.open(journal_url(settings)) as kept:
        found = kept.waiting(settings.cluster, duty.name)
        if found is None:
            return None
        access = reach.for_change()
        try:
            report = _carried_out(session, duty, reach, access, found)
        except PlanRefusedError as error:
            kept.end(found.plan_id, str(error))
            raise
        finally:
            access.driver.close()
        if report.past.acted:
            kept.end(found.plan_id, report.verdict)
    remember(settings, duty.name, access.read.cluster, report.verdict, report.past)
    return report


def _carried_out(
    session: Session, duty: Duty, reach: Reach, access: ChangeAccess, found: Recommendation
) -> Report:
    read = access.read
    if not found.is_approved(read.clock.now()):
        raise PlanRefusedError(
            f"plan {found.plan_id} was approved {found.approved_by} too long ago: approve a new one"
        )
    plan = plan_of_text(found.plan_text, origin=f"plan {found.plan_id}, as it was recommended")
    with session.journal(read.clock) as journal:
        if paused := journal.wishes(read.cluster).why_paused:
            return _report(plan, f"paused {paused} (approved: plan {plan.id})", read.clock.now())
        with journal.hold(read.cluster) as lease:
            _refuse_unless_new(journal, plan, read.cluster)
            snapshot = observe(session, read)
            ttl = session.settings.plan.ttl_seconds
            refuse_if_unfit(plan, snapshot, duty.policy, read.clock.now(), ttl_seconds=ttl)
            work = Work(session=session, access=access, journal=journal, lease=lease)
            woken = wake_first(work, plan, duty.policy, reach.should_stop)
            result = carry_out(session, duty, reach, access, plan, snapshot, journal, lease)
            slept: tuple[PowerOutcome, ...] = ()
            if not result.stopped:
                slept = sleep_last(work, plan, duty.policy, result.outcomes, reach.should_stop)
    switched = Switched.of([*woken, *slept])
    said = moved_text(plan, result) + switched.said
    said += f"; plan {plan.id} was approved {found.approved_by}"
    return replace(_report(plan, said, read.clock.now(), acted=True), woke=switched.woke)


def _refuse_unless_new(journal: Journal, plan: Plan, cluster: str) -> None:
    if journal.applied(plan.id):
        raise PlanRefusedError(f"plan {plan.id} was applied already")
    if rows := journal.unfinished(cluster):
        plans = ", ".join(row.plan_id for row in rows)
        raise UnknownOutcomeError(
            f"the rollout of plan {plans} was cut short or left a VM that nobody could find; "
            f"run `rebalancer recover --yes`, then plan {plan.id} goes on"
        )


def _report(plan: Plan, verdict: str, at: datetime, *, acted: bool = False) -> Report:
    return Report(
        verdict=verdict,
        plan=plan.id,
        migrations=len(plan.migrations),
        past=PastCycle(at=at, wanted=True, acted=acted),
    )
