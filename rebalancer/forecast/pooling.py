"""What the VMs of a host come to together at their peak, written as a part for each of them.

Peaks of many VMs rarely come at once: a host needs the sum of what is expected and z times the
standard deviation of that sum, which is less than the sum of the standard deviations. A root is
no sum over VMs, but everything that judges capacity adds VMs up. So it is replaced by a line that
is nowhere below it and touches it where a host is full: √q ≤ q/(2·S) + S/2.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from rebalancer.forecast.quantile import Array

_HALVINGS = 50
_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """What capacity is judged on: Σ peak over the VMs of a host + margin."""

    peak: Array
    """Cores, shape (V,)."""
    margin: float
    """Cores of every host that has VMs."""


def pooled_parts(
    expected: Array,
    spread: Array,
    vcpus: Array,
    *,
    correlation: float,
    quantile: float,
    host_cores: float,
) -> Parts:
    """Share out the peak of a host that `host_cores` are used of and that is full.

        need of a host = Σ expected + z·√q,  q = (1 - ρ)·Σ s² + ρ·(Σ s)²
        peak[v]        = expected[v] + z/(2·S)·((1 - ρ)·s[v]² + ρ·s[v]·B)
        margin         = z·S/2

    S and B are √q and Σ s on a full host with VMs like the mean one. With ρ = 1 that is the sum
    of what each VM needs by itself, with ρ = 0 it is the quantile of a sum of independent ones.
    The sum of the parts is never below the need where Σ s ≤ B, and 6 % of the margin above it
    where q is half or twice S².
    """
    z = max(0.0, NormalDist().inv_cdf(quantile))
    mean, own, straight = float(expected.sum()), float((spread**2).sum()), float(spread.sum())
    if z == 0 or own <= 0 or host_cores <= 0:
        return Parts(peak=np.clip(expected, 0.0, vcpus), margin=0.0)

    def deviation(share: float) -> float:
        """√q on a host with this share of all VMs."""
        q = (1 - correlation) * own * share + correlation * (straight * share) ** 2
        return float(np.sqrt(q))

    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        fits = share * mean + z * deviation(share) <= host_cores
        low, high = (share, high) if fits else (low, share)
    full = deviation(high)
    joint = (1 - correlation) * spread**2 + correlation * spread * straight * high
    peak = expected + z * joint / (2 * max(full, _TINY))
    # Whatever it is a part of, no VM uses more than it has.
    most = np.maximum(vcpus, expected)
    return Parts(peak=np.minimum(peak, most), margin=z * full / 2)
