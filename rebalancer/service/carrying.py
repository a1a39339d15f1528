"""A cycle acts: its plan is carried out, or what an earlier process left under way is."""

from __future__ import annotations

import logging

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import MigrationState, Plan
from rebalancer.rollout.events import Event, MigrationEnded
from rebalancer.rollout.executor import RolloutResult, execute, recover
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Lease, is_dead
from rebalancer.service.budgets import settings_for
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.configured_rollout import rollout_settings
from rebalancer.service.duty import Duty, Reach
from rebalancer.service.hooks import drain_desk, owed_texts
from rebalancer.service.lookout import watching
from rebalancer.service.plan_file import plan_to_json
from rebalancer.service.session import Session, observe
from rebalancer.service.stale_copies import stale_copies
from rebalancer.service.verdict import peak_text
from rebalancer.service.wording import count_text

log = logging.getLogger(__name__)


def look_after(
    session: Session, duty: Duty, reach: Reach, access: ChangeAccess, journal: Journal
) -> str:
    """Adopt what an earlier process left under way; return what still has to be seen to."""
    read = access.read.for_a_rollout()
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
            log.info("recovered", extra={"rollout": result.rollout, "states": states_text(result)})
        rows = journal.unfinished(read.cluster)
        offered = stale_copies(journal, read.cluster).offered
    if not rows:
        return ""
    plans = ", ".join(row.plan_id for row in rows)
    if offered:
        vms = ", ".join(copy.migration.vm_name for copy in offered)
        return f"blocked: a stale copy of {vms} waits for your word; see rebalancer recover"
    return f"blocked: plan {plans} left a VM that nobody could find; see rebalancer status"


def finish_hooks_of_the_dead(session: Session, access: ChangeAccess, journal: Journal) -> None:
    """Run the `after_drain` hooks that a drain which was killed owes, if there are any."""
    read, settings = access.read, session.settings
    holder = journal.holder(read.cluster)
    if holder is not None and not is_dead(holder.owner):
        return  # it may be that drain
    if not owed_texts(settings, read.cluster, read.clock):
        return
    with (
        journal.hold(read.cluster) as lease,
        drain_desk(settings, access.hooks, lease, read.clock) as desk,
    ):
        for line in desk.tell_for_the_dead(lambda: observe(session, read)):
            log.info("hooks_made_up_for", extra={"text": line})


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

    read = access.read.for_a_rollout()
    with watching(read, snapshot) as newest:
        return execute(
            plan,
            driver=access.driver,
            clock=read.clock,
            journal=journal,
            snapshot=newest,
            settings=settings_for(plan, rollout_settings(session.settings, duty.policy, read.uris)),
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
    """Say how a rollout went: `moved 6 VMs, peak CPU 91 % → 73 %`."""
    done = len(result.in_state(MigrationState.COMPLETE))
    planned = len(result.outcomes)
    if done == planned:
        return f"moved {count_text(done, 'VM')}, {peak_text(plan)}"
    why = result.stopped or next(
        o.text for o in result.outcomes if o.state is not MigrationState.COMPLETE
    )
    return f"moved {done} of {count_text(planned, 'VM')} ({states_text(result)}): {why}"


def states_text(result: RolloutResult) -> str:
    """Count how migrations ended: `3 complete, 1 skipped`."""
    counts = {state: len(result.in_state(state)) for state in MigrationState}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)
