"""Errands to hosts that may never answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from rebalancer.collect.domain_jobs import running_jobs
from rebalancer.collect.hypervisor import Job, JobOperation
from rebalancer.collect.patience import Abandoned, Patience


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets go, in the end, of what hangs until it is set."""
    event = threading.Event()
    yield event
    event.set()


def test_whoever_answers_is_heard_although_another_hangs(release: threading.Event) -> None:
    patience = Patience(monotonic=time.monotonic)

    results = patience.run({"a": lambda: 1, "b": release.wait, "c": lambda: 3}, timeout_seconds=2.0)

    assert results["a"] == 1
    assert results["c"] == 3
    assert results["b"] == Abandoned(why="no answer within 2 s")


def test_one_that_hangs_does_not_keep_the_next_from_its_turn(release: threading.Event) -> None:
    patience = Patience(monotonic=time.monotonic, parallel=1)

    results = patience.run({"a": release.wait, "b": lambda: 2}, timeout_seconds=1.0)

    assert results["b"] == 2


def test_a_host_that_still_hangs_is_not_asked_again(release: threading.Event) -> None:
    patience = Patience(monotonic=time.monotonic)
    patience.run({"a": release.wait}, timeout_seconds=0.05)
    asked = []

    results = patience.run({"a": lambda: asked.append(1)}, timeout_seconds=30.0)

    assert isinstance(results["a"], Abandoned)
    assert "still hangs" in results["a"].why
    assert asked == []


def test_one_that_has_come_back_is_asked_again(release: threading.Event) -> None:
    patience = Patience(monotonic=time.monotonic)
    finished = threading.Event()

    def slow() -> int:
        release.wait()
        finished.set()
        return 1

    patience.run({"a": slow}, timeout_seconds=0.05)
    release.set()
    finished.wait()
    while patience.hangs("a"):
        threading.Event().wait(0.01)

    assert patience.run({"a": lambda: 2}, timeout_seconds=30.0) == {"a": 2}


def test_after_a_long_time_a_second_attempt_is_made(release: threading.Event) -> None:
    patience = Patience(monotonic=time.monotonic, retry_after_seconds=0.0)
    patience.run({"a": release.wait}, timeout_seconds=0.05)

    assert patience.run({"a": lambda: 2}, timeout_seconds=30.0) == {"a": 2}


def test_a_bug_in_an_errand_is_loud() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Patience(monotonic=time.monotonic).run({"a": broken}, timeout_seconds=30.0)


def test_nothing_to_do_takes_no_time() -> None:
    assert Patience(monotonic=time.monotonic).run({}, timeout_seconds=30.0) == {}


def test_many_errands_take_turns() -> None:
    patience = Patience(monotonic=time.monotonic, parallel=7)
    errands = {str(number): lambda number=number: number for number in range(200)}

    results = patience.run(errands, timeout_seconds=30.0)

    assert results == {str(number): number for number in range(200)}


def test_jobs_of_domains_of_which_one_hangs(release: threading.Event) -> None:
    def hang() -> Job | None:
        release.wait()
        return None

    jobs = running_jobs(
        {
            "idle": lambda: None,
            "backup": lambda: Job(operation=JobOperation.BACKUP),
            "hanging": hang,
            "after": lambda: Job(operation=JobOperation.MIGRATION_OUT),
        },
        seconds=1.0,
        seconds_each=0.0,
    )

    assert jobs == {
        "backup": Job(operation=JobOperation.BACKUP),
        "hanging": Job(operation=JobOperation.UNKNOWN),
        "after": Job(operation=JobOperation.MIGRATION_OUT),
    }
