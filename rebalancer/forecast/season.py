"""What past days and weeks did at this time: by how much use changes within the horizon."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rebalancer.forecast.quantile import Array
from rebalancer.forecast.significance import trusted_share

DAY_SECONDS = 86_400.0
WEEK_SECONDS = 7 * DAY_SECONDS
MOST_PERIODS = 14
"""Older days say little about this one, and every further one says less that is new."""
BEFORE_SECONDS = 3600.0
"""The change is counted from the mean over this long."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Season:
    """What the season adds, per row, shape (V,); zero where there is none."""

    change: Array
    """How much higher the mean of the horizon is than the hour before it."""
    peak: Array
    """The highest use that the horizon usually sees; −∞ where nothing is known."""
    trust: Array
    """What share of it is more than chance, in [0, 1]."""


def season(samples: Array, interval_seconds: float, horizon_seconds: float) -> Season:
    """Return the daily or the weekly season of each row, whichever is surer; `samples` (V, T).

    Row by row: on every past day (or on the same day of every past week) take the change
    from the hour before this time to the horizon after it. Where these changes agree, the same
    change is expected today.
    """
    daily = _season(samples, interval_seconds, horizon_seconds, DAY_SECONDS)
    weekly = _season(samples, interval_seconds, horizon_seconds, WEEK_SECONDS)
    by_week = weekly.trust > daily.trust
    return Season(
        change=np.where(by_week, weekly.change, daily.change),
        peak=np.where(by_week, weekly.peak, daily.peak),
        trust=np.where(by_week, weekly.trust, daily.trust),
    )


def _season(
    samples: Array, interval_seconds: float, horizon_seconds: float, period_seconds: float
) -> Season:
    rows, now = samples.shape
    ahead = max(1, round(horizon_seconds / interval_seconds))
    before = max(1, round(BEFORE_SECONDS / interval_seconds))
    period = round(period_seconds / interval_seconds)
    starts = [now - k * period for k in range(1, MOST_PERIODS + 1)] if period >= ahead else []
    starts = [start for start in starts if start >= before]
    if len(starts) < 2:
        nothing = np.zeros(rows)
        return Season(change=nothing, peak=np.full(rows, -np.inf), trust=nothing)
    after = [samples[:, start : start + ahead] for start in starts]
    changes = _stacked(
        _mean(window) - _mean(samples[:, start - before : start])
        for start, window in zip(starts, after, strict=True)
    )
    count = np.isfinite(changes).sum(axis=1)
    change = np.where(count > 0, _mean(changes), 0.0)
    off = np.where(np.isfinite(changes), changes - change[:, None], 0.0)
    variance = (off**2).sum(axis=1) / np.maximum(count - 1, 1) / np.maximum(count, 1)
    tops = _stacked(np.where(np.isfinite(window), window, -np.inf).max(axis=1) for window in after)
    return Season(
        change=change, peak=np.median(tops, axis=1), trust=trusted_share(change, variance, count)
    )


def _stacked(columns: Iterable[Array]) -> Array:
    return np.stack(list(columns), axis=1)


def _mean(window: Array) -> Array:
    known = np.isfinite(window)
    count = known.sum(axis=1)
    total = np.where(known, window, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
