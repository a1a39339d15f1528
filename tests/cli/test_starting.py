"""What a command loads before it does anything: somebody waits for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rebalancer.service.cli import COMMANDS, GROUPS, app_for
from tests.cli.conftest import ROOT

PROGRAM = """\
import json, sys
from rebalancer.service.cli import main
code = main(sys.argv[1:])
print(json.dumps([int(code), sorted(sys.modules)]), file=sys.stderr)
"""

OF_OTHERS = [
    # of the daemon and its API
    "anyio",
    "apscheduler.schedulers",
    "fastapi",
    "prometheus_client",
    "starlette",
    "uvicorn",
    # of what is asked and changed
    "libvirt",
    "prometheus_api_client",
    "requests",
    "sushy",
    # of other solvers' logs, which PuLP would read
    "cpsat_logutils",
    # of what changes a cluster, or stands in for one
    "rebalancer.rollout.executor",
    "rebalancer.rollout.libvirt_driver",
    "rebalancer.service.daemon",
    "rebalancer.simulation",
]


@pytest.mark.parametrize("calls", [["--help"], ["--snapshot", "SNAPSHOT"]])
def test_a_plan_loads_nothing_that_only_other_commands_need(
    calls: list[str], tmp_path: Path, hotspot: Path
) -> None:
    snapshot = tmp_path / "snapshot.json"
    made = run("-m", "rebalancer", "snapshot", "--scenario", str(hotspot), "-o", str(snapshot))
    assert made.returncode == 0, made.stderr

    ended = run("-c", PROGRAM, "plan", *(word.replace("SNAPSHOT", str(snapshot)) for word in calls))

    code, loaded = json.loads(ended.stderr.splitlines()[-1])
    assert code == 0
    assert [name for name in OF_OTHERS if name in loaded] == []


def test_every_subcommand_is_found_where_it_is_said_to_be() -> None:
    app = app_for()

    groups = {group.name: group.typer_instance for group in app.registered_groups}
    found = [command.name for command in app.registered_commands if command.callback]
    found += [
        f"{name} {command.name}"
        for name, group in groups.items()
        if group is not None
        for command in group.registered_commands
    ]
    assert found == list(COMMANDS)
    assert set(groups) == set(GROUPS)


@pytest.mark.parametrize("misspelt", [[], ["--help"], ["plann"], ["--version", "plan"]])
def test_where_no_subcommand_comes_first_all_are_there(misspelt: list[str]) -> None:
    assert len(app_for(misspelt).registered_commands) == sum(" " not in name for name in COMMANDS)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=ROOT
    )
