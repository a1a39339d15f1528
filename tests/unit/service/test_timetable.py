"""When policies are due, as the daemon tells it."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from datetime import timedelta

import pytest

from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings
from rebalancer.service.duty import duty_of
from rebalancer.service.timetable import Timetable
from tests.builders import a_policy
from tests.unit.service.samples import settings_without_file

DUTY = duty_of(settings_without_file(), a_policy())


def every(seconds: float) -> Settings:
    flags = {"daemon.interval_seconds": seconds, "daemon.jitter_share": 0.0}
    return settings_without_file(**flags)


@pytest.fixture
def fired() -> queue.SimpleQueue[str]:
    """The policies that were told to be due."""
    return queue.SimpleQueue()


@pytest.fixture
def timetable(fired: queue.SimpleQueue[str]) -> Iterator[Timetable]:
    """One that has told the policy once that it is due, and will again in an hour."""
    timetable = Timetable(fired.put)
    timetable.plan({DUTY.name: DUTY}, every(3600.0))
    timetable.start()
    assert fired.get(timeout=60) == DUTY.name
    yield timetable
    timetable.stop()


def test_the_next_cycle_is_told_as_it_is_planned(timetable: Timetable) -> None:
    first, again = (timetable.next_of(DUTY, every(3600.0)) for _ in range(2))

    assert first == again


def test_after_a_reload_the_next_cycle_is_the_one_of_the_new_settings(
    timetable: Timetable,
) -> None:
    old = timetable.next_of(DUTY, every(3600.0))
    timetable.plan({DUTY.name: DUTY}, every(7200.0))
    kept = timetable.next_of(DUTY, every(7200.0))
    timetable.plan({DUTY.name: DUTY}, every(60.0))
    sooner = timetable.next_of(DUTY, every(3600.0))  # what a cycle before the reload knows

    assert kept == old, "a longer interval begins after the cycle that is planned"
    assert sooner is not None
    assert sooner <= SystemClock().now() + timedelta(seconds=60)


def test_before_it_tells_anything_the_settings_say_when(fired: queue.SimpleQueue[str]) -> None:
    due = Timetable(fired.put).next_of(DUTY, every(60.0))

    assert due is not None
