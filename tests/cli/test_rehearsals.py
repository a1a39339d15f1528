"""What is rehearsed on a scenario has nothing to do with real hosts, nor with other rehearsals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.errors import ExitCode
from rebalancer.rollout.journal import Journal
from rebalancer.service.clock import SystemClock
from tests.cli.conftest import Rebalancer


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of a real cluster that is called like the scenario."""
    file = tmp_path / "rebalancer.yaml"
    file.write_text(
        "schema_version: 1\ncluster: hotspot\n"
        f"journal: sqlite:///{tmp_path / 'journal.db'}\n"
        "hosts: [{name: h1, uri: 'test:///default'}]\n"
    )
    return file


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'journal.db'}"


def test_a_scenario_can_be_rehearsed_again_and_again(rebalancer: Rebalancer, hotspot: Path) -> None:
    command = ["run", "--once", "--scenario", hotspot, "--yes", "-o", "json"]

    def moves() -> list[tuple[str, str]]:
        told = json.loads(rebalancer(*command).out)
        return [(move["vm"], move["target"]) for move in told["migrations"]]

    first, second = moves(), moves()
    assert first == second != []


def test_a_rehearsal_drains_no_real_host(
    rebalancer: Rebalancer, hotspot: Path, config: Path, journal: str
) -> None:
    ran = rebalancer("drain", "h1", "--scenario", hotspot, "--config", config, "--yes")

    assert ran.code == ExitCode.SUCCESS
    with Journal.open(journal, SystemClock()) as kept:
        assert kept.drains("hotspot") == {}
        assert kept.drains("hotspot (scenario)").keys() == {HostId("h1")}


def test_a_rehearsal_does_not_wait_for_the_real_cluster(
    rebalancer: Rebalancer, hotspot: Path, config: Path, journal: str
) -> None:
    command = ["run", "--once", "--scenario", hotspot, "--config", config, "--yes"]

    with Journal.open(journal, SystemClock()) as kept, kept.hold("hotspot"):
        ran = rebalancer(*command)

    assert ran.code == ExitCode.SUCCESS


def test_what_is_rehearsed_can_be_planned_before_and_taken_back(
    rebalancer: Rebalancer, hotspot: Path, config: Path, tmp_path: Path
) -> None:
    where, plan = ("--scenario", hotspot, "--config", config), tmp_path / "plan.json"

    saved = rebalancer("plan", *where, "--out", plan)
    applied = rebalancer("apply", plan, *where, "--yes")
    rebalancer("drain", "h1", *where, "--yes")
    undrained = rebalancer("undrain", "h1", *where)

    assert (saved.code, applied.code, undrained.code) == (0, 0, 0)
    assert "h1 may be used again" in undrained.out
