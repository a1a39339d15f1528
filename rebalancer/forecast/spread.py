"""How far use strays from its level: the spread of each row, and how much rows stray together.

What was wrong with the level as a forecast in the past tells how wrong it will be. Of a sum of
rows the errors cancel out unless they are correlated; so how much they are is told as well.

A VM that is half busy strays more than one that idles or is busy all the time, as of many jobs
that either run or do not: its variance goes with u·(1 - u), u being the share of its vCPUs that
it uses. On a day of PlanetLab traces the standard deviation of 5-minute means half an hour ahead
is 0.3·√(u·(1 - u)) within a tenth from u = 0.01 to 0.8. What is learned of a VM is the factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rebalancer.forecast.level import LEVEL_HALF_LIFE_SECONDS
from rebalancer.forecast.quantile import Array, half_life_weights

SPREAD_HALF_LIFE_SECONDS = 8 * 3600.0
"""A variance is less sure than a mean, and changes more slowly."""
SPREAD_PRIOR_SECONDS = 3600.0
"""What is usual among VMs of a size counts as much as this long a history of one's own."""
UNKNOWN_SPREAD = 0.3
"""Standard deviation as a multiple of √(u·(1 - u)) when nobody has been measured for long."""
LEAST_USE = 0.01
"""Nobody is taken to stray less than one who uses so much of its vCPUs: idle VMs do wake up."""
UNKNOWN_CORRELATION = 0.01
CORRELATION_PRIOR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Errors:
    """What levels of the past were wrong by."""

    squares: Array
    """Sum of the squared errors, newest first in weight; shape (V,)."""
    usual: Array
    """Sum of u·(1 - u)·vCPUs² with the same weights; shape (V,)."""
    total: Array
    """Sum of the errors of all rows at each time; shape (T,)."""
    own: Array
    """Sum of the variances of the rows that were measured then; shape (T,)."""
    straight: Array
    """Sum of their standard deviations; shape (T,)."""


def joined(parts: list[Errors]) -> Errors:
    """Put rows together that were looked at in parts."""
    return Errors(
        squares=np.concatenate([part.squares for part in parts]),
        usual=np.concatenate([part.usual for part in parts]),
        total=np.sum([part.total for part in parts], axis=0),
        own=np.sum([part.own for part in parts], axis=0),
        straight=np.sum([part.straight for part in parts], axis=0),
    )


def past_errors(
    samples: Array, vcpus: Array, interval_seconds: float, ahead_seconds: float
) -> Errors:
    """Compare every sample with the level that was known `ahead_seconds` before it; (V, T)."""
    ahead = max(1, round(ahead_seconds / interval_seconds))
    known = np.isfinite(samples)
    # Relative to the newest of all, which does not change the mean of those up to any time.
    weights = half_life_weights(samples.shape[1], LEVEL_HALF_LIFE_SECONDS / interval_seconds)
    total = np.cumsum(np.where(known, weights, 0.0), axis=1)
    levels = np.cumsum(np.where(known, samples, 0.0) * weights, axis=1)
    levels = np.divide(levels, total, out=np.full_like(levels, np.nan), where=total > 0)
    levels = levels[:, :-ahead]
    error = samples[:, ahead:] - levels
    seen = np.isfinite(error)
    error = np.where(seen, error, 0.0)
    usual = np.where(seen, busyness(np.where(seen, levels, 0.0), vcpus[:, None]), 0.0)
    recent = half_life_weights(error.shape[1], SPREAD_HALF_LIFE_SECONDS / interval_seconds)
    squares, scale = (error**2 * recent).sum(axis=1), (usual * recent).sum(axis=1)
    factor = np.divide(squares, scale, out=np.zeros(len(error)), where=scale > 0)
    variance = factor[:, None] * usual
    return Errors(
        squares=squares,
        usual=scale,
        total=error.sum(axis=0),
        own=variance.sum(axis=0),
        straight=np.sqrt(variance).sum(axis=0),
    )


def busyness(use: Array, vcpus: Array) -> Array:
    """u·(1 - u)·vCPUs², in square cores, which variances are told in multiples of."""
    share = np.clip(use / np.maximum(vcpus, 1e-9), LEAST_USE, 1 - LEAST_USE)
    return np.asarray(share * (1 - share) * vcpus**2)


def spread_of(
    errors: Errors,
    expected: Array,
    vcpus: Array,
    interval_seconds: float,
    is_long: NDArray[np.bool_],
) -> Array:
    """Standard deviation of each row's use about what is expected, in cores; shape (V,).

    Its own past counts, and that of the rows with as many vCPUs that have been measured for long.
    """
    sizes, size_of = np.unique(vcpus, return_inverse=True)
    squares = np.bincount(size_of, weights=errors.squares * is_long, minlength=len(sizes))
    scale = np.bincount(size_of, weights=errors.usual * is_long, minlength=len(sizes))
    overall = squares.sum() / scale.sum() if scale.sum() > 0 else UNKNOWN_SPREAD**2
    factor = np.divide(squares, scale, out=np.full(len(sizes), overall), where=scale > 0)[size_of]
    now = busyness(expected, vcpus)
    strength = SPREAD_PRIOR_SECONDS / interval_seconds * now
    mixed = np.divide(
        errors.squares + strength * factor,
        errors.usual + strength,
        out=np.zeros(len(now)),
        where=strength > 0,
    )
    return np.asarray(np.sqrt(mixed * now))


def correlation_of(errors: Errors, interval_seconds: float) -> float:
    """How much rows stray together: the mean correlation of two of them, from 0 to 1.

    From the variance of their sum: Var(Σ e) = (1 - ρ)·Σ s² + ρ·(Σ s)², over all times.
    """
    strength = CORRELATION_PRIOR_SECONDS / interval_seconds
    apart = errors.straight**2 - errors.own
    possible = float(apart.sum())
    if possible <= 0:
        return UNKNOWN_CORRELATION
    found = float((errors.total**2 - errors.own).sum()) / possible
    samples = int((apart > 0).sum())
    mixed = (samples * found + strength * UNKNOWN_CORRELATION) / (samples + strength)
    return min(1.0, max(0.0, mixed))
