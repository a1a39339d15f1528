"""The power steps of a plan, around its migrations: `apply` and `run --once`.

    wake what is needed → look again → migrate → put to sleep what has become empty

The cluster's lock is held already by whoever carries the migrations out. Each host is judged
right before it is switched, as in a cycle of the daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from rebalancer.cluster.plan import MigrationState, Outcome, Plan, PowerAction, PowerStep
from rebalancer.cluster.policy import Policy
from rebalancer.errors import ExitCode
from rebalancer.rollout.power_executor import PowerOutcome, PowerTools, settle
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.config import journal_url
from rebalancer.service.duty import rhythm_of
from rebalancer.service.power_duty import (
    PowerDuty,
    carry_out_power,
    due_steps,
    power_duty_of,
    power_tools,
    switch_one,
)
from rebalancer.service.work import Work

type ShouldStop = Callable[[], StopRequest]


def wake_first(
    work: Work, plan: Plan, policy: Policy, should_stop: ShouldStop
) -> tuple[PowerOutcome, ...]:
    """Wake the hosts that a plan wants awake, and wait for each.

    One that does not wake is quarantined, and the others are woken all the same. No migration
    waits for it: nothing is planned to move to a host that sleeps.
    """
    steps = [step for step in plan.power if step.action is PowerAction.WAKE]
    return _switched(work, policy, steps, should_stop) if steps else ()


def sleep_last(
    work: Work,
    plan: Plan,
    policy: Policy,
    outcomes: Sequence[Outcome],
    should_stop: ShouldStop,
) -> tuple[PowerOutcome, ...]:
    """Put hosts to sleep that a plan has emptied; those that it could not empty stay on."""
    complete = {o.migration for o in outcomes if o.state is MigrationState.COMPLETE}
    steps = [
        step
        for step in plan.power
        if step.action is PowerAction.SLEEP and complete.issuperset(step.depends_on)
    ]
    return _switched(work, policy, steps, should_stop) if steps else ()


def count_a_cycle(
    work: Work,
    plan: Plan,
    policy: Policy,
    outcomes: Collection[Outcome],
    should_stop: ShouldStop,
) -> tuple[PowerOutcome, ...]:
    """Do what a cycle of the daemon does after its migrations: hosts sleep after several cycles."""
    if work.access.power is None:
        return ()
    acted = bool(outcomes) and all(o.state is MigrationState.COMPLETE for o in outcomes)
    steps = [step for step in plan.power if step.action is PowerAction.SLEEP]
    with _tools(work, should_stop) as tools:
        return carry_out_power(_duty(work, policy), due_steps(steps, moved=acted), tools)


def left_to_the_operator(work: Work, plan: Plan) -> str:
    """Say that nothing is switched, where the settings do not allow it; else empty."""
    if not plan.power or work.access.power is not None:
        return ""
    hosts = " ".join(step.host for step in plan.power)
    verb = "sleep" if plan.power[0].action is PowerAction.SLEEP else "wake"
    return (
        "no host is switched, as power.switch is not set; by hand: "
        f"rebalancer power {verb} {hosts} --yes"
    )


def exit_code_with(code: ExitCode, outcomes: Sequence[PowerOutcome]) -> ExitCode:
    """A plan is carried out in part only if a host did not wake or sleep as it says."""
    failed = any(not outcome.done for outcome in outcomes)
    return ExitCode.PARTIAL if code is ExitCode.SUCCESS and failed else code


def say(work: Work, outcomes: Sequence[PowerOutcome]) -> None:
    """Tell what became of each host."""
    for outcome in outcomes:
        text = f"{outcome.action} {outcome.host}: {outcome.text}"
        work.session.err.print(text, highlight=False, markup=False, soft_wrap=True)


def _switched(
    work: Work, policy: Policy, steps: Sequence[PowerStep], should_stop: ShouldStop
) -> tuple[PowerOutcome, ...]:
    if work.access.power is None:
        return ()
    duty = _duty(work, policy)
    with _tools(work, should_stop) as tools:
        settle(tools)  # what a process that died had begun
        outcomes: list[PowerOutcome] = []
        for step in steps:
            if tools.should_stop():
                break
            outcomes.append(switch_one(duty, step, tools))
            if step.action is PowerAction.SLEEP and outcomes[-1].tried and not outcomes[-1].done:
                break  # whatever is wrong there may be wrong elsewhere
    return tuple(outcomes)


def _duty(work: Work, policy: Policy) -> PowerDuty:
    interval = work.session.settings.daemon.interval_seconds
    return power_duty_of(
        work.session, work.access, policy, policy.name, rhythm_of(policy, interval)
    )


@contextmanager
def _tools(work: Work, should_stop: ShouldStop) -> Iterator[PowerTools]:
    settings = work.session.settings
    with PowerJournal.open(journal_url(settings), work.access.read.clock) as journal:
        yield power_tools(settings, work.access, journal, work.lease, should_stop)
