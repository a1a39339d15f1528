"""Calls that hang, and connections that break."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import pytest

from rebalancer.rollout.background import Link, in_background
from tests.builders import NOON


class HandClock:
    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Connection:
    def __init__(self) -> None:
        self.alive = True


class Opener:
    """Opens connections; while `held` is clear, opening hangs."""

    def __init__(self) -> None:
        self.opened: list[Connection] = []
        self.held = threading.Event()
        self.held.set()
        self.error: Exception | None = None

    def __call__(self) -> Connection:
        self.held.wait(10)
        if self.error is not None:
            raise self.error
        self.opened.append(Connection())
        return self.opened[-1]


def a_link(opener: Opener, clock: HandClock) -> Link[Connection]:
    return Link("h1", opener, lambda connection: connection.alive, clock, give_up_seconds=60)


def test_work_goes_on_in_the_background_and_its_result_is_kept() -> None:
    future = in_background("work", lambda: 6 * 7)

    assert future.result(10) == 42


def test_an_exception_is_kept_for_whoever_asks() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_background("work", fail).result(10)


def test_work_that_hangs_keeps_no_program_from_ending() -> None:
    release = threading.Event()
    in_background("hanging", lambda: release.wait(10))

    hanging = [thread for thread in threading.enumerate() if thread.name == "hanging"]
    assert all(thread.daemon for thread in hanging)
    release.set()


def test_a_connection_is_shared() -> None:
    opener = Opener()
    link = a_link(opener, HandClock())

    assert link.get(10) is link.get(10)
    assert len(opener.opened) == 1


def test_a_broken_connection_is_made_anew() -> None:
    opener = Opener()
    link = a_link(opener, HandClock())
    link.get(10).alive = False

    link.get(10)

    assert len(opener.opened) == 2


def test_a_failed_opening_is_tried_again() -> None:
    opener = Opener()
    link = a_link(opener, HandClock())
    opener.error = ConnectionError("refused")
    with pytest.raises(ConnectionError):
        link.get(10)
    opener.error = None

    assert link.get(10).alive


def test_an_opening_that_hangs_is_waited_for_by_all_and_given_up_in_the_end() -> None:
    opener, clock = Opener(), HandClock()
    link = a_link(opener, clock)
    opener.held.clear()

    for _ in range(3):
        with pytest.raises(TimeoutError):
            link.get(0.01)
    clock.sleep(61)
    opener.held.set()

    assert link.get(10).alive
    assert link.take() is not None
    assert link.take() is None
