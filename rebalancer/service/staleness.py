"""Whether a plan still fits the cluster that it is about to change.

A plan goes stale by *material* drift: something that it relies on is no longer so. Somebody
starting an unrelated VM on another host does not make it stale, and neither do measurements;
what a step needs is checked again right before that step anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rebalancer.cluster.inventory import HostId, Snapshot, VmId
from rebalancer.cluster.plan import Migration, Plan
from rebalancer.cluster.policy import Policy
from rebalancer.errors import PlanRefusedError


def refuse_if_unfit(plan: Plan, snapshot: Snapshot, policy: Policy, now: datetime) -> None:
    """Raise `PlanRefusedError` with every reason why `plan` must not be applied, if any."""
    reasons = tuple(_reasons(plan, snapshot, policy, now))
    if reasons:
        raise PlanRefusedError(
            f"plan {plan.id} is refused:\n"
            + "\n".join(f"  - {reason}" for reason in reasons)
            + "\nmake a new one with `rebalancer plan`"
        )


def _reasons(plan: Plan, snapshot: Snapshot, policy: Policy, now: datetime) -> Iterator[str]:
    if plan.cluster != snapshot.cluster:
        yield f"it is for cluster {plan.cluster!r}, this is {snapshot.cluster!r}"
        return
    if now > plan.expires_at:
        late = (now - plan.expires_at).total_seconds()
        yield f"it expired at {plan.expires_at:%Y-%m-%d %H:%M:%S} UTC, {late:.0f} s ago"
    if plan.breaks_deadline:
        yield f"it does not keep its deadline: {plan.verdict.text}"
    if plan.policy_fingerprint != policy.fingerprint:
        yield (
            f"it was made under policy {plan.policy!r} ({plan.policy_fingerprint or 'none'}), "
            f"the one in force is {policy.name!r} ({policy.fingerprint or 'none'}); "
            "name the plan's own with --policy"
        )
    if plan.snapshot_fingerprint != snapshot.fingerprint:
        yield from drift(plan, snapshot)


def drift(plan: Plan, snapshot: Snapshot) -> Iterator[str]:
    """Say in words everything that the plan's migrations rely on and that is no longer so."""
    where: dict[VmId, HostId] = dict(snapshot.assignment)
    for migration in plan.migrations:
        yield from _vm_drift(migration, snapshot, where)
        where[migration.vm] = migration.target
        target = snapshot.host_by_id.get(migration.target)
        if target is None:
            yield f"{migration.id}: its target {migration.target} is not in the cluster any more"
        elif not target.may_receive:
            yield f"{migration.id}: its target {target.name} is {target.state} now"


def _vm_drift(migration: Migration, snapshot: Snapshot, where: dict[VmId, HostId]) -> Iterator[str]:
    vm = snapshot.vm_by_id.get(migration.vm)
    if vm is None:
        yield f"{migration.id}: VM {migration.vm_name} is gone"
        return
    if where[vm.id] != migration.source:
        yield (
            f"{migration.id}: VM {vm.name} is on {where[vm.id]}, "
            f"the plan takes it from {migration.source}"
        )
    if vm.memory_bytes > migration.memory_bytes:
        yield (
            f"{migration.id}: VM {vm.name} grew from {migration.memory_bytes} "
            f"to {vm.memory_bytes} bytes of memory"
        )
