"""Whether a plan still fits the cluster that it is about to change, and the policy in force.

A plan goes stale by *material* drift: something that it relies on is no longer so. Somebody
starting an unrelated VM on another host does not make it stale, and neither do measurements;
what a step needs is checked again right before that step anyway.

A plan is a file that anybody can edit. So nothing in it is believed because its fingerprints are
right: its names are looked up, its modes, pauses and rates are held against policy and links.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from rebalancer.cluster.inventory import HostId, HostState, Snapshot, VmId
from rebalancer.cluster.plan import Migration, Plan, PowerAction
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.windows import closed_text, span_at
from rebalancer.errors import PlanRefusedError
from rebalancer.planning.wording import in_bytes_per_second
from rebalancer.rollout.admission import link_budgets, uses_the_network
from rebalancer.rollout.permitted import objections
from rebalancer.service.wording import seconds_text

MOST_CLOCK_SKEW = timedelta(minutes=5)
"""A plan from another machine may be so much younger than now: what Kerberos puts up with."""

_ROUNDING = 1 + 1e-9


def refuse_if_unfit(
    plan: Plan,
    snapshot: Snapshot,
    policy: Policy,
    now: datetime,
    *,
    ttl_seconds: float | None = None,
) -> None:
    """Raise `PlanRefusedError` with every reason why `plan` must not be applied, if any.

    `ttl_seconds` is how old a plan may be here, whatever it says of itself; `None` for no limit.
    """
    reasons = tuple(_reasons(plan, snapshot, policy, now, ttl_seconds))
    if reasons:
        raise PlanRefusedError(
            f"plan {plan.id} is refused:\n"
            + "\n".join(f"  - {reason}" for reason in reasons)
            + "\nmake a new one with `rebalancer plan`"
        )


def _reasons(
    plan: Plan, snapshot: Snapshot, policy: Policy, now: datetime, ttl_seconds: float | None
) -> Iterator[str]:
    if plan.cluster != snapshot.cluster:
        yield f"it is for cluster {plan.cluster!r}, this is {snapshot.cluster!r}"
        return
    yield from _untimely(plan, now, ttl_seconds)
    if plan.breaks_deadline:
        yield f"it does not keep its deadline: {plan.verdict.text}"
    if plan.policy_fingerprint != policy.fingerprint:
        yield (
            f"it was made under policy {plan.policy!r} ({plan.policy_fingerprint or 'none'}), "
            f"the one in force is {policy.name!r} ({policy.fingerprint or 'none'}); "
            "name the plan's own with --policy"
        )
    if why := out_of_hours(plan, policy, now):
        yield why
    yield from drift(plan, snapshot)
    for migration in plan.migrations:
        yield from _excesses(migration, snapshot, policy)


def out_of_hours(plan: Plan, policy: Policy, now: datetime) -> str:
    """Why moves of a plan must not be made now, maintenance windows being closed; or nothing."""
    bound = [m for m in plan.migrations if policy.migration.keeps_to_windows(m.priority)]
    if not bound or span_at(policy.migration.windows, now) is not None:
        return ""
    return closed_text(policy.migration.windows, now)


def _untimely(plan: Plan, now: datetime, ttl_seconds: float | None) -> Iterator[str]:
    age = now - plan.created_at
    if now > plan.expires_at:
        late = (now - plan.expires_at).total_seconds()
        yield f"it expired at {plan.expires_at:%Y-%m-%d %H:%M:%S} UTC, {seconds_text(late)} ago"
    elif ttl_seconds is not None and age.total_seconds() > ttl_seconds:
        yield (
            f"it is {age.total_seconds():.0f} s old, and a plan is good for {ttl_seconds:.0f} s "
            "here (plan.ttl_seconds), whatever it says itself"
        )
    if -age > MOST_CLOCK_SKEW:
        yield (
            f"it was made at {plan.created_at:%Y-%m-%d %H:%M:%S} UTC, which is in the future; "
            "check the clocks"
        )


def drift(plan: Plan, snapshot: Snapshot) -> Iterator[str]:
    """Say in words everything that the plan relies on and that is not, or no longer, so."""
    where: dict[VmId, HostId] = dict(snapshot.assignment)
    for migration in plan.migrations:
        yield from _vm_drift(migration, snapshot, where)
        where[migration.vm] = migration.target
        target = snapshot.host_by_id.get(migration.target)
        if target is None:
            yield f"{migration.id}: its target {migration.target} is not in the cluster (any more)"
        elif not (target.may_receive or _is_woken(target.id, plan, snapshot)):
            yield f"{migration.id}: its target {target.name} is {target.state} now"
    for step in plan.power:
        if step.host not in snapshot.host_by_id:
            yield f"host {step.host} is not in the cluster (any more), it cannot {step.action}"


def _is_woken(host: HostId, plan: Plan, snapshot: Snapshot) -> bool:
    """Whether the plan itself sees to it that a host can be used."""
    is_asleep = snapshot.host_by_id[host].state is HostState.ASLEEP
    return is_asleep and any(
        step.host == host and step.action is PowerAction.WAKE for step in plan.power
    )


def _vm_drift(migration: Migration, snapshot: Snapshot, where: dict[VmId, HostId]) -> Iterator[str]:
    vm = snapshot.vm_by_id.get(migration.vm)
    if vm is None:
        yield f"{migration.id}: VM {migration.vm_name} is gone"
        return
    if vm.name != migration.vm_name:
        yield (
            f"{migration.id}: the VM with id {vm.id} is called {vm.name}, "
            f"the plan calls it {migration.vm_name}"
        )
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


def _excesses(migration: Migration, snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    """Say how a migration goes beyond what the policy allows or a link may carry."""
    vm = snapshot.vm_by_id.get(migration.vm)
    for objection in objections(migration, vm, policy.migration):
        yield f"{migration.id}: {objection}"
    if not uses_the_network(migration.mode):
        return
    budgets = link_budgets(migration, snapshot, policy.limits)
    if (most := min(budgets, default=None)) is None:
        return
    if not migration.bytes_per_second <= most * _ROUNDING:
        yield (
            f"{migration.id}: it is granted {in_bytes_per_second(migration.bytes_per_second)}, "
            f"migrations may use {in_bytes_per_second(most)} of its path "
            f"(limits.link_share: {policy.limits.link_share:.0%})"
        )
