"""How long the parts of a migration took that are learned for themselves.

Only what this process saw begin and end: after a crash nobody knows when a guest was off.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rebalancer.cluster.inventory import Mode
from rebalancer.cluster.plan import MigrationState
from rebalancer.cluster.prediction import MeasuredPart, Part
from rebalancer.rollout.track import Track


def measured_parts(track: Track) -> tuple[MeasuredPart, ...]:
    """Say of an ended migration how long its parts took."""
    if track.migration.mode is Mode.COLD:
        return tuple(_saved(track) if track.migration.saved_to else _shut_down(track))
    return tuple(_disks(track)) if track.migration.disks else ()


def _shut_down(track: Track) -> Iterator[MeasuredPart]:
    end = track.stopped_at or track.ignored_at
    yield from _between(Part.SHUT_DOWN, track.requested_at, end, is_over=end is track.stopped_at)
    yield from _second(Part.START, track, track.stopped_at)


def _saved(track: Track) -> Iterator[MeasuredPart]:
    yield from _between(Part.SAVE, track.requested_at, track.parted_at)
    yield from _second(Part.RESTORE, track, track.parted_at)


def _disks(track: Track) -> Iterator[MeasuredPart]:
    sent = track.result.disk_transferred_bytes if track.result else 0.0
    if track.state is MigrationState.COMPLETE:
        yield from _between(Part.DISKS, track.requested_at, track.parted_at, sent=sent or None)


def _second(part: Part, track: Track, begin: datetime | None) -> Iterator[MeasuredPart]:
    """What comes after the first part has an end only if the migration got there."""
    if track.state is MigrationState.COMPLETE:
        yield from _between(part, begin, track.moved_at)


def _between(
    part: Part,
    begin: datetime | None,
    end: datetime | None,
    *,
    is_over: bool = True,
    sent: float | None = None,
) -> Iterator[MeasuredPart]:
    if begin is not None and end is not None and end >= begin:
        seconds = (end - begin).total_seconds()
        yield MeasuredPart(part=part, seconds=seconds, is_over=is_over, transfer_bytes=sent)
