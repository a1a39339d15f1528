"""Learns how migrations go here from those that ended: setup, efficiency, switch-over, bands.

For each completed migration the journal has what was predicted and what was measured. With x the
seconds that its bytes take at the granted rate, and y what the job took without its pause,

    y = setup + x / efficiency

is fitted by the medians of slopes and of residuals (Theil 1950, Sen 1968), which a few jobs that
were held up do not move. A pair of hosts is drawn towards the cluster, and the cluster towards
what is assumed without a past, as if that were `PRIOR_WEIGHT` migrations more.

Bands are the 90 % quantile of measured / predicted, predicted anew with what was just learned
(split conformal prediction: Vovk et al. 2005; n + 1 instead of n, so that few migrations give
wide bands).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from rebalancer.cluster.inventory import HostId, Mode
from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.planning.habits import ASSUMED, FEW_ROUNDS, Calibration, Habits, Safety

PRIOR_WEIGHT = 5.0
"""So many migrations count as much as what is assumed before any was seen."""
NEWEST = 400
"""Older ones say little about hosts that were changed since."""
LEAST_SPREAD_SECONDS = 1.0
"""Two migrations whose bytes take nearly the same time say nothing about a slope."""
LEAST_SLOPES = 10
BAND_RATIO = 0.9
LEAST_FOR_BAND = 10
"""The 90 % quantile of fewer is beyond the largest of them."""
SETUP_SECONDS_RANGE = 0.2, 120.0
SWITCHOVER_SECONDS_RANGE = 0.02, 5.0
EFFICIENCY_RANGE = 0.2, 1.05
SAFETY_RANGE = 1.1, 10.0
_COPYING = frozenset({Mode.LIVE, Mode.AUTO_CONVERGE, Mode.SUSPEND})

type Past = tuple[Migration, Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """One finished migration in the terms of the fit."""

    pair: tuple[HostId, HostId]
    mode: Mode
    rounds: int
    ideal_seconds: float
    """x: the bytes before its pause at the granted rate."""
    predicted_ideal_seconds: float
    """The same for the bytes that were predicted."""
    seconds: float
    downtime_seconds: float
    max_downtime_seconds: float
    predicted_rest_seconds: float
    """What was predicted of the pause apart from the switch-over."""

    @property
    def job_seconds(self) -> float:
        """y: all but the pause."""
        return self.seconds - self.downtime_seconds


def calibrate(past: Iterable[Past]) -> Calibration:
    """Learn from finished migrations, the newest first."""
    samples = [s for each in past if (s := _sample(*each)) is not None][:NEWEST]
    if not samples:
        return Calibration()
    everywhere = _learned(samples, ASSUMED)
    pairs: dict[tuple[HostId, HostId], list[_Sample]] = defaultdict(list)
    for sample in samples:
        pairs[sample.pair].append(sample)
    return Calibration(
        everywhere=everywhere,
        pairs={pair: _learned(own, everywhere) for pair, own in pairs.items()},
    )


def _sample(migration: Migration, outcome: Outcome) -> _Sample | None:
    """What a migration teaches; `None` if it was not completed, or not measured in full."""
    told = outcome.duration_seconds, outcome.downtime_seconds, outcome.transfer_bytes
    rate = migration.bytes_per_second
    if outcome.state is not MigrationState.COMPLETE or None in told or rate <= 0:
        return None
    if migration.mode not in _COPYING or migration.predicted.rounds == 0:
        return None
    seconds, downtime, sent = (float(value) for value in told if value is not None)
    predicted = migration.predicted
    rest = max(0.0, predicted.downtime_seconds - predicted.switchover_seconds)
    return _Sample(
        pair=(migration.source, migration.target),
        mode=migration.mode,
        rounds=predicted.rounds,
        ideal_seconds=max(0.0, sent / rate - rest),
        predicted_ideal_seconds=max(0.0, predicted.transfer_bytes / rate - rest),
        seconds=seconds,
        downtime_seconds=min(downtime, seconds),
        max_downtime_seconds=migration.max_downtime_seconds,
        predicted_rest_seconds=rest,
    )


def _learned(samples: Sequence[_Sample], prior: Habits) -> Habits:
    slope = _slope(samples, 1 / prior.efficiency_ratio)
    efficiency = _within(1 / slope, EFFICIENCY_RANGE)
    rests = [s.job_seconds - s.ideal_seconds / efficiency for s in samples]
    setup = _drawn(median(rests), len(samples), prior.setup_seconds)
    pauses = [s.downtime_seconds - s.predicted_rest_seconds for s in samples]
    switchover = _drawn(median(pauses), len(samples), prior.switchover_seconds)
    habits = replace(
        prior,
        setup_seconds=_within(setup, SETUP_SECONDS_RANGE),
        switchover_seconds=_within(switchover, SWITCHOVER_SECONDS_RANGE),
        efficiency_ratio=efficiency,
        migrations=len(samples),
    )
    calm = [s for s in samples if s.rounds <= FEW_ROUNDS]
    restless = [s for s in samples if s.rounds > FEW_ROUNDS]
    return replace(
        habits,
        calm=_safety(calm, habits, prior.calm),
        restless=_safety(restless, habits, prior.restless),
    )


def _slope(samples: Sequence[_Sample], prior: float) -> float:
    """Seconds for each ideal second: the median over pairs of migrations that differ enough."""
    x = np.array([s.ideal_seconds for s in samples])
    y = np.array([s.job_seconds for s in samples])
    first, second = np.triu_indices(len(samples), 1)
    apart = np.abs(x[first] - x[second]) >= LEAST_SPREAD_SECONDS
    first, second = first[apart], second[apart]
    if len(first) < LEAST_SLOPES:
        return prior
    slope = float(np.median((y[first] - y[second]) / (x[first] - x[second])))
    return max(_drawn(slope, len(samples), prior), 1 / EFFICIENCY_RANGE[1])


def _drawn(value: float, count: int, prior: float) -> float:
    """A value that `count` migrations say, drawn towards what was believed before."""
    return (count * value + PRIOR_WEIGHT * prior) / (count + PRIOR_WEIGHT)


def _safety(samples: Sequence[_Sample], habits: Habits, prior: Safety) -> Safety:
    """Bands that nine of ten of these migrations were within; never narrower on a hunch."""
    if not samples:
        return prior
    times = [s.seconds / _predicted_anew(s, habits) for s in samples]
    pauses = [s.downtime_seconds / _pause_planned_for(s, habits) for s in samples]
    time = _quantile(times, max(prior.transfer_ratio, prior.setup_ratio))
    # How long QEMU may pause the guest is derived from this ratio, so it never shrinks: the
    # pauses that were measured kept to a limit that was set with it.
    pause = max(prior.downtime_ratio, _quantile(pauses, prior.downtime_ratio))
    if len(samples) < LEAST_FOR_BAND:
        return Safety(
            setup_ratio=max(prior.setup_ratio, time),
            transfer_ratio=max(prior.transfer_ratio, _quantile(times, prior.transfer_ratio)),
            downtime_ratio=pause,
        )
    return Safety(setup_ratio=time, transfer_ratio=time, downtime_ratio=pause)


def _predicted_anew(sample: _Sample, habits: Habits) -> float:
    copying = sample.predicted_ideal_seconds / habits.efficiency_ratio
    pause = sample.predicted_rest_seconds + habits.switchover_seconds
    return habits.setup_seconds + copying + pause


def _pause_planned_for(sample: _Sample, habits: Habits) -> float:
    """What the band of a pause is a multiple of (`cost.live`, `cost.suspended`)."""
    rest = (
        sample.predicted_rest_seconds
        if sample.mode is Mode.SUSPEND
        else sample.max_downtime_seconds
    )
    return rest + habits.switchover_seconds


def _quantile(ratios: Sequence[float], prior: float) -> float:
    """The ⌈0.9·(n + 1)⌉-th smallest; of too few the largest, if it is more than was believed."""
    if len(ratios) < LEAST_FOR_BAND:
        return _within(max(prior, *ratios), SAFETY_RANGE)
    place = min(len(ratios), math.ceil(BAND_RATIO * (len(ratios) + 1)))
    return _within(sorted(ratios)[place - 1], SAFETY_RANGE)


def _within(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
