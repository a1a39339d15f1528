"""A cluster under a policy, as given or with something of it lifted to see what that changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, Snapshot
from rebalancer.cluster.policy import Policy
from rebalancer.placement.problem import PlacementProblem, Resource, placement_problem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """What goes into a placement problem."""

    snapshot: Snapshot
    demand: Demand
    policy: Policy
    unlimited: frozenset[tuple[Resource, HostId]] = frozenset()
    """Limits of hosts that do not count."""
    without_pools: frozenset[HostId] = frozenset()
    """Hosts that have enough of every counted thing, such as devices and huge pages."""

    @classmethod
    def of(cls, problem: PlacementProblem) -> Case:
        """Take what a problem was made of."""
        return cls(snapshot=problem.snapshot, demand=problem.demand, policy=problem.policy)

    def without_limit(self, resource: Resource, hosts: tuple[HostId, ...]) -> Case:
        """Return the case with a limit of some hosts lifted."""
        case = replace(self, unlimited=self.unlimited | {(resource, host) for host in hosts})
        if resource is Resource.MEMORY:
            return replace(case, snapshot=_with_room_for_any(self.snapshot, frozenset(hosts)))
        if resource is not Resource.CPU:
            return case
        # A host that is over its limit by itself would take nobody at all.
        own = {**self.demand.host_base_cores, **dict.fromkeys(hosts, 0.0)}
        return replace(case, demand=replace(self.demand, host_base_cores=own))

    def problem(self) -> PlacementProblem:
        """Put the case into arrays."""
        problem = placement_problem(self.snapshot, self.demand, self.policy)
        if not self.unlimited and not self.without_pools:
            return problem
        column = {host: index for index, host in enumerate(problem.host_ids)}
        capacity = problem.capacity.copy()
        for resource, host in self.unlimited:
            # More than anything could need, and finite, as sizes are divided by it.
            most = problem.needs[resource].sum() + problem.start_load[resource].sum() + 1.0
            capacity[resource, column[host]] = most
        pools = problem.pools.capacity.copy()
        pools[:, [column[host] for host in self.without_pools]] = np.inf
        return replace(
            problem, capacity=capacity, pools=replace(problem.pools, capacity=np.asarray(pools))
        )


def _with_room_for_any(snapshot: Snapshot, hosts: frozenset[HostId]) -> Snapshot:
    """Have hosts be large enough for the largest VM, which no smaller machine can run."""
    largest = max((vm.memory_bytes for vm in snapshot.vms), default=0)
    return replace(
        snapshot,
        hosts=tuple(
            replace(host, memory_bytes=max(host.memory_bytes, host.reserved_memory_bytes + largest))
            if host.id in hosts
            else host
            for host in snapshot.hosts
        ),
    )
