"""A rollout as it is watched: bars on a terminal, otherwise a line now and then.

Both take the events of `rollout.events` one by one and know no other time than the events', so
that a simulated rollout is shown like a real one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self, assert_never

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from rebalancer.cluster.plan import MigrationState, Outcome
from rebalancer.rollout.events import (
    Event,
    Heartbeat,
    MigrationEnded,
    MigrationStarted,
    Note,
    Progress,
    RolloutEnded,
    RolloutStarted,
    StageChanged,
)
from rebalancer.service.wording import (
    bytes_text,
    count_text,
    one_line,
    rate_text,
    ratio_text,
    seconds_text,
)

LINE_EVERY_SECONDS = 10.0


class Display(Protocol):
    """Shows a rollout while it goes on."""

    def show(self, event: Event) -> None:
        """Take notice of one event."""
        ...

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the screen as a shell expects it."""
        ...


def display_for(console: Console) -> Display:
    """Choose what suits the console: bars need a terminal."""
    return Bars(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


@dataclass(slots=True, kw_only=True)
class _Running:
    """What is known of a migration that is being carried out."""

    vm_name: str
    route: str
    stage: MigrationState = MigrationState.REQUEST
    progress: Progress | None = None

    @property
    def done_ratio(self) -> float:
        """Bytes sent, as a share of those and what is left: 1 at the switch-over.

        A guest that keeps writing moves the end away, so this can stand still.
        """
        if self.progress is None:
            return 0.0
        sent, left = self.progress.transferred_bytes, self.progress.remaining_bytes
        return sent / (sent + left) if sent + left > 0 else 0.0

    def text(self) -> str:
        """Say how far it is: `vm1 h1 → h2 transfer 62 %, round 3, 112 MiB/s, 15 s left`."""
        head = f"{self.vm_name} {self.route} {self.stage}"
        # Before and after the transfer its last statistics tell nothing about what is going on.
        if self.progress is None or self.stage is not MigrationState.TRANSFER:
            return head
        return f"{head} {ratio_text(self.done_ratio)}, {transfer_text(self.progress)}"


@dataclass(slots=True, kw_only=True)
class _Board:
    """Everything that goes on, kept up to date by the events."""

    migrations: int = 0
    ended: int = 0
    running: dict[str, _Running] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Bring the board up to date."""
        match event:
            case RolloutStarted():
                self.migrations = event.migrations
            case MigrationStarted():
                route = f"{event.source} → {event.target}"
                self.running[event.migration] = _Running(vm_name=event.vm_name, route=route)
            case StageChanged() if event.migration in self.running:
                self.running[event.migration].stage = event.after
            case Progress() if event.migration in self.running:
                self.running[event.migration].progress = event
            case MigrationEnded():
                self.running.pop(event.outcome.migration, None)
                self.ended += 1
            case StageChanged() | Progress() | Note() | Heartbeat() | RolloutEnded():
                pass
            case _:
                assert_never(event)


def event_text(event: Event) -> str:
    """Say what happened in one line; empty for events that are only progress."""
    match event:
        case RolloutStarted():
            return f"rollout {event.rollout} of plan {event.plan}: " + count_text(
                event.migrations, "migration"
            )
        case MigrationStarted():
            limit = f", up to {rate_text(rate)}" if (rate := event.bytes_per_second) else ""
            route = f"{event.source} → {event.target}"
            return f"{event.vm_name}: moving {route}, {event.mode}{limit}"
        case Note():
            return f"{event.vm_name}: {event.text}" if event.vm_name else event.text
        case MigrationEnded():
            return f"{event.vm_name}: {outcome_text(event.outcome)}"
        case RolloutEnded():
            return f"stopped early: {event.stopped}" if event.stopped else "all migrations ended"
        case Heartbeat(paused=paused) if paused:
            return f"paused {paused}; {event.running} running, {event.pending} waiting"
        case StageChanged() | Progress() | Heartbeat():
            return ""
        case _:
            assert_never(event)


def outcome_text(outcome: Outcome) -> str:
    """Say how a migration ended and what it took."""
    parts = [str(outcome.state)]
    if outcome.state is not MigrationState.COMPLETE and outcome.text:
        parts.append(outcome.text)
    if outcome.duration_seconds is not None:
        parts.append(f"took {seconds_text(outcome.duration_seconds)}")
    if outcome.downtime_seconds is not None:
        parts.append(f"downtime {seconds_text(outcome.downtime_seconds)}")
    if outcome.transfer_bytes is not None:
        parts.append(f"{bytes_text(outcome.transfer_bytes)} sent")
    return ", ".join(parts)


def transfer_text(progress: Progress) -> str:
    """Say how fast a transfer goes and when it may be over."""
    parts = [f"round {progress.iteration}"]
    if progress.bytes_per_second is not None:
        parts.append(rate_text(progress.bytes_per_second))
    if progress.eta_seconds is not None:
        parts.append(f"{seconds_text(progress.eta_seconds)} left")
    return ", ".join(parts)


class Lines:
    """Plain lines for logs and pipes: what happens at once, progress every ten seconds."""

    def __init__(self, console: Console, every_seconds: float = LINE_EVERY_SECONDS) -> None:
        """Write to `console`, progress no more often than given."""
        self._console = console
        self._every_seconds = every_seconds
        self._board = _Board()
        self._last_progress: datetime | None = None

    def __enter__(self) -> Self:
        """Nothing to begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to leave behind."""

    def show(self, event: Event) -> None:
        """Write a line if the event deserves one, or if it is time for one."""
        self._board.take(event)
        if text := event_text(event):
            self._print(event.at, text)
        if self._last_progress is None:
            self._last_progress = event.at
        waited = (event.at - self._last_progress).total_seconds()
        if waited >= self._every_seconds and self._board.running:
            self._last_progress = event.at
            self._print(event.at, self._progress_text())

    def _progress_text(self) -> str:
        board = self._board
        running = "; ".join(migration.text() for migration in board.running.values())
        return f"{board.ended} of {board.migrations} ended; {running}"

    def _print(self, at: datetime, text: str) -> None:
        line = Text(one_line(f"{at:%H:%M:%S} {text}"))
        if self._console.options.ascii_only:
            line = Text(line.plain.replace("→", "->").encode("ascii", "replace").decode())
        self._console.print(line, soft_wrap=True)


class Bars:
    """A bar for each running migration, lines above them for what happened."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`; nothing is drawn between events, so there is no thread."""
        self._console = console
        self._board = _Board()
        self._tasks: dict[str, TaskID] = {}
        self._seconds = 0.0
        self._progress = RichProgress(
            TextColumn("{task.fields[who]}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24),
            _Percent(),
            TextColumn("{task.fields[how]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            auto_refresh=False,
            get_time=lambda: self._seconds,
        )

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing; give the cursor back, also after an error."""
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Draw what changed."""
        self._board.take(event)
        self._seconds = event.at.timestamp()
        self._follow()
        if text := event_text(event):
            self._progress.console.print(Text(one_line(text)))
        self._progress.refresh()

    def _follow(self) -> None:
        """Make the bars those of the running migrations."""
        for migration in self._tasks.keys() - self._board.running.keys():
            self._progress.remove_task(self._tasks.pop(migration))
        for migration, running in self._board.running.items():
            if migration not in self._tasks:
                who = one_line(f"{running.vm_name} {running.route}")
                self._tasks[migration] = self._progress.add_task("", total=1.0, who=who, how="")
            how = running.stage.value
            if running.progress is not None:
                how = f"{how}, {transfer_text(running.progress)}"
            self._progress.update(
                self._tasks[migration], completed=running.done_ratio, how=one_line(how)
            )


class _Percent(ProgressColumn):
    """The share in the same words as everywhere else."""

    def render(self, task: Task) -> Text:
        """Write it with a width that does not jump."""
        return Text(f"{ratio_text(task.completed):>5}")
