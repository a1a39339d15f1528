"""The loop that carries a plan out: it writes down what it is going to do, then does it.

One thread, on a clock that a simulation may run as fast as it likes. In each round it collects
replies, asks `steps.next_commands` what follows from them, writes that to the journal, and only
then issues commands. It is the caller's process that may die at any line of this file: whoever
comes next finds the journal, asks the hypervisors, and goes on (`recover`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from rebalancer.cluster.inventory import HostId, Snapshot
from rebalancer.cluster.plan import ENDED_STATES, MigrationState, Outcome, Plan
from rebalancer.cluster.policy import Limits, MigrationPermissions, Policy
from rebalancer.rollout.attempt import Attempt
from rebalancer.rollout.chronicle import (
    attempt_from,
    events_of,
    journal_entries,
    progress_event,
    reply_entry,
)
from rebalancer.rollout.driver import (
    Clock,
    Command,
    Failed,
    HypervisorDriver,
    Pending,
    ReadProgress,
    Returned,
    SwitchToPostCopy,
    Ticket,
    TransferProgress,
)
from rebalancer.rollout.events import Event, Heartbeat, Note, RolloutEnded, RolloutStarted
from rebalancer.rollout.hook_desk import THE_PLAN, HookDesk
from rebalancer.rollout.hooks import NO_HOOKS, Hooks
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.precopy import Watch
from rebalancer.rollout.reconcile import UriOf, default_uri
from rebalancer.rollout.records import (
    Entry,
    MigrationRow,
    Record,
    RecordKind,
    RolloutRow,
    RolloutStatus,
    state_entry,
)
from rebalancer.rollout.steps import (
    FailureBudget,
    Round,
    StopRequest,
    next_commands,
    outcome_of,
    reason_to_stop,
)
from rebalancer.rollout.track import Heard, Leave, Times, Track, Turn, mandate_for
from rebalancer.rollout.wishes import Wishes

WISHES_SECONDS = 2.0
"""So often it is looked up what operators ask for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Settings:
    """How a rollout goes about its work."""

    limits: Limits = field(default_factory=Limits)
    policy: Policy | None = None
    """Whose hard rules are checked before every step; `None` checks only that VMs fit."""
    permissions: MigrationPermissions = field(default_factory=MigrationPermissions)
    budget: FailureBudget = field(default_factory=FailureBudget)
    times: Times = field(default_factory=Times)
    uri_of: UriOf = default_uri

    @classmethod
    def of(cls, policy: Policy) -> Settings:
        """Take limits, permissions and rules from a policy; `replace` what is to differ."""
        return cls(limits=policy.limits, policy=policy, permissions=policy.migration)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutResult:
    """How a rollout went."""

    rollout: int
    outcomes: tuple[Outcome, ...]
    """One for each migration, in the plan's order."""
    started_at: datetime
    ended_at: datetime
    stopped: str = ""
    """Why it stopped early; empty if it did not."""

    def in_state(self, *states: MigrationState) -> tuple[Outcome, ...]:
        """The outcomes of one kind or several."""
        return tuple(outcome for outcome in self.outcomes if outcome.state in states)

    @property
    def is_complete(self) -> bool:
        """Whether every migration did what it should."""
        return all(outcome.state is MigrationState.COMPLETE for outcome in self.outcomes)


def _ignore(_: Event) -> None:
    """For callers who do not want to know."""


def _never() -> StopRequest:
    return StopRequest.NO


def execute(
    plan: Plan,
    *,
    driver: HypervisorDriver,
    clock: Clock,
    journal: Journal,
    snapshot: Snapshot | Callable[[], Snapshot],
    settings: Settings | None = None,
    lease: Lease | None = None,
    plan_text: str = "",
    on_event: Callable[[Event], None] = _ignore,
    should_stop: Callable[[], StopRequest | bool] = _never,
    hooks: Hooks = NO_HOOKS,
) -> RolloutResult:
    """Carry out a plan, and return when everything that was begun has ended.

    `snapshot` is the newest observation, or a function that returns it without blocking.
    Without a `lease` it takes the cluster's lock for as long as it works. Raises
    `LockHeldError`, `PlanRefusedError` (applied before) and `JournalError`; what happens to
    single migrations is in the result.
    """
    own = journal.acquire(plan.cluster) if lease is None else None
    held = lease or own
    assert held is not None
    try:
        run = _Run(
            driver=driver,
            clock=clock,
            journal=journal,
            snapshot=snapshot if callable(snapshot) else lambda: snapshot,
            settings=settings or Settings(),
            lease=held,
            on_event=on_event,
            should_stop=should_stop,
            hooks=hooks,
        )
        return run.carry_out(plan, plan_text)
    finally:
        if own is not None:
            journal.release(own)


def recover(
    *,
    cluster: str,
    driver: HypervisorDriver,
    clock: Clock,
    journal: Journal,
    snapshot: Snapshot | Callable[[], Snapshot],
    settings: Settings | None = None,
    lease: Lease | None = None,
    on_event: Callable[[Event], None] = _ignore,
    should_stop: Callable[[], StopRequest | bool] = _never,
    hooks: Hooks = NO_HOOKS,
) -> tuple[RolloutResult, ...]:
    """Bring every rollout of a dead process, and every unknown outcome, to an end.

    Each VM that something was asked for is looked up on all hosts: a running transfer is
    adopted and waited for, leftovers are tidied up where that is proved to be right, and what
    only a human can decide is named. Nothing new is started. One result for each rollout.
    """
    own = journal.acquire(cluster) if lease is None else None
    held = lease or own
    assert held is not None
    try:
        run = _Run(
            driver=driver,
            clock=clock,
            journal=journal,
            snapshot=snapshot if callable(snapshot) else lambda: snapshot,
            settings=settings or Settings(),
            lease=held,
            on_event=on_event,
            should_stop=should_stop,
            hooks=hooks,
        )
        return tuple(run.take_up(rollout) for rollout in journal.unfinished(cluster))
    finally:
        if own is not None:
            journal.release(own)


def _watch_again(attempt: Attempt, now: datetime) -> Watch:
    """Watch what a dead process asked for: what it may have done to the guest still holds."""
    begun = Watch.begun(now, attempt.migration.max_downtime_seconds)
    switched = attempt.has_issued(SwitchToPostCopy)
    return replace(
        begun,
        paused_at=now if attempt.paused_by_us else None,
        switched=switched,
        is_switch_doubtful=switched,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issued:
    migration: str
    command: Command
    ticket: Ticket


class _Run:
    """The state of the loop: the only thing in a rollout that changes."""

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
        self._asked_for = Wishes()
        self._wishes_at: datetime | None = None
        self._told_at = clock.now()
        self._wrote_at = clock.now()

    # A rollout from beginning to end -----------------------------------------------------------

    def carry_out(self, plan: Plan, plan_text: str) -> RolloutResult:
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

    def take_up(self, rollout: RolloutRow) -> RolloutResult:
        started_at = self._clock.now()
        self._rollout, self._tracks, self._issued = rollout.id, {}, []
        self._plan_id = rollout.plan_id
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
        if row.outcome is not None and row.state is not MigrationState.UNKNOWN:
            return row.outcome
        records = self._journal.records(row.rollout, row.migration.id)
        self._desk.remember(row.migration.id, records)
        attempt = attempt_from(row.migration, records)
        if attempt is None:
            return self._never_begun(row)
        requested_at = next(r.at for r in records if r.kind is RecordKind.INTENT)
        mandate = mandate_for(
            row.migration, self._snapshot(), self._settings.permissions, self._settings.times
        )
        return Track(
            migration=row.migration,
            mandate=mandate,
            state=MigrationState.FINISH,
            entered_at=now,
            attempt=attempt,
            requested_at=requested_at,
            watch=_watch_again(attempt, now),
        )

    def _never_begun(self, row: MigrationRow) -> Outcome:
        """Nothing was asked of any hypervisor; the next plan will take it in again."""
        outcome = Outcome(
            migration=row.migration.id,
            state=MigrationState.SKIPPED,
            text="nothing had been asked of its hosts; the next plan looks at it again",
        )
        entry = state_entry(row.migration.id, outcome.state, outcome.text, outcome)
        self._journal.write(row.rollout, [entry], self._lease)
        return outcome

    def _close(self, started_at: datetime, status: RolloutStatus, stopped: str) -> RolloutResult:
        self._journal.end(self._rollout, status, stopped, self._lease)
        now = self._clock.now()
        self._tell(RolloutEnded(at=now, rollout=str(self._rollout), stopped=stopped))
        return RolloutResult(
            rollout=self._rollout,
            outcomes=tuple(outcome_of(track) for track in self._tracks.values()),
            started_at=started_at,
            ended_at=now,
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

    def _round(self) -> Round:
        settings, snapshot = self._settings, self._snapshot()
        wishes = self._wishes()
        return Round(
            snapshot=snapshot,
            limits=wishes.narrowed(settings.limits),
            policy=settings.policy,
            times=settings.times,
            uri_of=settings.uri_of,
            stop=max(StopRequest(self._should_stop()), self._stop_asked_for(wishes)),
            paused=wishes.why_paused or self._desk.why_waiting,
            pace_ratio=wishes.pace_ratio(settings.limits),
            budget=settings.budget,
            closed=self._drained(snapshot) if self._may_begin_something else {},
            frozen=self._frozen,
            asks_leave=self._desk.guards_migrations,
            hook_replies=self._desk.replies,
            objection=self._desk.objection,
        )

    def _wishes(self) -> Wishes:
        now = self._clock.now()
        if self._wishes_at is None or (now - self._wishes_at).total_seconds() >= WISHES_SECONDS:
            self._asked_for = self._journal.wishes(self._lease.cluster)
            self._wishes_at = now
        return self._asked_for

    def _stop_asked_for(self, wishes: Wishes) -> StopRequest:
        if wishes.stop_rollout != self._rollout:
            return StopRequest.NO
        return StopRequest.ABORT if wishes.stop_by_aborting else StopRequest.FINISH

    def _drained(self, snapshot: Snapshot) -> Mapping[HostId, str]:
        marks = self._journal.drains(snapshot.cluster)
        return {host: f"it is being drained. {mark.reason}" for host, mark in marks.items()}

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
            paused = self._wishes().why_paused
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
