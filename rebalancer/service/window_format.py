"""How the maintenance windows of a policy are written."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field

from rebalancer.cluster.windows import DAYS, MINUTES_A_DAY, Window
from rebalancer.files import FileModel


def _time_of_day(text: str) -> str:
    if _minute_of(text) is None:
        raise ValueError('is not a time of day; expected such as "22:00"')
    return text


def _minute_of(text: str) -> int | None:
    found = re.fullmatch(r"(\d\d?):([0-5]\d)", text)
    minute = 60 * int(found[1]) + int(found[2]) if found is not None else MINUTES_A_DAY + 1
    return minute if minute <= MINUTES_A_DAY else None


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is not a time zone; expected such as Europe/Berlin or UTC") from None
    return name


def _list_of_days(value: object) -> object:
    if isinstance(value, list):
        return tuple(value)
    raise ValueError("is not a list of days; expected such as [mon, tue, wed, thu, fri]")


type TimeOfDay = Annotated[str, Field(max_length=10), AfterValidator(_time_of_day)]


class WindowSection(FileModel):
    """One of `migration.windows`."""

    days: Annotated[
        tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...],
        Field(min_length=1),
        BeforeValidator(_list_of_days),
    ] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    opens: Annotated[TimeOfDay, Field(alias="from")]
    closes: Annotated[TimeOfDay, Field(alias="to")]
    zone: Annotated[str, Field(max_length=100), AfterValidator(_time_zone)] = "UTC"

    def noun(self) -> Window:
        """Return the window that this means."""
        return Window(
            days=tuple(day for day in DAYS if day in self.days),
            from_minute=(_minute_of(self.opens) or 0) % MINUTES_A_DAY,
            to_minute=_minute_of(self.closes) or 0,
            zone=self.zone,
        )
