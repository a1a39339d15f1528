"""When maintenance windows are open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.windows import (
    DAYS,
    Span,
    Window,
    next_span,
    not_in_time,
    span_at,
)

NIGHTS = Window(
    days=("mon", "tue", "wed", "thu", "fri"),
    from_minute=22 * 60,
    to_minute=5 * 60,
    zone="Europe/Berlin",
)
"""23 November 2026 is a Monday; Berlin is an hour ahead of UTC then."""


def at(day: int, hour: int, minute: int = 0, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


def hours(span: Span | None) -> tuple[datetime, datetime]:
    assert span is not None
    return span.opens_at, span.closes_at


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_opens() -> None:
    monday_night = (at(23, 21), at(24, 4))

    assert hours(span_at([NIGHTS], at(23, 21))) == monday_night
    assert hours(span_at([NIGHTS], at(24, 3, 59))) == monday_night
    assert span_at([NIGHTS], at(24, 4)) is None
    assert hours(span_at([NIGHTS], at(28, 1))) == (at(27, 21), at(28, 4))
    assert span_at([NIGHTS], at(28, 22)) is None
    assert hours(next_span([NIGHTS], at(28, 22))) == (
        at(30, 21),
        datetime(2026, 12, 1, 4, tzinfo=UTC),
    )


def test_windows_that_touch_are_one() -> None:
    evening = Window(from_minute=20 * 60, to_minute=24 * 60)
    morning = Window(from_minute=0, to_minute=6 * 60)

    assert hours(span_at([morning, evening], at(23, 23))) == (at(23, 20), at(24, 6))


def test_hours_are_those_of_the_clocks_there_also_when_these_are_changed() -> None:
    # On 25 October 2026 at 3:00 summer time ends: that night is an hour longer.
    nightly = Window(from_minute=22 * 60, to_minute=5 * 60, zone="Europe/Berlin")

    opens, closes = hours(span_at([nightly], at(25, 0, month=10)))

    assert closes - opens == timedelta(hours=8)


def test_a_window_in_the_hour_that_is_left_out_does_not_open_that_day() -> None:
    # On 29 March 2026 at 2:00 summer time begins: clocks go on with 3:00.
    sundays = Window(days=("sun",), from_minute=150, to_minute=180, zone="Europe/Berlin")

    coming = next_span([sundays], at(28, 12, month=3))

    assert hours(coming) == (at(5, 0, 30, month=4), at(5, 1, 0, month=4))


def test_what_would_not_be_over_before_a_window_closes_does_not_start() -> None:
    assert not_in_time([NIGHTS], at(24, 3), seconds=3600) == ""
    assert not_in_time([NIGHTS], at(24, 3), seconds=3700) == (
        "the maintenance window closes at Tue 2026-11-24 05:00 Europe/Berlin (+01:00), in 60 min, "
        "and it may take 62 min"
    )
    assert not_in_time([NIGHTS], at(24, 12), seconds=1) == (
        "no maintenance window is open; the next one opens at Tue 2026-11-24 22:00 Europe/Berlin "
        "(+01:00)"
    )


@given(
    days=st.sets(st.sampled_from(DAYS), min_size=1),
    opens=st.integers(0, 1439),
    closes=st.integers(0, 1440),
    minute=st.integers(0, 60 * 24 * 21),
)
def test_an_instant_is_in_a_span_or_before_the_next_one(
    days: set[str], opens: int, closes: int, minute: int
) -> None:
    window = Window(days=tuple(days), from_minute=opens, to_minute=closes)
    now = at(1, 0) + timedelta(minutes=minute)

    here, coming = span_at([window], now), next_span([window], now)

    if here is not None:
        assert here.opens_at <= now < here.closes_at
    if coming is not None:
        assert now < coming.opens_at < coming.closes_at
    assert here is not None or coming is not None
