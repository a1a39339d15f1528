"""Pausing, slowing down and stopping whoever changes the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebalancer.cluster.plan import MigrationState
from rebalancer.errors import ExitCode
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import this_process
from rebalancer.rollout.records import state_entry
from rebalancer.service.clock import SystemClock
from tests.builders import a_disk
from tests.cli.conftest import Rebalancer
from tests.unit.rollout.plans import a_migration
from tests.unit.rollout.plans import a_plan as a_plan_to_move
from tests.unit.service.samples import a_plan


@pytest.fixture(autouse=True)
def _on_the_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REBALANCER_CLUSTER", "hotspot")


def test_nothing_is_started_in_a_paused_cluster(rebalancer: Rebalancer, hotspot: Path) -> None:
    paused = rebalancer("pause", "--reason", "switch is being replaced")
    status = rebalancer("status")
    refused = rebalancer("run", "--once", "--scenario", hotspot, "--yes")
    resumed = rebalancer("resume")
    done = rebalancer("run", "--once", "--scenario", hotspot, "--yes")

    assert (paused.code, resumed.code, done.code) == (0, 0, 0)
    assert "switch is being replaced" in status.out
    assert refused.code == ExitCode.BLOCKED
    assert "switch is being replaced" in refused.err
    assert "rebalancer resume" in refused.err


def test_looking_goes_on_while_paused(rebalancer: Rebalancer, hotspot: Path) -> None:
    rebalancer("pause")

    assert rebalancer("plan", "--scenario", hotspot).code == ExitCode.SUCCESS


def test_who_paused_first_is_remembered(rebalancer: Rebalancer) -> None:
    rebalancer("pause", "--reason", "first")

    again = rebalancer("pause", "--reason", "second")

    assert "was paused already" in again.out
    assert "first" in again.out


def test_what_was_not_paused_is_not_resumed(rebalancer: Rebalancer, tmp_path: Path) -> None:
    ran = rebalancer("resume")

    assert ran.code == ExitCode.SUCCESS
    assert "was not paused" in ran.out
    assert list(tmp_path.iterdir()) == []


def test_migrations_are_held_to_less_than_the_policy_allows(rebalancer: Rebalancer) -> None:
    slow = rebalancer("throttle", "--at-once", "2", "--link-share", "30%")
    status = rebalancer("status")
    off = rebalancer("throttle", "--off")

    assert "at most 2 at a time, with at most 30 % of each link" in slow.out
    assert "30 %" in status.out
    assert "as its policies say" in off.out


@pytest.mark.parametrize(
    "words", [[], ["--off", "--at-once", "2"], ["--link-share", "0"], ["--link-share", "fast"]]
)
def test_a_throttle_that_makes_no_sense_is_refused(
    rebalancer: Rebalancer, words: list[str]
) -> None:
    assert rebalancer("throttle", *words).code == ExitCode.USAGE


def test_a_throttle_names_those_whose_disks_go_on_at_their_pace(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    plan = a_plan_to_move(a_migration("db1", disks=(a_disk(),)), cluster="hotspot")
    with Journal.open(f"sqlite:///{tmp_path / 'journal.db'}", SystemClock()) as journal:
        lease = journal.acquire("hotspot", this_process())
        number = journal.begin(plan, lease)
        before = rebalancer("throttle", "--link-share", "30%")
        journal.write(number, [state_entry("m1", MigrationState.TRANSFER, "", None)], lease)
        during = rebalancer("throttle", "--link-share", "30%")
        fewer = rebalancer("throttle", "--at-once", "2")

    said = "the pace at which local disks are being copied cannot be changed, so those of db1 go on"
    assert said not in before.out
    assert said in during.out
    assert said not in fewer.out


def test_only_a_rollout_that_is_under_way_can_be_cancelled(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    before = rebalancer("cancel")
    with Journal.open(f"sqlite:///{tmp_path / 'journal.db'}", SystemClock()) as journal:
        lease = journal.acquire("hotspot", this_process())
        journal.begin(a_plan(cluster="hotspot"), lease)
        during = rebalancer("cancel", "--abort")
        wishes = journal.wishes("hotspot")

    assert before.out == "cluster hotspot: nothing is being carried out\n"
    assert "called off" in during.out
    assert (wishes.stop_rollout, wishes.stop_by_aborting) == (1, True)


def test_every_answer_says_of_which_cluster_it_is(rebalancer: Rebalancer) -> None:
    asked = ("pause",), ("pause",), ("resume",), ("resume",), ("throttle", "--off"), ("cancel",)

    said = [rebalancer(*words).out for words in asked]

    assert all(line.startswith("cluster hotspot: ") for line in said)


def test_a_reason_is_a_sentence_and_not_a_book(rebalancer: Rebalancer, tmp_path: Path) -> None:
    ran = rebalancer("pause", "--reason", "x" * 501)

    assert ran.code == ExitCode.USAGE
    assert "--reason has 501 characters, 500 is the most" in ran.err
    assert list(tmp_path.iterdir()) == []
    assert rebalancer("pause", "--reason", "x" * 500).code == ExitCode.SUCCESS
