"""Time in a rollout: nobody can set it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rebalancer.service.access import ReadAccess
from rebalancer.service.clock import SteadyClock, SystemClock
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.simulated_source import SimulatedSource
from tests.builders import NOON, a_snapshot


def test_a_clock_that_is_set_anew_changes_nothing_for_a_rollout_at_work() -> None:
    wall, passed = [NOON], [1_000.0]
    clock = SteadyClock(now=lambda: wall[0], seconds_passed=lambda: passed[0])
    assert clock.now() == NOON

    passed[0] += 30.0
    for hours in (10, -10):
        wall[0] = NOON + timedelta(hours=hours)
        assert clock.now() == NOON + timedelta(seconds=30)


def test_it_begins_with_the_time_of_day() -> None:
    before, steady, after = SystemClock().now(), SteadyClock().now(), SystemClock().now()

    assert before <= steady <= after + timedelta(seconds=5)


def test_rollouts_on_real_hosts_have_such_a_clock_and_rehearsals_their_own() -> None:
    datacentre = Datacentre.of(a_snapshot())
    virtual = VirtualClock(datacentre)
    rehearsed = ReadAccess(
        cluster="test",
        host_names=(),
        source=SimulatedSource(datacentre),
        clock=virtual,
        uris={},
    )

    assert rehearsed.for_a_rollout().clock is virtual
    real = replace(rehearsed, clock=SystemClock()).for_a_rollout()
    assert isinstance(real.clock, SteadyClock)
    assert real.for_a_rollout().clock is real.clock
