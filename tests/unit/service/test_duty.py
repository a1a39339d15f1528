"""Whether a cycle carries its plan out."""

from __future__ import annotations

from dataclasses import replace

from rebalancer.service.considering import decide
from tests.builders import a_policy, a_snapshot
from tests.unit.service.samples import a_plan


def test_a_good_plan_on_good_data_is_carried_out() -> None:
    assert decide(a_plan(), a_snapshot(), a_policy(), 0).act


def test_nothing_is_moved_on_telemetry_that_is_not_good_enough() -> None:
    doubtful = replace(a_snapshot(), usage_fault="past use is an hour old")

    decision = decide(a_plan(), doubtful, a_policy(), 0)

    assert not decision.act
    assert decision.verdict.startswith("plan only: past use is an hour old (move 1 VM")
