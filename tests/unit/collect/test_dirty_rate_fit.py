"""From two windows of page sampling to dirty rate and working set."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.collect.dirty_rate_fit import Window, Writing, fit_writing
from tests.builders import MIB


def seen(rate: float, working_set: float, seconds: float) -> Window:
    """What a guest shows that writes like the model says."""
    touched = working_set * -math.expm1(-rate * seconds / working_set)
    return Window(seconds=seconds, bytes_per_second=touched / seconds)


def fit(rate: float, working_set: float) -> Writing:
    return fit_writing(seen(rate, working_set, 1.0), seen(rate, working_set, 4.0))


@given(
    working_set=st.floats(1 * MIB, 1e12),
    times_a_second=st.floats(0.45, 2.5),
)
def test_what_follows_the_model_is_found_again(working_set: float, times_a_second: float) -> None:
    rate = working_set * times_a_second

    found = fit(rate, working_set)

    assert found.bytes_per_second == pytest.approx(rate, rel=0.01)
    assert found.working_set_bytes == pytest.approx(working_set, rel=0.01)


def test_windows_too_short_to_see_the_end_of_a_large_set_leave_it_unknown() -> None:
    found = fit(10 * MIB, 10_000 * MIB)

    assert found.working_set_bytes is None
    assert found.bytes_per_second == pytest.approx(10 * MIB, rel=0.01)


def test_a_small_set_that_is_written_all_the_time_gives_a_lower_bound_of_the_rate() -> None:
    found = fit(1000 * MIB, 48 * MIB)

    assert found.working_set_bytes == pytest.approx(48 * MIB, rel=0.01)
    assert 48 * MIB < found.bytes_per_second <= 1000 * MIB


def test_an_idle_guest_writes_nothing() -> None:
    nothing = Window(seconds=1.0, bytes_per_second=0.0)

    found = fit_writing(nothing, Window(seconds=4.0, bytes_per_second=0.0))

    assert found == Writing(bytes_per_second=0.0, working_set_bytes=None)


def test_a_window_that_saw_nothing_does_not_hide_what_the_other_saw() -> None:
    nothing, something = (
        Window(seconds=1.0, bytes_per_second=0.0),
        Window(seconds=4.0, bytes_per_second=5.0 * MIB),
    )

    assert fit_writing(nothing, something).bytes_per_second == 5.0 * MIB


def test_a_long_window_with_less_in_it_than_the_short_one_is_scatter() -> None:
    found = fit_writing(
        Window(seconds=1.0, bytes_per_second=60.0 * MIB),
        Window(seconds=4.0, bytes_per_second=12.0 * MIB),
    )

    assert found.working_set_bytes == 60 * MIB


@given(short=st.floats(0, 1e12), long=st.floats(0, 1e12))
def test_any_two_numbers_give_a_finite_answer(short: float, long: float) -> None:
    found = fit_writing(
        Window(seconds=1.0, bytes_per_second=short), Window(seconds=4.0, bytes_per_second=long)
    )

    assert 0 <= found.bytes_per_second < math.inf
    assert found.bytes_per_second >= min(short, long) * 0.99
    assert found.working_set_bytes is None or found.working_set_bytes > 0
