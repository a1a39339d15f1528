from __future__ import annotations

import math

import pytest

from rebalancer.service.wording import (
    at_least_text,
    at_most_text,
    bytes_text,
    count_text,
    in_one_line,
    offset_text,
    one_line,
    rate_text,
    ratio_text,
    seconds_text,
    when_text,
)
from tests.builders import GIB, MIB, NOON


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.04, "40 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (2.5, "2.5 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (90, "1 min 30 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (273_600, "3 d 04 h"),
        (-90, "-1 min 30 s"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (4 * GIB, "4.00 GiB"),
        (1023.99 * MIB, "1.00 GiB"),
        (256 * GIB, "256 GiB"),
        (1e20, "88818 PiB"),
        (math.inf, "?"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert bytes_text(count) == text


def test_rates_counts_and_instants_have_units() -> None:
    assert rate_text(112 * MIB) == "112 MiB/s"
    assert rate_text(math.inf) == "?"
    assert count_text(1, "VM") == "1 VM"
    assert count_text(12_000, "VM") == "12,000 VMs"
    assert when_text(NOON) == "2026-11-23 12:00:00 UTC"


def test_an_offset_from_the_start_looks_like_other_durations() -> None:
    assert [offset_text(s) for s in (0, 7.4, 59.6, 727, 3723)] == [
        "+0 s",
        "+7 s",
        "+1 min 00 s",
        "+12 min 07 s",
        "+1 h 02 min",
    ]


def test_an_upper_limit_is_rounded_up() -> None:
    assert at_most_text(0.0301) == "3.1 %"
    assert at_most_text(0.03) == "3.0 %"
    assert at_most_text(1e-7) == "0.1 %"
    assert at_most_text(0) == "0 %"
    assert ratio_text(0.914) == "91 %"


def test_foreign_text_cannot_steer_the_terminal() -> None:
    assert one_line("a\x1b[2Jb\nc\u202ed\x9b1m") == "a [2Jb c d 1m"


def test_a_lower_limit_is_never_rounded_up() -> None:
    assert at_least_text(0.99999) == "99.9 %"
    assert at_least_text(0.95) == "95.0 %"
    assert at_least_text(1.0) == "100 %"
    assert at_least_text(0.0) == "0.0 %"


def test_a_list_stays_a_list_when_it_becomes_one_line() -> None:
    error = "not one of 2 hosts answered:\nh1: no route\nh2: refused"
    refused = "plan p is refused:\n  - m1: VM db is gone\nmake a new one"

    assert in_one_line(error) == "not one of 2 hosts answered: h1: no route; h2: refused"
    assert in_one_line(refused) == "plan p is refused: m1: VM db is gone; make a new one"
    assert in_one_line("") == ""
