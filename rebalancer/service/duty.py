"""A policy that is looked after: what may be done for it, what came of it.

How a cycle goes about it is in `touring`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rebalancer.cluster.plan import PowerStep
from rebalancer.cluster.policy import Policy
from rebalancer.rollout.events import Event
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.access import ReadAccess
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.config import RunMode, Settings
from rebalancer.service.cycle import Cycle
from rebalancer.service.stability import PastCycle, Rhythm

FORGOTTEN_AFTER_CYCLES = 3
"""Cycles that were missed before what was seen earlier does not count any more."""
LEAST_MEMORY_SECONDS = 3600.0
CRON_MEMORY_SECONDS = 26 * 3600.0
"""A policy with hours of its own may rest for a night."""
CRON_APART_SECONDS = 30.0


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
    woke: bool = False
    """Whether hosts are awake now that slept when the plan was made: another one can use them."""
    past: PastCycle


def rhythm_of(policy: Policy, interval_seconds: float) -> Rhythm:
    """Say how far apart the cycles of a policy are."""
    if policy.active.cron is not None:
        return Rhythm(at_least_seconds=CRON_APART_SECONDS, at_most_seconds=CRON_MEMORY_SECONDS)
    missed = FORGOTTEN_AFTER_CYCLES * interval_seconds
    return Rhythm(
        at_least_seconds=interval_seconds / 2, at_most_seconds=max(LEAST_MEMORY_SECONDS, missed)
    )


def duty_of(settings: Settings, policy: Policy, mode: RunMode | None = None) -> Duty:
    """Take a policy up."""
    rhythm = rhythm_of(policy, settings.daemon.interval_seconds)
    return Duty(name=policy.name, policy=policy, mode=mode or settings.mode, rhythm=rhythm)
