"""How plans explain themselves, in text and in files."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from rich.console import Console

from rebalancer.cluster.explanation import (
    CapacityAdvice,
    Conflict,
    Explanation,
    Gain,
    RejectedHost,
    RejectedMove,
    Relaxation,
    Use,
)
from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.cluster.plan import Plan, SolveStatus
from rebalancer.service.plan_file import plan_of_text, plan_to_json
from rebalancer.service.report import Format, render_plan
from tests.unit.service.samples import a_plan, an_objective

H1, H2 = HostId("h1"), HostId("h2")


def an_explanation() -> Explanation:
    return Explanation(
        gains=(Gain(vm=VmId("uuid-1"), total=0.02, by_goal={"balance": 0.03, "movement": -0.01}),),
        rejected_moves=(
            RejectedMove(
                vm=VmId("uuid-2"),
                vm_name="db1",
                source=H1,
                target=H2,
                benefit=0.0123,
                price=0.001,
                reasons=("it is pinned by stay",),
            ),
        ),
        rejected_hosts=(RejectedHost(host=H2, name="h2", reasons=("it is asleep",)),),
        conflicts=(
            Conflict(
                text="w1 cannot leave h1: rule web; memory of h3",
                wishes=("w1 leaves h1",),
                members=("rule web", "memory of h3"),
                is_minimal=True,
                relaxations=(
                    Relaxation(
                        text="lowering headroom.memory from 5 % to 3 % would free 2 VMs",
                        met=2,
                        unlocks=True,
                    ),
                ),
            ),
        ),
        capacity=CapacityAdvice(
            uses=(Use(resource="memory", needed=10.0, usable=20.0),),
            short=0,
            spare=(H2,),
            text="1 host spare: without h2 everything still fits, memory at 82 %",
        ),
    )


def text_of(plan: Plan, output: Format = Format.TABLE, *, wide: bool = False) -> str:
    console = Console(file=io.StringIO(), width=160)
    render_plan(plan, output, console, wide=wide)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_plan_tells_what_contradicts_what_and_what_would_help() -> None:
    text = text_of(a_plan(explanation=an_explanation()))

    assert "conflict: w1 cannot leave h1: rule web; memory of h3\n" in text
    assert "what would help: lowering headroom.memory from 5 % to 3 % would free 2 VMs" in text


def test_a_conflict_that_may_be_larger_than_need_be_says_so() -> None:
    conflict = Conflict(text="x", wishes=("x",), members=("y",), is_minimal=False)

    text = text_of(a_plan(explanation=Explanation(conflicts=(conflict,))))

    assert "time ran out" in text
    assert "nothing that could be given up by itself would help" in text


def test_a_plan_lists_the_best_moves_that_are_not_made() -> None:
    text = text_of(a_plan(explanation=an_explanation()))

    row = next(line for line in text.splitlines() if line.startswith("db1 "))
    assert " ".join(row.split()) == "db1 h1 → h2 0.012 0.001 it is pinned by stay"


def test_moves_that_only_cost_more_than_they_gain_are_one_line() -> None:
    move = replace(an_explanation().rejected_moves[0], benefit=0.001, price=0.002)
    plan = a_plan(explanation=Explanation(rejected_moves=(move, move)))

    assert "Best moves not made" not in text_of(plan)
    assert (
        "no other single move pays: db1 to h2, the best, would gain 0.001 and costs 0.002"
        in text_of(plan)
    )
    assert "Best moves not made" in text_of(plan, wide=True)


def test_hosts_that_take_nobody_are_listed_when_everything_is_wanted() -> None:
    plan = a_plan(explanation=an_explanation())

    assert "Hosts that take no VM" not in text_of(plan)
    assert "it is asleep" in text_of(plan, wide=True)


def test_a_plan_says_how_many_hosts_there_are_to_spare() -> None:
    assert "capacity: 1 host spare: without h2" in text_of(a_plan(explanation=an_explanation()))


def test_an_explanation_survives_a_file() -> None:
    plan = a_plan(explanation=an_explanation())

    read = plan_of_text(plan_to_json(plan), origin="a test")

    assert read.explanation == plan.explanation
    assert json.loads(plan_to_json(plan))["explanation"]["conflicts"][0]["is_minimal"] is True


def test_a_plan_without_an_explanation_can_still_be_read() -> None:
    tree = json.loads(plan_to_json(a_plan()))
    del tree["explanation"]

    assert plan_of_text(json.dumps(tree), origin="a test").explanation == Explanation()


def test_gap_and_captured_are_printed_for_a_plan_that_moves_nothing_too() -> None:
    objective = an_objective(after=4.0, status=SolveStatus.UNCHANGED)

    line = text_of(a_plan(objective=objective, migrations=())).splitlines()[1]

    assert "unchanged, gap ≤ 52.5 % to the best possible, captured 0.0 %" in line


def test_where_nothing_could_be_gained_no_share_of_it_is_told() -> None:
    objective = an_objective(before=0.0, after=0.0, bound=0.0, status=SolveStatus.UNCHANGED)

    line = text_of(a_plan(objective=objective, migrations=())).splitlines()[1]

    assert line.startswith("objective 0, unchanged; nothing better found after")


def test_what_was_captured_is_never_rounded_up() -> None:
    objective = an_objective(before=1.0, after=0.0009, bound=0.0)

    assert "captured 99.9 %" in text_of(a_plan(objective=objective))
