"""The power steps of a plan, carried out by a cycle of the daemon after its migrations.

    look at the hosts on their way → wake what is needed → put to sleep what was long not needed

Each host is judged by a new look at the whole cluster, right before it is switched. Nothing in
here runs unless `power.switch` is set and the policy may act.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId, Snapshot
from rebalancer.cluster.plan import PowerAction, PowerStep
from rebalancer.cluster.policy import Policy
from rebalancer.errors import RebalancerError
from rebalancer.forecast.demand import forecast_demand
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.power import Census, NoCensus
from rebalancer.rollout.power_executor import PowerOutcome, PowerTools, settle, sleep, wake
from rebalancer.rollout.power_guard import (
    PowerScene,
    reasons_not_to_wake,
    reasons_to_stay_awake,
)
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.power_steps import PowerMark, Unneeded, counted
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.config import Settings, journal_url
from rebalancer.service.power_switches import can_switch, power_times
from rebalancer.service.session import Session, observe
from rebalancer.service.stability import Rhythm

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerDuty:
    """One cycle's part in switching hosts."""

    settings: Settings
    policy: Policy
    name: str
    """What the policy is called, under which cycles are counted."""
    rhythm: Rhythm
    look: Callable[[], Snapshot]
    """Observes the whole cluster anew."""
    drained: Callable[[], Collection[HostId]]
    switchable: frozenset[HostId]


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """What came of the power steps of a cycle."""

    said: str = ""
    """What to add to its verdict."""
    woke: bool = False
    """Whether a host is awake now that was not when the plan was made."""

    @classmethod
    def of(cls, outcomes: Sequence[PowerOutcome]) -> Switched:
        """Sum up what was done, one host after the other."""
        said = "".join(f"; {each.action} {each.host}: {each.text}" for each in outcomes)
        woke = any(each.action is PowerAction.WAKE and each.done for each in outcomes)
        return cls(said=said, woke=woke)


def switch_hosts(
    session: Session,
    access: ChangeAccess,
    duty: PowerDuty,
    steps: Sequence[PowerStep],
    should_stop: Callable[[], StopRequest],
) -> Switched:
    """Carry out the power steps of a cycle's plan, and say what came of it.

    What goes wrong here is told and changes nothing about what the cycle did before.
    """
    read = access.read
    if access.power is None or access.census is None:
        return Switched()
    try:
        with (
            session.journal(read.clock) as journal,
            PowerJournal.open(journal_url(session.settings), read.clock) as power,
            journal.hold(read.cluster) as lease,
        ):
            if journal.wishes(read.cluster).why_paused or journal.unfinished(read.cluster):
                return Switched()
            tools = power_tools(session.settings, access, power, lease, should_stop)
            return Switched.of(carry_out_power(duty, steps, tools))
    except RebalancerError as error:
        log.error("power_failed", extra={"error": str(error)})  # noqa: TRY400  the sentence says it all
        return Switched(said=f"; no host was switched: {error}")


def power_tools(
    settings: Settings,
    access: ChangeAccess,
    journal: PowerJournal,
    lease: Lease,
    should_stop: Callable[[], StopRequest],
) -> PowerTools:
    """Put together what hosts are switched with, where the settings let them be switched."""
    assert access.power is not None, "nothing switches hosts"
    assert access.census is not None, "nobody can be asked what is on a host"
    return PowerTools(
        driver=access.power,
        census=access.census,
        journal=journal,
        lease=lease,
        clock=access.read.clock,
        times=power_times(settings),
        cuts_power=settings.power.cut_power,
        should_stop=should_stop,
    )


def power_duty_of(
    session: Session, access: ChangeAccess, policy: Policy, name: str, rhythm: Rhythm
) -> PowerDuty:
    """Say what a policy's cycle may do about power."""

    def drained() -> Collection[HostId]:
        with session.existing_journal() as journal:
            return journal.drains(access.read.cluster) if journal is not None else ()

    return PowerDuty(
        settings=session.settings,
        policy=policy,
        name=name,
        rhythm=rhythm,
        look=lambda: observe(session, access.read),
        drained=drained,
        switchable=can_switch(session.settings) | access.switchable,
    )


def due_steps(steps: Sequence[PowerStep], *, moved: bool) -> tuple[PowerStep, ...]:
    """Leave out hosts that the plan would have had to empty first, if it was not carried out."""
    return tuple(step for step in steps if moved or not step.depends_on)


def carry_out_power(
    duty: PowerDuty, steps: Sequence[PowerStep], tools: PowerTools
) -> tuple[PowerOutcome, ...]:
    """Do what a plan says about power, as far as it is still right; one host after the other.

    It ends with the first host that does not do as it was told: whatever is wrong there may be
    wrong elsewhere, and the next cycle sees the cluster as it is then.
    """
    outcomes = list(settle(tools))
    for outcome in _switched(duty, _due(duty, steps, tools), tools):
        outcomes.append(outcome)
        _log(outcome)
        if outcome.tried and not outcome.done:
            _begin_anew(duty, outcome.host, tools)
            break
    return tuple(outcomes)


def _begin_anew(duty: PowerDuty, host: HostId, tools: PowerTools) -> None:
    """Forget how long a host was not needed, so that it is not tried again in each cycle."""
    cluster = tools.lease.cluster
    kept = {
        other: one
        for other, one in tools.journal.unneeded(cluster, duty.name).items()
        if other != host
    }
    tools.journal.keep_unneeded(cluster, duty.name, kept)


def _switched(
    duty: PowerDuty, due: Sequence[PowerStep], tools: PowerTools
) -> Iterator[PowerOutcome]:
    for step in due:
        if tools.should_stop():
            return
        tools.journal.heartbeat(tools.lease)
        yield switch_one(duty, step, tools)


def _due(duty: PowerDuty, steps: Sequence[PowerStep], tools: PowerTools) -> list[PowerStep]:
    """Wake at once; put to sleep what was not needed in enough cycles in a row."""
    cluster = tools.lease.cluster
    can = [step for step in steps if step.host in duty.switchable]
    unneeded = count(duty, can, tools)
    tools.journal.keep_unneeded(cluster, duty.name, unneeded)
    waking = [step for step in can if step.action is PowerAction.WAKE]
    needed = duty.settings.power.sleep_after_cycles
    sleeping = [
        step
        for step in can
        if step.action is PowerAction.SLEEP and unneeded[step.host].cycles >= needed
    ]
    return waking or sleeping


def count(
    duty: PowerDuty, steps: Sequence[PowerStep], tools: PowerTools
) -> Mapping[HostId, Unneeded]:
    """Count this cycle for the hosts that the plan could do without."""
    return counted(
        tools.journal.unneeded(tools.lease.cluster, duty.name),
        {step.host for step in steps if step.action is PowerAction.SLEEP},
        tools.clock.now(),
        at_least_seconds=duty.rhythm.at_least_seconds,
        at_most_seconds=duty.rhythm.at_most_seconds,
    )


def switch_one(duty: PowerDuty, step: PowerStep, tools: PowerTools) -> PowerOutcome:
    """Judge one host by what is seen now, and switch it if nothing speaks against it."""
    if step.action is PowerAction.WAKE:
        return _wake(duty, step.host, tools)
    return _sleep(duty, step.host, tools)


def _wake(duty: PowerDuty, host: HostId, tools: PowerTools) -> PowerOutcome:
    marks = tools.journal.marks(tools.lease.cluster)
    against = reasons_not_to_wake(host, marks, duty.drained(), by_operator=False)
    return wake(host, tools, against)


def _sleep(duty: PowerDuty, host: HostId, tools: PowerTools) -> PowerOutcome:
    scene = scene_of(duty, duty.look(), tools.journal.marks(tools.lease.cluster))
    seen = scene.snapshot.host_by_id[host]

    def judge(guests: Census | NoCensus) -> tuple[str, ...]:
        return reasons_to_stay_awake(seen, scene, guests)

    return sleep(seen, tools, judge)


def scene_of(duty: PowerDuty, snapshot: Snapshot, marks: Mapping[HostId, PowerMark]) -> PowerScene:
    """Put together by what a host is judged."""
    return PowerScene(
        snapshot=snapshot,
        demand=forecast_demand(snapshot, duty.policy),
        policy=duty.policy,
        marks=marks,
        drained=frozenset(duty.drained()),
        allow_autostart=duty.settings.power.allow_autostart,
    )


def _log(outcome: PowerOutcome) -> None:
    log.log(
        logging.INFO if outcome.done else logging.WARNING,
        "power",
        extra={
            "host": outcome.host,
            "action": str(outcome.action),
            "done": outcome.done,
            "text": outcome.text,
        },
    )
