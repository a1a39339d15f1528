"""Hosts that a policy wants empty, such as those of a whole site, are draining to every stage."""

from __future__ import annotations

from dataclasses import replace

from rebalancer.cluster.inventory import Host, HostState, Snapshot
from rebalancer.cluster.policy import DrainGoal, Policy


def with_evacuation(snapshot: Snapshot, policy: Policy) -> Snapshot:
    """The cluster as it was seen, with the hosts that the policy evacuates draining.

    Hosts that do not work, and those that the policy is not about, are as they were.
    """
    selectors = [
        goal.evacuate
        for goal in policy.goals
        if isinstance(goal, DrainGoal) and goal.evacuate is not None
    ]
    if not selectors:
        return snapshot

    def leaves(host: Host) -> bool:
        is_meant = any(selector.matches(host) for selector in selectors)
        return host.state is HostState.UP and is_meant and policy.applies.matches(host)

    why = f"evacuated by policy {policy.name}"
    return replace(
        snapshot,
        hosts=tuple(
            replace(host, state=HostState.DRAINING, state_reason=why) if leaves(host) else host
            for host in snapshot.hosts
        ),
    )
