"""How many migrations a host or link takes at once, learnt while a plan is carried out. Pure.

Like TCP on a network that it does not know: half as many after trouble, slowly more again after
successes (additive increase, multiplicative decrease), and never more than the limits allow.
Everything follows from how the migrations of this rollout ended and how the running ones flow,
so the same rollout always gives the same answer, and the next one begins with the limits.

Trouble is a migration that failed, or one that got far less bandwidth than it was granted: what
the configuration says of a link is then not what the link can do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import MigrationState
from rebalancer.cluster.policy import Limits
from rebalancer.rollout.admission import INTO, OUT_OF, Resource, places_of
from rebalancer.rollout.track import Track

SLOW_RATIO = 0.5
"""A transfer that gets less than this share of its grant is in trouble."""
SLOW_AFTER_SECONDS = 30.0
"""A rate is believed only after so long: the first pass begins with empty pages and slow starts."""
DECREASE = 0.5
INCREASE = 0.5
"""What so many migrations as may run at once gain together, when all of them end well."""

_FAILED = (MigrationState.FAILED_SAFE, MigrationState.FAILED_DOWN, MigrationState.UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """So many at once are let through for the time being, fewer than the limits allow."""

    at_once: int
    why: str


type Ceilings = Mapping[Resource, Ceiling]
"""Places that are not in it take as many as the limits allow."""


def ceilings(
    tracks: Iterable[Track], snapshot: Snapshot, limits: Limits, now: datetime
) -> Ceilings:
    """Say where fewer migrations may run at once than the limits allow, and why.

    Each is at least 1, and less than what the limits allow there.
    """
    known = [track for track in tracks if track.attempt is not None]
    troubles = {track.migration.id: why for track in known if (why := _trouble(track))}
    slow = dict(_slow_places(known, snapshot, limits, now))
    if not troubles and not slow:
        return {}  # nearly always, and this is asked in every round
    levels: dict[Resource, float] = {}
    whys: dict[Resource, str] = {}
    ended = [track for track in known if track.is_ended]
    for track in sorted(ended, key=lambda each: (each.entered_at, each.migration.id)):
        trouble = troubles.get(track.migration.id, "")
        for place in places_of(track.migration, snapshot, limits):
            most = float(_limit(place, limits))
            level = min(levels.get(place, most), most)
            if trouble:
                levels[place], whys[place] = max(1.0, level * DECREASE), trouble
            elif track.state is MigrationState.COMPLETE:
                levels[place] = min(most, level + INCREASE / _whole(level))
    for place, why in slow.items():
        most = float(_limit(place, limits))
        levels[place] = max(1.0, min(levels.get(place, most), most) * DECREASE)
        whys[place] = why
    return {
        place: Ceiling(at_once=_whole(level), why=whys[place])
        for place, level in levels.items()
        if _whole(level) < _limit(place, limits)
    }


def changes(before: Ceilings, after: Ceilings) -> Iterator[str]:
    """Say what is different now, a sentence for each place."""
    for place in sorted(before.keys() | after.keys()):
        old, new = before.get(place), after.get(place)
        if old is not None and new is None:
            yield f"{' '.join(place)}: as many migrations at once as the limits allow again"
        elif new is not None and (old is None or old.at_once != new.at_once):
            more = old is not None and new.at_once > old.at_once
            why = "it went well since" if more else new.why
            yield f"{' '.join(place)}: at most {new.at_once} at once for now, as {why}"


def _trouble(track: Track) -> str:
    """What went wrong with an ended migration that others may meet, too; empty if nothing."""
    vm = track.migration.vm_name
    if track.state in _FAILED and not track.on_request:
        return f"{vm} ended {track.state}"
    return _slowness(track) if track.state is MigrationState.COMPLETE else ""


def _slow_places(
    tracks: Iterable[Track], snapshot: Snapshot, limits: Limits, now: datetime
) -> Iterator[tuple[Resource, str]]:
    """Places through which a running transfer gets too little; each once."""
    found: defaultdict[Resource, list[str]] = defaultdict(list)
    for track in sorted(tracks, key=lambda each: each.migration.id):
        if track.state is not MigrationState.TRANSFER or track.requested_at is None:
            continue
        if (now - track.requested_at).total_seconds() < SLOW_AFTER_SECONDS:
            continue
        if why := _slowness(track):
            for place in places_of(track.migration, snapshot, limits):
                found[place].append(why)
    yield from ((place, whys[0]) for place, whys in found.items())


def _slowness(track: Track) -> str:
    """Say that a transfer gets far less than it was granted; empty if it does not."""
    watch, granted = track.watch, track.granted_bytes_per_second
    if track.slowed_to_bytes_per_second is not None:
        granted = min(granted, track.slowed_to_bytes_per_second)
    if watch is None or watch.bytes_per_second is None or watch.sampled_at is None or granted <= 0:
        return ""
    # A paused guest sends what is left, and a short transfer is mostly its beginning and end.
    lasted = (watch.sampled_at - watch.started_at).total_seconds()
    if watch.paused_at is not None or watch.switched or lasted < SLOW_AFTER_SECONDS:
        return ""
    if watch.bytes_per_second >= SLOW_RATIO * granted:
        return ""
    share = watch.bytes_per_second / granted
    return f"{track.migration.vm_name} gets {share:.0%} of the bandwidth it was granted"


def _whole(level: float) -> int:
    return max(1, int(level + 1e-9))  # six times a sixth is a little less than one


def _limit(place: Resource, limits: Limits) -> int:
    by_way = {OUT_OF: limits.per_host_out, INTO: limits.per_host_in}
    return min(by_way.get(place[0], limits.cluster), limits.cluster)
