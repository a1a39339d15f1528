"""How far a measured effect is to be trusted, given what chance alone would do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rebalancer.forecast.quantile import Array

_STUDENT_95 = np.array([np.inf, np.inf, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26])
"""Two-sided 95 % points of Student's t for a mean of 0, 1, 2, … values (R. A. Fisher, 1925)."""


def trusted_share(effect: Array, variance: Array, count: NDArray[np.int_]) -> Array:
    """Return what share of each effect to believe: max(0, 1 − (t₉₅·σ / effect)²), in [0, 1].

    `variance` is that of the effect itself, from `count` observations. Nothing is believed that
    chance produces once in twenty times, and a sure effect nearly whole (the positive-part
    shrinkage of James and Stein, 1961, with Student's bound for the few observations there are).
    """
    bound = _STUDENT_95[np.clip(count, 0, len(_STUDENT_95) - 1)]
    noise = np.where(np.isfinite(bound), np.where(np.isfinite(bound), bound, 1) ** 2 * variance, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.maximum(0.0, 1.0 - noise / effect**2)
    sure = np.isfinite(bound) & np.isfinite(share) & (effect != 0)
    return np.where(sure, share, 0.0)
