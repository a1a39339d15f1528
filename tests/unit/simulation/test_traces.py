"""CPU traces: what guests want over time."""

from __future__ import annotations

import numpy as np
import pytest

from rebalancer.simulation.traces import Constant, CpuTrace, Recorded, Steps, Wave, mean_cores

HOUR = 3600.0


def at(trace: CpuTrace, seconds: float) -> float:
    return float(trace.at(np.array([seconds]))[0])


def mean(trace: CpuTrace, begin: float, window: float) -> float:
    return float(mean_cores(trace, np.array([begin]), window)[0])


def test_a_wave_has_its_peak_once_a_day_and_never_goes_below_zero() -> None:
    wave = Wave(mean_cores=1.0, amplitude_cores=2.0, peak_seconds=2 * HOUR)

    assert at(wave, 2 * HOUR) == pytest.approx(3.0)
    assert at(wave, -22 * HOUR) == pytest.approx(3.0)
    assert at(wave, 14 * HOUR) == 0.0


def test_steps_hold_until_the_next_one() -> None:
    steps = Steps(steps=((0.0, 1.0), (600.0, 3.0)))

    assert [at(steps, s) for s in (-50, 0, 599, 600, 9000)] == [1, 1, 1, 3, 3]
    assert mean(steps, 300.0, 600.0) == pytest.approx(2.0)


def test_recorded_use_is_played_again_and_again() -> None:
    recorded = Recorded(interval_seconds=60.0, cores=(1.0, 2.0, 4.0))

    assert [at(recorded, s) for s in (0, 61, 179, 180, -1)] == [1, 2, 4, 1, 4]
    assert mean(recorded, 0.0, 180.0) == pytest.approx(7 / 3)


def test_constant_use_is_constant() -> None:
    assert mean(Constant(cores=1.5), 1e6, 300.0) == 1.5
