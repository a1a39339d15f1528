"""The request and transfer stages of modes that move memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from rebalancer.cluster.inventory import Mode
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout import finish
from rebalancer.rollout.driver import (
    Abort,
    Failed,
    Look,
    Migrate,
    Pause,
    ReadProgress,
    Returned,
    SetMaxDowntime,
    Sighting,
    SwitchToPostCopy,
    TransferProgress,
)
from rebalancer.rollout.precopy import (
    AllowDowntime,
    CallOff,
    Carry,
    PauseGuest,
    SwitchOver,
    Watch,
    judge,
)
from rebalancer.rollout.reconcile import StillMoving, reconcile
from rebalancer.rollout.track import Heard, Surroundings, Track, Turn


def begin(track: Track, now: datetime) -> Turn:
    """Ask for the migration."""
    migration, attempt = track.migration, track.attempt
    assert attempt is not None
    watch = Watch.begun(now, migration.max_downtime_seconds)
    return Turn(track=replace(track, watch=watch)).issuing(
        Migrate(
            vm=migration.vm,
            host=migration.source,
            target=migration.target,
            bytes_per_second=track.granted_bytes_per_second,
            max_downtime_seconds=migration.max_downtime_seconds,
            persistent=attempt.before.persistent,
            auto_converge=migration.mode is Mode.AUTO_CONVERGE,
            post_copy=migration.mode is Mode.POST_COPY,
        )
    )


def on_reply(track: Track, heard: Heard, around: Surroundings, now: datetime) -> Turn:
    """Take in the reply to one command."""
    match heard.command, heard.reply:
        case Migrate(), reply:
            return finish.enter(track, reply, now)
        case ReadProgress(), Returned(value=TransferProgress() as progress):
            return _sampled(track, progress, now)
        case Look(), Returned(value=Sighting() as sighting):
            return _looked(track, sighting, around, now)
        case Pause(), Failed() as reply if not reply.timed_out:
            return _not_paused(track, reply, now)
        case (Abort() | SetMaxDowntime() | SwitchToPostCopy()) as command, Failed() as reply:
            return Turn(track=track).noting(f"{type(command).__name__} failed: {reply.text}")
    return Turn(track=track)


def _sampled(track: Track, progress: TransferProgress, now: datetime) -> Turn:
    if progress.total_bytes <= 0 and progress.transferred_bytes <= 0:
        return Turn(track=track)
    assert track.watch is not None
    seen = replace(track, watch=track.watch.seen(progress, now), result=progress)
    if track.state is MigrationState.REQUEST:
        return Turn(track=seen.enter(MigrationState.TRANSFER, now).later(now, 0))
    return Turn(track=seen)


def _looked(track: Track, sighting: Sighting, around: Surroundings, now: datetime) -> Turn:
    """Only an adopted transfer is looked at: nobody waits for its call any more."""
    assert track.attempt is not None
    if isinstance(reconcile(track.attempt, sighting, around.uri_of), StillMoving):
        return Turn(track=track)
    return Turn(track=track.enter(MigrationState.FINISH, now))


def _not_paused(track: Track, reply: Failed, now: datetime) -> Turn:
    """The transfer may just have ended; otherwise the next judgement tries again."""
    assert track.watch is not None
    assert track.attempt is not None
    awake = replace(track, watch=replace(track.watch, paused_at=None))
    turn = Turn(track=awake).noting(f"the guest could not be paused: {reply.text}")
    if track.attempt.times_issued(Pause) < 3:
        return turn
    return turn.then(call_off(turn.track, "the guest cannot be paused to finish it", now))


def on_time(track: Track, around: Surroundings, now: datetime) -> Turn:
    """Read the progress when it is due, and judge it."""
    turn = Turn(track=track)
    if track.is_due(now):
        turn = _poll(track.later(now, around.times.poll_seconds))
    return turn.then(_judged(turn.track, around, now))


def _poll(track: Track) -> Turn:
    turn, migration = Turn(track=track), track.migration
    if not track.awaits(ReadProgress):
        turn = turn.issuing(ReadProgress(vm=migration.vm, host=migration.source))
    if not track.awaits(Migrate) and not track.awaits(Look):
        ends = (migration.source, migration.target)
        turn = turn.issuing(Look(vm=migration.vm, hosts=ends))
    return turn


def _judged(track: Track, around: Surroundings, now: datetime) -> Turn:
    if track.called_off:
        return _insist(track, around, now)
    assert track.watch is not None
    if track.state is MigrationState.REQUEST:
        waited = (now - track.entered_at).total_seconds()
        if waited < track.mandate.deadline_seconds:
            return Turn(track=track)
        return call_off(track, f"nothing was transferred within {waited:.0f} s", now)
    vm, source, watch = track.migration.vm, track.migration.source, track.watch
    match judge(watch, track.mandate, now):
        case Carry():
            return Turn(track=track)
        case AllowDowntime(seconds=seconds, why=why):
            eased = replace(watch, downtime_seconds=seconds, best_at=now)
            command = SetMaxDowntime(vm=vm, host=source, seconds=seconds)
            return _with_watch(track, eased).issuing(command).noting(why)
        case PauseGuest(why=why):
            paused = replace(watch, paused_at=now)
            return _with_watch(track, paused).issuing(Pause(vm=vm, host=source)).noting(why)
        case SwitchOver(why=why):
            switched = replace(watch, switched=True)
            command_ = SwitchToPostCopy(vm=vm, host=source)
            return _with_watch(track, switched).issuing(command_).noting(why)
        case CallOff(why=why):
            return call_off(track, why, now)


def _with_watch(track: Track, watch: Watch) -> Turn:
    return Turn(track=replace(track, watch=watch))


def may_be_called_off(track: Track) -> bool:
    """Whether an abort is legal: memory is being copied, and the source still owns the VM."""
    stages = (MigrationState.REQUEST, MigrationState.TRANSFER)
    return (
        track.state in stages
        and not track.called_off
        and track.migration.mode not in (Mode.COLD, Mode.OFFLINE)
        and track.attempt is not None
        and (track.attempt.open_call or track.awaits(Migrate))
        and track.watch is not None
        and not track.watch.switched
    )


def call_off(track: Track, why: str, now: datetime, on_request: bool = False) -> Turn:
    """Ask for the migration to be aborted. What came of it, the hosts will tell."""
    marked = replace(
        track, called_off=why, called_off_at=now, abort_again_at=now, on_request=on_request
    )
    return Turn(track=marked).noting(f"called off: {why}")


def _insist(track: Track, around: Surroundings, now: datetime) -> Turn:
    """Abort, and abort again as long as the call does not end."""
    assert track.abort_again_at is not None
    assert track.called_off_at is not None
    waited = (now - track.called_off_at).total_seconds()
    if waited >= around.times.unknown_patience_seconds:
        return finish.give_up_waiting(track, now)
    if now < track.abort_again_at or track.awaits(Abort):
        return Turn(track=track)
    again_at = now + timedelta(seconds=around.times.abort_again_seconds)
    abort = Abort(vm=track.migration.vm, host=track.migration.source)
    return Turn(track=replace(track, abort_again_at=again_at)).issuing(abort)
