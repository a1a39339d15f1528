"""What a plan tells of tiers that follow and of hosts that stay above their band."""

from __future__ import annotations

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, Snapshot
from rebalancer.cluster.plan import AboveBand, LaterTier, VerdictKind
from rebalancer.cluster.policy import BalanceGoal, MovementGoal, Policy, RelieveGoal, Trigger
from rebalancer.placement.imbalance import imbalance
from rebalancer.service.goal_report import above_band_table, later_lines
from rebalancer.service.plan_file import plan_of_text, plan_to_json
from rebalancer.service.verdict import exceeds, is_quiet, judge, stay
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.service.samples import a_plan, an_objective

STUCK = AboveBand(
    host=HostId("h1"),
    name="h1",
    resource="CPU",
    ratio=0.88,
    band_ratio=0.75,
    reasons=("huge alone uses 88 %, too much for any other host",),
)
MOVEMENT = LaterTier(tier=2, goals=("movement",), before=0.0, after=0.5, bound=0.5)

RELIEF = (RelieveGoal(cpu_ratio=0.75), MovementGoal(tier=2))
UNEVEN_BELOW_HOT = a_snapshot(vms=[a_vm(f"v{k}", on="h1", cpu_used_cores=6.4) for k in (1, 2)])
"""One host at 80 %, the other idle."""


def wants(snapshot: Snapshot, policy: Policy) -> bool:
    return exceeds(imbalance(snapshot, Demand.as_measured(snapshot), policy), policy)


def test_relief_waits_until_a_host_is_hot_and_does_not_mind_unevenness() -> None:
    relieve = a_policy(goals=RELIEF, trigger=Trigger(hot_ratio=0.85))
    balance = a_policy(goals=(BalanceGoal(), MovementGoal()), trigger=Trigger(hot_ratio=0.85))
    hotter = a_policy(goals=RELIEF, trigger=Trigger(hot_ratio=0.78))

    assert not wants(UNEVEN_BELOW_HOT, relieve)
    assert wants(UNEVEN_BELOW_HOT, balance)
    assert wants(UNEVEN_BELOW_HOT, hotter)


def test_relief_minds_only_what_has_a_band() -> None:
    full = a_snapshot([a_host("h1"), a_host("h2")], [a_vm("v", on="h1", memory_bytes=60 * GIB)])
    goals = (RelieveGoal(cpu_ratio=0.75, memory_ratio=0.8), MovementGoal(tier=2))

    assert not wants(full, a_policy(goals=RELIEF, trigger=Trigger()))
    assert wants(full, a_policy(goals=goals, trigger=Trigger()))


def test_without_a_hot_host_relief_needs_no_plan() -> None:
    policy = a_policy(goals=RELIEF, trigger=Trigger())
    demand = Demand.as_measured(UNEVEN_BELOW_HOT)
    load = imbalance(UNEVEN_BELOW_HOT, demand, policy)

    assert is_quiet(UNEVEN_BELOW_HOT, demand, policy, load)


def test_the_verdict_names_a_host_that_stays_above_its_band() -> None:
    policy = a_policy(goals=RELIEF)
    load = imbalance(UNEVEN_BELOW_HOT, Demand.as_measured(UNEVEN_BELOW_HOT), policy)
    facts = (UNEVEN_BELOW_HOT, policy, load, stay(UNEVEN_BELOW_HOT))

    moving = judge(*facts, a_plan(above_band=(STUCK, STUCK)))
    still = judge(*facts, a_plan(migrations=(), above_band=(STUCK,)))

    stays = "h1 stays at 88 % CPU, above 75 %: huge alone uses 88 %, too much for any other host"
    assert stays in moving.text
    assert moving.text.endswith("(and 1 other host above the band)")
    assert still.kind is VerdictKind.NO_GAIN
    assert still.text == f"no gain: no host can be relieved; {stays}"


def test_a_later_tier_has_a_line_that_says_whether_it_could_be_less() -> None:
    open_end = LaterTier(tier=3, goals=("balance",), before=4.0, after=2.0, bound=1.5)
    silent = LaterTier(tier=4, goals=("power",), before=0.0, after=0.0, bound=0.0)

    lines = later_lines(an_objective(later=(MOVEMENT, open_end, silent)))

    assert [line.text for line in lines] == [
        "then, in tier 2, movement: 0 → 0.5, proved least",
        "then, in tier 3, balance: 4 → 2, gap ≤ 25.0 %",
    ]


def test_a_later_tier_that_stays_as_it_was_has_no_gap() -> None:
    loose = LaterTier(tier=2, goals=("power",), before=4.0, after=4.0, bound=0.1)
    proved = LaterTier(tier=2, goals=("power",), before=4.0, after=4.0, bound=4.0)

    lines = later_lines(an_objective(later=(loose, proved)))

    assert [line.text for line in lines] == [
        "then, in tier 2, power: 4, unchanged",
        "then, in tier 2, power: 4, unchanged, proved least",
    ]


def test_the_table_of_hosts_above_the_band_has_every_reason() -> None:
    (row,) = above_band_table([STUCK]).rows

    assert row == ("h1", "88.0 % CPU", "75 %", STUCK.reasons[0])


def test_both_are_kept_in_a_plan_file() -> None:
    plan = a_plan(objective=an_objective(later=(MOVEMENT,)), above_band=(STUCK,))

    read = plan_of_text(plan_to_json(plan), origin="p.json")

    assert read.objective is not None
    assert read.objective.later == (MOVEMENT,)
    assert read.above_band == (STUCK,)


def test_a_later_tier_without_a_bound_is_told_without_a_gap() -> None:
    tier = LaterTier(tier=2, goals=("movement",), before=1.0, after=0.5, bound=0.0)

    (line,) = later_lines(an_objective(later=(tier,)))

    assert line.text == "then, in tier 2, movement: 1 → 0.5"


def test_what_differs_by_rounding_only_is_fully_captured_and_has_no_gap() -> None:
    even = an_objective(before=0.001, after=0.001, bound=0.001 - 5e-7)

    assert even.gap_ratio == 0.0
    assert even.captured_ratio == 1.0
