from __future__ import annotations

import io
from datetime import datetime, timedelta

from rich.console import Console

from rebalancer.cluster.inventory import HostId, Mode, VmId
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
from rebalancer.service.progress import Bars, Display, Lines, display_for
from tests.builders import GIB, MIB, NOON


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def started(vm_name: str = "vm1") -> MigrationStarted:
    return MigrationStarted(
        at=at(0),
        migration=f"m-{vm_name}",
        vm=VmId(vm_name),
        vm_name=vm_name,
        source=HostId("h1"),
        target=HostId("h2"),
        mode=Mode.LIVE,
        bytes_per_second=112.0 * MIB,
    )


def sent(share: float, seconds: float, vm_name: str = "vm1") -> Progress:
    return Progress(
        at=at(seconds),
        migration=f"m-{vm_name}",
        vm_name=vm_name,
        transferred_bytes=share * 4 * GIB,
        remaining_bytes=(1 - share) * 4 * GIB,
        total_bytes=4.0 * GIB,
        iteration=2,
        bytes_per_second=110.0 * MIB,
        eta_seconds=15.0,
    )


def ended(seconds: float, vm_name: str = "vm1") -> MigrationEnded:
    outcome = Outcome(
        migration=f"m-{vm_name}",
        state=MigrationState.COMPLETE,
        text="complete",
        duration_seconds=42.0,
        downtime_seconds=0.18,
        transfer_bytes=4.5 * GIB,
    )
    return MigrationEnded(at=at(seconds), vm_name=vm_name, outcome=outcome)


ROLLOUT = RolloutStarted(at=at(0), rollout="r1", plan="plan-1", migrations=2)


def shown(display: Display, console: Console, *events: Event) -> str:
    with display:
        for event in events:
            display.show(event)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def in_a_pipe(*events: Event) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    return shown(Lines(console), console, *events).splitlines()


def on_a_terminal(*events: Event) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    return shown(Bars(console), console, *events)


def test_what_happens_is_one_line_each_with_its_time() -> None:
    note = Note(at=at(3), migration="m-vm1", vm_name="vm1", text="waits for room on h2")
    stopped = RolloutEnded(at=at(50), rollout="r1", stopped="asked to")

    assert in_a_pipe(ROLLOUT, started(), note, ended(42), stopped) == [
        "12:00:00 rollout r1 of plan plan-1: 2 migrations",
        "12:00:00 vm1: moving h1 → h2, live, up to 112 MiB/s",
        "12:00:03 vm1: waits for room on h2",
        "12:00:42 vm1: complete, took 42 s, downtime 180 ms, 4.50 GiB sent",
        "12:00:50 stopped early: asked to",
    ]


def test_progress_is_one_line_every_ten_seconds_for_all() -> None:
    running = (started("vm1"), started("vm2"))
    progress = [sent(second / 100, second, f"vm{1 + second % 2}") for second in range(31)]
    stage = StageChanged(
        at=at(0),
        migration="m-vm1",
        vm_name="vm1",
        before=MigrationState.REQUEST,
        after=MigrationState.TRANSFER,
        text="",
    )

    lines = in_a_pipe(ROLLOUT, *running, stage, *progress)[3:]

    assert [line.split()[0] for line in lines] == ["12:00:10", "12:00:20", "12:00:30"]
    assert "0 of 2 ended" in lines[0]
    assert "vm1 h1 → h2 transfer 10 %, round 2, 110 MiB/s, 15 s left" in lines[0]
    assert "vm2 h1 → h2" in lines[0]


def test_a_heartbeat_alone_keeps_the_lines_coming() -> None:
    beats = [Heartbeat(at=at(s), running=1, pending=0, ended=0) for s in (10, 20)]

    assert len(in_a_pipe(ROLLOUT, started(), *beats)) == 4


def test_lines_are_harmless_whatever_a_vm_is_called() -> None:
    (line,) = in_a_pipe(Note(at=at(0), migration="m", vm_name="\x1b[31mx\n", text="[bold]y"))

    assert line == "12:00:00  [31mx : [bold]y"


def test_a_terminal_shows_a_bar_while_a_migration_runs_and_a_line_when_it_ended() -> None:
    text = on_a_terminal(ROLLOUT, started(), sent(0.62, 20), ended(42))

    assert "vm1 h1 → h2" in text
    assert "62 %" in text
    assert "15 s left" in text
    assert "vm1: complete, took 42 s" in text


def test_progress_of_a_migration_nobody_heard_of_is_no_error() -> None:
    assert in_a_pipe(sent(0.5, 0), sent(0.6, 11)) == []


def test_the_display_suits_the_console() -> None:
    piped = Console(file=io.StringIO())
    screen = Console(file=io.StringIO(), force_terminal=True)

    assert isinstance(display_for(piped), Lines)
    assert isinstance(display_for(screen), Bars) or screen.is_dumb_terminal
