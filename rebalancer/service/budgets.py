"""How many migrations of a plan may fail before the rest of it is left undone."""

from __future__ import annotations

from dataclasses import replace

from rebalancer.cluster.plan import Plan, Priority
from rebalancer.rollout.executor import Settings
from rebalancer.rollout.steps import FailureBudget

DRAIN_FAILURE_SHARE = 0.5
"""Of a drain half may fail. A VM that cannot leave is no reason to keep the others on a host that
is going to be switched off; but where every second one fails, something else is wrong."""


def settings_for(plan: Plan, settings: Settings) -> Settings:
    """The settings of a rollout, with the larger budget where everything is moved for a drain."""
    if not plan.migrations or any(m.priority is not Priority.DRAIN for m in plan.migrations):
        return settings
    planned = len(plan.migrations)
    wide = FailureBudget(
        failures=max(settings.budget.failures, planned),
        ratio=max(settings.budget.ratio, DRAIN_FAILURE_SHARE),
    )
    return replace(settings, budget=wide)
