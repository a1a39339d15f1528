"""What a rollout is given to work by, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from rebalancer.cluster.plan import MigrationState, Outcome
from rebalancer.cluster.policy import Limits, MigrationPermissions, Policy
from rebalancer.rollout.reconcile import UriOf, default_uri
from rebalancer.rollout.steps import FailureBudget
from rebalancer.rollout.track import Times


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Settings:
    """How a rollout goes about its work."""

    limits: Limits = field(default_factory=Limits)
    policy: Policy | None = None
    """Whose hard rules are checked before every step; `None` checks only that VMs fit."""
    permissions: MigrationPermissions = field(default_factory=MigrationPermissions)
    budget: FailureBudget = field(default_factory=FailureBudget)
    times: Times = field(default_factory=Times)
    uri_of: UriOf = default_uri

    @classmethod
    def of(cls, policy: Policy) -> Settings:
        """Take limits, permissions and rules from a policy; `replace` what is to differ."""
        return cls(limits=policy.limits, policy=policy, permissions=policy.migration)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutResult:
    """How a rollout went."""

    rollout: int
    outcomes: tuple[Outcome, ...]
    """One for each migration, in the plan's order."""
    started_at: datetime
    ended_at: datetime
    stopped: str = ""
    """Why it stopped early; empty if it did not."""

    def in_state(self, *states: MigrationState) -> tuple[Outcome, ...]:
        """The outcomes of one kind or several."""
        return tuple(outcome for outcome in self.outcomes if outcome.state in states)

    @property
    def is_complete(self) -> bool:
        """Whether every migration did what it should."""
        return all(outcome.state is MigrationState.COMPLETE for outcome in self.outcomes)
