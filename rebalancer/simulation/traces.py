"""How much CPU a guest wants over time. Seconds count from the start of the simulation.

A trace also answers for negative seconds: that is the history before the simulation began.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DAY_SECONDS = 86_400.0

_SAMPLES_A_WINDOW = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """Always the same."""

    cores: float

    def at(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the cores wanted at each of the instants."""
        return np.full(seconds.shape, self.cores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """Up and down like a day: mean + amplitude·cos(2π(t - peak)/period), never below zero."""

    mean_cores: float
    amplitude_cores: float
    peak_seconds: float
    period_seconds: float = DAY_SECONDS

    def at(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the cores wanted at each of the instants."""
        phase = 2 * math.pi * (seconds - self.peak_seconds) / self.period_seconds
        return np.maximum(self.mean_cores + self.amplitude_cores * np.cos(phase), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Constant from one instant to the next: (from which second on, cores), in order of time.

    Before the first instant it wants what it wants at the first.
    """

    steps: tuple[tuple[float, float], ...]

    def at(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the cores wanted at each of the instants."""
        begins = np.array([begin for begin, _ in self.steps])
        cores = np.array([cores for _, cores in self.steps])
        positions = np.searchsorted(begins, seconds, side="right") - 1
        return cores[np.maximum(positions, 0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Samples at a fixed interval, played again and again."""

    interval_seconds: float
    cores: tuple[float, ...]

    def at(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the cores wanted at each of the instants."""
        positions = np.floor_divide(seconds, self.interval_seconds).astype(np.int64)
        return np.array(self.cores)[positions % len(self.cores)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Played:
    """Samples at a fixed interval, played once: before and after, the first and last one hold."""

    interval_seconds: float
    cores: NDArray[np.float64]

    def at(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the cores wanted at each of the instants."""
        positions = np.floor_divide(seconds, self.interval_seconds).astype(np.int64)
        return self.cores[np.clip(positions, 0, len(self.cores) - 1)]


type CpuTrace = Constant | Wave | Steps | Recorded | Played


def mean_cores(
    trace: CpuTrace, begins: NDArray[np.float64], window_seconds: float
) -> NDArray[np.float64]:
    """Return the mean over the window that begins at each of the instants.

    A dozen evenly spread samples stand for each window, as a scraping monitor would take them.
    """
    offsets = (np.arange(_SAMPLES_A_WINDOW) + 0.5) * (window_seconds / _SAMPLES_A_WINDOW)
    if isinstance(trace, Constant):
        return trace.at(begins)
    return trace.at(begins[:, np.newaxis] + offsets).mean(axis=1)
