"""Learns how long parts of migrations take here, from the journal: what `parts` knows.

A guest's own shutdowns tell more of its next one than those of all others: one is enough for
the expected time, their median is taken if there are more. How far the next one may be off is
seen where guests were shut down more than once. A request that was given up counts as long as
it was waited for, which is what the next one may take as well: a band of nine in ten reaches
there as soon as one of ten was.

Starts are learned by target, storages by name, both drawn towards what is believed of the
cluster and towards what is assumed (`fitting`). Copies of disks say what a folder of a target
can take, if they were held up by it and not by the bandwidth that they were granted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.cluster.plan import Migration, Outcome
from rebalancer.cluster.prediction import MeasuredPart, Part, PredictedPart
from rebalancer.planning.disk_calibration import DiskSample, disk_paces, writes_at_least
from rebalancer.planning.fitting import (
    LEAST_FOR_BAND,
    drawn,
    nine_of_ten,
    safety,
    slope,
    within,
)
from rebalancer.planning.parts import (
    ASSUMED_SHUTDOWN,
    ASSUMED_START,
    HALF_SAVE_SECONDS,
    LOOK_SECONDS,
    SHUTDOWN_SECONDS,
    START_SECONDS,
    UNLEARNED,
    PartHabits,
    Span,
    StoragePace,
)
from rebalancer.planning.safety import SETUP_SAFETY, TIME_SAFETY

NEWEST_OF_ONE = 20
"""Guests and hosts change; older migrations say little about what they do now."""
SHUTDOWN_SAFETY = 2.0
"""A guest's next shutdown may take twice as long as its last: caches are full, clients connected.
Seen of guests that nothing happened to; what was learned takes its place."""
EFFICIENCY_RANGE = 0.05, 4.0
"""What a policy states of a storage may be far off, either way."""
SETUP_RANGE = 0.2, 120.0

type Past = tuple[Migration, Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    migration: Migration
    predicted: PredictedPart | None
    measured: MeasuredPart
    outcome: Outcome

    @property
    def seconds(self) -> float:
        return self.measured.seconds


def learned_parts(past: Iterable[Past]) -> PartHabits:
    """Learn from migrations that ended, the newest first; whichever way they did."""
    by_part: dict[Part, list[_Sample]] = defaultdict(list)
    for migration, outcome in past:
        predicted = {each.part: each for each in migration.predicted.parts}
        for measured in outcome.parts:
            sample = _Sample(
                migration=migration,
                predicted=predicted.get(measured.part),
                measured=measured,
                outcome=outcome,
            )
            by_part[measured.part].append(sample)
    if not by_part:
        return UNLEARNED
    shutdown, shutdowns = _shutdowns(by_part[Part.SHUT_DOWN])
    start, starts = _starts(by_part[Part.START])
    copies = [_disk_sample(each) for each in by_part[Part.DISKS] if each.measured.is_over]
    return PartHabits(
        shutdown=shutdown,
        shutdowns=shutdowns,
        start=start,
        starts=starts,
        saves=_storages(by_part[Part.SAVE]),
        restores=_storages(by_part[Part.RESTORE]),
        disks=disk_paces(copies),
        disk_writes=writes_at_least(copies),
        names={
            each.migration.vm: each.migration.vm_name
            for samples in by_part.values()
            for each in reversed(samples)
        },
    )


# Shutting down and starting -----------------------------------------------------------------


def _shutdowns(samples: Sequence[_Sample]) -> tuple[Span, Mapping[VmId, Span]]:
    own: dict[VmId, list[MeasuredPart]] = defaultdict(list)
    for sample in samples:
        if len(own[sample.migration.vm]) < NEWEST_OF_ONE:
            own[sample.migration.vm].append(sample.measured)
    ratio = safety(_ratios_to_earlier(own.values()), SHUTDOWN_SAFETY) if own else SHUTDOWN_SAFETY
    spans = {vm: _of_one_vm(parts, ratio) for vm, parts in own.items()}
    return _of_other_vms(spans), spans


def _ratios_to_earlier(of_vms: Iterable[Sequence[MeasuredPart]]) -> list[float]:
    """How much longer than the median of the same guest's earlier shutdowns one took."""
    found = []
    for parts in of_vms:
        seconds = [each.seconds for each in parts if each.is_over]
        found += [
            newer / max(median(seconds[place:]), LOOK_SECONDS)
            for place, newer in enumerate(seconds, start=1)
            if place < len(seconds)
        ]
    return found or [0.0]


def _of_one_vm(parts: Sequence[MeasuredPart], ratio: float) -> Span:
    seconds = [each.seconds for each in parts]
    expected = median(seconds)
    upper = max(nine_of_ten(seconds), expected)
    if len(seconds) < LEAST_FOR_BAND:
        upper = max(upper, ratio * expected + LOOK_SECONDS)
    return Span(
        seconds=expected,
        upper_seconds=upper,
        learned_from=len(parts),
        given_up=sum(not each.is_over for each in parts),
    )


def _of_other_vms(spans: Mapping[VmId, Span]) -> Span:
    """What a guest is expected to take that has not been seen: each VM counts once."""
    if not spans:
        return ASSUMED_SHUTDOWN
    each = [span.seconds for span in spans.values()]
    if len(each) < LEAST_FOR_BAND:
        upper = max(ASSUMED_SHUTDOWN.upper_seconds, *each)
    else:
        upper = nine_of_ten(each) + LOOK_SECONDS
    expected = drawn(median(each), len(each), SHUTDOWN_SECONDS)
    return Span(
        seconds=expected,
        upper_seconds=max(upper, expected + LOOK_SECONDS),
        learned_from=len(each),
        given_up=sum(span.given_up > 0 for span in spans.values()),
    )


def _starts(samples: Sequence[_Sample]) -> tuple[Span, Mapping[HostId, Span]]:
    everywhere = _of_starts([each.seconds for each in samples], START_SECONDS)
    own: dict[HostId, list[float]] = defaultdict(list)
    for sample in samples:
        if len(own[sample.migration.target]) < NEWEST_OF_ONE:
            own[sample.migration.target].append(sample.seconds)
    return everywhere, {
        host: _of_starts(seconds, everywhere.seconds) for host, seconds in own.items()
    }


def _of_starts(seconds: Sequence[float], prior: float) -> Span:
    if not seconds:
        return ASSUMED_START
    expected = drawn(median(seconds), len(seconds), prior)
    ratio = safety([each / expected for each in seconds], SETUP_SAFETY)
    return Span(
        seconds=expected,
        upper_seconds=ratio * expected + LOOK_SECONDS,
        learned_from=len(seconds),
    )


# Through a storage --------------------------------------------------------------------------


def _storages(samples: Sequence[_Sample]) -> Mapping[str, StoragePace]:
    own: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        storage, predicted = sample.migration.saved_to, sample.predicted
        if predicted is not None and sample.measured.is_over and len(own[storage]) < NEWEST_OF_ONE:
            own[storage].append((predicted.ideal_seconds, sample.seconds))
    return {storage: _of_storage(measured) for storage, measured in own.items()}


def _of_storage(measured: Sequence[tuple[float, float]]) -> StoragePace:
    """Fit y = setup + x / efficiency, x being what the bytes take at the stated rate."""
    ideal, seconds = [x for x, _ in measured], [y for _, y in measured]
    efficiency = within(1 / max(slope(ideal, seconds, 1.0), 1e-3), EFFICIENCY_RANGE)
    rests = [y - x / efficiency for x, y in measured]
    setup = within(drawn(median(rests), len(rests), HALF_SAVE_SECONDS), SETUP_RANGE)
    ratios = [y / (setup + x / efficiency) for x, y in measured]
    return StoragePace(
        setup_seconds=setup,
        efficiency_ratio=efficiency,
        upper_ratio=safety(ratios, TIME_SAFETY),
        learned_from=len(measured),
    )


# Disks --------------------------------------------------------------------------------------


def _disk_sample(sample: _Sample) -> DiskSample:
    migration = sample.migration
    return DiskSample(
        vm=migration.vm,
        target=migration.target,
        disks=migration.disks,
        granted_bytes_per_second=migration.bytes_per_second,
        seconds=sample.seconds,
        sent_bytes=sample.measured.transfer_bytes,
        job_seconds=sample.outcome.duration_seconds,
    )
