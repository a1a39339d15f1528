"""Cold moves: shut down, define on the target, start there; on any failure start it again here.

(Those that save the guest's memory instead are in `saved`.)

The order is the safety: the guest is seen shut off before it is defined a second time, seen
active nowhere before it is started, seen running before its old definition goes. A guest that
ignores the request to shut down is never destroyed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout import finish, saved
from rebalancer.rollout.driver import (
    CopyDefinition,
    Failed,
    Look,
    Returned,
    SetAutostart,
    ShutDown,
    Start,
)
from rebalancer.rollout.sightings import Absent, DomainView, Sighting, Unreachable
from rebalancer.rollout.track import Heard, Surroundings, Track, Turn


def begin(track: Track) -> Turn:
    """Ask the guest to shut down, or save it."""
    if track.migration.saved_to:
        return saved.begin(track)
    return Turn(track=track).issuing(ShutDown(vm=track.migration.vm, host=track.migration.source))


def on_reply(track: Track, heard: Heard, around: Surroundings, now: datetime) -> Turn:
    """Take the next step, or let `finish` find out what became of the last one."""
    migration = track.migration
    if migration.saved_to:
        return saved.on_reply(track, heard, around, now)
    match heard.command, heard.reply:
        case ShutDown() as asked, Failed(timed_out=False) as reply:
            return finish.enter(track, asked, reply, now)
        case ShutDown(), _:
            return Turn(track=track.enter(MigrationState.TRANSFER, now))
        case Look(), Returned(value=Sighting() as sighting) if _is_copied(track):
            return _start_if_down(track, sighting, around, now)
        case Look(), Returned(value=Sighting() as sighting):
            return _copy_if_down(track, sighting, around, now)
        case CopyDefinition() as asked, Failed() as reply:
            return finish.enter(track, asked, reply, now)
        case CopyDefinition(), _ if track.attempt and track.attempt.before.autostart:
            # Otherwise both hosts would start it, should they reboot between here and the end.
            off = SetAutostart(vm=migration.vm, host=migration.source, enabled=False)
            return Turn(track=track).issuing(off)
        case ((CopyDefinition() | SetAutostart()), _):
            return Turn(track=track.later(now, 0))
        case Start() as asked, reply:
            return finish.enter(track, asked, reply, now)
    return Turn(track=track)


def on_time(track: Track, around: Surroundings, now: datetime) -> Turn:
    """Look whether the guest is down: at the source first, everywhere before it is started."""
    if track.migration.saved_to:
        return saved.on_time(track, around, now)
    if track.awaiting or track.state is not MigrationState.TRANSFER or not track.is_due(now):
        return Turn(track=track)
    migration = track.migration
    everywhere = around.scene.hosts_to_ask_about(migration)
    hosts = everywhere if _is_copied(track) else (migration.source,)
    looking = track.later(now, around.times.look_seconds)
    return Turn(track=looking).issuing(Look(vm=migration.vm, hosts=hosts))


def _is_copied(track: Track) -> bool:
    return track.attempt is not None and track.attempt.has_issued(CopyDefinition)


def _copy_if_down(track: Track, sighting: Sighting, around: Surroundings, now: datetime) -> Turn:
    migration = track.migration
    match sighting.views.get(migration.source, Absent()):
        case DomainView() as view if not view.is_active:
            return Turn(track=replace(track, stopped_at=now)).issuing(
                CopyDefinition(vm=migration.vm, host=migration.source, target=migration.target)
            )
        case DomainView() | Unreachable() if not _is_late(track, around, now):
            return Turn(track=track)
        case DomainView():
            late = f"it ignored the request to shut down for {_waited(track, now):.0f} s"
            ignored = f"{late}; it may still follow it later, so keep an eye on it"
            return finish.break_off(replace(track, ignored_at=now), ignored, now)
    return finish.break_off(track, "the source lost sight of it", now)


def _start_if_down(track: Track, sighting: Sighting, around: Surroundings, now: datetime) -> Turn:
    """Start it only when every host has answered that it does not run there."""
    if sighting.active_on:
        running = " and ".join(sighting.active_on)
        return finish.break_off(track, f"somebody started it on {running}", now)
    if silent := sighting.unreachable:
        # From here on `finish` waits for them, and starts it on the source again.
        return finish.break_off(track, f"{silent[0]} stopped answering", now)
    migration = track.migration
    source = sighting.views.get(migration.source)
    if isinstance(source, DomainView) and source.autostart:
        # It would start it a second time, should it reboot before its definition is gone.
        stays = f"its autostart on {migration.source} cannot be switched off"
        return finish.break_off(track, stays, now)
    return Turn(track=track).issuing(Start(vm=migration.vm, host=migration.target))


def _waited(track: Track, now: datetime) -> float:
    return (now - (track.requested_at or track.entered_at)).total_seconds()


def _is_late(track: Track, around: Surroundings, now: datetime) -> bool:
    return _waited(track, now) >= around.times.shutdown_seconds
