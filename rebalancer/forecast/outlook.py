"""What many VMs will use over the horizon, from what they used: expected and at their peak.

Arrays only; which VM a row is, `demand` knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rebalancer.forecast.level import LEVEL_SECONDS, level, span_seconds, trend_per_second
from rebalancer.forecast.quantile import Array, half_life_weights, weighted_quantile
from rebalancer.forecast.season import season
from rebalancer.forecast.spread import Errors, correlation_of, joined, past_errors, spread_of

HORIZON_SECONDS = 1800.0
"""A plan is for the next half hour or so: migrations take minutes, the next plan comes soon."""
FRESH_SECONDS = 1800.0
"""Without a sample for so long, what was measured just now is the level."""
PEAK_QUANTILE = 0.95
"""What capacity is judged on. The 5 % above it are short, and rarely come on all VMs at once."""
PEAK_HALF_LIFE_SECONDS = 4 * 3600.0
PEAK_SECONDS = 86_400.0
"""Peaks come more seldom than the level moves, so they are looked for in a longer past."""
LONG_SECONDS = 2 * 3600.0
"""Who has been measured for so long tells how far his like rise above their level."""
CLASS_SECONDS = 600.0
"""The class counts as much as this long a history of one's own."""
UNKNOWN_RISE_RATIO = 0.1
"""Of a VM's vCPUs: how far its peak is above its level when nobody has been measured for long."""

_ROWS_AT_ONCE = 128
"""What is worked out on the way takes some 15 times the last day of so many rows."""


class Rows(Protocol):
    """The past of all rows; an array is one. Asked for some rows at once, never for all."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def __getitem__(self, rows: slice, /) -> Array:
        """Some of them, shape (rows, T)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outlook:
    """Use in cores over the horizon, shape (V,)."""

    expected: Array
    peak: Array
    """Upper quantile of each by itself."""
    spread: Array
    """Standard deviation of what is wrong with `expected`."""
    correlation: float
    """How much two VMs are wrong together, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be foreseen, and on what grid the past is known."""

    interval_seconds: float
    horizon_seconds: float = HORIZON_SECONDS
    quantile: float = PEAK_QUANTILE

    def samples(self, seconds: float) -> int:
        """How many samples so long a time has, at least one."""
        return max(1, round(seconds / self.interval_seconds))


def foresee(samples: Rows, vcpus: Array, measured: Array, question: Question) -> Outlook:
    """Foresee the use of each row. `samples` (V, T) in cores, oldest first, the last one now.

    Missing samples are NaN. `vcpus` (V,) bounds the answer; `measured` (V,) is taken for the
    level where nothing recent is known.

        expected = level + trend · ahead + trust · change of the season
        peak     = level + its own rise and its class's, weighed by how long it was measured
                   + what trend and season add

    Ahead is half the horizon, and no more than what the trend was seen over.
    """
    most = np.maximum(vcpus, 0.0)
    pasts, wrong = [], []
    for begin in range(0, max(1, len(samples)), _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        some = samples[rows]
        pasts.append(_past(some, measured[rows], question))
        wrong.append(_errors(some, most[rows], question))
    errors = joined(wrong)
    past = _Past(*(np.concatenate(parts) for parts in zip(*map(_Past.columns, pasts), strict=True)))
    usual = usual_rise(past.rise, past.count, vcpus, question)
    strength = CLASS_SECONDS / question.interval_seconds
    rise = (past.count * past.rise + strength * usual) / (past.count + strength)
    expected = past.level + past.change
    peak = past.level + rise + np.maximum(past.change, 0.0)
    peak += past.season_trust * np.maximum(past.season_peak - peak, 0.0)
    is_long = past.count >= question.samples(LONG_SECONDS)
    expected = np.clip(expected, 0.0, most)
    return Outlook(
        expected=expected,
        peak=np.clip(np.maximum(peak, expected), 0.0, most),
        spread=spread_of(errors, expected, most, question.interval_seconds, is_long),
        correlation=correlation_of(errors, question.interval_seconds),
    )


def _errors(samples: Array, vcpus: Array, question: Question) -> Errors:
    """What past levels were wrong by half-way to the horizon, as a plan is at first and later."""
    day = samples[:, -question.samples(PEAK_SECONDS) :]
    return past_errors(day, vcpus, question.interval_seconds, question.horizon_seconds / 2)


def usual_rise(rise: Array, count: NDArray[np.int_], vcpus: Array, question: Question) -> Array:
    """How far VMs with so many vCPUs usually rise above their level, in cores; shape (V,).

    The mean over those that have been measured for long; where there is none of that size, over
    all of them, in proportion to their vCPUs.
    """
    is_long = count >= question.samples(LONG_SECONDS)
    ratio = np.where(is_long, rise / np.maximum(vcpus, 1e-9), 0.0)
    overall = ratio.sum() / is_long.sum() if is_long.any() else UNKNOWN_RISE_RATIO
    sizes, size_of = np.unique(vcpus, return_inverse=True)
    counts = np.bincount(size_of, weights=is_long, minlength=len(sizes))
    sums = np.bincount(size_of, weights=ratio, minlength=len(sizes))
    usual = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
    return np.asarray(usual[size_of] * vcpus)


@dataclass(frozen=True, slots=True, eq=False)
class _Past:
    """What the past of each row says, shape (V,)."""

    level: Array
    change: Array
    """What trend and season are expected to add to it."""
    rise: Array
    """How far the quantile of the last day lies above the level, never below it."""
    count: NDArray[np.int_]
    """How many samples the quantile is of."""
    season_peak: Array
    season_trust: Array

    def columns(self) -> tuple[NDArray[np.float64] | NDArray[np.int_], ...]:
        return (
            self.level,
            self.change,
            self.rise,
            self.count,
            self.season_peak,
            self.season_trust,
        )


def _past(samples: Array, measured: Array, question: Question) -> _Past:
    seconds = question.interval_seconds
    recent = samples[:, -question.samples(LEVEL_SECONDS) :]
    day = samples[:, -question.samples(PEAK_SECONDS) :]
    is_fresh = np.isfinite(recent[:, -question.samples(FRESH_SECONDS) :]).any(axis=1)
    levels = np.where(is_fresh, level(recent, seconds), measured)
    weights = half_life_weights(day.shape[1], PEAK_HALF_LIFE_SECONDS / seconds)
    high = weighted_quantile(day, weights, question.quantile)
    usual = season(samples, seconds, question.horizon_seconds)
    seasonal = usual.trust * usual.change
    # Where the time of day explains the change, the trend would count it twice.
    ahead = np.minimum(question.horizon_seconds / 2, span_seconds(recent, seconds))
    trend = trend_per_second(recent, seconds) * ahead
    change = np.where(usual.trust > 0, seasonal, trend)
    return _Past(
        level=levels,
        change=np.where(is_fresh, change, 0.0),
        rise=np.where(np.isfinite(high), np.maximum(high - levels, 0.0), 0.0),
        count=np.isfinite(day).sum(axis=1),
        season_peak=usual.peak,
        season_trust=usual.trust,
    )
