"""The hooks that the documentation shows do what it says, as they stand there."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from pathlib import Path

import pytest

from rebalancer.cluster.plan import MigrationState, Outcome
from rebalancer.rollout.hook_processes import HookCommand, HookProcesses
from rebalancer.rollout.hooks import HookCall, HookReply, Moment, Passed, about_migration
from tests.builders import NOON
from tests.unit.rollout.plans import a_migration

ROOT = Path(__file__).parents[3]
MOVE = a_migration("vm1", "h1", "h2")


@pytest.fixture
def tell_guest(tmp_path: Path) -> HookCommand:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(#!/usr/bin/python3\n.*?)```", text, re.DOTALL)
    file = tmp_path / "tell-guest"
    file.write_text(script, encoding="utf-8")
    return HookCommand(words=(sys.executable, str(file)), timeout_seconds=60.0)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `virsh` that writes down what is asked of it, and fails: no guest has an agent here."""
    bin_folder, asked = tmp_path / "bin", tmp_path / "asked"
    bin_folder.mkdir()
    virsh = bin_folder / "virsh"
    virsh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {asked}\nexit 1\n', encoding="utf-8")
    virsh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    return asked


def told(hook: HookCommand, moment: Moment, outcome: Outcome | None = None) -> HookReply:
    hooks = HookProcesses({moment: [hook]})
    about = about_migration(MOVE, "p1", outcome)
    ticket = hooks.start(HookCall(moment=moment, cluster="c", at=NOON, about=about))
    while (reply := hooks.poll(ticket)) is None:
        threading.Event().wait(0.01)
    return reply


def test_a_guest_is_told_before_its_migration_and_one_without_an_agent_moves_all_the_same(
    tell_guest: HookCommand, asked: Path
) -> None:
    reply = told(tell_guest, Moment.BEFORE_MIGRATION)

    *words, request = asked.read_text(encoding="utf-8").splitlines()
    assert isinstance(reply, Passed)
    assert words == [
        *("-c", "qemu+ssh://h1/system", "qemu-agent-command", "--timeout", "5", MOVE.vm)
    ]
    assert json.loads(request) == {
        "execute": "guest-exec",
        "arguments": {"path": "/usr/local/sbin/before_migration", "arg": ["h1", "h2"]},
    }


@pytest.mark.parametrize(
    ("state", "host"), [(MigrationState.COMPLETE, "h2"), (MigrationState.FAILED_SAFE, "h1")]
)
def test_afterwards_it_is_told_where_it_is(
    tell_guest: HookCommand, asked: Path, state: MigrationState, host: str
) -> None:
    told(tell_guest, Moment.AFTER_MIGRATION, Outcome(migration="m1", state=state, text=""))

    assert f"qemu+ssh://{host}/system" in asked.read_text(encoding="utf-8")


def test_without_virsh_nothing_is_kept_from_moving(
    tell_guest: HookCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert isinstance(told(tell_guest, Moment.BEFORE_MIGRATION), Passed)
