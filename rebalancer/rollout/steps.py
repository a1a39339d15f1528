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

Nothing here waits, reads a clock or calls a hypervisor. `loop` carries replies in and
commands out, and writes both to the journal. `stages.advance` is called for every migration under
way in every round, with or without news; this module has what concerns all migrations together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum

from rebalancer.cluster.inventory import HostId, Snapshot, VmId
from rebalancer.cluster.plan import Migration, MigrationState, Priority
from rebalancer.cluster.policy import Limits, Policy
from rebalancer.cluster.windows import not_in_time
from rebalancer.rollout import live
from rebalancer.rollout.admission import (
    LEAST_BYTES_PER_SECOND,
    Flight,
    Foreign,
    admit,
    spare_bandwidth,
    uses_the_network,
)
from rebalancer.rollout.congestion import ceilings
from rebalancer.rollout.hooks import HookReply
from rebalancer.rollout.prechecks import Scene
from rebalancer.rollout.reconcile import UriOf, default_uri
from rebalancer.rollout.revisit import may_have_split, revisit
from rebalancer.rollout.stages import advance, begin, hold
from rebalancer.rollout.track import Heard, Surroundings, Times, Track, Turn

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
    S.UNKNOWN: frozenset({S.FINISH}),
}
"""Which state may follow which. An UNKNOWN one is taken up in FINISH again: by `recover`, and at
once if its VM is seen to run twice."""


_FAILED = frozenset({S.FAILED_SAFE, S.FAILED_DOWN, S.UNKNOWN})

FAILURES_TO_BLAME_A_HOST = 2
"""After so many the next would most likely fail as well, and use up what the rest may fail."""

NAMED = 3
"""So many VMs are called by name where more may have the same to be said of them."""


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
    taken_back: frozenset[HostId] = frozenset()
    """Hosts that were drained during the rollout, and are not any more: an operator said so."""
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
    turns |= {
        name: revisit(track, heard.get(name, ()), _around(tracks, track, what), now)
        for name, track in tracks.items()
        if may_have_split(track)
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
        if (why := _hopeless(track, tracks, what) or _out_of_hours(track, what.policy, now))
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
    foreign = foreign_migrations(tracks, what.snapshot)
    begun = {}
    lowered = ceilings(tracks.values(), what.snapshot, what.limits, now)
    most = {place: ceiling.at_once for place, ceiling in lowered.items()}
    for grant in admit(ready, flights, what.snapshot, what.limits, foreign, most):
        track, granted = tracks[grant.migration], grant.bytes_per_second
        if uses_the_network(track.migration.mode) and granted < LEAST_BYTES_PER_SECOND:
            why = "its links have less than 1 MiB/s for migrations, which is the least there is"
            begun[grant.migration] = Turn(track=track.enter(S.SKIPPED, now, why))
        else:
            begun[grant.migration] = begin(track, granted, _around(tracks, track, what), now)
    if not foreign:
        return skipped | begun
    # Nobody knows when theirs will end: what waits for that alone gives up after a while.
    without_them = admit(ready, flights, what.snapshot, what.limits, ceilings=most)
    kept_out = {grant.migration for grant in without_them} - begun.keys()
    why = _crowd(foreign, what.snapshot)
    held = {}
    for name in sorted(kept_out):
        turn = hold(tracks[name], why, _around(tracks, tracks[name], what), now)
        held[name] = turn if tracks[name].text == why else turn.noting(why)
    return skipped | begun | held


def foreign_migrations(tracks: Mapping[str, Track], snapshot: Snapshot) -> tuple[Foreign, ...]:
    """Return the migrations that were seen under way and that this rollout did not begin."""
    ours = {
        t.migration.vm
        for t in tracks.values()
        if t.attempt is not None and (not t.is_ended or t.entered_at >= snapshot.taken_at)
    }
    return tuple(
        Foreign(
            vm=vm.id,
            source=vm.host,
            target=vm.migrating_to,
            bytes_per_second=vm.migrating_bytes_per_second,
        )
        for vm in snapshot.vms
        if vm.is_migrating and vm.id not in ours
    )


def _crowd(foreign: Sequence[Foreign], snapshot: Snapshot) -> str:
    names = sorted(snapshot.vm_by_id[other.vm].name for other in foreign)
    more = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
    return (
        f"somebody else is migrating {', '.join(names[:NAMED])}{more}, and with that the limits of "
        "hosts and links allow no more"
    )


def _hopeless(track: Track, tracks: Mapping[str, Track], what: Round) -> str:
    """Why a waiting migration can never start; empty if it can."""
    if why := what.frozen.get(track.migration.vm) or _failing(track.migration.target, tracks):
        return why
    source = track.migration.source
    if track.migration.priority is Priority.DRAIN and source in what.taken_back:
        return f"the drain of {source} was taken back meanwhile"
    for name in track.migration.depends_on:
        needed = tracks.get(name)
        if needed is None:
            return f"it has to wait for {name}, which is not in the plan"
        if needed.is_ended and needed.state is not S.COMPLETE:
            return f"it needs {name}, which ended {needed.state}"
    return ""


def _out_of_hours(track: Track, policy: Policy | None, now: datetime) -> str:
    """Why a move that can wait must not start any more; empty if it may."""
    if policy is None or not policy.migration.keeps_to_windows(track.migration.priority):
        return ""
    seconds = track.migration.predicted.duration_upper_seconds
    return not_in_time(policy.migration.windows, now, seconds)


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
            arriving={
                other.vm: other.target
                for other in foreign_migrations(tracks, what.snapshot)
                if other.target is not None
            },
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
        spare_bytes_per_second=_spare(tracks, track, what),
        asks_leave=what.asks_leave,
        hook_reply=what.hook_replies.get(track.migration.id),
        standstill=(reason_to_stop(tracks.values(), what) or what.paused) if in_prepare else "",
    )


def _spare(tracks: Mapping[str, Track], track: Track, what: Round) -> float:
    """What a stalled transfer could have more of; one at a time, or two would take the same."""
    if next((t for t in tracks.values() if live.is_stalled(t)), None) is not track:
        return 0.0
    flights = [
        Flight(migration=t.migration, bytes_per_second=t.granted_bytes_per_second)
        for t in tracks.values()
        if t.is_under_way
    ]
    foreign = foreign_migrations(tracks, what.snapshot)
    return spare_bandwidth(track.migration, flights, what.snapshot, what.limits, foreign)


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
