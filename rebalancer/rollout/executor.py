"""The two ways into a rollout: carry a plan out, or look after what a dead process left.

It is the caller's process that may die at any line: whoever comes next finds the journal, asks
the hypervisors, and goes on (`recover`). How the work is done is in `loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import Plan
from rebalancer.rollout.driver import Clock, HypervisorDriver
from rebalancer.rollout.events import Event
from rebalancer.rollout.hooks import NO_HOOKS, Hooks
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.loop import Loop
from rebalancer.rollout.settings import RolloutResult, Settings
from rebalancer.rollout.steps import StopRequest

__all__ = ["OpenMigration", "RolloutResult", "Settings", "execute", "recover"]

type OpenMigration = tuple[int, str]
"""A migration that was left open: the number of its rollout, and its own id."""


def _ignore(_: Event) -> None:
    """For callers who do not want to know."""


def _never() -> StopRequest:
    return StopRequest.NO


def execute(
    plan: Plan,
    *,
    driver: HypervisorDriver,
    clock: Clock,
    journal: Journal,
    snapshot: Snapshot | Callable[[], Snapshot],
    settings: Settings | None = None,
    lease: Lease | None = None,
    plan_text: str = "",
    on_event: Callable[[Event], None] = _ignore,
    should_stop: Callable[[], StopRequest | bool] = _never,
    hooks: Hooks = NO_HOOKS,
) -> RolloutResult:
    """Carry out a plan, and return when everything that was begun has ended.

    `snapshot` is the newest observation, or a function that returns it without blocking.
    Without a `lease` it takes the cluster's lock for as long as it works. Raises
    `LockHeldError`, `PlanRefusedError` (applied before) and `JournalError`; what happens to
    single migrations is in the result.
    """
    with _loop(
        plan.cluster,
        driver=driver,
        clock=clock,
        journal=journal,
        snapshot=snapshot,
        settings=settings,
        lease=lease,
        on_event=on_event,
        should_stop=should_stop,
        hooks=hooks,
    ) as loop:
        return loop.carry_out(plan, plan_text)


def recover(
    *,
    cluster: str,
    driver: HypervisorDriver,
    clock: Clock,
    journal: Journal,
    snapshot: Snapshot | Callable[[], Snapshot],
    settings: Settings | None = None,
    lease: Lease | None = None,
    on_event: Callable[[Event], None] = _ignore,
    should_stop: Callable[[], StopRequest | bool] = _never,
    hooks: Hooks = NO_HOOKS,
    only: Collection[OpenMigration] | None = None,
    may_end_stale: bool = False,
) -> tuple[RolloutResult, ...]:
    """Bring every rollout of a dead process, and every unknown outcome, to an end.

    Each VM that something was asked for is looked up on all hosts: a running transfer is
    adopted and waited for, leftovers are tidied up where that is proved to be right, and what
    only a human can decide is named. Nothing new is started. One result for each rollout.

    With `only`, nothing but those migrations is looked after, and results have no others.
    `may_end_stale`: an operator has seen what speaks for ending their stale copies, and wants
    it; it takes `only`, so that nothing is ended that was not shown.
    """
    if may_end_stale and only is None:
        raise ValueError("name the migrations whose stale copies may be ended")
    with _loop(
        cluster,
        driver=driver,
        clock=clock,
        journal=journal,
        snapshot=snapshot,
        settings=settings,
        lease=lease,
        on_event=on_event,
        should_stop=should_stop,
        hooks=hooks,
    ) as loop:
        rollouts = journal.unfinished(cluster)
        if only is None:
            return tuple(loop.take_up(rollout) for rollout in rollouts)
        return tuple(
            loop.take_up_some(rollout, names, may_end_stale=may_end_stale)
            for rollout in rollouts
            if (names := {name for number, name in only if number == rollout.id})
        )


@contextmanager
def _loop(
    cluster: str,
    *,
    driver: HypervisorDriver,
    clock: Clock,
    journal: Journal,
    snapshot: Snapshot | Callable[[], Snapshot],
    settings: Settings | None,
    lease: Lease | None,
    on_event: Callable[[Event], None],
    should_stop: Callable[[], StopRequest | bool],
    hooks: Hooks,
) -> Iterator[Loop]:
    """Prepare a loop, and hold the cluster's lock while it works unless the caller does."""
    with journal.hold(cluster) if lease is None else nullcontext(lease) as held:
        yield Loop(
            driver=driver,
            clock=clock,
            journal=journal,
            snapshot=snapshot if callable(snapshot) else lambda: snapshot,
            settings=settings or Settings(),
            lease=held,
            on_event=on_event,
            should_stop=should_stop,
            hooks=hooks,
        )
