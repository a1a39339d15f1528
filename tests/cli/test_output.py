"""Standard output is for results: what libraries print below Python is not among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from rebalancer.errors import ExitCode
from tests.cli.conftest import ROOT

NOISE = """\
import os, sys
from rebalancer.service.cli import program
sys.argv = ["rebalancer", "--version"]
program()
os.write(1, b"a solver's remark\\n")
"""
SOLVER = """\
import rebalancer.placement.model, highspy
highspy.Highs()
"""


def run(
    *words: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=ROOT, env=env
    )


def test_what_a_library_prints_goes_to_standard_error() -> None:
    ended = run("-c", NOISE)

    assert ended.stdout.startswith("rebalancer ")
    assert ended.stdout.count("\n") == 1
    assert ended.stderr == "a solver's remark\n"


def test_an_interruption_while_the_program_is_loaded_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    paths = f"{tmp_path}{os.pathsep}{ROOT}"

    ended = run("-m", "rebalancer", "--version", env={**os.environ, "PYTHONPATH": paths})

    assert (ended.returncode, ended.stdout, ended.stderr) == (ExitCode.INTERRUPTED, "", "")


def test_the_solver_does_not_introduce_itself() -> None:
    ended = run("-c", SOLVER)

    assert (ended.stdout, ended.stderr) == ("", "")


def test_a_plan_as_json_is_json_and_nothing_else(hotspot: Path) -> None:
    ended = run("-m", "rebalancer", "plan", "--scenario", hotspot, "-o", "json")

    assert json.loads(ended.stdout)["schema_version"] == 1
    assert "HiGHS" not in ended.stderr


def test_a_command_whose_output_nobody_wanted_still_works(hotspot: Path) -> None:
    """Some start programs with closed standard output, such as `>&-` in a shell."""
    words = f'"{sys.executable}" -m rebalancer plan --scenario "{hotspot}" >&-'

    ended = subprocess.run(["sh", "-c", words], stderr=subprocess.PIPE, check=False, cwd=ROOT)

    assert ended.returncode == 0


@pytest.mark.parametrize("output", ["table", "json", "markdown"])
def test_a_reader_that_has_left_is_no_failure(output: str, hotspot: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "rebalancer", "explain", "db1", "--solver-time", "1"]

    ended = subprocess.run(
        [*words, "--scenario", hotspot, "-o", output],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        cwd=ROOT,
    )
    os.close(writing)

    assert (ended.returncode, ended.stderr) == (0, b"")
