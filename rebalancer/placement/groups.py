"""The rules about several VMs in arrays: which units they bind, and what counts as a place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, override

import numpy as np

from rebalancer.cluster.inventory import Host, Snapshot, Vm, VmId
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Domain, Presence, Spread, Together, groups_in
from rebalancer.placement.arrays import Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bond(ABC):
    """Units that a rule binds to one another, and the domains that it speaks of."""

    objection: ClassVar[str]
    """What the rule has against a move, for people."""
    rule: str
    hard: bool
    weight: float
    members: Mapping[int, int]
    """Unit -> how many of its VMs the rule is about."""
    domain: Ints
    """`(H,)`: the domain that each host lies in."""
    domain_count: int

    def counts(self, x: Ints) -> Ints:
        """VMs of the group in each domain."""
        units = np.fromiter(self.members, np.intp, len(self.members))
        weights = np.fromiter(self.members.values(), float, len(self.members))
        return np.bincount(self.domain[x[units]], weights, self.domain_count).astype(np.intp)

    def excess(self, x: Ints) -> float:
        """By how much a placement breaks the rule; 0: it does not."""
        return self.excess_of(self.counts(x))

    @abstractmethod
    def excess_of(self, counts: Ints) -> float:
        """The same for given numbers of VMs per domain."""

    @abstractmethod
    def excess_after(self, counts: Ints, arriving: int) -> Floats:
        """The same after so many VMs more in each domain in turn, `(D,)`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpreadGroup(Bond):
    """Units of which each domain may hold `at_most` VMs."""

    objection: ClassVar[str] = "forbids it beside the VMs there"
    at_most: int

    @override
    def excess_of(self, counts: Ints) -> float:
        """VMs too many, summed over domains."""
        return float(np.maximum(counts - self.at_most, 0).sum())

    @override
    def excess_after(self, counts: Ints, arriving: int) -> Floats:
        extra = np.maximum(counts + arriving - self.at_most, 0)
        extra -= np.maximum(counts - self.at_most, 0)
        return np.asarray(self.excess_of(counts) + extra, float)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TogetherGroup(Bond):
    """Units that belong in one domain."""

    objection: ClassVar[str] = "forbids it apart from the others"

    @override
    def excess_of(self, counts: Ints) -> float:
        """VMs outside the domain that holds most of them."""
        return float(counts.sum() - counts.max())

    @override
    def excess_after(self, counts: Ints, arriving: int) -> Floats:
        most = np.maximum(counts + arriving, counts.max())
        return np.asarray(counts.sum() + arriving - most, float)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PresenceGroup(Bond):
    """Units that have to be in at least so many domains."""

    objection: ClassVar[str] = "needs it where it is"
    at_least: int
    """No more than the group has VMs."""

    @override
    def excess_of(self, counts: Ints) -> float:
        """Domains that are missing."""
        return float(max(0, self.at_least - int(np.count_nonzero(counts))))

    @override
    def excess_after(self, counts: Ints, arriving: int) -> Floats:
        present = np.count_nonzero(counts) + (counts == 0)
        return np.asarray(np.maximum(0.0, self.at_least - present), float)


type Group = SpreadGroup | TogetherGroup | PresenceGroup


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """All groups of a policy, by kind."""

    spreads: tuple[SpreadGroup, ...] = ()
    togethers: tuple[TogetherGroup, ...] = ()
    presences: tuple[PresenceGroup, ...] = ()


def find_groups(
    policy: Policy,
    snapshot: Snapshot,
    units: Sequence[Sequence[Vm]],
    hosts: Sequence[Host],
) -> Groups:
    """Find the groups that can be broken or mended by moving units; the others are left out."""
    unit_of = {vm.id: index for index, unit in enumerate(units) for vm in unit}
    found: list[Group] = []
    for rule in policy.rules:
        if not isinstance(rule, Spread | Together | Presence):
            continue
        places = _domains(snapshot, hosts, rule.over)
        for vms in groups_in(rule, snapshot):
            members: dict[int, int] = {}
            for vm in vms:
                members[unit_of[vm.id]] = members.get(unit_of[vm.id], 0) + 1
            found.extend(_group(rule, members, places))
    return Groups(
        spreads=tuple(group for group in found if isinstance(group, SpreadGroup)),
        togethers=tuple(group for group in found if isinstance(group, TogetherGroup)),
        presences=tuple(group for group in found if isinstance(group, PresenceGroup)),
    )


def _group(
    rule: Spread | Together | Presence, members: Mapping[int, int], places: tuple[Ints, int]
) -> Iterator[Group]:
    """The group, unless it is so small that nothing can break the rule."""
    domain, domain_count = places
    vms = sum(members.values())
    bound: Mapping[str, Any] = {
        "rule": rule.name,
        "hard": rule.hard,
        "weight": rule.weight,
        "members": members,
        "domain": domain,
        "domain_count": domain_count,
    }
    match rule:
        case Spread() if vms > rule.at_most:
            yield SpreadGroup(**bound, at_most=rule.at_most)
        case Together() if len(members) > 1:
            yield TogetherGroup(**bound)
        case Presence() if min(rule.at_least, vms) > 1:
            yield PresenceGroup(**bound, at_least=min(rule.at_least, vms))


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
        for group in groups_in(rule, snapshot):
            if rule.over is Domain.HOST and len({vm.host for vm in group}) == 1:
                for vm in group[1:]:
                    first, second = sorted((find(group[0].id), find(vm.id)))
                    leader[second] = first
    return {vm: find(vm) for vm in list(leader)}


def _domains(snapshot: Snapshot, hosts: Sequence[Host], over: Domain) -> tuple[Ints, int]:
    index: dict[str, int] = {}
    found = [index.setdefault(snapshot.domain_of(host, over), len(index)) for host in hosts]
    return np.array(found, np.intp), len(index)
