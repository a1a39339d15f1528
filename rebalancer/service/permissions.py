"""What is permitted beyond the policy by a flag, for this one time, or less by the settings."""

from __future__ import annotations

from dataclasses import replace

from rebalancer.cluster.inventory import Mode
from rebalancer.cluster.policy import Policy


def with_cold_if(allowed: bool, policy: Policy) -> Policy:
    """The policy, as `--allow-cold` of a command changes it."""
    return with_cold(policy) if allowed else policy


def encrypted_only(policy: Policy) -> Policy:
    """The same policy, under which no memory is written to storage: nobody encrypts that."""
    return replace(policy, migration=replace(policy.migration, save_to=None))


def with_cold(policy: Policy) -> Policy:
    """The same policy, which also permits to shut VMs down and start them elsewhere."""
    allowed = policy.migration.allow | {Mode.COLD}
    return replace(policy, migration=replace(policy.migration, allow=allowed))
