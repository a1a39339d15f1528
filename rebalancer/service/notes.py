"""What a policy asks for that means nothing in this cluster: told as notes of a plan."""

from __future__ import annotations

from collections.abc import Iterator

from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.policy import GeographyCriterion, GeographyGoal, Policy, PowerGoal
from rebalancer.service.idle_rules import idle_rules

_UNSEEN = {
    HostState.DOWN: "is down",
    HostState.ASLEEP: "is asleep",
    HostState.UNKNOWN: "did not answer",
}
"""States of hosts whose VMs nobody can look after now."""


def notes_on(snapshot: Snapshot, policy: Policy) -> tuple[str, ...]:
    """Say which numbers and names of the policy do not fit the cluster; nothing fails by them."""
    return (
        *_left_out(snapshot, policy),
        *_failures(snapshot, policy),
        *_goals(snapshot, policy),
        *_rules(snapshot, policy),
    )


def _left_out(snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    """Hosts of which only a file or an earlier look says what is on them: no VM of them moves."""
    for host in snapshot.hosts:
        vms = len(snapshot.vms_by_host[host.id])
        if vms and host.state in _UNSEEN and policy.applies.matches(host):
            why = f" ({host.state_reason})" if host.state_reason else ""
            its = "its VM is" if vms == 1 else f"its {vms} VMs are"
            yield f"{host.name} {_UNSEEN[host.state]}{why}: {its} left out of this plan"


def _failures(snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    failures = policy.headroom.host_failures
    up = sum(host.may_receive for host in snapshot.hosts)
    if failures and failures >= up:
        yield (
            f"host_failures is {failures}, and only {_hosts(up)} up: no memory is enough for "
            f"that; {max(0, up - 1)} is the most that this cluster could survive"
        )


def _goals(snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    looked_after = sum(policy.applies.matches(host) for host in snapshot.hosts)
    for goal in policy.goals:
        if isinstance(goal, PowerGoal) and goal.min_awake > looked_after:
            yield (
                f"goal power has no effect: min_awake is {goal.min_awake}, and the policy looks "
                f"after {looked_after} {'host' if looked_after == 1 else 'hosts'}"
            )
        if isinstance(goal, GeographyGoal) and (why := _meaningless(goal, snapshot)):
            yield f"goal geography ({goal.criterion}) has no effect: {why}"


def _rules(snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    for idle in idle_rules(snapshot, policy):
        if not idle.is_general:
            yield f"rule {idle.rule} protects nothing: {idle.text}"


def _meaningless(goal: GeographyGoal, snapshot: Snapshot) -> str:
    used = {host.site for host in snapshot.hosts}
    sites = [site for site in snapshot.sites if site.name in used]
    match goal.criterion:
        case GeographyCriterion.LATENCY:
            names = {site.name for site in sites}.union(*(site.latency_seconds for site in sites))
            if goal.users not in names:
                return f"no site knows its latency to users {goal.users!r}"
        case GeographyCriterion.ENERGY_PRICE:
            if all(
                site.energy_price_per_kwh is None and not site.energy_price_per_kwh_by_hour
                for site in sites
            ):
                return "the energy price of no site is known"
        case GeographyCriterion.CARBON:
            if all(
                site.carbon_g_per_kwh is None and not site.carbon_g_per_kwh_by_hour
                for site in sites
            ):
                return "the carbon intensity of no site is known"
    return ""


def _hosts(count: int) -> str:
    return "1 host is" if count == 1 else f"{count} hosts are"
