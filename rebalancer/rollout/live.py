"""The request and transfer stages of modes that move memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from rebalancer.cluster.inventory import Mode, VmState
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout import disk_files, finish
from rebalancer.rollout.admission import LEAST_BYTES_PER_SECOND
from rebalancer.rollout.driver import (
    Abort,
    CreateDisk,
    Failed,
    Look,
    Migrate,
    Pause,
    ReadProgress,
    Returned,
    SetBandwidth,
    SetMaxDowntime,
    SwitchToPostCopy,
)
from rebalancer.rollout.precopy import (
    WORTH_RAISING,
    AllowDowntime,
    CallOff,
    Carry,
    PauseGuest,
    SwitchOver,
    TakeBandwidth,
    Watch,
    judge,
)
from rebalancer.rollout.reconcile import LookAgain, StillMoving, reconcile
from rebalancer.rollout.sightings import DomainView, Sighting, StateReason, TransferProgress
from rebalancer.rollout.track import Heard, Surroundings, Track, Turn

S = MigrationState

TRIES = 3
"""How often a guest is paused or switched to post-copy before the migration is called off."""


def begin(track: Track, now: datetime) -> Turn:
    """Ask for the migration."""
    migration, attempt = track.migration, track.attempt
    assert attempt is not None
    watch = Watch.begun(now, migration.max_downtime_seconds)
    begun = replace(track, watch=watch)
    if file := disk_files.next_file(migration, attempt.disk_files):
        return Turn(track=begun).issuing(file)
    each = track.granted_bytes_per_second
    if len(migration.disks) > 1:
        # Every disk gets all that is told, so they are told to share until memory's turn comes.
        each = max(LEAST_BYTES_PER_SECOND, each / len(migration.disks))
        begun = replace(begun, slowed_to_bytes_per_second=each)
    return Turn(track=begun).issuing(
        Migrate(
            vm=migration.vm,
            host=migration.source,
            target=migration.target,
            bytes_per_second=each,
            max_downtime_seconds=migration.max_downtime_seconds,
            persistent=attempt.before.persistent,
            auto_converge=migration.mode is Mode.AUTO_CONVERGE,
            post_copy=migration.mode is Mode.POST_COPY,
            disks=tuple(disk.target for disk in migration.disks),
        )
    )


def _file_answered(track: Track, file: CreateDisk, reply: Returned | Failed, now: datetime) -> Turn:
    """Go on to the next file or to the migration; without one of its files it is over."""
    attempt = track.attempt
    assert attempt is not None
    heard = replace(attempt, disk_files=attempt.disk_files.told(file, reply))
    if isinstance(reply, Failed):
        over = replace(track, attempt=replace(heard, error=reply.text)).enter(S.FINISH, now)
        return Turn(track=over).noting(f"{file.path} could not be made: {reply.text}")
    made = replace(track, attempt=heard)
    if track.called_off:
        return Turn(track=made.enter(S.FINISH, now))
    return begin(made, now).noting(f"{file.path} was made on {file.host} for a copy of its disk")


def on_reply(track: Track, heard: Heard, around: Surroundings, now: datetime) -> Turn:
    """Take in the reply to one command."""
    match heard.command, heard.reply:
        case Migrate() as asked, reply:
            return finish.enter(track, asked, reply, now)
        case CreateDisk() as file, reply:
            return _file_answered(track, file, reply, now)
        case ReadProgress(), Returned(value=TransferProgress() as progress):
            return _sampled(track, progress, now)
        case Look(), Returned(value=Sighting() as sighting):
            return _looked(track, sighting, around, now)
        case Pause(), Failed() as reply if not reply.timed_out:
            return _not_paused(track, reply, now)
        case SwitchToPostCopy(), Failed() as reply:
            assert track.watch is not None
            doubtful = replace(track.watch, is_switch_doubtful=True)
            return _with_watch(track, doubtful).noting(f"SwitchToPostCopy failed: {reply.text}")
        case (Abort() | SetMaxDowntime() | SetBandwidth()) as command, Failed() as reply:
            return Turn(track=track).noting(f"{type(command).__name__} failed: {reply.text}")
    return Turn(track=track)


def _sampled(track: Track, progress: TransferProgress, now: datetime) -> Turn:
    if progress.total_bytes <= 0 and progress.transferred_bytes <= 0:
        return Turn(track=track)
    assert track.watch is not None
    seen = replace(track, watch=track.watch.seen(progress, now), result=progress)
    if track.watch.is_copying_disks and not progress.is_copying_disks:
        seen = replace(seen, parted_at=now)
    if track.state is MigrationState.REQUEST:
        return Turn(track=seen.enter(MigrationState.TRANSFER, now).later(now, 0))
    return Turn(track=seen)


def _looked(track: Track, sighting: Sighting, around: Surroundings, now: datetime) -> Turn:
    """The hosts say whether an adopted or a doubtful transfer still goes on."""
    assert track.attempt is not None
    decision = reconcile(track.attempt, sighting, around.uri_of)
    if isinstance(decision, StillMoving):
        return _switch_looked_up(track, sighting, now)
    if not track.awaits(Migrate):
        return Turn(track=track.enter(MigrationState.FINISH, now))
    patience = around.times.unknown_patience_seconds
    if isinstance(decision, LookAgain) and _seconds_without_news(track, now) < patience:
        return Turn(track=track)
    return finish.give_up_waiting(track, now)


def _switch_looked_up(track: Track, sighting: Sighting, now: datetime) -> Turn:
    """Find out whether a switch to post-copy came about; if not, try it again or give up."""
    assert track.watch is not None
    assert track.attempt is not None
    source = sighting.views.get(track.migration.source)
    if not track.watch.is_switch_doubtful or not isinstance(source, DomainView):
        return Turn(track=track)
    if source.reason in (StateReason.POST_COPY, StateReason.POST_COPY_FAILED):
        return _with_watch(track, replace(track.watch, is_switch_doubtful=False))
    if source.state is not VmState.RUNNING:
        return Turn(track=track)  # it is just being handed over: the next look tells more
    turn = _with_watch(track, replace(track.watch, switched=False, is_switch_doubtful=False))
    if track.attempt.times_issued(SwitchToPostCopy) < TRIES:
        return turn
    return turn.then(call_off(turn.track, "the switch to post-copy has no effect", now))


def _seconds_without_news(track: Track, now: datetime) -> float:
    """For how long the hypervisor has told nothing of the transfer."""
    assert track.watch is not None
    return (now - (track.watch.sampled_at or track.watch.started_at)).total_seconds()


def _not_paused(track: Track, reply: Failed, now: datetime) -> Turn:
    """The transfer may just have ended; otherwise the next judgement tries again."""
    assert track.watch is not None
    assert track.attempt is not None
    awake = replace(track, watch=replace(track.watch, paused_at=None))
    turn = Turn(track=awake).noting(f"the guest could not be paused: {reply.text}")
    if track.attempt.times_issued(Pause) < TRIES:
        return turn
    return turn.then(call_off(turn.track, "the guest cannot be paused to finish it", now))


def on_time(track: Track, around: Surroundings, now: datetime) -> Turn:
    """Read the progress when it is due, and judge it."""
    turn = Turn(track=track)
    if track.awaits(CreateDisk):
        return turn  # nothing moves yet that could be watched, or aborted
    if track.is_due(now):
        turn = _poll(track.later(now, around.times.poll_seconds), around, now)
    turn = turn.then(_paced(turn.track, around))
    return turn.then(_judged(turn.track, around, now))


def _paced(track: Track, around: Surroundings) -> Turn:
    """Slow the transfer down, or let it go as fast as planned again, as the operator asks."""
    granted, turn = track.granted_bytes_per_second, Turn(track=track)
    if track.state is not MigrationState.TRANSFER or track.called_off or granted <= 0:
        return turn
    assert track.watch is not None
    if track.watch.is_copying_disks:
        return turn  # libvirt lets nobody change the pace of that
    is_waited_for = track.watch.paused_at is not None or track.watch.switched
    # A guest that stands still, or needs its memory from afar, is not made to wait longer.
    ratio = 1.0 if is_waited_for else around.pace_ratio
    wanted = max(LEAST_BYTES_PER_SECOND, ratio * granted)
    present = track.slowed_to_bytes_per_second or granted
    if abs(wanted - present) < LEAST_BYTES_PER_SECOND or track.awaits(SetBandwidth):
        return turn
    slowed = replace(track, slowed_to_bytes_per_second=wanted)
    command = SetBandwidth(
        vm=track.migration.vm, host=track.migration.source, bytes_per_second=wanted
    )
    note = f"goes on with {wanted / 2**20:.0f} MiB/s, {granted / 2**20:.0f} MiB/s were planned"
    return Turn(track=slowed).issuing(command).noting(note)


def _poll(track: Track, around: Surroundings, now: datetime) -> Turn:
    turn, migration = Turn(track=track), track.migration
    if not track.awaits(ReadProgress):
        turn = turn.issuing(ReadProgress(vm=migration.vm, host=migration.source))
    # A call whose answer got lost never ends, so the hosts are asked when it tells nothing.
    is_doubtful = _seconds_without_news(track, now) >= around.times.silence_seconds / 2
    is_doubtful = is_doubtful or (track.watch is not None and track.watch.is_switch_doubtful)
    if (is_doubtful or not track.awaits(Migrate)) and not track.awaits(Look):
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
    # Slowed down on purpose is not late.
    patient = replace(
        track.mandate, deadline_seconds=track.mandate.deadline_seconds / around.pace_ratio
    )
    match judge(watch, patient, now, _wider(track, around)):
        case Carry():
            return Turn(track=track)
        case AllowDowntime(seconds=seconds, why=why):
            eased = replace(watch, downtime_seconds=seconds, best_at=now)
            command = SetMaxDowntime(vm=vm, host=source, seconds=seconds)
            return _with_watch(track, eased).issuing(command).noting(why)
        case TakeBandwidth(bytes_per_second=rate, why=why):
            wider = replace(track, granted_bytes_per_second=rate, watch=watch.judged_anew(now))
            faster = SetBandwidth(vm=vm, host=source, bytes_per_second=rate)
            note = f"{why}; it goes on with {rate / 2**20:.0f} MiB/s, which others have left"
            return Turn(track=wider).issuing(faster).noting(note)
        case PauseGuest(why=why):
            paused = replace(watch, paused_at=now)
            return _with_watch(track, paused).issuing(Pause(vm=vm, host=source)).noting(why)
        case SwitchOver(why=why):
            switched = replace(watch, switched=True)
            command_ = SwitchToPostCopy(vm=vm, host=source)
            return _with_watch(track, switched).issuing(command_).noting(why)
        case CallOff(why=why):
            return call_off(track, why, now)


def is_stalled(track: Track) -> bool:
    """Whether a transfer has found its floor, so that more bandwidth would help it."""
    watch = track.watch
    return (
        track.state is MigrationState.TRANSFER
        and track.awaits(Migrate)
        and not track.called_off
        and watch is not None
        and watch.found_its_floor
        and watch.paused_at is None
        and not watch.switched
    )


def _wider(track: Track, around: Surroundings) -> float:
    """What it could go on with, where that is worth a call and nobody wants it slow."""
    granted, spare = track.granted_bytes_per_second, around.spare_bytes_per_second
    if granted <= 0 or around.pace_ratio < 1 or track.awaits(SetBandwidth):
        return 0.0
    wider = (granted + spare) // LEAST_BYTES_PER_SECOND * LEAST_BYTES_PER_SECOND
    return wider if wider >= WORTH_RAISING * granted else 0.0


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
        and (track.attempt.open_call or track.awaits(Migrate) or track.awaits(CreateDisk))
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
