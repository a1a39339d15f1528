"""What the commands promise: dry until told otherwise, one at a time, once only."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rebalancer.cluster.plan import MigrationState
from rebalancer.errors import ExitCode
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import this_process
from rebalancer.rollout.records import state_entry
from rebalancer.service.clock import SystemClock
from tests.cli.conftest import ROOT, Rebalancer
from tests.unit.service.samples import a_plan

FULL_DISK = Path("/dev/full")


def test_a_plan_is_saved_and_tells_how_to_apply_it(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path
) -> None:
    plan = tmp_path / "plan.json"

    ran = rebalancer("plan", "--scenario", hotspot, "--out", plan)

    assert ran.code == ExitCode.SUCCESS
    assert f"rebalancer apply {plan} --scenario {hotspot} --yes" in ran.out
    assert json.loads(plan.read_text())["schema_version"] == 1


def test_changes_are_told_by_exit_code_only_when_asked(
    rebalancer: Rebalancer, hotspot: Path
) -> None:
    assert rebalancer("plan", "--scenario", hotspot, "--detailed-exitcode").code == 2


def test_looking_leaves_nothing_behind(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path
) -> None:
    for command in (
        ["plan", "--scenario", hotspot],
        ["drain", "h1", "--scenario", hotspot],
        ["run", "--once", "--scenario", hotspot],
        ["snapshot", "--scenario", hotspot],
        ["status"],
        ["history"],
    ):
        rebalancer(*command)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["run", "--once"], ["drain", "h1"]])
def test_json_of_what_is_planned_and_done_at_once_is_one_document(
    rebalancer: Rebalancer, hotspot: Path, command: list[str]
) -> None:
    ran = rebalancer(*command, "--scenario", hotspot, "--yes", "-o", "json")

    assert ran.code == ExitCode.SUCCESS
    assert json.loads(ran.out)["plan"]


def test_apply_without_yes_changes_nothing(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path
) -> None:
    plan = tmp_path / "plan.json"
    rebalancer("plan", "--scenario", hotspot, "--out", plan)

    ran = rebalancer("apply", plan, "--scenario", hotspot)

    assert ran.code == ExitCode.SUCCESS
    assert "nothing was changed" in ran.err
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_is_applied_once(rebalancer: Rebalancer, tmp_path: Path, hotspot: Path) -> None:
    plan = tmp_path / "plan.json"
    rebalancer("plan", "--scenario", hotspot, "--out", plan)

    first = rebalancer("apply", plan, "--scenario", hotspot, "--yes")
    second = rebalancer("apply", plan, "--scenario", hotspot, "--yes")

    assert (first.code, second.code) == (ExitCode.SUCCESS, ExitCode.REFUSED)
    assert "applied already" in second.err


def test_two_at_once_are_one_too_many(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path
) -> None:
    plan = tmp_path / "plan.json"
    rebalancer("plan", "--scenario", hotspot, "--out", plan)
    journal = Journal.open(f"sqlite:///{tmp_path / 'journal.db'}", SystemClock())

    with journal, journal.hold("hotspot"):
        ran = rebalancer("apply", plan, "--scenario", hotspot, "--yes")

    assert ran.code == ExitCode.LOCKED
    assert "is changing cluster 'hotspot'" in ran.err


def test_a_plan_made_under_another_policy_is_refused(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path
) -> None:
    plan, policy = tmp_path / "plan.json", tmp_path / "policy.yaml"
    policy.write_text("schema_version: 1\nname: other\nheadroom: {cpu: 0.2}\n")
    rebalancer("plan", "--scenario", hotspot, "--policy", policy, "--out", plan)

    ran = rebalancer("apply", plan, "--scenario", hotspot, "--yes")

    assert ran.code == ExitCode.REFUSED
    assert "--policy" in ran.err


def test_a_drained_host_is_empty_and_stays_so_until_it_is_undrained(
    rebalancer: Rebalancer, hotspot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REBALANCER_CLUSTER", "hotspot")

    drained = rebalancer("drain", "h1", "--scenario", hotspot, "--yes")
    during = rebalancer("status")
    undrained = rebalancer("undrain", "h1", "--scenario", hotspot)
    after = rebalancer("status")

    assert drained.code == ExitCode.SUCCESS
    assert "h1 is empty" in drained.err
    assert "draining" in during.out
    assert undrained.code == ExitCode.SUCCESS
    assert "draining" not in after.out


def test_a_drain_with_a_deadline_is_proven_or_refused_before_anything_is_touched(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REBALANCER_CLUSTER", "hotspot")
    drain, saved = ("drain", "h1", "--scenario", hotspot), tmp_path / "plan.json"

    refused = rebalancer(*drain, "--deadline", "10s", "--yes")
    saved_anyway = rebalancer(*drain, "--deadline", "10s", "--out", saved)
    applied = rebalancer("apply", saved, "--scenario", hotspot, "--yes")
    unreadable = rebalancer(*drain, "--deadline", "soon")
    after = rebalancer("status")
    proven = rebalancer(*drain, "--deadline", "2h", "--yes")

    assert refused.code == saved_anyway.code == ExitCode.BLOCKED
    assert "cannot be promised" in refused.err
    assert applied.code == ExitCode.REFUSED
    assert "deadline" in applied.err
    assert unreadable.code == ExitCode.USAGE
    assert "draining" not in after.out
    assert proven.code == ExitCode.SUCCESS
    assert "is kept" in " ".join(proven.out.split())


def test_a_drain_that_leaves_vms_behind_is_blocked_and_names_them(
    rebalancer: Rebalancer, blocked_drain: Path
) -> None:
    ran = rebalancer("drain", "h1", "--scenario", blocked_drain, "--yes")

    assert ran.code == ExitCode.BLOCKED
    assert "license-server" in ran.err


@pytest.mark.parametrize("command", ["history", "status"])
def test_a_journal_in_a_folder_that_is_not_there_is_a_fault_and_one_to_come_is_not(
    rebalancer: Rebalancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    to_come = rebalancer(command)
    monkeypatch.setenv("REBALANCER_JOURNAL", f"sqlite:///{tmp_path}/no/such/journal.db")
    misspelt = rebalancer(command)

    assert to_come.code == ExitCode.SUCCESS
    assert f"there is no journal yet: {tmp_path}/journal.db" in to_come.err
    assert misspelt.code == ExitCode.USAGE
    assert f"REBALANCER_JOURNAL): there is no folder {tmp_path}/no/such;" in misspelt.err
    assert misspelt.out == ""


def test_history_and_show_tell_what_was_rolled_out(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path
) -> None:
    plan = tmp_path / "plan.json"
    rebalancer("plan", "--scenario", hotspot, "--out", plan)
    rebalancer("apply", plan, "--scenario", hotspot, "--yes")
    plan_id = json.loads(plan.read_text())["id"]

    history = json.loads(rebalancer("history", "--all-clusters", "-o", "json").out)
    right = json.loads(rebalancer("history", "--all-clusters", "--accuracy", "-o", "json").out)
    table = rebalancer("history", "--all-clusters", "--accuracy")
    show = json.loads(rebalancer("show", plan_id, "-o", "json").out)

    assert [row["plan"] for row in history["rollouts"]] == [plan_id]
    assert right["accuracy"][0]["source"] is None
    assert right["accuracy"][0]["migrations"] == len(show["migrations"])
    assert right["accuracy"][0]["duration"]["in_band_ratio"] == 1
    assert "all" in table.out
    assert {row["outcome"]["state"] for row in show["migrations"]} == {"complete"}


def test_a_snapshot_that_was_saved_can_be_planned_on(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path
) -> None:
    saved = tmp_path / "snapshot.json"
    rebalancer("snapshot", "--scenario", hotspot, "-o", saved)

    ran = rebalancer("plan", "--snapshot", saved, "-o", "json")

    assert ran.code == ExitCode.SUCCESS
    assert json.loads(ran.out)["migrations"]


def test_files_that_ship_are_valid(rebalancer: Rebalancer) -> None:
    files = [
        file
        for folder in ("config", "policies", "scenarios")
        for file in sorted((ROOT / folder).glob("*.yaml"))
    ]

    ran = rebalancer("validate", *files)

    assert ran.code == ExitCode.SUCCESS
    assert len(ran.out.splitlines()) == len(files)


@pytest.mark.skipif(not FULL_DISK.exists(), reason="there is no device that is always full")
def test_output_on_a_full_disk_ends_with_one_sentence(
    rebalancer: Rebalancer, monkeypatch: pytest.MonkeyPatch, hotspot: Path
) -> None:
    with FULL_DISK.open("w", encoding="utf-8", buffering=1) as full:
        monkeypatch.setattr("sys.stdout", full)

        ran = rebalancer("plan", "--scenario", hotspot)

    assert ran.code == ExitCode.ERROR
    # A busy machine may have something to say of the solver before that.
    said = ran.err.splitlines()[-1]
    assert said.startswith("rebalancer: the output cannot be written: No space left")


def test_recovery_of_nothing_is_one_document_too(rebalancer: Rebalancer, tmp_path: Path) -> None:
    config = tmp_path / "rebalancer.yaml"
    config.write_text(
        'schema_version: 1\nhosts: [{name: h1, uri: "test:///default"}]\n'
        "collect: {sampling_seconds: 0.1}\n"
    )
    pytest.importorskip("libvirt")

    ran = rebalancer("recover", "--yes", "-o", "json", "--config", config)

    assert ran.code == ExitCode.SUCCESS, ran.err
    assert json.loads(ran.out)["rollouts"] == []


def test_settings_in_force_are_shown(rebalancer: Rebalancer) -> None:
    ran = rebalancer("config", "show", "--effective", "-o", "json")

    keys = {row["key"]: row["origin"] for row in json.loads(ran.out)["settings"]}
    assert keys["cluster"] == "default"
    assert keys["journal"] == "REBALANCER_JOURNAL"


def test_the_status_says_that_the_process_at_work_died(
    rebalancer: Rebalancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REBALANCER_CLUSTER", "test")
    gone = subprocess.Popen(["true"])
    gone.wait()
    owner = replace(this_process(), pid=gone.pid, started="1")
    journal = Journal.open(f"sqlite:///{tmp_path / 'journal.db'}", SystemClock())
    with journal:
        lease = journal.acquire("test", owner)
        rollout = journal.begin(a_plan(cluster="test"), lease)
        begun = state_entry("m1", MigrationState.REQUEST, "asked")
        journal.write(rollout, [begun], lease)

    said = rebalancer("status").out

    assert "which died: run rebalancer recover" in said
