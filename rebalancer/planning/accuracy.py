"""How right predictions were: what plans said beside what the migrations really took."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from rebalancer.cluster.inventory import HostId, Mode
from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.cluster.prediction import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """How far predictions of one quantity were off, as shares of what was measured."""

    count: int
    """Migrations of which it was measured; without any the rest is 0."""
    median_ratio: float
    p90_ratio: float
    """Nine of ten were no farther off than this."""
    in_band_ratio: float | None = None
    """Share that ended within the band's upper end; `None` where no band is printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How right the predictions for one pair of hosts were, or for all together."""

    source: HostId | None
    """`None`: all pairs together."""
    target: HostId | None
    migrations: int
    duration: Errors
    downtime: Errors
    transfer: Errors


@dataclass(frozen=True, slots=True, kw_only=True)
class PartAccuracy:
    """How right predictions of one part of migrations were: shutting down, saving, and so on."""

    part: Part
    migrations: int
    given_up: int
    """Of these so many did not end while anybody waited; they count with the time until then."""
    duration: Errors


type Past = tuple[Migration, Outcome]
type _Compared = tuple[float, float | None, float | None]
"""Predicted, the upper end of its band, measured."""


def accuracy_of(past: Iterable[Past]) -> tuple[Accuracy, ...]:
    """Judge predictions by completed migrations: all of them first, then by pair of hosts.

    What failed, or was never begun, has no duration to compare with and is left out.
    """
    done = [each for each in past if each[1].state is MigrationState.COMPLETE]
    if not done:
        return ()
    pairs: dict[tuple[HostId, HostId], list[Past]] = defaultdict(list)
    for migration, outcome in done:
        pairs[migration.source, migration.target].append((migration, outcome))
    return (
        _accuracy(None, None, done),
        *(_accuracy(*pair, pairs[pair]) for pair in sorted(pairs)),
    )


def part_accuracy_of(past: Iterable[Past]) -> tuple[PartAccuracy, ...]:
    """Judge predictions by the parts that were measured, however their migrations ended."""
    compared: dict[Part, list[_Compared]] = defaultdict(list)
    given_up: dict[Part, int] = defaultdict(int)
    for migration, outcome in past:
        predicted = {each.part: each for each in migration.predicted.parts}
        for measured in outcome.parts:
            if (said := predicted.get(measured.part)) is not None:
                compared[said.part].append((said.seconds, said.upper_seconds, measured.seconds))
                given_up[said.part] += not measured.is_over
    return tuple(
        PartAccuracy(
            part=part,
            migrations=len(compared[part]),
            given_up=given_up[part],
            duration=_errors(compared[part]),
        )
        for part in Part
        if part in compared
    )


def _accuracy(source: HostId | None, target: HostId | None, past: Sequence[Past]) -> Accuracy:
    predicted = [(migration.predicted, outcome) for migration, outcome in past]
    return Accuracy(
        source=source,
        target=target,
        migrations=len(past),
        duration=_errors(
            [
                (p.duration_seconds, p.duration_upper_seconds, o.duration_seconds)
                for p, o in predicted
            ]
        ),
        downtime=_errors([pause for each in past if (pause := _pause(*each)) is not None]),
        transfer=_errors([(p.transfer_bytes, None, o.transfer_bytes) for p, o in predicted]),
    )


def _pause(migration: Migration, outcome: Outcome) -> _Compared | None:
    """The same time span on both sides.

    Of a guest that is shut down only that is seen which passes from its end to its start; what
    is predicted of its outage has the shutdown and the boot in it as well.
    """
    said, measured = migration.predicted, outcome.downtime_seconds
    if migration.mode is not Mode.COLD or migration.saved_to:
        return said.downtime_seconds, said.downtime_upper_seconds, measured
    starts = [each for each in said.parts if each.part is Part.START]
    return (starts[0].seconds, starts[0].upper_seconds, measured) if starts else None


def _errors(compared: Iterable[_Compared]) -> Errors:
    """Compare (predicted, upper end of its band, measured); nothing measured is left out."""
    known = [(p, upper, real) for p, upper, real in compared if real is not None and real > 0]
    if not known:
        return Errors(count=0, median_ratio=0.0, p90_ratio=0.0)
    off = sorted(abs(predicted - real) / real for predicted, _, real in known)
    within = [real <= upper for _, upper, real in known if upper is not None]
    return Errors(
        count=len(known),
        median_ratio=median(off),
        p90_ratio=off[math.ceil(0.9 * len(off)) - 1],
        in_band_ratio=sum(within) / len(within) if within else None,
    )
