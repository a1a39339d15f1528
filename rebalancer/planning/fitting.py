"""Numbers out of a few measurements: medians, drawn towards what was believed before.

Medians of slopes and of residuals (Theil 1950, Sen 1968) are not moved by a few migrations that
were held up. Bands are quantiles of measured / predicted (split conformal prediction: Vovk et
al. 2005; n + 1 instead of n, so that few measurements give wide bands).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

PRIOR_WEIGHT = 5.0
"""So many measurements count as much as what is assumed before any was seen."""
LEAST_SPREAD_SECONDS = 1.0
"""Two migrations whose bytes take nearly the same time say nothing about a slope."""
LEAST_SLOPES = 10
BAND_RATIO = 0.9
LEAST_FOR_BAND = 10
"""The 90 % quantile of fewer is beyond the largest of them."""
SAFETY_RANGE = 1.1, 10.0


def drawn(value: float, count: int, prior: float) -> float:
    """A value that `count` measurements say, drawn towards what was believed before."""
    return (count * value + PRIOR_WEIGHT * prior) / (count + PRIOR_WEIGHT)


def within(value: float, bounds: tuple[float, float]) -> float:
    """The nearest value between two bounds."""
    return min(max(value, bounds[0]), bounds[1])


def nine_of_ten(values: Sequence[float]) -> float:
    """The ⌈0.9·(n + 1)⌉-th smallest: nine of ten more of the kind are below it."""
    place = min(len(values), math.ceil(BAND_RATIO * (len(values) + 1)))
    return sorted(values)[place - 1]


def safety(ratios: Sequence[float], prior: float) -> float:
    """So many times the prediction ends the band; of too few the largest, if more than believed."""
    if len(ratios) < LEAST_FOR_BAND:
        return within(max(prior, *ratios), SAFETY_RANGE)
    return within(nine_of_ten(ratios), SAFETY_RANGE)


def slope(x_seconds: Sequence[float], y_seconds: Sequence[float], prior: float) -> float:
    """Seconds for each ideal second: the median over pairs of migrations that differ enough.

    Drawn towards `prior`, and nothing else where there are too few such pairs.
    """
    x, y = np.array(x_seconds), np.array(y_seconds)
    first, second = np.triu_indices(len(x), 1)
    apart = np.abs(x[first] - x[second]) >= LEAST_SPREAD_SECONDS
    first, second = first[apart], second[apart]
    if len(first) < LEAST_SLOPES:
        return prior
    found = float(np.median((y[first] - y[second]) / (x[first] - x[second])))
    return drawn(found, len(x), prior)
