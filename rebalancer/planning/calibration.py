"""Learns how migrations go here from those that ended: setup, efficiency, switch-over, bands.

For each completed migration the journal has what was predicted and what was measured. With x the
seconds that its bytes take at the granted rate, and y what the job took without its pause,

    y = setup + x / efficiency

is fitted by medians (`fitting`), which a few jobs that were held up do not move. A pair of hosts
is drawn towards the cluster, and the cluster towards what is assumed without a past.

Bands are the 90 % quantile of measured / predicted, predicted anew with what was just learned.
What takes its time beside memory (cold moves, local disks) is `part_calibration`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from rebalancer.cluster.inventory import HostId, Mode
from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.planning.fitting import LEAST_FOR_BAND, drawn, safety, slope, within
from rebalancer.planning.habits import ASSUMED, FEW_ROUNDS, Calibration, Habits
from rebalancer.planning.part_calibration import learned_parts
from rebalancer.planning.safety import Safety

NEWEST = 400
"""Older ones say little about hosts that were changed since."""
SETUP_SECONDS_RANGE = 0.2, 120.0
SWITCHOVER_SECONDS_RANGE = 0.02, 5.0
EFFICIENCY_RANGE = 0.2, 1.05
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


def calibrate(past: Iterable[Past], in_parts: Iterable[Past] = ()) -> Calibration:
    """Learn from migrations that completed, the newest first.

    And from those, which may be others, of which parts were measured for themselves.
    """
    parts = learned_parts(in_parts)
    samples = [s for each in past if (s := _sample(*each)) is not None][:NEWEST]
    if not samples:
        return Calibration(parts=parts)
    everywhere = _learned(samples, ASSUMED)
    pairs: dict[tuple[HostId, HostId], list[_Sample]] = defaultdict(list)
    for sample in samples:
        pairs[sample.pair].append(sample)
    return Calibration(
        everywhere=everywhere,
        pairs={pair: _learned(own, everywhere) for pair, own in pairs.items()},
        parts=parts,
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
    per_ideal_second = slope(
        [s.ideal_seconds for s in samples],
        [s.job_seconds for s in samples],
        1 / prior.efficiency_ratio,
    )
    efficiency = within(1 / max(per_ideal_second, 1 / EFFICIENCY_RANGE[1]), EFFICIENCY_RANGE)
    rests = [s.job_seconds - s.ideal_seconds / efficiency for s in samples]
    setup = drawn(median(rests), len(samples), prior.setup_seconds)
    pauses = [s.downtime_seconds - s.predicted_rest_seconds for s in samples]
    switchover = drawn(median(pauses), len(samples), prior.switchover_seconds)
    habits = replace(
        prior,
        setup_seconds=within(setup, SETUP_SECONDS_RANGE),
        switchover_seconds=within(switchover, SWITCHOVER_SECONDS_RANGE),
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


def _safety(samples: Sequence[_Sample], habits: Habits, prior: Safety) -> Safety:
    """Bands that nine of ten of these migrations were within; never narrower on a hunch."""
    if not samples:
        return prior
    times = [s.seconds / _predicted_anew(s, habits) for s in samples]
    pauses = [s.downtime_seconds / _pause_planned_for(s, habits) for s in samples]
    time = safety(times, max(prior.transfer_ratio, prior.setup_ratio))
    # How long QEMU may pause the guest is derived from this ratio, so it never shrinks: the
    # pauses that were measured kept to a limit that was set with it.
    pause = max(prior.downtime_ratio, safety(pauses, prior.downtime_ratio))
    if len(samples) < LEAST_FOR_BAND:
        return Safety(
            setup_ratio=max(prior.setup_ratio, time),
            transfer_ratio=max(prior.transfer_ratio, safety(times, prior.transfer_ratio)),
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
