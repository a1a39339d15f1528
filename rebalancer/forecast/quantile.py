"""Quantiles of many weighted samples at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

type Array = NDArray[np.float64]


def weighted_quantile(samples: Array, weights: Array, quantile: float) -> Array:
    """Return the smallest sample of each row that has `quantile` of the weight at or below it.

    Shapes: `samples` (V, T), `weights` (T,); the result is (V,). Samples that are NaN have no
    weight, and a row without any weight is NaN.
    """
    if samples.shape[1] == 0:
        return np.full(len(samples), np.nan)
    order = np.argsort(samples, axis=1)  # NaN sorts to the end
    values = np.take_along_axis(samples, order, axis=1)
    below = np.cumsum(np.where(np.isfinite(values), weights[order], 0.0), axis=1)
    # The last bit of a sum must not decide that one more sample is needed.
    enough = below >= below[:, -1:] * quantile * (1 - 1e-12)
    found = values[np.arange(len(values)), np.argmax(enough, axis=1)]
    return np.where(below[:, -1] > 0, found, np.nan)


def half_life_weights(samples: int, half_life_samples: float) -> Array:
    """Weigh the newest sample 1, and half as much for every half-life before it; shape (T,)."""
    ages = np.arange(samples, dtype=np.float64)[::-1]
    return np.exp2(-ages / half_life_samples)
