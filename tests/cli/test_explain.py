"""`rebalancer explain`: why a VM is where it is, and why not elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostState
from rebalancer.collect.snapshot_file import write_snapshot
from rebalancer.errors import ExitCode
from tests.builders import GIB, a_host, a_snapshot, a_vm
from tests.cli.conftest import Rebalancer

POLICY = """\
schema_version: 1
name: test
headroom: {cpu: 0, memory: 0}
trigger: null
rules:
  - {rule: pin, name: stay, vms: {names: pinned}}
  - {rule: fence, name: gold, vms: {names: fenced}, to: {names: [h1, h2]}}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> list[object]:
    """Options for a cluster of four hosts with a pinned and a fenced VM."""
    hosts = [a_host("h1"), a_host("h2", memory_bytes=8 * GIB), a_host("h3"), a_host("h4")]
    vms = [
        a_vm("pinned", cpu_used_cores=3.0),
        a_vm("fenced", memory_bytes=16 * GIB, cpu_used_cores=2.0),
        a_vm("free", on="h3"),
    ]
    write_snapshot(a_snapshot(hosts, vms), tmp_path / "snapshot.json")
    (tmp_path / "policy.yaml").write_text(POLICY)
    return ["--snapshot", tmp_path / "snapshot.json", "--policy", tmp_path / "policy.yaml"]


def test_a_vm_that_moves_is_told_with_the_reason_and_what_it_gains(
    rebalancer: Rebalancer, hotspot: Path
) -> None:
    ran = rebalancer("explain", "db1", "--scenario", hotspot)

    assert ran.code == ExitCode.SUCCESS
    assert "db1 moves from h1 to" in ran.out
    assert "gains 0." in ran.out
    assert "if it stayed, the objective would be" in ran.out
    assert "Where it could be instead, best first" in ran.out


def test_a_vm_that_stays_is_told_with_what_holds_it(
    rebalancer: Rebalancer, cluster: list[object]
) -> None:
    ran = rebalancer("explain", "pinned", *cluster)

    assert "pinned stays on h1" in ran.out
    assert "why: it is pinned by stay" in ran.out


def test_every_reason_against_one_host_is_told(
    rebalancer: Rebalancer, cluster: list[object]
) -> None:
    ran = rebalancer("explain", "fenced", "h2", *cluster, "-o", "json")

    tree = json.loads(ran.out)
    assert tree["schema_version"] == 1
    against = tree["asked"]["obstacles"]
    assert "no room for its memory: 16.0 GiB needed, 8.0 GiB free" in against
    assert len(against) == 2

    fenced_off = json.loads(rebalancer("explain", "fenced", "h4", *cluster, "-o", "json").out)
    assert fenced_off["asked"]["obstacles"] == ["gold forbids it"]


def test_what_would_happen_on_a_possible_host_is_told_in_numbers(
    rebalancer: Rebalancer, cluster: list[object]
) -> None:
    ran = rebalancer("explain", "free", "h1", *cluster)

    assert "on h1 instead of" in ran.out
    assert "worse" in ran.out
    assert "h1 would be at CPU" in ran.out
    assert "moving it there: live, " in ran.out


def test_the_json_ranks_every_host(rebalancer: Rebalancer, cluster: list[object]) -> None:
    tree = json.loads(rebalancer("explain", "free", *cluster, "-o", "json").out)

    rises = [one["change"]["objective"] for one in tree["possible"]]
    assert rises == sorted(rises)
    assert len(tree["possible"]) + len(tree["impossible"]) == 3


def test_a_saved_plan_is_explained_as_it_is(
    rebalancer: Rebalancer, hotspot: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "plan.json"
    rebalancer("plan", "--scenario", hotspot, "--out", saved)
    move = json.loads(saved.read_text())["migrations"][0]

    ran = rebalancer(
        "explain", move["vm_name"], "--scenario", hotspot, "--plan", saved, "-o", "json"
    )

    tree = json.loads(ran.out)
    assert (tree["present_host"], tree["planned_host"]) == (move["source"], move["target"])
    assert tree["reason"] == move["reason"]
    assert ran.err == ""


def test_a_plan_for_another_cluster_is_remarked_on(
    rebalancer: Rebalancer, hotspot: Path, cluster: list[object], tmp_path: Path
) -> None:
    saved = tmp_path / "plan.json"
    rebalancer("plan", "--scenario", hotspot, "--out", saved)

    ran = rebalancer("explain", "free", *cluster, "--plan", saved)

    assert ran.code == ExitCode.SUCCESS
    assert "not as it was when plan" in ran.err
    assert "another policy" in ran.err


def test_an_unknown_name_is_a_slip_with_near_ones_offered(
    rebalancer: Rebalancer, cluster: list[object]
) -> None:
    vm = rebalancer("explain", "pined", *cluster)
    host = rebalancer("explain", "free", "h9", *cluster)

    assert vm.code == host.code == ExitCode.USAGE
    assert "no VM called pined in cluster test; did you mean pinned?" in vm.err
    assert "no host called h9" in host.err
    assert "h1" in host.err


def test_a_name_that_several_vms_have_asks_for_the_id(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    vms = [a_vm("id-1"), a_vm("id-2")]
    file = tmp_path / "snapshot.json"
    write_snapshot(a_snapshot(vms=vms), file)
    file.write_text(file.read_text().replace('"name": "id-1"', '"name": "twin"'))
    file.write_text(file.read_text().replace('"name": "id-2"', '"name": "twin"'))

    ran = rebalancer("explain", "twin", "--snapshot", file)

    assert ran.code == ExitCode.USAGE
    assert "2 VMs in cluster test are called twin; give the id: id-1, id-2" in ran.err
    assert rebalancer("explain", "id-2", "--snapshot", file).code == ExitCode.SUCCESS


def test_a_drain_that_is_blocked_names_the_conflict_and_what_would_help(
    rebalancer: Rebalancer, blocked_drain: Path
) -> None:
    ran = rebalancer("drain", "h1", "--scenario", blocked_drain)

    said = " ".join(ran.out.split())
    assert "conflict: license-server cannot leave h1" in said
    assert "what would help: letting license-server be moved would free 1 VM" in said


def test_a_plan_in_json_explains_itself(rebalancer: Rebalancer, hotspot: Path) -> None:
    tree = json.loads(rebalancer("plan", "--scenario", hotspot, "-o", "json").out)

    explanation = tree["explanation"]
    assert {gain["vm"] for gain in explanation["gains"]} == {m["vm"] for m in tree["migrations"]}
    assert explanation["capacity"]["text"]
    assert {"gap_ratio", "captured_ratio"} <= tree["objective"].keys()


def test_of_a_host_that_never_told_its_size_no_load_is_made_up(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    silent = a_host("h3", state=HostState.UNKNOWN, cpu_cores=0.0, memory_bytes=0)
    vms = [a_vm("seen", cpu_used_cores=2.0), a_vm("unseen", on="h3", cpu_used_cores=3.0)]
    saved = tmp_path / "snapshot.json"
    write_snapshot(a_snapshot([a_host("h1"), a_host("h2"), silent], vms), saved)

    about_it = rebalancer("explain", "unseen", "--snapshot", saved)
    asked = rebalancer("explain", "seen", "h3", "--snapshot", saved)
    plan = rebalancer("plan", "--snapshot", saved)
    looked = rebalancer("snapshot", "--snapshot", saved)
    moved = rebalancer("migrate", "seen", "h3", "--snapshot", saved)
    nowhere = rebalancer("migrate", "unseen", "--snapshot", saved)

    assert "unseen stays on h3 (size unknown)" in about_it.out
    assert "h3 did not answer, nothing is moved off it" in about_it.out
    assert "how full h3 is nobody knows" in asked.out
    assert "not possible: did not answer" in asked.out
    assert plan.code == ExitCode.SUCCESS  # it is not found short of memory that nobody has seen
    assert plan.out.startswith("balanced: ")
    assert moved.out.startswith("blocked: seen stays: h3 is unknown\n")
    assert "no host could take unseen; h3 is unknown" in nowhere.out
    for ran in (about_it, asked, plan, looked, moved, nowhere):
        assert "00 %" not in ran.out.replace("100 %", "")
    assert next(line.count("size unknown") for line in plan.out.splitlines() if "h3" in line) == 2
    tree = json.loads(rebalancer("plan", "--snapshot", saved, "-o", "json").out)
    assert tree["hosts"][2]["cpu_ratio_before"] is None


def test_a_limit_that_drained_vms_used_up_is_named_for_the_host_asked_about(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    hosts = [a_host("h1", state=HostState.DRAINING), a_host("h2"), a_host("h3")]
    vms = [a_vm("d1"), a_vm("d2"), *(a_vm(f"s{k}", on="h2", cpu_used_cores=4.0) for k in range(3))]
    saved, policy = tmp_path / "snapshot.json", tmp_path / "policy.yaml"
    write_snapshot(a_snapshot(hosts, vms), saved)
    policy.write_text(
        "schema_version: 1\nname: test\nlimits: {moves_into_host: 2}\n"
        "rules: [{rule: ban, vms: {names: [d1, d2]}, hosts: {names: h2}}]\n"
    )

    ran = rebalancer("explain", "s1", "h3", "--snapshot", saved, "--policy", policy)

    assert (
        "not in this plan: the limit of 2 moves onto h3 is used up: 2 count, "
        "2 of these have to be made anyway"
    ) in ran.out
