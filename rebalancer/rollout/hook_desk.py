"""The hooks of one rollout: which were asked, which are running, and what the journal says of them.

A line that a hook is asked is committed before it is, and another one when it has ended. So after
a crash the journal tells whose `after` hooks are still owed: those of every migration whose
`before` hook may have run, or of which anything was asked of a hypervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.rollout.hooks import (
    HookCall,
    HookReply,
    Hooks,
    HookTicket,
    Moment,
    Objected,
    Passed,
    about_migration,
    about_plan,
)
from rebalancer.rollout.records import Entry, Record, RecordKind

THE_PLAN = ""
"""Lines of the journal that are about the plan as a whole have this for a migration."""

type Write = Callable[[Sequence[Entry], datetime], None]
type Say = Callable[[str, str, datetime], None]
type Pause = Callable[[], datetime]
"""Lets a moment pass, and returns what time it is then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    migration: str
    moment: Moment
    ticket: HookTicket
    state: MigrationState | None


class HookDesk:
    """Asks hooks on behalf of the executor, and keeps their replies until they are fetched."""

    def __init__(self, hooks: Hooks, cluster: str, *, write: Write, say: Say, pause: Pause) -> None:
        """Take the port, and how to write to the journal, tell the onlooker and let time pass."""
        self._hooks = hooks
        self._cluster = cluster
        self._write = write
        self._say = say
        self._pause = pause
        self._asked: list[_Asked] = []
        self._replies: dict[str, HookReply] = {}
        self._begun: set[str] = set()
        self.objection = ""
        """Why the plan must not be carried out, in the words of its hook."""

    # The plan ----------------------------------------------------------------------------------

    def before_plan(self, plan: str, migrations: Sequence[Migration], now: datetime) -> None:
        """Ask whether the plan may be carried out."""
        self._ask(Moment.BEFORE_PLAN, THE_PLAN, about_plan(plan, migrations, None), now)

    def after_plan(
        self,
        plan: str,
        migrations: Sequence[Migration],
        outcomes: Sequence[Outcome],
        stopped: str,
        now: datetime,
    ) -> None:
        """Tell how it went."""
        about = about_plan(plan, migrations, outcomes, stopped)
        self._ask(Moment.AFTER_PLAN, THE_PLAN, about, now)

    @property
    def why_waiting(self) -> str:
        """What has to end before anything may start; empty: nothing."""
        waits = any(asked.moment is Moment.BEFORE_PLAN for asked in self._asked)
        return "by its before_plan hooks, which are running" if waits else ""

    # Migrations --------------------------------------------------------------------------------

    @property
    def guards_migrations(self) -> bool:
        """Whether a migration needs the leave of a hook."""
        return self._hooks.has(Moment.BEFORE_MIGRATION)

    @property
    def replies(self) -> Mapping[str, HookReply]:
        """What `before` hooks said since the last `collect`, by migration."""
        return self._replies

    def before_migration(self, migration: Migration, plan: str, now: datetime) -> None:
        """Ask whether a migration may start."""
        about = about_migration(migration, plan, None)
        self._begun.add(migration.id)
        self._ask(Moment.BEFORE_MIGRATION, migration.id, about, now)

    def remember(self, migration: str, records: Sequence[Record]) -> None:
        """Take over what a dead process asked."""
        if _notes(records, Moment.BEFORE_MIGRATION):
            self._begun.add(migration)

    def after_migration(
        self, migration: Migration, plan: str, outcome: Outcome, now: datetime, *, was_asked: bool
    ) -> None:
        """Tell how a migration ended, if a hook or a hypervisor was asked for anything."""
        if was_asked or migration.id in self._begun:
            about = about_migration(migration, plan, outcome)
            self._ask(Moment.AFTER_MIGRATION, migration.id, about, now, outcome.state)

    # Hooks under way ---------------------------------------------------------------------------

    def collect(self, now: datetime) -> None:
        """Fetch and write down what has ended; `replies` is that of this round then."""
        self._replies = {}
        running = []
        for asked in self._asked:
            reply = self._hooks.poll(asked.ticket)
            if reply is None:
                running.append(asked)
            else:
                self._ended(asked, reply, now)
        self._asked = running

    def call_off(self) -> None:
        """Kill the hooks that somebody waits for before anything starts."""
        for asked in self._asked:
            if asked.moment.may_object:
                self._hooks.cancel(asked.ticket)

    # The end -----------------------------------------------------------------------------------

    def wait(self, now: datetime) -> datetime:
        """Wait for everything that runs; hooks have limits of their own, so this ends."""
        self.collect(now)
        while self._asked:
            now = self._pause()
            self.collect(now)
        return now

    def finish(
        self,
        plan: str,
        migrations: Sequence[Migration],
        outcomes: Sequence[Outcome],
        stopped: str,
        now: datetime,
    ) -> None:
        """Let `after` hooks of migrations come to their ends, then run those of the plan."""
        self.call_off()
        now = self.wait(now)
        self.after_plan(plan, migrations, outcomes, stopped, now)
        self.wait(now)

    def finish_for_the_dead(
        self,
        plan: str,
        ended: Sequence[tuple[Migration, Outcome]],
        records: Mapping[str, Sequence[Record]],
        taken_up: Collection[str],
        now: datetime,
    ) -> None:
        """Run what a dead process did not come to; those that were taken up have had theirs."""
        for migration, outcome in ended:
            lines = records.get(migration.id, ())
            if migration.id not in taken_up and owes_after_migration(lines, outcome.state):
                self.after_migration(migration, plan, outcome, now, was_asked=True)
        if owes_after_plan(records.get(THE_PLAN, ())):
            migrations, outcomes = [m for m, _ in ended], [o for _, o in ended]
            self.finish(plan, migrations, outcomes, "its process died", now)
        else:
            self.wait(now)

    def _ask(
        self,
        moment: Moment,
        migration: str,
        about: Mapping[str, Any],
        now: datetime,
        state: MigrationState | None = None,
    ) -> None:
        if not self._hooks.has(moment):
            return
        self._write([_note(migration, moment, "begun", f"{moment} hooks are run", state)], now)
        call = HookCall(moment=moment, cluster=self._cluster, at=now, about=about)
        ticket = self._hooks.start(call)
        self._asked.append(_Asked(migration=migration, moment=moment, ticket=ticket, state=state))

    def _ended(self, asked: _Asked, reply: HookReply, now: datetime) -> None:
        match reply:
            case Passed():
                text = f"{asked.moment} hooks ended well"
            case Objected(why=why):
                text = f"{asked.moment}: {why}"
                self._say(asked.migration, text, now)
        self._write([_note(asked.migration, asked.moment, "ended", text, asked.state)], now)
        if asked.moment is Moment.BEFORE_MIGRATION:
            self._replies[asked.migration] = reply
        elif asked.moment is Moment.BEFORE_PLAN and isinstance(reply, Objected):
            self.objection = text


def owes_after_migration(records: Sequence[Record], state: MigrationState) -> bool:
    """Whether a dead process left the `after` hooks of an ended migration to us."""
    begun = any(record.kind is RecordKind.INTENT for record in records) or bool(
        _notes(records, Moment.BEFORE_MIGRATION)
    )
    told = _notes(records, Moment.AFTER_MIGRATION)
    return begun and not any(note["phase"] == "ended" and note["state"] == state for note in told)


def owes_after_plan(records: Sequence[Record]) -> bool:
    """Whether a dead process left the `after` hooks of a plan to us."""
    return not any(note["phase"] == "ended" for note in _notes(records, Moment.AFTER_PLAN))


def _note(
    migration: str, moment: Moment, phase: str, text: str, state: MigrationState | None
) -> Entry:
    hook = {"moment": str(moment), "phase": phase, "state": str(state) if state else None}
    return Entry(migration=migration, kind=RecordKind.NOTE, payload={"text": text, "hook": hook})


def _notes(records: Sequence[Record], moment: Moment) -> list[Mapping[str, Any]]:
    notes = [record.payload.get("hook") for record in records if record.kind is RecordKind.NOTE]
    return [note for note in notes if note is not None and note["moment"] == moment]
