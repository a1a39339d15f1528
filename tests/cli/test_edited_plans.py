"""A plan is a file: whatever somebody writes into it, only what the policy allows is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rebalancer.errors import ExitCode
from tests.cli.conftest import Rebalancer

EDITS: list[tuple[dict[str, Any], str]] = [
    ({"mode": "cold"}, "does not allow mode cold"),
    ({"mode": "post_copy"}, "does not allow mode post_copy"),
    ({"max_downtime_seconds": 9999}, "a pause of up to 9999 s"),
    ({"bytes_per_second": 1e300}, "limits.link_share"),
    ({"target": "h99"}, "target h99 is not in the cluster"),
    ({"vm_name": "payroll"}, "the plan calls it payroll"),
]


@pytest.fixture
def plan(rebalancer: Rebalancer, tmp_path: Path, hotspot: Path) -> Path:
    """A plan for the scenario, as it was made."""
    file = tmp_path / "plan.json"
    assert rebalancer("plan", "--scenario", hotspot, "--out", file).code == ExitCode.SUCCESS
    return file


def edit(plan: Path, changed: dict[str, Any]) -> None:
    tree = json.loads(plan.read_text())
    tree["migrations"][0] |= changed
    plan.write_text(json.dumps(tree))


@pytest.mark.parametrize("yes", [[], ["--yes"]])
@pytest.mark.parametrize(("changed", "said"), EDITS)
def test_an_edited_plan_is_refused_by_apply_and_by_its_rehearsal(
    rebalancer: Rebalancer,
    plan: Path,
    hotspot: Path,
    changed: dict[str, Any],
    said: str,
    yes: list[str],
) -> None:
    edit(plan, changed)

    ran = rebalancer("apply", plan, "--scenario", hotspot, *yes)

    assert ran.code == ExitCode.REFUSED
    assert said in ran.err


def test_a_plan_that_nobody_edited_is_carried_out(
    rebalancer: Rebalancer, plan: Path, hotspot: Path
) -> None:
    assert rebalancer("apply", plan, "--scenario", hotspot, "--yes").code == ExitCode.SUCCESS


def test_a_plan_made_with_allow_cold_is_applied_with_it_only(
    rebalancer: Rebalancer, plan: Path, hotspot: Path
) -> None:
    edit(plan, {"mode": "cold"})

    without = rebalancer("apply", plan, "--scenario", hotspot)
    with_it = rebalancer("apply", plan, "--scenario", hotspot, "--allow-cold")

    assert without.code == ExitCode.REFUSED
    assert with_it.code == ExitCode.SUCCESS


def test_drain_with_allow_cold_says_how_its_plan_is_applied(
    rebalancer: Rebalancer, tmp_path: Path, blocked_drain: Path
) -> None:
    file = tmp_path / "plan.json"
    host = "h1"

    ran = rebalancer("drain", host, "--scenario", blocked_drain, "--allow-cold", "--out", file)

    assert "--allow-cold" in ran.out


AS_MADE = "its reasons and totals are those of the plan that was made"


def test_a_plan_without_some_of_its_steps_says_so_and_counts_those_that_are_left(
    rebalancer: Rebalancer, plan: Path, hotspot: Path
) -> None:
    tree = json.loads(plan.read_text())
    made = len(tree["migrations"])
    gone = tree["migrations"].pop()["id"]
    assert all(gone not in step["depends_on"] for step in tree["migrations"])
    gib = sum(step["memory_bytes"] for step in tree["migrations"]) / 1024**3
    plan.write_text(json.dumps(tree))

    for command in (["show", plan], ["apply", plan, "--scenario", hotspot]):
        ran = rebalancer(*command)
        head = ran.out.splitlines()[0]
        assert ran.code == ExitCode.SUCCESS
        assert (
            head == f"edited since it was made: {AS_MADE}; now: move {made - 1} VMs ({gib:.1f} GiB)"
        )
        assert "as it was made: objective" in ran.out
        assert f"{made - 1} migrations, " in ran.out


def test_explain_tells_of_an_edited_plan_that_its_reason_is_an_older_one(
    rebalancer: Rebalancer, plan: Path, hotspot: Path
) -> None:
    step = json.loads(plan.read_text())["migrations"][0]
    untouched = rebalancer("explain", step["vm_name"], "--plan", plan, "--scenario", hotspot)
    others = {one["target"] for one in json.loads(plan.read_text())["migrations"]}
    edit(plan, {"target": min(others - {step["target"], step["source"]})})
    edited = rebalancer("explain", step["vm_name"], "--plan", plan, "--scenario", hotspot)

    assert AS_MADE not in untouched.out + untouched.err
    assert f"was edited since it was made: {AS_MADE}" in edited.err
    assert f"why: {step['reason']} (so the plan that was made)" in edited.out


def test_layout_and_order_of_keys_are_no_edit_and_old_files_are_read_as_before(
    rebalancer: Rebalancer, plan: Path
) -> None:
    head = rebalancer("show", plan).out.splitlines()[0]
    tree = json.loads(plan.read_text())
    plan.write_text(json.dumps(dict(reversed(tree.items())), indent=7).replace(".0,", ","))
    assert rebalancer("show", plan).out.splitlines()[0] == head

    del tree["made_as"]
    tree["migrations"].pop()
    plan.write_text(json.dumps(tree))
    assert rebalancer("show", plan).out.splitlines()[0] == head


def test_an_edited_plan_is_still_one_in_the_journal(
    rebalancer: Rebalancer, plan: Path, hotspot: Path
) -> None:
    tree = json.loads(plan.read_text())
    tree["migrations"].pop()
    plan.write_text(json.dumps(tree))
    assert rebalancer("apply", plan, "--scenario", hotspot, "--yes").code == ExitCode.SUCCESS

    shown = rebalancer("show", tree["id"])

    assert shown.code == ExitCode.SUCCESS
    assert AS_MADE in shown.out
