"""What many VMs will use: level, trend, season and peak, whatever the samples are like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from numpy.typing import NDArray

from rebalancer.forecast.level import level, trend_per_second
from rebalancer.forecast.outlook import Outlook, Question, foresee
from rebalancer.forecast.quantile import half_life_weights, weighted_quantile
from rebalancer.forecast.season import season
from rebalancer.forecast.significance import trusted_share
from rebalancer.forecast.spread import correlation_of, past_errors

type Array = NDArray[np.float64]

INTERVAL = 300.0
DAY = 288
QUESTION = Question(interval_seconds=INTERVAL)


def foreseen(samples: Array, vcpus: float = 16.0, measured: float = 0.0) -> Outlook:
    rows = len(samples)
    return foresee(samples, np.full(rows, vcpus), np.full(rows, measured), QUESTION)


def noise(*shape: int) -> Array:
    return np.random.default_rng(7).normal(0.0, 0.1, shape)


def nightly(days: int, now: int) -> Array:
    """One core, and six for an hour each night at 02:00; the past up to sample `now` of a day."""
    day = np.ones(DAY)
    day[24:36] = 6.0
    past = np.concatenate([np.tile(day, days), day[:now]])[None, :]
    return past + np.abs(noise(1, past.shape[1]))


def test_a_steady_vm_goes_on_as_it_is() -> None:
    outlook = foreseen(np.full((1, DAY), 3.0))

    assert outlook.expected[0] == pytest.approx(3.0)
    assert outlook.peak[0] == pytest.approx(3.0, abs=0.05)


def test_a_sure_trend_is_followed_and_noise_is_not() -> None:
    rising = np.linspace(1.0, 5.0, 24)[None, :]
    restless = 3.0 + noise(200, 24)

    assert trend_per_second(rising, INTERVAL)[0] == pytest.approx(4.0 / 23 / INTERVAL, rel=0.05)
    assert (trend_per_second(restless, INTERVAL) == 0).mean() > 0.85


def test_a_rise_of_a_minute_is_not_taken_for_one_of_a_quarter_of_an_hour() -> None:
    # Idle for half a minute, then two cores of sixteen, as a guest does that has just booted.
    booted = np.array([[0.1, 0.1, 0.1, 1.0, 2.0, 2.0, 2.0]])
    question = Question(interval_seconds=10.0)

    outlook = foresee(booted, np.array([16.0]), np.array([2.0]), question)

    assert 1.0 < outlook.expected[0] < 4.0


@pytest.mark.parametrize("days", [4, 8])
def test_a_nightly_job_is_foreseen_before_it_starts(days: int) -> None:
    # At 01:50 the next half hour has ten quiet minutes and twenty of the job.
    outlook = foreseen(nightly(days, now=22))

    assert outlook.expected[0] == pytest.approx(1.0 + 5.0 * 4 / 6, abs=0.5)
    assert outlook.peak[0] == pytest.approx(6.1, abs=0.4)


def test_and_its_end_as_well() -> None:
    assert foreseen(nightly(6, now=35)).expected[0] < 4.0


def test_a_day_or_two_are_no_habit() -> None:
    assert foreseen(nightly(1, now=22)).expected[0] < 1.3


def test_a_weekly_job_is_foreseen_by_the_week() -> None:
    week = np.ones(7 * DAY)
    week[24:36] = 6.0
    past = np.concatenate([np.tile(week, 4), week[:22]])[None, :]

    outlook = foreseen(past + np.abs(noise(1, past.shape[1])))

    assert outlook.expected[0] > 3.0


def test_days_that_do_not_agree_are_no_season() -> None:
    restless = 3.0 + 10 * noise(50, 8 * DAY)

    assert (season(restless, INTERVAL, 1800.0).trust < 0.5).mean() > 0.9


def test_the_quantile_is_the_least_sample_with_enough_weight_below() -> None:
    samples = np.array([[3.0, 1.0, 2.0], [np.nan, 5.0, np.nan], [np.nan] * 3])
    weights = np.array([0.2, 0.5, 0.3])

    np.testing.assert_array_equal(weighted_quantile(samples, weights, 0.5), [1.0, 5.0, np.nan])
    np.testing.assert_array_equal(weighted_quantile(samples, weights, 0.8), [2.0, 5.0, np.nan])
    np.testing.assert_array_equal(weighted_quantile(samples, weights, 0.95), [3.0, 5.0, np.nan])


def test_every_half_life_halves_the_weight() -> None:
    np.testing.assert_allclose(half_life_weights(5, 2.0), [0.25, 2**-1.5, 0.5, 2**-0.5, 1.0])


def test_what_chance_does_is_not_trusted() -> None:
    share = trusted_share(np.array([1.0, 10.0, 5.0, 0.0]), np.ones(4), np.array([9, 9, 1, 9]))

    np.testing.assert_allclose(share, [0.0, 1 - 0.231**2, 0.0, 0.0])
    assert trusted_share(np.array([2.0]), np.array([0.0]), np.array([5]))[0] == 1.0


def test_a_level_of_nothing_is_unknown() -> None:
    assert np.isnan(level(np.full((1, 3), np.nan), INTERVAL)[0])


def test_without_samples_the_measurement_is_expected_and_a_bit_more_is_the_peak() -> None:
    outlook = foreseen(np.empty((2, 0)), vcpus=4.0, measured=1.0)

    np.testing.assert_array_equal(outlook.expected, [1.0, 1.0])
    np.testing.assert_allclose(outlook.peak, [1.4, 1.4])


class FewAtOnce:
    """A past that is known, but not all of it at once."""

    def __init__(self, samples: Array, most: int) -> None:
        self.samples, self.most = samples, most

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: slice) -> Array:
        some = self.samples[rows]
        assert len(some) <= self.most, "a week of thousands of VMs would be in memory twice"
        return some


def test_the_past_of_thousands_of_vms_is_not_wanted_at_once() -> None:
    samples = np.abs(2.0 + noise(900, 3 * DAY))
    vcpus, measured = np.full(900, 4.0), np.full(900, 2.0)

    outlook = foresee(FewAtOnce(samples, most=300), vcpus, measured, QUESTION)

    at_once = past_errors(samples[:, -DAY:], vcpus, INTERVAL, QUESTION.horizon_seconds / 2)
    alone = foresee(samples[300:301], vcpus[:1], measured[:1], QUESTION)
    assert outlook.expected[300] == alone.expected[0]
    assert outlook.correlation == pytest.approx(correlation_of(at_once, INTERVAL), rel=1e-9)


def test_nobody_is_no_trouble() -> None:
    assert foreseen(np.empty((0, 10))).expected.shape == (0,)


SAMPLES = some.arrays(
    np.float64,
    some.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.one_of(st.floats(0, 64), st.just(float("nan"))),
)


@given(SAMPLES, st.floats(0, 8), st.sampled_from([60.0, 300.0, 3600.0]))
def test_a_forecast_is_a_number_between_nothing_and_all_vcpus(
    samples: Array, measured: float, interval_seconds: float
) -> None:
    question = Question(interval_seconds=interval_seconds)
    vcpus = np.full(len(samples), 8.0)

    outlook = foresee(samples, vcpus, np.full(len(samples), measured), question)

    assert np.isfinite(outlook.expected).all()
    assert (outlook.expected >= 0).all()
    assert (outlook.expected <= outlook.peak).all()
    assert (outlook.peak <= 8.0).all()


@given(SAMPLES, st.randoms(use_true_random=False))
def test_the_order_of_vms_does_not_matter(samples: Array, random: object) -> None:
    order = np.arange(len(samples))
    random.shuffle(order)  # type: ignore[attr-defined]

    one, other = foreseen(samples), foreseen(samples[order])

    np.testing.assert_allclose(one.expected[order], other.expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.peak[order], other.peak, rtol=1e-9, atol=1e-12)
