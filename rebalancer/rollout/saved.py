"""Cold moves by a saved memory: the guest stands still for a while, and does not boot anew.

save -> seen off, and off because of that, everywhere else as well -> its autostart off -> read
back on the target, standing still -> seen there and nowhere else -> resumed. The definition is
copied, the old one removed and the file deleted in the finish stage, by what the hosts say then.
The target gets no definition before: so nobody can start the guest there from its disks
meanwhile, and whoever finds nothing there knows that nobody did. On any failure `finish` reads
the memory back on the source, where it is proved that the guest has not run since (`saved_ends`).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout import finish
from rebalancer.rollout.driver import Failed, Look, Restore, Resume, Returned, Save, SetAutostart
from rebalancer.rollout.saved_ends import is_loaded, is_unspent, may_run_on_target
from rebalancer.rollout.sightings import Absent, DomainView, JobKind, Sighting, StateReason
from rebalancer.rollout.track import Heard, Surroundings, Track, Turn

TRIES = 3
"""How often its autostart is switched off before the move is given up."""


def begin(track: Track) -> Turn:
    """Stop the guest and write its memory to the storage that both hosts share."""
    migration, at = track.migration, track.requested_at
    assert at is not None
    # No two saves may share a file: an old one would be taken for the new one.
    file = f"{migration.vm}-{at:%Y%m%dT%H%M%S%f}.save"
    save = Save(vm=migration.vm, host=migration.source, storage=migration.saved_to, file=file)
    return Turn(track=replace(track, stopped_at=at)).issuing(save)


def on_reply(track: Track, heard: Heard, around: Surroundings, now: datetime) -> Turn:
    """Take the next step, or let `finish` find out what became of the last one."""
    match heard.command, heard.reply:
        case Save() as asked, Failed() as reply:
            return finish.enter(track, asked, reply, now)
        case Save(), _:
            written = replace(track, parted_at=now)
            return Turn(track=written.enter(MigrationState.TRANSFER, now))
        case Look() as look, Returned(value=Sighting() as sighting):
            if not set(look.hosts) >= set(around.scene.hosts_to_ask_about(track.migration)):
                return Turn(track=track)
            if track.attempt and track.attempt.has_issued(Restore):
                return _resume_if_loaded(track, sighting, now)
            return _restore_if_saved(track, sighting, now)
        case (Look() | Restore()) as asked, Failed() as reply:
            return finish.enter(track, asked, reply, now)
        case ((Restore() | SetAutostart()), _):
            return Turn(track=track.later(now, 0))
        case Resume() as asked, reply:
            return finish.enter(track, asked, reply, now)
    return Turn(track=track)


def on_time(track: Track, around: Surroundings, now: datetime) -> Turn:
    """Look at all hosts when it is time to; give up waiting for a call that takes too long."""
    assert track.attempt is not None
    long_calls = {command for command in track.awaiting if isinstance(command, Save | Restore)}
    if long_calls and not track.attempt.open_call:
        waited = (now - track.entered_at).total_seconds()
        if waited >= track.mandate.deadline_seconds:
            return finish.give_up_waiting(track, now)
        return Turn(track=track)
    # A call that was given up may never be answered: the hosts are asked all the same.
    is_busy = bool(track.awaiting - long_calls)
    if is_busy or track.state is not MigrationState.TRANSFER or not track.is_due(now):
        return Turn(track=track)
    hosts = around.scene.hosts_to_ask_about(track.migration)
    looking = track.later(now, around.times.look_seconds)
    return Turn(track=looking).issuing(Look(vm=track.migration.vm, hosts=hosts))


def _restore_if_saved(track: Track, sighting: Sighting, now: datetime) -> Turn:
    """Read it back on the target only when it is off because it was saved, and nowhere else on."""
    migration, attempt = track.migration, track.attempt
    assert attempt is not None
    image = attempt.image
    assert image is not None
    source = sighting.views.get(migration.source, Absent())
    if isinstance(source, DomainView) and source.job is JobKind.SAVE:
        return Turn(track=track)  # adopted: it is still being written
    if not is_unspent(attempt, sighting):
        return finish.break_off(track, _why_not(sighting, source), now)
    if isinstance(source, DomainView) and source.autostart:
        # The source would start it from its disks, should it reboot just now.
        if attempt.times_issued(SetAutostart) >= TRIES:
            stays = f"its autostart on {migration.source} cannot be switched off"
            return finish.break_off(track, stays, now)
        off = SetAutostart(vm=migration.vm, host=migration.source, enabled=False)
        return Turn(track=track).issuing(off)
    return Turn(track=track).issuing(
        Restore(vm=migration.vm, host=migration.target, storage=image.storage, file=image.file)
    )


def _why_not(sighting: Sighting, source: object) -> str:
    if sighting.active_on:
        return f"it is active on {' and '.join(sighting.active_on)}"
    if sighting.unreachable:
        return f"{sighting.unreachable[0]} stopped answering"
    if isinstance(source, DomainView) and source.reason is not StateReason.SAVED:
        return f"it is off, and not because it was saved ({source.reason})"
    return "the target knows it already"


def _resume_if_loaded(track: Track, sighting: Sighting, now: datetime) -> Turn:
    """Let it run where it was loaded, once it is seen there and nowhere else."""
    migration, attempt = track.migration, track.attempt
    assert attempt is not None
    there = sighting.views.get(migration.target)
    if isinstance(there, DomainView) and there.job is JobKind.RESTORE:
        return Turn(track=track)  # adopted: it is still being read
    alone = sighting.active_on == (migration.target,) and not sighting.unreachable
    loaded = isinstance(there, DomainView) and is_loaded(there) and there.job is None
    mine = not attempt.open_call and attempt.issued_before == 0
    if not (alone and loaded and may_run_on_target(attempt, sighting, just_loaded=mine)):
        return Turn(track=track.enter(MigrationState.FINISH, now))
    return Turn(track=track).issuing(Resume(vm=migration.vm, host=migration.target))
