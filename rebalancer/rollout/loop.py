"""The loop that carries a plan out: it writes down what it is going to do, then does it.

One thread, on a clock that a simulation may run as fast as it likes. In each round it collects
replies, asks `steps.next_commands` what follows from them, writes that to the journal, and only
then issues commands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import ENDED_STATES, MigrationState, Outcome, Plan
from rebalancer.rollout import takeover
from rebalancer.rollout.chronicle import (
    events_of,
    journal_entries,
    progress_event,
    reply_entry,
)
from rebalancer.rollout.congestion import Ceilings, ceilings, changes
from rebalancer.rollout.driver import (
    Clock,
    Command,
    Failed,
    HypervisorDriver,
    Pending,
    ReadProgress,
    Returned,
    Ticket,
)
from rebalancer.rollout.events import Event, Heartbeat, Note, RolloutEnded, RolloutStarted
from rebalancer.rollout.hook_desk import THE_PLAN, HookDesk
from rebalancer.rollout.hooks import Hooks
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.listener import Listener, stop_of
from rebalancer.rollout.records import (
    Entry,
    MigrationRow,
    Record,
    RolloutRow,
    RolloutStatus,
    note_entry,
    state_entry,
)
from rebalancer.rollout.settings import RolloutResult, Settings
from rebalancer.rollout.sightings import TransferProgress
from rebalancer.rollout.stages import outcome_of
from rebalancer.rollout.steps import Round, StopRequest, next_commands, reason_to_stop
from rebalancer.rollout.track import Heard, Leave, Track, Turn, mandate_for


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issued:
    migration: str
    command: Command
    ticket: Ticket


class Loop:
    """The state of a rollout at work: the only thing in it that changes."""

    def __init__(
        self,
        *,
        driver: HypervisorDriver,
        clock: Clock,
        journal: Journal,
        snapshot: Callable[[], Snapshot],
        settings: Settings,
        lease: Lease,
        on_event: Callable[[Event], None],
        should_stop: Callable[[], StopRequest | bool],
        hooks: Hooks,
    ) -> None:
        """Prepare to work; `carry_out` or `take_up` does."""
        self._driver = driver
        self._clock = clock
        self._journal = journal
        self._snapshot = snapshot
        self._settings = settings
        self._lease = lease
        self._on_event = on_event
        self._should_stop = should_stop
        self._desk = HookDesk(
            hooks, lease.cluster, write=self._write, say=self._say, pause=self._wait_a_little
        )
        self._rollout = 0
        self._plan_id = ""
        self._tracks: dict[str, Track] = {}
        self._issued: list[_Issued] = []
        self._frozen: dict[Any, str] = {}
        self._listener = Listener(journal, clock, lease.cluster)
        self._ceilings: Ceilings = {}
        self._told_at = clock.now()
        self._wrote_at = clock.now()

    # A rollout from beginning to end -----------------------------------------------------------

    def carry_out(self, plan: Plan, plan_text: str) -> RolloutResult:
        """Work until every migration of a plan has ended."""
        started_at = self._clock.now()
        self._frozen = {
            row.migration.vm: (
                f"the outcome of an earlier migration of it (rollout {row.rollout}) is not known; "
                "run `rebalancer recover` first"
            )
            for row in self._journal.unresolved(plan.cluster)
        }
        self._rollout = self._journal.begin(plan, self._lease, plan_text)
        self._plan_id = plan.id
        self._tracks = {
            migration.id: Track(
                migration=migration,
                mandate=mandate_for(
                    migration,
                    self._snapshot(),
                    self._settings.permissions,
                    self._settings.times,
                ),
                entered_at=started_at,
            )
            for migration in plan.migrations
        }
        self._tell(
            RolloutStarted(
                at=started_at,
                rollout=str(self._rollout),
                plan=plan.id,
                migrations=len(plan.migrations),
            )
        )
        self._desk.before_plan(plan.id, plan.migrations, started_at)
        stopped = self._loop()
        outcomes = [outcome_of(track) for track in self._tracks.values()]
        self._desk.finish(plan.id, plan.migrations, outcomes, stopped, self._clock.now())
        status = RolloutStatus.STOPPED if stopped else RolloutStatus.ENDED
        return self._close(started_at, status, stopped)

    def take_up_some(
        self, rollout: RolloutRow, only: Collection[str], *, may_end_stale: bool
    ) -> RolloutResult:
        """Look after these migrations alone; the record of the rollout stays as it is.

        `may_end_stale`: the operator wants their stale copies to be ended.
        """
        started_at = self._begin_to_take_up(rollout)
        for row in self._journal.migrations(rollout.id):
            if row.migration.id in only:
                taken = self._restored(row, started_at)
                if isinstance(taken, Track) and taken.attempt is not None:
                    attempt = replace(taken.attempt, may_end_stale=may_end_stale)
                    self._tracks[row.migration.id] = replace(taken, attempt=attempt)
        self._loop()
        self._desk.wait(self._clock.now())
        return self._result(started_at, rollout.text)

    def _begin_to_take_up(self, rollout: RolloutRow) -> datetime:
        self._rollout, self._tracks, self._issued = rollout.id, {}, []
        self._plan_id = rollout.plan_id
        return self._clock.now()

    def take_up(self, rollout: RolloutRow) -> RolloutResult:
        """Bring a rollout of a dead process, or what it left unknown, to an end."""
        started_at = self._begin_to_take_up(rollout)
        ended: dict[str, Outcome] = {}
        for row in self._journal.migrations(rollout.id):
            taken = self._restored(row, started_at)
            if isinstance(taken, Track):
                self._tracks[row.migration.id] = taken
            else:
                ended[row.migration.id] = taken
        self._loop()
        if rollout.status is RolloutStatus.RUNNING:
            self._finish_hooks_of_the_dead(rollout, ended)
        else:
            self._desk.wait(self._clock.now())
        result = self._close(started_at, RolloutStatus.RECOVERED, rollout.text)
        outcomes = ended | {outcome.migration: outcome for outcome in result.outcomes}
        order = [row.migration.id for row in self._journal.migrations(rollout.id)]
        return replace(result, outcomes=tuple(outcomes[name] for name in order))

    def _restored(self, row: MigrationRow, now: datetime) -> Track | Outcome:
        """Take a migration up where its journal ends."""
        if row.outcome is not None and not takeover.is_left_open(row):
            return row.outcome
        records = self._journal.records(row.rollout, row.migration.id)
        self._desk.remember(row.migration.id, records)
        taken = takeover.taken_up(row, records, self._snapshot(), self._settings, now)
        if isinstance(taken, Outcome):
            entry = state_entry(row.migration.id, taken.state, taken.text, taken)
            self._journal.write(row.rollout, [entry], self._lease)
        return taken

    def _close(self, started_at: datetime, status: RolloutStatus, stopped: str) -> RolloutResult:
        self._journal.end(self._rollout, status, stopped, self._lease)
        now = self._clock.now()
        self._tell(RolloutEnded(at=now, rollout=str(self._rollout), stopped=stopped))
        return self._result(started_at, stopped)

    def _result(self, started_at: datetime, stopped: str) -> RolloutResult:
        return RolloutResult(
            rollout=self._rollout,
            outcomes=tuple(outcome_of(track) for track in self._tracks.values()),
            started_at=started_at,
            ended_at=self._clock.now(),
            stopped=stopped,
        )

    # Hooks -------------------------------------------------------------------------------------

    def _wait_a_little(self) -> datetime:
        """Let time pass while nothing but hooks is waited for; the signs of life go on."""
        self._should_stop()
        self._keep_alive(self._clock.now())
        self._clock.sleep(self._settings.times.tick_seconds)
        return self._clock.now()

    def _ask_hooks(self, before: Track, after: Track, now: datetime) -> None:
        """Ask those that a turn calls for."""
        if after.leave is Leave.ASKED and before.leave is not Leave.ASKED:
            self._desk.before_migration(after.migration, self._plan_id, now)
        if after.is_ended and not before.is_ended:
            was_asked = after.attempt is not None
            outcome = outcome_of(after)
            self._desk.after_migration(
                after.migration, self._plan_id, outcome, now, was_asked=was_asked
            )

    def _finish_hooks_of_the_dead(self, rollout: RolloutRow, ended: Mapping[str, Outcome]) -> None:
        """Run the `after` hooks that a dead process did not come to."""
        records: dict[str, list[Record]] = {THE_PLAN: []}
        for record in self._journal.records(rollout.id):
            records.setdefault(record.migration, []).append(record)
        taken_up = {name: outcome_of(track) for name, track in self._tracks.items()}
        rows = [row.migration for row in self._journal.migrations(rollout.id)]
        self._desk.finish_for_the_dead(
            rollout.plan_id,
            [(migration, (taken_up | dict(ended))[migration.id]) for migration in rows],
            records,
            taken_up.keys(),
            self._clock.now(),
        )

    def _say(self, migration: str, text: str, now: datetime) -> None:
        track = self._tracks.get(migration)
        vm_name = track.migration.vm_name if track is not None else ""
        self._tell(Note(at=now, migration=migration, vm_name=vm_name, text=text))

    # The loop ----------------------------------------------------------------------------------

    def _loop(self) -> str:
        """Work until everything has ended; return why it stopped early, if it did."""
        stopped = ""
        while True:
            now = self._clock.now()
            self._desk.collect(now)
            what = self._round()
            self._tell_of_congestion(what, now)
            if what.stop is StopRequest.ABORT:
                self._desk.call_off()
            waiting = any(t.state is MigrationState.PENDING for t in self._tracks.values())
            turns = next_commands(self._tracks, self._collect(now), what, now)
            for name, turn in turns.items():
                self._take(name, turn, now)
            if waiting:
                stopped = reason_to_stop(self._tracks.values(), what)
            if all(track.is_ended for track in self._tracks.values()):
                return stopped
            self._keep_alive(now)
            if not any(turn.commands for turn in turns.values()):
                self._clock.sleep(self._settings.times.tick_seconds)

    def _tell_of_congestion(self, what: Round, now: datetime) -> None:
        """Write down and say where fewer migrations are let through than before, or more."""
        present = ceilings(self._tracks.values(), what.snapshot, what.limits, now)
        for text in changes(self._ceilings, present):
            self._write([note_entry(THE_PLAN, text)], now)
            self._say(THE_PLAN, text, now)
        self._ceilings = present

    def _round(self) -> Round:
        settings, snapshot = self._settings, self._snapshot()
        wishes = self._listener.wishes()
        # Once nothing may begin any more it does not matter what is drained, and is not asked.
        drains = (
            self._listener.drains() if self._may_begin_something else self._listener.no_drains()
        )
        return Round(
            snapshot=snapshot,
            limits=wishes.narrowed(settings.limits),
            policy=settings.policy,
            times=settings.times,
            uri_of=settings.uri_of,
            stop=max(StopRequest(self._should_stop()), stop_of(self._rollout, wishes)),
            paused=wishes.why_paused or self._desk.why_waiting,
            pace_ratio=wishes.pace_ratio(settings.limits),
            budget=settings.budget,
            closed=drains.closed,
            taken_back=drains.taken_back,
            frozen=self._frozen,
            asks_leave=self._desk.guards_migrations,
            hook_replies=self._desk.replies,
            objection=self._desk.objection,
        )

    @property
    def _may_begin_something(self) -> bool:
        early = (MigrationState.PENDING, MigrationState.PREPARE)
        return any(track.state in early for track in self._tracks.values())

    def _collect(self, now: datetime) -> dict[str, list[Heard]]:
        """Ask for all replies; what is not answered yet stays on the list."""
        heard: dict[str, list[Heard]] = {}
        waiting: list[_Issued] = []
        for issued in self._issued:
            reply = self._driver.poll(issued.ticket)
            if isinstance(reply, Pending):
                waiting.append(issued)
                continue
            heard.setdefault(issued.migration, []).append(
                Heard(command=issued.command, reply=reply)
            )
            self._remember_reply(issued, reply, now)
        self._issued = waiting
        return heard

    def _take(self, name: str, turn: Turn, now: datetime) -> None:
        """Write a turn down, then let it happen."""
        before = self._tracks[name]
        entries = journal_entries(before, turn)
        if entries:
            self._write(entries, now)
        self._tracks[name] = turn.track
        for command in turn.commands:
            ticket = self._driver.issue(command)
            self._issued.append(_Issued(migration=name, command=command, ticket=ticket))
        self._ask_hooks(before, turn.track, now)
        self._announce(before, turn, now)

    def _remember_reply(self, issued: _Issued, reply: Returned | Failed, now: datetime) -> None:
        if isinstance(issued.command, ReadProgress) and isinstance(reply, Returned):
            self._tell_progress(issued.migration, reply.value, now)
            return
        self._write([reply_entry(issued.migration, issued.command, reply)], now)

    def _write(self, entries: Sequence[Entry], now: datetime) -> None:
        self._journal.write(self._rollout, entries, self._lease)
        self._wrote_at = now

    def _keep_alive(self, now: datetime) -> None:
        every = self._settings.times.heartbeat_seconds
        if (now - self._wrote_at).total_seconds() >= every:
            self._journal.heartbeat(self._lease)
            self._wrote_at = now
        if (now - self._told_at).total_seconds() >= every:
            states = [track.state for track in self._tracks.values()]
            pending = states.count(MigrationState.PENDING)
            ended = sum(state in ENDED_STATES for state in states)
            running = len(states) - pending - ended
            paused = self._listener.wishes().why_paused
            self._tell(
                Heartbeat(at=now, running=running, pending=pending, ended=ended, paused=paused)
            )

    # What the caller is told -------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        self._told_at = event.at
        self._on_event(event)

    def _announce(self, before: Track, turn: Turn, now: datetime) -> None:
        for event in events_of(before, turn, now):
            self._tell(event)

    def _tell_progress(self, name: str, value: object, now: datetime) -> None:
        if isinstance(value, TransferProgress) and value.total_bytes > 0:
            self._tell(progress_event(self._tracks[name], value, now))
