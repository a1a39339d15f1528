"""The rules spread and together in arrays: which units belong together, and what is a place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rebalancer.cluster.inventory import Host, Snapshot, Vm, VmId
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Domain, Spread, Together, groups_of
from rebalancer.placement.arrays import Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpreadGroup:
    """Units of which each domain may hold `at_most` VMs."""

    rule: str
    hard: bool
    weight: float
    members: Mapping[int, int]
    """Unit -> how many of its VMs the rule is about."""
    domain: Ints
    """`(H,)`: the domain that each host lies in."""
    domain_count: int
    at_most: int

    def counts(self, x: Ints) -> Ints:
        """VMs of the group in each domain."""
        return _counts(self.members, self.domain, self.domain_count, x)

    def excess(self, x: Ints) -> float:
        """VMs too many, summed over domains."""
        return float(np.maximum(self.counts(x) - self.at_most, 0).sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TogetherGroup:
    """Units that belong in one domain."""

    rule: str
    hard: bool
    weight: float
    members: Mapping[int, int]
    domain: Ints
    domain_count: int

    def counts(self, x: Ints) -> Ints:
        """VMs of the group in each domain."""
        return _counts(self.members, self.domain, self.domain_count, x)

    def excess(self, x: Ints) -> float:
        """VMs outside the domain that holds most of them."""
        counts = self.counts(x)
        return float(counts.sum() - counts.max())


type Group = SpreadGroup | TogetherGroup


def find_groups(
    policy: Policy,
    snapshot: Snapshot,
    units: Sequence[Sequence[Vm]],
    hosts: Sequence[Host],
) -> tuple[tuple[SpreadGroup, ...], tuple[TogetherGroup, ...]]:
    """Find the groups that can be broken or mended by moving units; the others are left out."""
    unit_of = {vm.id: index for index, unit in enumerate(units) for vm in unit}
    spreads: list[SpreadGroup] = []
    togethers: list[TogetherGroup] = []
    for rule in policy.rules:
        if not isinstance(rule, Spread | Together):
            continue
        domain, domain_count = _domains(snapshot, hosts, rule.over)
        for vms in groups_of(rule, snapshot.vms):
            members: dict[int, int] = {}
            for vm in vms:
                members[unit_of[vm.id]] = members.get(unit_of[vm.id], 0) + 1
            if isinstance(rule, Spread) and len(vms) > rule.at_most:
                spreads.append(
                    SpreadGroup(
                        rule=rule.name,
                        hard=rule.hard,
                        weight=rule.weight,
                        members=members,
                        domain=domain,
                        domain_count=domain_count,
                        at_most=rule.at_most,
                    )
                )
            elif isinstance(rule, Together) and len(members) > 1:
                togethers.append(
                    TogetherGroup(
                        rule=rule.name,
                        hard=rule.hard,
                        weight=rule.weight,
                        members=members,
                        domain=domain,
                        domain_count=domain_count,
                    )
                )
    return tuple(spreads), tuple(togethers)


def indivisible(snapshot: Snapshot, rules: Iterable[Together]) -> Mapping[VmId, VmId]:
    """VMs that a rule keeps on one host and that are on one: each with the leader of its unit.

    Moving one of them alone would break the rule, so they move as one or not at all. Groups
    that share a VM make one unit.
    """
    leader: dict[VmId, VmId] = {}

    def find(vm: VmId) -> VmId:
        while leader.setdefault(vm, vm) != vm:
            vm = leader[vm]
        return vm

    for rule in rules:
        for group in groups_of(rule, snapshot.vms):
            if rule.over is Domain.HOST and len({vm.host for vm in group}) == 1:
                for vm in group[1:]:
                    first, second = sorted((find(group[0].id), find(vm.id)))
                    leader[second] = first
    return {vm: find(vm) for vm in list(leader)}


def _domains(snapshot: Snapshot, hosts: Sequence[Host], over: Domain) -> tuple[Ints, int]:
    index: dict[str, int] = {}
    found = [index.setdefault(snapshot.domain_of(host, over), len(index)) for host in hosts]
    return np.array(found, np.intp), len(index)


def _counts(members: Mapping[int, int], domain: Ints, domain_count: int, x: Ints) -> Ints:
    units = np.fromiter(members, np.intp, len(members))
    weights = np.fromiter(members.values(), float, len(members))
    return np.bincount(domain[x[units]], weights, domain_count).astype(np.intp)
