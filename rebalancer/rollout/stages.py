"""One migration, from stage to stage: prepare and request here, the later ones where they go.

`live` and `cold` carry on with what was requested, `finish` finds out how it ended. Pure, like
all of the state machine that `steps` draws: tracks and replies in, turns out.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rebalancer.cluster.inventory import Mode
from rebalancer.cluster.plan import MigrationState, Outcome
from rebalancer.rollout import cold, finish, live
from rebalancer.rollout.attempt import Attempt, Before
from rebalancer.rollout.driver import Command, Failed, Look, MoveDefinition
from rebalancer.rollout.hooks import HookReply, Objected, Passed
from rebalancer.rollout.measured_parts import measured_parts
from rebalancer.rollout.prechecks import (
    Alarm,
    AlreadyThere,
    Drop,
    Go,
    Hold,
    Scene,
    precheck,
)
from rebalancer.rollout.sightings import Sighting
from rebalancer.rollout.track import Heard, Leave, Surroundings, Track, Turn

S = MigrationState


def begin(track: Track, granted: float, around: Surroundings, now: datetime) -> Turn:
    """Start a waiting migration: look at the VM on every host."""
    started = replace(track.enter(S.PREPARE, now), granted_bytes_per_second=granted)
    return Turn(track=started).issuing(_look_everywhere(started, around.scene))


def advance(track: Track, heard: tuple[Heard, ...], around: Surroundings, now: datetime) -> Turn:
    """Take in what was heard and let time pass: the migration's next state and commands."""
    turn = Turn(track=track.without_awaiting(h.command for h in heard))
    for item in heard:
        if not turn.track.is_ended:
            turn = turn.then(_on_reply(turn.track, item, around, now))
    if turn.track.is_ended:
        return turn
    return turn.then(_on_time(turn.track, around, now))


def _on_reply(track: Track, heard: Heard, around: Surroundings, now: datetime) -> Turn:
    match track.state:
        case S.PREPARE:
            return _prepared(track, heard, around, now)
        case S.REQUEST | S.TRANSFER if track.migration.mode is Mode.OFFLINE:
            return _definition_moved(track, heard, now)
        case S.REQUEST | S.TRANSFER if track.migration.mode is Mode.COLD:
            return cold.on_reply(track, heard, around, now)
        case S.REQUEST | S.TRANSFER:
            return live.on_reply(track, heard, around, now)
        case S.FINISH:
            return finish.on_reply(track, heard, around, now)
    return Turn(track=track)


def _on_time(track: Track, around: Surroundings, now: datetime) -> Turn:
    match track.state:
        case S.PREPARE if track.leave is Leave.ASKED and around.hook_reply is not None:
            return _answered(track, around.hook_reply, around, now)
        case S.REQUEST | S.TRANSFER if track.migration.mode is Mode.COLD:
            return cold.on_time(track, around, now)
        case S.REQUEST | S.TRANSFER if track.migration.mode is not Mode.OFFLINE:
            return live.on_time(track, around, now)
        case S.FINISH:
            return finish.on_time(track, around, now)
    return Turn(track=track)


# Prepare and request ------------------------------------------------------------------------


def _prepared(track: Track, heard: Heard, around: Surroundings, now: datetime) -> Turn:
    if isinstance(heard.reply, Failed):
        return hold(track, f"the hosts could not be asked: {heard.reply.text}", around, now)
    sighting = heard.reply.value
    assert isinstance(sighting, Sighting)
    match precheck(track.migration, sighting, around.scene_for(track)):
        case Go() if around.asks_leave and track.leave is Leave.NOT_ASKED:
            return Turn(track=replace(track, leave=Leave.ASKED))
        case Go(before=before):
            return _request(track, before, now)
        case Hold(why=why):
            return hold(track, why, around, now)
        case Drop(why=why):
            return Turn(track=track.enter(S.SKIPPED, now, why))
        case AlreadyThere(why=why):
            return Turn(track=track.enter(S.COMPLETE, now, why))
        case Alarm(why=why):
            return Turn(track=track.enter(S.UNKNOWN, now, why))


def _answered(track: Track, reply: HookReply, around: Surroundings, now: datetime) -> Turn:
    """Go on as the hooks said; they may have taken minutes, so the hosts are asked once more."""
    match reply:
        case Objected(why=why):
            return Turn(track=track.enter(S.SKIPPED, now, why))
        case Passed():
            free = replace(track, leave=Leave.GIVEN)
    if around.standstill:
        return Turn(track=free.enter(S.PENDING, now, around.standstill))
    return Turn(track=free).issuing(_look_everywhere(free, around.scene))


def hold(track: Track, why: str, around: Surroundings, now: datetime) -> Turn:
    """Go back to waiting; when that has lasted too long, skip it."""
    since = track.first_held_at or now
    times = around.times
    waited_seconds = (now - since).total_seconds()
    if waited_seconds >= times.hold_patience_seconds:
        return Turn(track=track.enter(S.SKIPPED, now, f"{why} (for {waited_seconds:.0f} s)"))
    waiting = replace(track.enter(S.PENDING, now, why), first_held_at=since)
    return Turn(track=waiting.later(now, times.hold_seconds))


def _request(track: Track, before: Before, now: datetime) -> Turn:
    attempt = Attempt(migration=track.migration, before=before)
    asked = replace(track.enter(S.REQUEST, now), attempt=attempt, requested_at=now)
    if before.target_had_definition:
        return _go_on(asked, now).noting(
            f"{attempt.target} has an older definition of it, which the one that arrives replaces"
        )
    return _go_on(asked, now)


def _go_on(asked: Track, now: datetime) -> Turn:
    attempt = asked.attempt
    assert attempt is not None
    match asked.migration.mode:
        case Mode.OFFLINE:
            move = MoveDefinition(vm=attempt.vm, host=attempt.source, target=attempt.target)
            return Turn(track=asked).issuing(move)
        case Mode.COLD:
            return cold.begin(asked)
    return live.begin(asked, now)


def _definition_moved(track: Track, heard: Heard, now: datetime) -> Turn:
    return finish.enter(track, heard.command, heard.reply, now)


def _look_everywhere(track: Track, scene: Scene) -> Command:
    return Look(vm=track.migration.vm, hosts=scene.hosts_to_ask_about(track.migration))


def outcome_of(track: Track) -> Outcome:
    """Say how an ended migration went, with what it really took."""
    assert track.is_ended
    result = track.result
    return Outcome(
        migration=track.migration.id,
        state=track.state,
        text=track.text,
        duration_seconds=_seconds_between(track.requested_at, track.moved_at),
        downtime_seconds=_downtime_seconds(track) if track.state is S.COMPLETE else None,
        transfer_bytes=_transfer_bytes(track),
        iterations=result.iteration if result else None,
        parts=measured_parts(track),
    )


def _transfer_bytes(track: Track) -> float | None:
    """What was sent; unknown where disks were copied that nobody was there to watch."""
    result = track.result
    if result is None or (track.migration.disks and not result.disk_transferred_bytes):
        return None
    return result.transferred_bytes


def _downtime_seconds(track: Track) -> float | None:
    """As the hypervisor measured it; of a cold move, from seen off until seen on."""
    if track.migration.mode is Mode.COLD:
        return _seconds_between(track.stopped_at, track.moved_at)
    return track.result.downtime_seconds if track.result else None


def _seconds_between(begin: datetime | None, end: datetime | None) -> float | None:
    return (end - begin).total_seconds() if begin is not None and end is not None else None
