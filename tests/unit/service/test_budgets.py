"""How many migrations may fail before the rest is left undone."""

from __future__ import annotations

from rebalancer.cluster.plan import Plan, Priority
from rebalancer.rollout.executor import Settings
from rebalancer.service.budgets import settings_for
from tests.unit.rollout.plans import a_migration, a_plan


def plan_of(count: int, priority: Priority) -> Plan:
    moves = (a_migration(f"vm{n}", id=f"m{n}", priority=priority) for n in range(count))
    return a_plan(*moves)


def test_one_vm_that_fails_does_not_stop_the_other_29_of_a_drain() -> None:
    budget = settings_for(plan_of(30, Priority.DRAIN), Settings()).budget

    assert budget.allows(failed=14, planned=30)
    assert not budget.allows(failed=15, planned=30), "half of them is more than bad luck"


def test_balance_keeps_the_budget_of_the_settings() -> None:
    mixed = a_plan(a_migration("vm1", priority=Priority.DRAIN), a_migration("vm2", id="m2"))

    assert settings_for(mixed, Settings()).budget == Settings().budget
    assert settings_for(plan_of(30, Priority.BALANCE), Settings()).budget == Settings().budget


def test_a_budget_that_the_operator_made_larger_stays_larger() -> None:
    wide = Settings().budget.__class__(failures=100, ratio=0.9)

    found = settings_for(plan_of(30, Priority.DRAIN), Settings(budget=wide)).budget

    assert (found.failures, found.ratio) == (100, 0.9)
