"""Real commands as hooks: what they read, how they fail, and that none outlives its time."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebalancer.rollout.hook_processes import HookCommand, HookProcesses
from rebalancer.rollout.hooks import HookCall, HookReply, Moment, Objected, Passed
from tests.builders import NOON

CALL = HookCall(
    moment=Moment.BEFORE_MIGRATION, cluster="c", at=NOON, about={"migration": {"vm_name": "db"}}
)


def shell(script: str, timeout_seconds: float = 20.0) -> HookCommand:
    return HookCommand(words=("/bin/sh", "-c", script), timeout_seconds=timeout_seconds)


def ask(hooks: HookProcesses, call: HookCall = CALL) -> HookReply:
    ticket = hooks.start(call)
    while (reply := hooks.poll(ticket)) is None:
        threading.Event().wait(0.01)
    return reply


def answer(*commands: HookCommand, moment: Moment = Moment.BEFORE_MIGRATION) -> HookReply:
    call = HookCall(moment=moment, cluster="c", at=NOON, about=CALL.about)
    return ask(HookProcesses({moment: commands}), call)


def why(reply: HookReply) -> str:
    assert isinstance(reply, Objected)
    return reply.why


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie that init has not fetched yet is dead


def wait_for(file: Path) -> str:
    while not (file.exists() and file.read_text(encoding="utf-8").strip()):
        threading.Event().wait(0.01)
    return file.read_text(encoding="utf-8")


@pytest.fixture
def hooks_that_hang(tmp_path: Path) -> Iterator[tuple[HookProcesses, Path]]:
    child = f"sleep 600 & echo $! > {tmp_path}/child; wait"
    hooks = HookProcesses({Moment.BEFORE_MIGRATION: [shell(child, 600.0)]})
    yield hooks, tmp_path / "child"
    hooks.close()


def test_a_hook_that_ends_well_has_no_objection() -> None:
    assert answer(shell("exit 0")) == Passed()


def test_a_hook_reads_the_document_from_its_standard_input(tmp_path: Path) -> None:
    answer(shell(f"cat > {tmp_path}/read"))

    assert (tmp_path / "read").read_text(encoding="utf-8") == CALL.document()


def test_a_hook_need_not_read_what_it_is_told() -> None:
    about = {"migrations": ["x" * 100] * 10_000}
    call = HookCall(moment=Moment.BEFORE_PLAN, cluster="c", at=NOON, about=about)

    assert ask(HookProcesses({Moment.BEFORE_PLAN: [shell("exit 0")]}), call) == Passed()


def test_an_objection_is_in_the_hooks_own_words() -> None:
    reply = answer(shell("echo looking; echo 'the backup is running' >&2; exit 3"))

    assert why(reply) == "hook /bin/sh ended with exit code 3: the backup is running"


def test_control_characters_of_a_hook_do_not_reach_the_terminal() -> None:
    assert why(answer(shell("printf '\\033[2Jno\\n'; exit 1"))).endswith(": [2Jno")


def test_a_hook_that_writes_without_end_is_no_trouble() -> None:
    reply = answer(shell("head -c 20000000 /dev/zero | tr '\\0' a; echo; echo enough; exit 1"))

    assert why(reply).endswith(": enough")


def test_a_command_that_is_not_there_is_an_objection() -> None:
    reply = answer(HookCommand(words=("/nowhere/hook",), timeout_seconds=1.0))

    assert why(reply) == "hook /nowhere/hook cannot be run: No such file or directory"


def test_hooks_are_run_in_turn_and_the_first_objection_ends_them(tmp_path: Path) -> None:
    log = tmp_path / "log"

    answer(shell(f"echo 1 >> {log}"), shell(f"echo 2 >> {log}; exit 1"), shell(f"echo 3 >> {log}"))

    assert log.read_text(encoding="utf-8").split() == ["1", "2"]


def test_after_hooks_are_all_run(tmp_path: Path) -> None:
    log = tmp_path / "log"

    reply = answer(
        shell(f"echo 1 >> {log}; exit 1"), shell(f"echo 2 >> {log}"), moment=Moment.AFTER_PLAN
    )

    assert log.read_text(encoding="utf-8").split() == ["1", "2"]
    assert isinstance(reply, Objected)


def test_a_hook_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    reply = answer(shell(f"sleep 600 & echo $! > {tmp_path}/child; wait", timeout_seconds=2.0))

    assert "killed" in why(reply)
    assert not is_running(int((tmp_path / "child").read_text(encoding="utf-8")))


def test_a_hook_that_ignores_requests_is_killed_all_the_same(tmp_path: Path) -> None:
    ignore = "import signal, time; signal.signal(15, signal.SIG_IGN); "
    script = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid())); "
    words = (sys.executable, "-S", "-c", ignore + script + "time.sleep(600)")

    reply = answer(HookCommand(words=words, timeout_seconds=4.0))

    assert "killed" in why(reply)
    assert not is_running(int((tmp_path / "pid").read_text(encoding="utf-8")))


def test_what_a_hook_leaves_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    reply = answer(shell(f"sleep 600 & echo $! > {tmp_path}/child; exit 0"))

    os.kill(int((tmp_path / "child").read_text(encoding="utf-8")), 9)
    assert reply == Passed()


def test_closing_kills_what_still_runs(hooks_that_hang: tuple[HookProcesses, Path]) -> None:
    hooks, file = hooks_that_hang
    hooks.start(CALL)
    child = int(wait_for(file))

    hooks.close()

    assert not is_running(child)


def test_a_hook_that_is_called_off_objects(hooks_that_hang: tuple[HookProcesses, Path]) -> None:
    hooks, file = hooks_that_hang
    ticket = hooks.start(CALL)
    child = int(wait_for(file))

    hooks.cancel(ticket)
    while (reply := hooks.poll(ticket)) is None:
        threading.Event().wait(0.01)

    assert "called off" in why(reply)
    assert not is_running(child)
