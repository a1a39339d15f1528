"""What ended unknown is not forgotten while its rollout goes on, which may be for hours.

A host that was silent for too long may answer again, and its VM then turn out to run twice: so
the two hosts of such a migration are asked now and then, and it goes back to the finish stage if
that is so. All else waits for `recover`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.driver import Look, Migrate, Pause, Returned
from rebalancer.rollout.reconcile import Repair, reconcile
from rebalancer.rollout.sightings import Sighting
from rebalancer.rollout.track import Heard, Surroundings, Track, Turn


def may_have_split(track: Track) -> bool:
    """Whether two copies may run: that the older one was to be paused does not say that it was."""
    attempt = track.attempt
    return (
        track.state is MigrationState.UNKNOWN
        and attempt is not None
        and attempt.has_issued(Migrate)
    )


def revisit(track: Track, heard: Sequence[Heard], around: Surroundings, now: datetime) -> Turn:
    """Look at the two hosts when it is time to; take it up again if it runs twice."""
    attempt = track.attempt
    assert attempt is not None
    track = track.without_awaiting(item.command for item in heard)
    for item in heard:
        match item.command, item.reply:
            case Look(), Returned(value=Sighting() as sighting):
                decision = reconcile(attempt, sighting, around.uri_of)
                if isinstance(decision, Repair) and isinstance(decision.command, Pause):
                    # What was tried in vain while the host was silent may succeed now.
                    anew = replace(attempt, issued_before=len(attempt.issued))
                    track = replace(track, attempt=anew)
                    found = Turn(track=track.enter(MigrationState.FINISH, now))
                    return found.noting("its hosts answer again, and it runs on both")
    if track.awaits(Look) or not track.is_due(now):
        return Turn(track=track)
    later = track.later(now, around.times.split_look_seconds)
    return Turn(track=later).issuing(Look(vm=attempt.vm, hosts=(attempt.source, attempt.target)))
