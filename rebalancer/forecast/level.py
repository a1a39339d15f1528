"""Where use is now, and where it is heading."""

from __future__ import annotations

import numpy as np

from rebalancer.forecast.quantile import Array, half_life_weights
from rebalancer.forecast.significance import trusted_share

LEVEL_HALF_LIFE_SECONDS = 1800.0
"""A mean over all of it moves too late, the newest sample alone is mostly noise."""
LEVEL_SECONDS = 4 * LEVEL_HALF_LIFE_SECONDS
"""What is older than this says nothing about the level any more."""

_TINY = 1e-100
"""Keeps the sums of a row without samples from being divided by zero."""


def level(recent: Array, interval_seconds: float) -> Array:
    """Return the recent mean use of each row, newest samples first in weight; (V, T) -> (V,).

    A mean and not a median on purpose: the load of a host is the sum over its VMs, and of the two
    only means add up.
    """
    weights = _weights(recent, interval_seconds)
    total = weights.sum(axis=1)
    filled = np.where(weights > 0, recent, 0.0)
    with np.errstate(invalid="ignore"):
        return np.asarray((weights * filled).sum(axis=1) / total)


def trend_per_second(recent: Array, interval_seconds: float) -> Array:
    """Return the slope of the recent use as far as it is sure to be one; (V, T) -> (V,).

    Weighted least squares over time, shrunk by how little noise could explain it.
    """
    weights = _weights(recent, interval_seconds)
    known = weights > 0
    count = known.sum(axis=1)
    total = np.maximum(weights.sum(axis=1, keepdims=True), _TINY)
    when = np.arange(recent.shape[1], dtype=np.float64) * interval_seconds
    use = np.where(known, recent, 0.0)
    apart = when - (weights * when).sum(axis=1, keepdims=True) / total
    above = np.where(known, use - (weights * use).sum(axis=1, keepdims=True) / total, 0.0)
    spread = np.maximum((weights * apart**2).sum(axis=1), _TINY)
    slope = (weights * apart * above).sum(axis=1) / spread
    noise = np.where(known, above - slope[:, None] * apart, 0.0)
    residual = (noise**2).sum(axis=1) / np.maximum(count - 2, 1)
    variance = residual * (weights**2 * apart**2).sum(axis=1) / spread**2
    return np.where(count >= 4, slope * trusted_share(slope, variance, count - 1), 0.0)


def span_seconds(recent: Array, interval_seconds: float) -> Array:
    """Return how long each row has been measured, first sample to last; (V, T) -> (V,).

    A line through samples of a minute says nothing about a quarter of an hour later.
    """
    known, columns = np.isfinite(recent), np.arange(recent.shape[1])
    first = np.where(known, columns, len(columns)).min(axis=1, initial=len(columns))
    last = np.where(known, columns, -1).max(axis=1, initial=-1)
    return np.asarray(np.maximum(last - first, 0) * interval_seconds, np.float64)


def _weights(recent: Array, interval_seconds: float) -> Array:
    weights = half_life_weights(recent.shape[1], LEVEL_HALF_LIFE_SECONDS / interval_seconds)
    return np.where(np.isfinite(recent), weights, 0.0)
