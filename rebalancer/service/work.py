"""A cluster that this process holds the lock of: how it is got, and how a plan is carried out.

The order is always the same: take the cluster's lock, look at the cluster, judge, write to the
journal, act, look again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import Plan
from rebalancer.cluster.policy import Policy
from rebalancer.errors import ExitCode, PausedError, UnknownOutcomeError
from rebalancer.rollout.executor import RolloutResult, execute
from rebalancer.rollout.executor import Settings as RolloutSettings
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.steps import StopRequest
from rebalancer.service import configured_rollout, exit_codes
from rebalancer.service.access import Where
from rebalancer.service.budgets import settings_for
from rebalancer.service.change_access import ChangeAccess, open_for_change
from rebalancer.service.lookout import watching
from rebalancer.service.plan_file import plan_to_json
from rebalancer.service.progress import display_for
from rebalancer.service.session import Output, Session
from rebalancer.service.signals import StopSwitch


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A cluster that this process holds the lock of, and may change."""

    session: Session
    access: ChangeAccess
    journal: Journal
    lease: Lease

    def carry_out(
        self,
        plan: Plan,
        snapshot: Snapshot,
        policy: Policy,
        is_called_off: Callable[[], bool] = lambda: False,
    ) -> Carried:
        """Roll a plan out, showing how it goes.

        Once `is_called_off` says so nothing more is started, as after `rebalancer cancel`.
        """
        read = self.access.read.for_a_rollout()
        settings = rollout_settings(self.session, self.access, policy)
        with (
            StopSwitch() as stop,
            display_for(self.session.err) as display,
            watching(read, snapshot) as newest,
        ):
            result = execute(
                plan,
                driver=self.access.driver,
                clock=read.clock,
                journal=self.journal,
                snapshot=newest,
                settings=settings_for(plan, settings),
                lease=self.lease,
                plan_text=plan_to_json(plan),
                on_event=display.show,
                should_stop=lambda: max(stop.request(), StopRequest(is_called_off())),
                hooks=self.access.hooks,
            )
        worst = exit_codes.for_rollout(result.outcomes, is_stopped=bool(result.stopped))
        return Carried(result=result, exit_code=exit_codes.after_stop(worst, stop.exit_code))


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A rollout and the exit code that it leads to."""

    result: RolloutResult
    exit_code: ExitCode


@contextmanager
def at_work(
    session: Session,
    where: Where,
    *,
    recovering: bool = False,
    access: ChangeAccess | None = None,
) -> Iterator[Work]:
    """Take the lock of a cluster, and reach it with a driver: that of `access`, if there is one.

    Raises `LockHeldError` if somebody else is at work, and `UnknownOutcomeError` if an earlier
    rollout was cut short and nobody has looked after its VMs since.
    """
    found = access or open_for_change(session.settings, where)
    try:
        with session.journal() as journal, journal.hold(found.read.cluster) as lease:
            if not recovering:
                refuse_if_paused(journal, found.read.cluster)
                refuse_if_unrecovered(journal, found.read.cluster)
            if isinstance(session.out, Output):
                session.out.goes_on = True  # a reader who leaves does not end a rollout
            yield Work(session=session, access=found, journal=journal, lease=lease)
    finally:
        if access is None:
            found.close()


def rollout_settings(session: Session, access: ChangeAccess, policy: Policy) -> RolloutSettings:
    """Put together what the policy and the settings say about rollouts."""
    return configured_rollout.rollout_settings(session.settings, policy, access.read.uris)


def refuse_if_paused(journal: Journal, cluster: str) -> None:
    """Raise `PausedError` while an operator wants nothing to be started."""
    if why := journal.wishes(cluster).why_paused:
        raise PausedError(f"cluster {cluster} is paused {why}; to go on: rebalancer resume")


def refuse_if_unrecovered(journal: Journal, cluster: str) -> None:
    """Raise `UnknownOutcomeError` while VMs of an earlier rollout have to be looked after."""
    if rollouts := journal.unfinished(cluster):
        plans = ", ".join(row.plan_id for row in rollouts)
        raise UnknownOutcomeError(
            f"the rollout of plan {plans} was cut short or left a VM that nobody could find; "
            "run `rebalancer recover --yes` first: it looks at every host and tidies up what is "
            "proved to be safe"
        )


def nothing_was_changed(session: Session, code: ExitCode) -> ExitCode:
    """Say so after a command that only showed what it would do."""
    session.err.print("nothing was changed: add --yes to do it", highlight=False)
    return code
