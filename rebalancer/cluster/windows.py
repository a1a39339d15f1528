"""Maintenance windows: the hours in which moves that can wait may be made.

A move starts only while a window is open, and only if it is over before that closes even when
it takes as long as its band reaches. Nobody reads a clock here: whoever asks says when it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_A_DAY = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The same hours on some days of every week, by the clocks of one time zone."""

    days: tuple[str, ...] = DAYS
    """Those on which it opens; it may close on the next."""
    from_minute: int
    """Of the day: 0 to 1439."""
    to_minute: int
    """Of the day, up to 1440; not after `from_minute`: on the day after."""
    zone: str = "UTC"
    """As in the IANA time zone database, such as `Europe/Berlin`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One time that a window, or several without a gap between them, is open."""

    opens_at: datetime
    closes_at: datetime
    zone: str

    def shown(self, instant: datetime) -> str:
        """Say an instant as the window's people read it, with what anybody else needs.

        `Tue 2026-11-24 05:00 Europe/Berlin (+01:00)`, `Tue 2026-11-24 04:00 UTC`.
        """
        local = instant.astimezone(ZoneInfo(self.zone))
        offset = "" if self.zone == "UTC" else f" ({local:%:z})"
        return f"{local:%a %Y-%m-%d %H:%M} {self.zone}{offset}"


def span_at(windows: Sequence[Window], now: datetime) -> Span | None:
    """The span that is open at an instant; `None` if none is."""
    return next((s for s in _spans(windows, now) if s.opens_at <= now < s.closes_at), None)


def next_span(windows: Sequence[Window], now: datetime) -> Span | None:
    """The first span that opens after an instant."""
    return next((s for s in _spans(windows, now) if s.opens_at > now), None)


def not_in_time(windows: Sequence[Window], now: datetime, seconds: float) -> str:
    """Why a move that may take so long must not start now; empty if it may."""
    span = span_at(windows, now)
    if span is None:
        return closed_text(windows, now)
    left = (span.closes_at - now).total_seconds()
    if seconds <= left:
        return ""
    return (
        f"the maintenance window closes at {span.shown(span.closes_at)}, in {left / 60:.0f} min, "
        f"and it may take {seconds / 60:.0f} min"
    )


def closed_text(windows: Sequence[Window], now: datetime) -> str:
    """Say that no window is open, and when the next one opens."""
    coming = next_span(windows, now)
    when = f"; the next one opens at {coming.shown(coming.opens_at)}" if coming else ""
    return f"no maintenance window is open{when}"


def _spans(windows: Sequence[Window], now: datetime) -> Iterator[Span]:
    """Spans from yesterday to the end of next week, in their order; those that touch are one."""
    found = sorted(
        # On the night that loses an hour a window may close before it has opened.
        (
            span
            for window in windows
            for span in _of_window(window, now)
            if span.opens_at < span.closes_at
        ),
        key=lambda span: (span.opens_at, span.closes_at),
    )
    while found:
        first = found.pop(0)
        while found and found[0].opens_at <= first.closes_at:
            other = found.pop(0)
            closes = max(first.closes_at, other.closes_at)
            first = Span(opens_at=first.opens_at, closes_at=closes, zone=first.zone)
        yield first


def _of_window(window: Window, now: datetime) -> Iterator[Span]:
    today = now.astimezone(ZoneInfo(window.zone)).date()
    # A week back: windows that follow each other for days make one span.
    for offset in range(-8, 16):
        day = today + timedelta(days=offset)
        if DAYS[day.weekday()] in window.days:
            lasts_over_night = window.to_minute <= window.from_minute
            yield Span(
                opens_at=_instant(day, window.from_minute, window.zone),
                closes_at=_instant(
                    day + timedelta(days=1) if lasts_over_night else day,
                    window.to_minute,
                    window.zone,
                ),
                zone=window.zone,
            )


def _instant(day: date, minute: int, zone: str) -> datetime:
    """When clocks show a time on a day; on the day they are put forward, the time after that."""
    day += timedelta(days=minute // MINUTES_A_DAY)
    hour, minutes = divmod(minute % MINUTES_A_DAY, 60)
    local = datetime(day.year, day.month, day.day, hour, minutes, tzinfo=ZoneInfo(zone))
    return local.astimezone(ZoneInfo("UTC"))
