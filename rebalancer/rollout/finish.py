"""The finish stage: find out how a migration ended, and tidy up after it.

It makes no difference here whether a call returned, failed or never came back. The hosts are
asked; `reconcile` decides; a decision that alarms or changes something has to be reached twice
in a row, and where a call may still be under way the picture has to be quiet for a while.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rebalancer.cluster.inventory import Mode
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.calls import VAGUE_CODES, may_still_happen
from rebalancer.rollout.disk_files import left_behind
from rebalancer.rollout.driver import (
    Command,
    CopyDefinition,
    CreateDisk,
    DiscardImage,
    Failed,
    Look,
    Migrate,
    MoveDefinition,
    Pause,
    ReadProgress,
    ReadResult,
    RemoveDisk,
    Restore,
    Returned,
    Save,
    ShutDown,
    Start,
)
from rebalancer.rollout.reconcile import (
    Decision,
    Ended,
    LookAgain,
    Repair,
    StillMoving,
    reconcile,
)
from rebalancer.rollout.sightings import Sighting, TransferProgress
from rebalancer.rollout.track import Heard, Settling, Surroundings, Times, Track, Turn

S = MigrationState

NEWS_LOOKS = 2
"""So many looks with the same unclear picture are told to whoever watches."""

TIDY_ENDS = frozenset({S.COMPLETE, S.FAILED_SAFE, S.ABORTED, S.SKIPPED})
"""Ends at which the VM is well."""


def enter(track: Track, command: Command, reply: Returned | Failed, now: datetime) -> Turn:
    """Begin the stage: the call that moves the VM is over, in whichever way."""
    attempt = track.attempt
    assert attempt is not None
    if isinstance(reply, Returned):
        known = replace(attempt, open_call=False, is_error_vague=False)
        return Turn(track=replace(track, attempt=known).enter(S.FINISH, now))
    failed = replace(
        attempt,
        error=reply.text,
        open_call=may_still_happen(type(command).__name__, reply),
        is_error_vague=reply.code in VAGUE_CODES,
    )
    turn = Turn(track=replace(track, attempt=failed).enter(S.FINISH, now))
    return turn.noting(f"the hypervisor said: {reply.text}") if reply.text else turn


def break_off(track: Track, why: str, now: datetime) -> Turn:
    """Begin the stage because of what the hosts said: the next step must not be taken."""
    attempt = track.attempt
    assert attempt is not None
    stopped = replace(attempt, error=why, open_call=False, is_error_vague=False)
    return Turn(track=replace(track, attempt=stopped).enter(S.FINISH, now)).noting(why)


def give_up_waiting(track: Track, now: datetime) -> Turn:
    """Stop waiting for a call or a job that does not end; the hosts will be asked."""
    attempt = track.attempt
    assert attempt is not None
    opened = replace(attempt, open_call=True)
    return Turn(track=replace(track, attempt=opened).enter(S.FINISH, now))


def on_time(track: Track, around: Surroundings, now: datetime) -> Turn:
    """Look at all hosts when it is time to."""
    if track.awaits(Look) or _is_mending(track) or not track.is_due(now):
        return Turn(track=track)
    migration = track.migration
    hosts = around.scene.hosts_to_ask_about(migration)
    return Turn(track=track).issuing(Look(vm=migration.vm, hosts=hosts))


def _is_mending(track: Track) -> bool:
    """Whether a repair, or the reading of the result, has not come back."""
    decision = track.settling.decision if track.settling else None
    repairing = isinstance(decision, Repair) and decision.command in track.awaiting
    return repairing or track.ending is not None


def on_reply(track: Track, heard: Heard, around: Surroundings, now: datetime) -> Turn:
    """Take in a look, the end of a repair, or the statistics at the end."""
    match heard.command, heard.reply:
        case Look(), Failed() as reply:
            return Turn(track=_backed_off(track, around.times, now)).noting(reply.text)
        case Look() as look, _ if not _asked_everybody(look, track, around):
            return Turn(track=track)  # a late reply from the stage before
        case Look(), Returned(value=Sighting() as sighting):
            assert track.attempt is not None
            decision = reconcile(track.attempt, sighting, around.uri_of)
            return _decided(_settled(track, decision, now), decision, around, now)
        case ReadResult(), reply:
            return _end_with_result(track, reply, now)
        case ((Migrate() | MoveDefinition() | Save()) as command, reply):
            return enter(track, command, reply, now)  # given up, and it came back after all
        case (ReadProgress(), _):
            return Turn(track=track)
        case (CreateDisk() | RemoveDisk()) as file, reply:
            return _file_answered(track, file, reply, around, now)
        case (Start() | Restore()) as again, reply:
            return _brought_back(track, again, reply, around, now)
        case DiscardImage(), Returned():
            assert track.attempt is not None
            gone = replace(track.attempt, image_is_gone=True)
            return Turn(track=replace(track, settling=None, attempt=gone).later(now, 0))
        case command, reply:
            # Whatever was changed: only fresh looks count from here on.
            fresh = replace(track, settling=None)
            if isinstance(reply, Failed):
                note = f"{type(command).__name__} failed: {reply.text}"
                return Turn(track=fresh.later(now, around.times.look_seconds)).noting(note)
            return Turn(track=fresh.later(now, 0))


def _brought_back(
    track: Track,
    again: Start | Restore,
    reply: Returned | Failed,
    around: Surroundings,
    now: datetime,
) -> Turn:
    """Take in what was said to starting it again: if that may still come, nobody is told before."""
    assert track.attempt is not None
    is_open = isinstance(reply, Failed) and may_still_happen(type(again).__name__, reply)
    attempt = replace(track.attempt, open_call=is_open)
    fresh = replace(track, settling=None, attempt=attempt)
    if isinstance(reply, Failed):
        note = f"{type(again).__name__} failed: {reply.text}"
        return Turn(track=fresh.later(now, around.times.look_seconds)).noting(note)
    return Turn(track=fresh.later(now, 0))


def _file_answered(
    track: Track,
    file: CreateDisk | RemoveDisk,
    reply: Returned | Failed,
    around: Surroundings,
    now: datetime,
) -> Turn:
    assert track.attempt is not None
    files = track.attempt.disk_files.told(file, reply)
    fresh = replace(track, settling=None, attempt=replace(track.attempt, disk_files=files))
    if isinstance(reply, Failed):
        note = f"{type(file).__name__} failed: {reply.text}"
        return Turn(track=fresh.later(now, around.times.look_seconds)).noting(note)
    return Turn(track=fresh.later(now, 0))


def _asked_everybody(look: Look, track: Track, around: Surroundings) -> bool:
    return set(look.hosts) >= set(around.scene.hosts_to_ask_about(track.migration))


def _settled(track: Track, decision: Decision, now: datetime) -> Track:
    """Count how many looks in a row, and for how long, have led to the same decision."""
    before = track.settling
    if before is not None and _kind(before.decision) == _kind(decision):
        settling = replace(before, decision=decision, looks=before.looks + 1)
    else:
        settling = Settling(decision=decision, since=now, looks=1)
    return replace(track, settling=settling)


def _kind(decision: Decision) -> object:
    """What makes two decisions the same although their sentences differ."""
    match decision:
        case Ended(state=state):
            return ("ended", state)
        case LookAgain(then=then):
            return ("look again", then.state)
        case Repair(command=command):
            return ("repair", command)
        case StillMoving():
            return "still moving"


def _decided(track: Track, decision: Decision, around: Surroundings, now: datetime) -> Turn:
    match decision:
        case StillMoving(text=text):
            return _adopt(track, text, around, now)
        case LookAgain(text=text, then=then):
            patience_seconds = _patience_seconds(then, around.times)
            if _seconds(track, now) >= patience_seconds:
                return _end(track, then, now)
            if around.is_hurried and _agreed(track):
                return _end(track, then, now)
            waiting = Turn(track=_backed_off(replace(track, text=text), around.times, now))
            # A first look often catches hosts in the middle of handing over: not worth a word.
            is_news = track.settling is not None and track.settling.looks == NEWS_LOOKS
            wait = f"{text}; waiting up to {patience_seconds:.0f} s for that to change"
            return waiting.noting(wait) if is_news else waiting
        case Repair():
            return _repair(track, decision, around.times, now)
        case Ended():
            if _is_certain(track, decision, around.times, now):
                return _end(track, decision, now)
            return Turn(track=track.later(now, around.times.tick_seconds))


def _adopt(track: Track, text: str, around: Surroundings, now: datetime) -> Turn:
    """Wait for a job that runs. One that we could not call off is not waited for for ever."""
    called_off = track.called_off_at
    patience = around.times.unknown_patience_seconds
    if called_off and (now - called_off).total_seconds() >= patience:
        stuck = f"{track.migration.vm_name}: {text}, and calling it off had no effect"
        return _end(track, Ended(state=S.UNKNOWN, text=f"{stuck}; run `rebalancer recover`"), now)
    if not _is_ours(track) and _is_overdue(track, now):
        busy = (
            f"{track.migration.vm_name}: somebody else's migration of it does not end; find out "
            "whose it is (`virsh domjobinfo`), then run `rebalancer recover`"
        )
        return _end(track, Ended(state=S.UNKNOWN, text=busy), now)
    if not _is_ours(track):
        waiting = replace(track, text=text)
        return Turn(track=waiting.later(now, around.times.look_seconds))
    assert track.attempt is not None
    adopted = replace(track, attempt=replace(track.attempt, open_call=True))
    return Turn(track=adopted.enter(S.TRANSFER, now)).noting(f"adopted: {text}")


def _is_ours(track: Track) -> bool:
    """Whether we asked for what makes a job, and it is not certain that the call has ended."""
    attempt = track.attempt
    assert attempt is not None
    makes_a_job = attempt.has_issued(Migrate) or attempt.has_issued(Save)
    return makes_a_job and (attempt.open_call or attempt.is_error_vague)


def _is_overdue(track: Track, now: datetime) -> bool:
    return (now - track.entered_at).total_seconds() > track.mandate.deadline_seconds


def _repair(track: Track, repair: Repair, times: Times, now: datetime) -> Turn:
    attempt = track.attempt
    assert attempt is not None
    # What an earlier process tried in vain may succeed now.
    in_vain = attempt.issued[attempt.issued_before :].count(repair.command) >= times.repairs
    # Two running copies are paused, or told, at once; everything else waits until calls have
    # settled: a start that is given up too early would come while somebody does it by hand.
    urgent = isinstance(repair.command, Pause)
    if in_vain and (urgent or _is_quiet(track, times, now)):
        return _end(track, repair.then, now)
    if in_vain or not _agreed(track) or not (urgent or _is_quiet(track, times, now)):
        return Turn(track=track.later(now, times.tick_seconds))
    if isinstance(repair.command, Pause):
        track = replace(track, attempt=replace(attempt, stale_on_source=True))
    return Turn(track=track).issuing(repair.command).noting(repair.text)


def _is_certain(track: Track, ended: Ended, times: Times, now: datetime) -> bool:
    if ended.state is S.COMPLETE:
        return True
    return _agreed(track) and _is_quiet(track, times, now)


def _agreed(track: Track) -> bool:
    return track.settling is not None and track.settling.looks >= 2


def _is_quiet(track: Track, times: Times, now: datetime) -> bool:
    """Whether nothing that was asked for can have an effect any more."""
    attempt = track.attempt
    assert attempt is not None
    if _may_still_shut_down(track):
        # Not since the request: the clock may have been set while no controller lived.
        return (now - track.entered_at).total_seconds() >= times.shutdown_seconds
    return not attempt.open_call or _seconds(track, now) >= times.settle_seconds


def _may_still_shut_down(track: Track) -> bool:
    """Whether a guest that runs was asked to shut down, and may be about to."""
    attempt, settling = track.attempt, track.settling
    assert attempt is not None
    refused = bool(attempt.error) and not attempt.open_call and not attempt.is_error_vague
    return (
        settling is not None
        and isinstance(settling.decision, Ended)
        and settling.decision.state is S.FAILED_SAFE
        and attempt.has_issued(ShutDown)
        and not attempt.has_issued(CopyDefinition)
        and not attempt.has_issued(Start)
        and not refused
    )


def _seconds(track: Track, now: datetime) -> float:
    return (now - track.settling.since).total_seconds() if track.settling else 0.0


def _patience_seconds(then: Ended, times: Times) -> float:
    tidy = then.state in TIDY_ENDS
    return times.tidy_patience_seconds if tidy else times.unknown_patience_seconds


def _backed_off(track: Track, times: Times, now: datetime) -> Track:
    may_have_split = track.attempt is not None and track.attempt.has_issued(Migrate)
    longest = times.split_look_seconds if may_have_split else times.look_max_seconds
    wait = min(times.look_seconds * 2.0**track.looks_in_vain, longest)
    more = replace(track, looks_in_vain=min(track.looks_in_vain + 1, 10))
    return more.later(now, wait)


def _end(track: Track, ended: Ended, now: datetime) -> Turn:
    has_result = track.migration.mode not in (Mode.COLD, Mode.OFFLINE) and not track.is_result_lost
    if ended.state is S.COMPLETE and has_result:
        fetching = replace(track, ending=ended)
        read = ReadResult(vm=track.migration.vm, host=track.migration.target)
        return Turn(track=fetching).issuing(read)
    if ended.state is S.FAILED_SAFE and track.called_off:
        state = S.ABORTED if track.on_request else S.FAILED_SAFE
        source = track.migration.source
        text = f"{track.migration.vm_name} runs on {source}: {track.called_off}"
        return _over(track, Ended(state=state, text=text), now)
    return _over(track, ended, now)


def _over(track: Track, ended: Ended, now: datetime) -> Turn:
    """End it, and name the files that are left of its disks."""
    attempt = track.attempt
    assert attempt is not None
    left = left_behind(track.migration, attempt.disk_files, attempt.issued, ended.state)
    text = f"{ended.text.removesuffix('.')}. {left}" if left else ended.text
    return Turn(track=track.enter(ended.state, now, text))


def _end_with_result(track: Track, reply: Returned | Failed, now: datetime) -> Turn:
    ended = track.ending
    assert ended is not None
    if isinstance(reply, Failed):
        # That took its time, and the host may be gone since: it is looked at again.
        lost = replace(track, ending=None, settling=None, is_result_lost=True)
        return Turn(track=lost.later(now, 0))
    if isinstance(reply.value, TransferProgress):
        track = replace(track, result=_with_disks_of(track.result, reply.value))
    return _over(track, ended, now)


def _with_disks_of(before: TransferProgress | None, result: TransferProgress) -> TransferProgress:
    """Add what was copied of disks, which the statistics of a job that is over leave out."""
    if before is None or result.disk_transferred_bytes:
        return result
    return replace(
        result,
        transferred_bytes=result.transferred_bytes + before.disk_transferred_bytes,
        disk_transferred_bytes=before.disk_transferred_bytes,
    )
