"""When a transfer is helped along, and when it is called off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from rebalancer.cluster.inventory import Mode
from rebalancer.rollout.precopy import (
    AllowDowntime,
    CallOff,
    Carry,
    Judgement,
    Mandate,
    PauseGuest,
    SwitchOver,
    TakeBandwidth,
    Watch,
    judge,
)
from rebalancer.rollout.sightings import TransferProgress
from tests.builders import GIB, MIB, NOON

RATE = 100 * MIB


def a_mandate(mode: Mode = Mode.LIVE, **changed: Any) -> Mandate:
    facts: dict[str, Any] = {
        "max_downtime_seconds": 0.5,
        "max_suspend_seconds": None,
        "deadline_seconds": 600.0,
    }
    return Mandate(mode=mode, **(facts | changed))


def watched(passes: Iterable[float], downtime_seconds: float = 0.5) -> tuple[Watch, float]:
    """Watch passes that begin with so many bytes each; also return when the last one began."""
    watch, seconds, sent = Watch.begun(NOON, downtime_seconds), 0.0, 0.0
    for number, size in enumerate(passes, 1):
        if number > 1:
            watch = seen(watch, seconds, sent, remaining=0.0, iteration=number - 1)
        watch = seen(watch, seconds, sent + 1, remaining=size, iteration=number)
        seconds, sent = seconds + size / RATE, sent + size
    return watch, seconds


def seen(watch: Watch, seconds: float, sent: float, *, remaining: float, iteration: int) -> Watch:
    sample = TransferProgress(
        total_bytes=4.0 * GIB,
        remaining_bytes=remaining,
        transferred_bytes=sent,
        iteration=iteration,
    )
    return watch.seen(sample, NOON + timedelta(seconds=seconds))


def judged(watch: Watch, mandate: Mandate, seconds: float) -> Judgement:
    return judge(watch, mandate, NOON + timedelta(seconds=seconds))


def test_a_transfer_whose_passes_shrink_is_left_alone() -> None:
    watch, now = watched([4 * GIB, 1 * GIB, 256 * MIB, 64 * MIB])

    assert judged(watch, a_mandate(), now) == Carry()


def test_a_first_pass_may_take_as_long_as_it_needs() -> None:
    watch = Watch.begun(NOON, 0.5)
    for second in range(0, 300, 5):
        sent = second * RATE + 1.0
        watch = seen(watch, second, sent, remaining=40 * GIB - sent, iteration=1)

    assert judged(watch, a_mandate(), 300) == Carry()


def test_suspend_mode_pauses_as_soon_as_the_floor_is_found() -> None:
    watch, now = watched([4 * GIB, 200 * MIB, 200 * MIB, 200 * MIB])

    verdict = judged(watch, a_mandate(Mode.SUSPEND, max_suspend_seconds=5.0), now)

    assert isinstance(verdict, PauseGuest)


def test_suspend_mode_does_not_pause_for_longer_than_allowed() -> None:
    mandate = a_mandate(Mode.SUSPEND, max_suspend_seconds=5.0)
    watch, now = watched([4 * GIB, 1 * GIB, 1 * GIB, 1 * GIB])

    assert judged(watch, mandate, now) == Carry()
    verdict = judged(watch, mandate, now + 45)
    assert isinstance(verdict, CallOff)
    assert "5.0 s are allowed" in verdict.why


def test_live_mode_waits_for_a_stall_before_it_does_anything() -> None:
    watch, now = watched([1 * GIB, 60 * MIB, 60 * MIB, 60 * MIB])

    assert judged(watch, a_mandate(), now) == Carry()


def test_the_mildest_help_is_a_little_more_downtime() -> None:
    watch, now = watched([1 * GIB, 60 * MIB, 60 * MIB, 60 * MIB], downtime_seconds=0.3)

    verdict = judged(watch, a_mandate(), now + 59)

    assert isinstance(verdict, AllowDowntime)
    assert verdict.seconds == 0.5


def test_a_pause_is_raised_by_what_is_needed_and_not_more() -> None:
    watch, now = watched([1 * GIB, 20 * MIB, 20 * MIB, 20 * MIB], downtime_seconds=0.1)

    verdict = judged(watch, a_mandate(), now)

    assert isinstance(verdict, AllowDowntime)
    assert 0.2 < verdict.seconds < 0.3


def test_what_others_leave_of_the_links_comes_before_a_longer_pause() -> None:
    watch, now = watched([1 * GIB, 20 * MIB, 20 * MIB, 20 * MIB], downtime_seconds=0.1)
    at = NOON + timedelta(seconds=now)

    assert judge(watch, a_mandate(), at, 2.0 * RATE) == TakeBandwidth(
        bytes_per_second=2.0 * RATE, why="passes no longer get smaller than 20,971,520 bytes"
    )
    anew = watch.judged_anew(at)
    assert judge(anew, a_mandate(), at) == Carry()


def test_nobody_is_switched_to_post_copy_over_a_link_that_hardly_carries_anything() -> None:
    watch, now = watched([1 * GIB, 200 * MIB, 200 * MIB, 200 * MIB])
    crawling = replace(watch, bytes_per_second=1000.0)

    verdict = judged(crawling, a_mandate(Mode.POST_COPY), now)

    assert isinstance(verdict, CallOff)
    assert "made to wait for its memory" in verdict.why


def test_live_mode_pauses_only_where_that_is_allowed() -> None:
    watch, now = watched([1 * GIB, 200 * MIB, 200 * MIB, 200 * MIB])

    allowed = judged(watch, a_mandate(max_suspend_seconds=5.0), now + 55)
    forbidden = judged(watch, a_mandate(), now + 55)

    assert isinstance(allowed, PauseGuest)
    assert isinstance(forbidden, CallOff)


def test_post_copy_mode_switches_at_the_floor() -> None:
    watch, now = watched([1 * GIB, 200 * MIB, 200 * MIB, 200 * MIB])

    assert isinstance(judged(watch, a_mandate(Mode.POST_COPY), now), SwitchOver)


def test_after_the_switch_nothing_is_called_off() -> None:
    watch, _ = watched([1 * GIB, 200 * MIB])
    switched = replace(watch, switched=True)

    assert judged(switched, a_mandate(Mode.POST_COPY), 100_000) == Carry()


def test_a_transfer_without_a_byte_is_called_off_and_the_guest_not_paused() -> None:
    watch, now = watched([1 * GIB])

    verdict = judged(watch, a_mandate(Mode.SUSPEND, max_suspend_seconds=1e9), now + 61)

    assert isinstance(verdict, CallOff)
    assert "no byte" in verdict.why


def test_after_the_deadline_it_is_paused_if_that_is_short_and_called_off_if_not() -> None:
    short, now = watched([1 * GIB, 100 * MIB])
    long, _ = watched([1 * GIB, 900 * MIB])
    mandate = a_mandate(max_suspend_seconds=5.0, deadline_seconds=now)

    assert isinstance(judged(short, mandate, now), PauseGuest)
    assert isinstance(judged(long, mandate, now), CallOff)


def test_a_pause_that_takes_far_too_long_is_ended() -> None:
    watch, now = watched([1 * GIB, 200 * MIB])
    paused = replace(watch, paused_at=NOON + timedelta(seconds=now))
    mandate = a_mandate(Mode.SUSPEND, max_suspend_seconds=5.0)

    assert judged(paused, mandate, now + 14) == Carry()
    assert isinstance(judged(paused, mandate, now + 30), CallOff)


def test_a_sample_of_a_job_that_is_torn_down_teaches_nothing() -> None:
    watch, now = watched([1 * GIB])

    assert (
        watch.seen(
            TransferProgress(total_bytes=0, remaining_bytes=0, transferred_bytes=0, iteration=0),
            NOON + timedelta(seconds=now),
        )
        is watch
    )


def test_a_counter_that_starts_anew_does_not_make_the_rate_negative() -> None:
    watch, now = watched([1 * GIB])

    again = seen(watch, now + 1, 5.0, remaining=1 * GIB, iteration=1)

    assert again.bytes_per_second is None or again.bytes_per_second >= 0
