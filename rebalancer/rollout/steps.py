"""The state machine of a migration, as pure functions: what was heard -> what to do next.

    pending ──► prepare ──► request ──► transfer ──► finish ──► complete
       │         │    ▲        │            ▲           │
       │         │    └ hold   └──────────► │ ◄─ adopt ─┤
       │         ▼                          ▼           │
       └─────► skipped                   (finish)       ├──► skipped      somebody else moved it
                                                        ├──► failed-safe  it is where it was
                                                        ├──► aborted      … because we were asked
                                                        ├──► failed-down  it does not run!
                                                        └──► unknown      nobody knows

prepare   every host is asked for the VM, and the plan is checked against what they say. Where there
          are hooks to be asked, they are then, and the hosts once more.
request   the hypervisors are asked to move it; nothing was seen to flow yet.
transfer  memory flows (live modes), or the guest shuts down and is defined anew (cold).
finish    the call returned, failed, or timed out, which is all the same: the hosts are asked
          again, and `reconcile` decides by what they say. It may mend what is left over.

Nothing here waits, reads a clock or calls a hypervisor. The executor carries replies in and
commands out, and writes both to the journal. `advance` is called for every migration in every
round, with or without news.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum

from rebalancer.cluster.inventory import HostId, Mode, Snapshot, VmId
from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.cluster.policy import Limits, Policy
from rebalancer.rollout import cold, finish, live
from rebalancer.rollout.admission import (
    LEAST_BYTES_PER_SECOND,
    Flight,
    admit,
    uses_the_network,
)
from rebalancer.rollout.attempt import Attempt, Before
from rebalancer.rollout.driver import Command, Failed, Look, MoveDefinition, Sighting
from rebalancer.rollout.hooks import HookReply, Objected, Passed
from rebalancer.rollout.prechecks import (
    Alarm,
    AlreadyThere,
    Drop,
    Go,
    Hold,
    Scene,
    precheck,
)
from rebalancer.rollout.reconcile import UriOf, default_uri
from rebalancer.rollout.track import Heard, Leave, Surroundings, Times, Track, Turn

S = MigrationState

TRANSITIONS: Mapping[MigrationState, frozenset[MigrationState]] = {
    S.PENDING: frozenset({S.PREPARE, S.SKIPPED}),
    S.PREPARE: frozenset({S.REQUEST, S.PENDING, S.SKIPPED, S.COMPLETE, S.UNKNOWN}),
    S.REQUEST: frozenset({S.TRANSFER, S.FINISH}),
    S.TRANSFER: frozenset({S.FINISH}),
    S.FINISH: frozenset(
        {
            S.TRANSFER,
            S.COMPLETE,
            S.SKIPPED,
            S.FAILED_SAFE,
            S.FAILED_DOWN,
            S.ABORTED,
            S.UNKNOWN,
        }
    ),
    S.COMPLETE: frozenset(),
    S.SKIPPED: frozenset(),
    S.FAILED_SAFE: frozenset(),
    S.FAILED_DOWN: frozenset(),
    S.ABORTED: frozenset(),
    S.UNKNOWN: frozenset(),
}
"""Which state may follow which. An UNKNOWN one is taken up by `recover`, in FINISH again."""


_FAILED = frozenset({S.FAILED_SAFE, S.FAILED_DOWN, S.UNKNOWN})

FAILURES_TO_BLAME_A_HOST = 2
"""After so many the next would most likely fail as well, and use up what the rest may fail."""


# The whole rollout --------------------------------------------------------------------------


class StopRequest(IntEnum):
    """What the operator asks of a rollout while it works. `False` and `True` do as well."""

    NO = 0
    FINISH = 1
    """Start nothing new, let running migrations come to their end."""
    ABORT = 2
    """Also call off those whose memory is still being copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureBudget:
    """How many migrations may fail before no further one is started."""

    failures: int = 3
    ratio: float = 0.2
    """The same as a share of the plan; one single failure never is too many, though."""

    def allows(self, failed: int, planned: int) -> bool:
        """Whether a rollout of `planned` migrations goes on after `failed` of them did."""
        return failed < min(self.failures, max(2, int(self.ratio * planned)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """What holds for all migrations of a rollout in one round."""

    snapshot: Snapshot
    """The newest observation of the cluster."""
    limits: Limits = field(default_factory=Limits)
    policy: Policy | None = None
    times: Times = field(default_factory=Times)
    uri_of: UriOf = default_uri
    stop: StopRequest = StopRequest.NO
    budget: FailureBudget = field(default_factory=FailureBudget)
    closed: Mapping[HostId, str] = field(default_factory=dict)
    """Hosts that must receive nothing, and why (drained ones, say)."""
    paused: str = ""
    """Who wants nothing to be started for the time being, and why; empty: nobody."""
    pace_ratio: float = 1.0
    """What transfers under way may use of what they were granted."""
    frozen: Mapping[VmId, str] = field(default_factory=dict)
    """VMs that must not be touched, and why: an earlier outcome is unknown."""
    asks_leave: bool = False
    """Hooks have to be asked before a migration starts."""
    hook_replies: Mapping[str, HookReply] = field(default_factory=dict)
    """What they said in this round, by migration."""
    objection: str = ""
    """Why a hook does not let the plan be carried out; empty: none objects."""


def next_commands(
    tracks: Mapping[str, Track],
    heard: Mapping[str, Sequence[Heard]],
    what: Round,
    now: datetime,
) -> dict[str, Turn]:
    """Take one step with a whole rollout: a turn for each migration that has one.

    Pure: the same tracks, replies and instant always give the same commands. Those under way
    go first, so that what they free is there for those that wait.
    """
    turns = {
        name: advance(track, tuple(heard.get(name, ())), _around(tracks, track, what), now)
        for name, track in tracks.items()
        if track.is_under_way
    }
    present = {**tracks, **{name: turn.track for name, turn in turns.items()}}
    if what.stop is StopRequest.ABORT:
        for name, track in present.items():
            if live.may_be_called_off(track):
                off = live.call_off(track, "the operator asked for it", now, on_request=True)
                turns[name] = turns.get(name, Turn(track=track)).then(off)
        present |= {name: turn.track for name, turn in turns.items()}
    return turns | _for_waiting(present, what, now)


def reason_to_stop(tracks: Iterable[Track], what: Round) -> str:
    """Why nothing more may be started; empty if something may."""
    if what.stop is not StopRequest.NO:
        return "the operator stopped the rollout"
    if what.objection:
        return what.objection
    states = Counter(track.state for track in tracks)
    failed = states[S.FAILED_SAFE] + states[S.FAILED_DOWN] + states[S.UNKNOWN]
    planned = states.total()
    if not what.budget.allows(failed, planned):
        return f"{failed} of {planned} migrations failed; find out why before going on"
    return ""


def _for_waiting(tracks: Mapping[str, Track], what: Round, now: datetime) -> dict[str, Turn]:
    """Skip what cannot start any more; begin what may start now."""
    waiting = [track for track in tracks.values() if track.state is S.PENDING]
    if not waiting:
        return {}
    if why := reason_to_stop(tracks.values(), what):
        return {t.migration.id: Turn(track=t.enter(S.SKIPPED, now, why)) for t in waiting}
    skipped: dict[str, Turn] = {
        track.migration.id: Turn(track=track.enter(S.SKIPPED, now, why))
        for track in waiting
        if (why := _hopeless(track, tracks, what))
    }
    if what.paused:
        return skipped
    ready = [
        track.migration
        for track in waiting
        if track.migration.id not in skipped
        and track.is_due(now)
        and all(tracks[d].state is S.COMPLETE for d in track.migration.depends_on)
    ]
    flights = [
        Flight(migration=t.migration, bytes_per_second=t.granted_bytes_per_second)
        for t in tracks.values()
        if t.is_under_way
    ]
    begun = {}
    for grant in admit(ready, flights, what.snapshot, what.limits):
        track, granted = tracks[grant.migration], grant.bytes_per_second
        if uses_the_network(track.migration.mode) and granted < LEAST_BYTES_PER_SECOND:
            why = "its links have less than 1 MiB/s for migrations, which is the least there is"
            begun[grant.migration] = Turn(track=track.enter(S.SKIPPED, now, why))
        else:
            begun[grant.migration] = begin(track, granted, _around(tracks, track, what), now)
    return skipped | begun


def _hopeless(track: Track, tracks: Mapping[str, Track], what: Round) -> str:
    """Why a waiting migration can never start; empty if it can."""
    if why := what.frozen.get(track.migration.vm) or _failing(track.migration.target, tracks):
        return why
    for name in track.migration.depends_on:
        needed = tracks.get(name)
        if needed is None:
            return f"it has to wait for {name}, which is not in the plan"
        if needed.is_ended and needed.state is not S.COMPLETE:
            return f"it needs {name}, which ended {needed.state}"
    return ""


def _failing(target: HostId, tracks: Mapping[str, Track]) -> str:
    """Why nothing more is sent to a host: others failed on their way there, and none arrived."""
    there = [t for t in tracks.values() if t.migration.target == target]
    failed = [t for t in there if t.state in _FAILED and not t.called_off]
    if len(failed) < FAILURES_TO_BLAME_A_HOST or any(t.state is S.COMPLETE for t in there):
        return ""
    return f"{len(failed)} migrations to {target} failed and none came through: {failed[-1].text}"


def _around(tracks: Mapping[str, Track], track: Track, what: Round) -> Surroundings:
    """The surroundings of one migration; only the stages that look need more than the times."""
    scene = Scene(snapshot=what.snapshot, policy=what.policy, closed=what.closed)
    if track.state is S.PREPARE:
        scene = replace(
            scene,
            moved=_moved(tracks, what.snapshot),
            in_flight=tuple(_in_flight(tracks)),
            ahead=_ahead(tracks),
            leaving=frozenset(
                t.migration.source for t in tracks.values() if not t.is_ended and t is not track
            ),
        )
    in_prepare = track.state is S.PREPARE
    return Surroundings(
        scene=scene,
        times=what.times,
        uri_of=what.uri_of,
        is_hurried=what.stop is StopRequest.ABORT,
        pace_ratio=what.pace_ratio,
        asks_leave=what.asks_leave,
        hook_reply=what.hook_replies.get(track.migration.id),
        standstill=(reason_to_stop(tracks.values(), what) or what.paused) if in_prepare else "",
    )


def _in_flight(tracks: Mapping[str, Track]) -> Iterable[Migration]:
    """Migrations under way, and those that ended without anybody knowing where."""
    return (t.migration for t in tracks.values() if t.is_under_way or t.state is S.UNKNOWN)


def _ahead(tracks: Mapping[str, Track]) -> dict[VmId, HostId]:
    """Where VMs are to be when every migration has ended; tracks are in the plan's order."""
    return {t.migration.vm: t.migration.target for t in tracks.values() if not t.is_ended}


def _moved(tracks: Mapping[str, Track], snapshot: Snapshot) -> dict[VmId, HostId]:
    """Where VMs went after the snapshot was taken."""
    return {
        t.migration.vm: t.migration.target
        for t in sorted(tracks.values(), key=lambda t: t.entered_at)
        if t.state is S.COMPLETE and t.entered_at >= snapshot.taken_at
    }


# One migration ------------------------------------------------------------------------------


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
    match track.migration.mode:
        case Mode.OFFLINE:
            move = MoveDefinition(vm=attempt.vm, host=attempt.source, target=attempt.target)
            return Turn(track=asked).issuing(move)
        case Mode.COLD:
            return cold.begin(asked)
    return live.begin(asked, now)


def _definition_moved(track: Track, heard: Heard, now: datetime) -> Turn:
    return finish.enter(track, heard.reply, now)


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
        transfer_bytes=result.transferred_bytes if result else None,
        iterations=result.iteration if result else None,
    )


def _downtime_seconds(track: Track) -> float | None:
    """As the hypervisor measured it; of a cold move, from seen off until seen on."""
    if track.migration.mode is Mode.COLD:
        return _seconds_between(track.stopped_at, track.moved_at)
    return track.result.downtime_seconds if track.result else None


def _seconds_between(begin: datetime | None, end: datetime | None) -> float | None:
    return (end - begin).total_seconds() if begin is not None and end is not None else None
