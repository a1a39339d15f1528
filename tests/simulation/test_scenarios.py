"""Every scenario that ships does what it says, from the snapshot to the last migration."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebalancer.cluster.plan import VerdictKind
from rebalancer.service.rehearsal import rehearse
from rebalancer.service.rehearsed_access import policy_of, simulated
from rebalancer.service.rehearsed_day import rehearse_day
from rebalancer.service.session import open_session, plan_for
from rebalancer.simulation.day import check_day
from rebalancer.simulation.scenario import read_scenario

TEN_PER_CENT = 0.1
UNFORESEEN_SECONDS = {"flaky-network": 10.0}
"""How long the script of a scenario breaks a link, which no plan can foresee."""

MANY_PLANS = {"power-day"}
"""Scenarios that go on after their first plan."""

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_everything_that_a_scenario_expects_comes_true(file: Path) -> None:
    session = open_session(None, placement__time_limit_seconds=30.0)

    scenario = read_scenario(file)
    if scenario.day is not None:
        result = rehearse_day(session, scenario, scenario.day)
        assert check_day(scenario.day.expect, result) == ()
        return

    done = rehearse(session, scenario)

    assert done.unmet == ()
    if file.stem in MANY_PLANS:
        return
    took = (done.datacentre.now - done.plan.created_at).total_seconds()
    off = abs(took - done.plan.makespan_seconds)
    assert off <= TEN_PER_CENT * done.plan.makespan_seconds + UNFORESEEN_SECONDS.get(file.stem, 0)


@pytest.mark.parametrize("name", ["hotspot", "drain", "swap-needed", "skewed"])
def test_planning_on_the_result_of_a_rollout_moves_nothing(name: str) -> None:
    session = open_session(None, placement__time_limit_seconds=30.0)
    scenario = read_scenario(next(file for file in SCENARIOS if file.stem == name))
    done = rehearse(session, scenario)

    again = plan_for(
        session, simulated(scenario, done.datacentre), done.after, policy_of(scenario)
    ).plan

    assert again.migrations == ()
    assert again.verdict.kind is VerdictKind.BALANCED
