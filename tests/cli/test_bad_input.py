"""Bad input gets one clear message and the right exit code, and changes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rebalancer.errors import ExitCode
from tests.cli.conftest import Ran, Rebalancer

SNAPSHOT = {
    "schema_version": 1,
    "cluster": "c",
    "taken_at": "2026-11-23T00:00:00Z",
    "hosts": [
        {"id": "h1", "name": "h1", "cpu_cores": 4, "memory_bytes": 8_000_000_000},
        {"id": "h2", "name": "h2", "cpu_cores": 4, "memory_bytes": 8_000_000_000},
    ],
    "vms": [{"id": "a", "name": "a", "host": "h1", "memory_bytes": 1_000_000_000}],
}


def refused(ran: Ran, code: ExitCode, *words: str) -> None:
    """Check that a command said what is wrong, briefly, and ended as it should."""
    assert ran.code == code, ran.err
    assert ran.err.startswith("rebalancer: ")
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) < 25
    for word in words:
        assert word in ran.err


def a_file(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


def snapshot_with(folder: Path, **changed: object) -> Path:
    return a_file(folder, "snapshot.json", json.dumps(SNAPSHOT | changed))


def test_an_unknown_option_is_a_usage_error(rebalancer: Rebalancer) -> None:
    refused(rebalancer("plan", "--foo"), ExitCode.USAGE, "--foo")


def test_a_usage_error_leads_to_the_help_of_that_command(rebalancer: Rebalancer) -> None:
    refused(rebalancer("drain"), ExitCode.USAGE, "try: rebalancer drain --help")
    refused(rebalancer("power", "wake"), ExitCode.USAGE, "try: rebalancer power wake --help")
    refused(rebalancer("drian"), ExitCode.USAGE, "'drain'", "try: rebalancer --help")


def test_no_command_at_all_is_a_usage_error(rebalancer: Rebalancer) -> None:
    ran = rebalancer()

    assert ran.code == ExitCode.USAGE
    assert "Commands:" in ran.err


def test_no_hosts_and_no_file_is_a_usage_error(rebalancer: Rebalancer) -> None:
    refused(rebalancer("plan"), ExitCode.USAGE, "no hosts are configured")


def test_an_unknown_key_in_a_policy_names_the_line_and_the_nearest_key(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path
) -> None:
    policy = a_file(
        tmp_path,
        "p.yaml",
        "schema_version: 1\nname: x\ngoals:\n  - {goal: balance, wieght: 2}\n",
    )

    ran = rebalancer("plan", "--scenario", hotspot, "--policy", policy)

    refused(ran, ExitCode.INVALID_FILE, "p.yaml:4:", "wieght", 'did you mean "weight"')


def test_a_vm_on_an_unknown_host(rebalancer: Rebalancer, tmp_path: Path) -> None:
    vms = [{"id": "a", "name": "a", "host": "h9", "memory_bytes": 1}]

    ran = rebalancer("plan", "--snapshot", snapshot_with(tmp_path, vms=vms))

    refused(ran, ExitCode.INVALID_FILE, "$.vms[0].host", "h9")


def test_negative_memory(rebalancer: Rebalancer, tmp_path: Path) -> None:
    vms = [{"id": "a", "name": "a", "host": "h1", "memory_bytes": -1}]

    ran = rebalancer("plan", "--snapshot", snapshot_with(tmp_path, vms=vms))

    refused(ran, ExitCode.INVALID_FILE, "$.vms[0].memory_bytes", "-1")


def test_a_number_that_is_none(rebalancer: Rebalancer, tmp_path: Path) -> None:
    vms = [
        {"id": "a", "name": "a", "host": "h1", "memory_bytes": 1, "cpu_used_cores": float("nan")}
    ]

    ran = rebalancer("plan", "--snapshot", snapshot_with(tmp_path, vms=vms))

    refused(ran, ExitCode.INVALID_FILE, "$.vms[0].cpu_used_cores", "finite")


def test_every_fault_of_a_file_is_told_at_once(rebalancer: Rebalancer, tmp_path: Path) -> None:
    vms = [
        {"id": "a", "name": "a", "host": "h9", "memory_bytes": 1},
        {"id": "b", "name": "b", "host": "h1", "memory_bytes": -1, "vcpu": 2},
    ]

    ran = rebalancer("plan", "--snapshot", snapshot_with(tmp_path, vms=vms))

    refused(ran, ExitCode.INVALID_FILE, "$.vms[0].host", "$.vms[1].memory_bytes", "vcpu")


def test_fifty_megabytes_of_garbage(rebalancer: Rebalancer, tmp_path: Path) -> None:
    file = tmp_path / "garbage.json"
    file.write_bytes(os.urandom(1_000_000) * 50)

    refused(rebalancer("plan", "--snapshot", file), ExitCode.INVALID_FILE, "garbage.json")


def test_a_file_of_comments_is_empty_whatever_it_was_to_be(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    ran = rebalancer("validate", a_file(tmp_path, "later.yaml", "# to be written\n"))

    refused(ran, ExitCode.INVALID_FILE, "later.yaml: the file is empty")


def test_yaml_with_a_tab(rebalancer: Rebalancer, tmp_path: Path, hotspot: Path) -> None:
    policy = a_file(tmp_path, "p.yaml", "schema_version: 1\nname: x\nlimits:\n\tmigrations: 1\n")

    ran = rebalancer("plan", "--scenario", hotspot, "--policy", policy)

    refused(ran, ExitCode.INVALID_FILE, "p.yaml:4:", "tab")


def test_a_yaml_bomb(rebalancer: Rebalancer, tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]

    ran = rebalancer("validate", a_file(tmp_path, "bomb.yaml", "\n".join(lines)))

    refused(ran, ExitCode.INVALID_FILE, "bomb.yaml")


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_a_host_that_does_not_exist(rebalancer: Rebalancer, command: str, hotspot: Path) -> None:
    ran = rebalancer(command, "h1", "nosuch", "--scenario", hotspot, "--yes")

    refused(ran, ExitCode.USAGE, "nosuch")
    assert "draining" not in rebalancer("status").out


def test_a_plan_that_was_cut_short(rebalancer: Rebalancer, tmp_path: Path, hotspot: Path) -> None:
    plan = tmp_path / "plan.json"
    rebalancer("plan", "--scenario", hotspot, "--out", plan)
    plan.write_text(plan.read_text()[:3000])

    ran = rebalancer("apply", plan, "--scenario", hotspot, "--yes")

    refused(ran, ExitCode.INVALID_FILE, "cut short")


def test_a_plan_for_another_cluster(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path, drain_scenario: Path
) -> None:
    plan = tmp_path / "plan.json"
    rebalancer("plan", "--scenario", hotspot, "--out", plan)

    ran = rebalancer("apply", plan, "--scenario", drain_scenario, "--yes")

    refused(ran, ExitCode.REFUSED, "cluster")


def test_a_snapshot_file_cannot_be_changed(rebalancer: Rebalancer, tmp_path: Path) -> None:
    ran = rebalancer("drain", "h1", "--snapshot", snapshot_with(tmp_path), "--yes")

    refused(ran, ExitCode.USAGE, "snapshot")


@pytest.mark.parametrize("more", ["", "migration: {max_downtime: 200ms}\n", "active: {}\n"])
def test_the_shortest_policy_there_is_is_known_for_one(
    rebalancer: Rebalancer, tmp_path: Path, more: str
) -> None:
    policy = a_file(tmp_path, "policy.yaml", f"schema_version: 1\nname: balance\n{more}")

    ran = rebalancer("validate", policy)

    assert ran.code == ExitCode.SUCCESS, ran.err
    assert "this policy is valid" in ran.out


def test_faults_of_a_policy_in_a_scenario_name_the_scenario_and_the_line(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    scenario = a_file(
        tmp_path,
        "s.yaml",
        """schema_version: 1
name: t
hosts:
  - {name: h1, cpu_cores: 4, memory: 8GiB}
vms:
  - {name: a, on: h1, memory: 1GiB}
policy:
  name: p
  limits:
    cluster: 0
""",
    )

    for command in ("validate", "plan"):
        named = [scenario] if command == "validate" else ["--scenario", scenario]
        ran = rebalancer(command, *named)

        refused(ran, ExitCode.INVALID_FILE, f"{scenario}:10: policy.limits.cluster: 0 is too small")


def test_a_snapshot_without_vms_is_not_taken_for_an_empty_cluster(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    tree = {key: value for key, value in SNAPSHOT.items() if key != "vms"}
    snapshot = a_file(tmp_path, "snapshot.json", json.dumps(tree))

    ran = rebalancer("plan", "--snapshot", snapshot)

    refused(ran, ExitCode.INVALID_FILE, "$.vms: this key is missing")


def test_what_out_names_is_written_to_and_not_replaced(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path
) -> None:
    link, kept = tmp_path / "latest.json", tmp_path / "kept.json"
    link.symlink_to(kept)

    for words in (["plan", "--out", link], ["snapshot", "-o", link]):
        ran = rebalancer(words[0], "--scenario", hotspot, *words[1:])

        assert ran.code == ExitCode.SUCCESS, ran.err
        assert link.is_symlink()
        assert kept.stat().st_size > 0


def test_every_file_is_checked_although_the_first_is_wrong(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    wrong = a_file(tmp_path, "wrong.yaml", "schema_version: 1\nname: x\ngaols: []\n")
    right = a_file(tmp_path, "right.yaml", "schema_version: 1\nname: x\n")
    worse = a_file(tmp_path, "worse.yaml", "")

    ran = rebalancer("validate", wrong, right, worse)

    assert ran.code == ExitCode.INVALID_FILE
    assert "right.yaml: this policy is valid" in ran.out
    assert "wrong.yaml:3: gaols: unknown key" in ran.err
    assert "worse.yaml: the file is empty" in ran.err


def test_a_file_of_another_kind_is_called_what_it_is(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path
) -> None:
    snapshot = snapshot_with(tmp_path)
    policy = a_file(tmp_path, "p.yaml", "schema_version: 1\nname: x\n")

    for command, words in (
        (("plan", "--snapshot", hotspot), "this is a scenario, not a snapshot; name it with"),
        (("plan", "--scenario", snapshot), "this is a snapshot, not a scenario; name it with"),
        (("simulate", policy), "this is a policy, not a scenario; name it with --policy"),
        (("plan", "--snapshot", snapshot, "--policy", hotspot), "this is a scenario, not a policy"),
        (("plan", "--scenario", hotspot, "--policy", snapshot), "this is a snapshot, not a policy"),
    ):
        ran = rebalancer(*command)
        refused(ran, ExitCode.INVALID_FILE, words)
        assert len(ran.err.splitlines()) == 1


def test_everything_wrong_in_a_policy_is_told_in_one_go(
    rebalancer: Rebalancer, tmp_path: Path, hotspot: Path
) -> None:
    text = "schema_version: 1\nname: x\ngoals:\n  - {goal: balance, weight: heavy}\n"
    policy = a_file(tmp_path, "p.yaml", f"{text}  - {{goal: balance}}\nmigration: {{allow: []}}\n")

    ran = rebalancer("plan", "--scenario", hotspot, "--policy", policy)

    refused(ran, ExitCode.INVALID_FILE)
    assert [line.split("p.yaml:")[1].split(": ")[:2] for line in ran.err.splitlines()] == [
        ["4", "goals[0].weight"],
        ["5", "goals[1]"],
        ["6", "migration.allow"],
    ]
