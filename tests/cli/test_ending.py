"""How a command ends when threads are left that nobody can end, such as libvirt's event loop."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT

PROGRAM = """\
import atexit, os, sys, threading
from rebalancer.__main__ import program
atexit.register(print, "taken apart")
if sys.argv.pop(1) == "beside":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
sys.exit(program())
"""


def ended(*arguments: str, output: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=ROOT,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_interpreter_is_not_taken_apart_while_a_thread_may_call_into_it() -> None:
    beside, alone = ended("beside", "--version"), ended("alone", "--version")

    assert (beside.returncode, alone.returncode) == (0, 0)
    assert alone.stdout == f"{beside.stdout}taken apart\n"
    assert beside.stdout.startswith("rebalancer ")


@pytest.mark.parametrize("threads", ["beside", "alone"])
def test_the_exit_code_is_that_of_the_command(threads: str) -> None:
    wrong = ended(threads, "plan", "--no-such-option")

    assert wrong.returncode == 64
    assert "--no-such-option" in wrong.stderr


def test_what_cannot_be_written_is_told_though_a_thread_is_left() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123  only written to, never replaced
        unwritten = ended("beside", "--help", output=full.fileno())

    assert unwritten.returncode == 1
    assert "the output cannot be written: No space left on device" in unwritten.stderr
