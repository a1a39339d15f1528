"""In which groups hosts can be drained one group after the other. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, HostState, Snapshot
from rebalancer.cluster.policy import Policy, PowerGoal
from rebalancer.cluster.power import awake_needs

type Group = tuple[HostId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """The groups in their order, and the hosts that the cluster cannot do without."""

    groups: tuple[Group, ...]
    needed: Mapping[HostId, str]
    """Hosts that must not be drained even alone, with what would be short."""


def maintenance_groups(
    snapshot: Snapshot, hosts: Sequence[HostId], most: int, policy: Policy, demand: Demand
) -> Grouping:
    """Put hosts into groups of at most `most`, in the order in which they were named.

    A group is closed early if with one host more the others could not run everything within the
    headroom, or could not stand the loss of the policy's `host_failures` meanwhile.
    """
    needs = awake_needs(snapshot, policy, PowerGoal(min_awake=1), demand)
    awake = frozenset(host.id for host in snapshot.hosts if host.state is HostState.UP)

    def short_of(group: Sequence[HostId]) -> str:
        left = awake - frozenset(group)
        return "; ".join(need.what for need in needs if need.surplus(left) < 0)

    groups: list[list[HostId]] = [[]]
    needed: dict[HostId, str] = {}
    for host in dict.fromkeys(hosts):
        if short := short_of([host]):
            needed[host] = short
        elif len(groups[-1]) < most and not short_of([*groups[-1], host]):
            groups[-1].append(host)
        else:
            groups.append([host])
    return Grouping(groups=tuple(tuple(group) for group in groups if group), needed=needed)
