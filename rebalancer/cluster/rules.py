"""The rules on where VMs may be: spread, presence, together, fence, ban, pin.

Each rule judges an assignment by itself, in plain Python: `violations` never heard of a
solver, so that it can check what a solver found. A hard rule must hold; a soft one costs its
weight for every violation. Only VMs that are in the assignment are judged.

A rule is *continuous* or *final* (after BtrPlace's continuous and discrete constraints). A
continuous one holds at every step of a plan; a final one (`is_final`) only where the plan leads
to, as VMs that belong together cannot all move in the same instant.

A rule that is broken at the start does not make a problem infeasible: the answer may break it
as much as the start does, not more (`severity` measures how much). A VM that a fence or ban
forbids where it is may stay there or go where it is allowed, not to another forbidden host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from rebalancer.cluster.inventory import Assignment, Host, HostId, Snapshot, Vm, VmId
from rebalancer.cluster.selection import HostSelector, VmSelector, members_of


class Domain(StrEnum):
    """What counts as one place when VMs are kept apart or together."""

    HOST = "host"
    RACK = "rack"
    SITE = "site"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One way in which an assignment breaks a rule or a limit."""

    rule: str
    text: str
    """A sentence for the operator."""
    vms: tuple[VmId, ...] = ()
    hosts: tuple[HostId, ...] = ()
    severity: float = 1.0
    """How much it is broken; comparable within one rule, more is worse."""
    breach: str = field(default="", compare=False)
    """Which breach of the rule it is, where one never makes up for another: VM and host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Anti-affinity: at most `at_most` of these VMs in any one domain."""

    is_final: ClassVar[bool] = False
    name: str
    vms: VmSelector
    over: Domain = Domain.HOST
    at_most: int = 1
    by_label: str | None = None
    """The VMs of each value of this label are a group of their own; those without it are free."""
    hard: bool = True
    weight: float = 1.0

    def violations(self, snapshot: Snapshot, assignment: Assignment) -> Iterator[Violation]:
        """One for each domain that holds too many; its severity is the number too many."""
        for group in _groups(self, snapshot, assignment):
            for domain, members in _by_domain(snapshot, assignment, group, self.over).items():
                if (excess := len(members) - self.at_most) > 0:
                    yield Violation(
                        rule=self.name,
                        text=f"{_names(members)} share {self.over} {domain}, "
                        f"at most {self.at_most} may",
                        vms=tuple(vm.id for vm in members),
                        hosts=_hosts_of(members, assignment),
                        severity=excess,
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """These VMs in at least `at_least` different domains: replicas in two sites, say.

    Only judged where a plan leads to: VMs that change places meet on the way.
    """

    is_final: ClassVar[bool] = True
    name: str
    vms: VmSelector
    over: Domain = Domain.HOST
    at_least: int = 2
    by_label: str | None = None
    """The VMs of each value of this label are a group of their own; those without it are free."""
    hard: bool = True
    weight: float = 1.0

    def violations(self, snapshot: Snapshot, assignment: Assignment) -> Iterator[Violation]:
        """One if domains are missing; its severity is their number.

        A group of fewer VMs than domains that are wanted has to have each in another one.
        """
        for group in _groups(self, snapshot, assignment):
            places = _by_domain(snapshot, assignment, group, self.over)
            if (missing := min(self.at_least, len(group)) - len(places)) > 0:
                where = ", ".join(sorted(places))
                yield Violation(
                    rule=self.name,
                    text=f"{_names(group)} are in {self.over} {where} only, "
                    f"at least {self.at_least} are wanted",
                    vms=tuple(vm.id for vm in group),
                    hosts=_hosts_of(group, assignment),
                    severity=missing,
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Affinity: all these VMs in one domain."""

    is_final: ClassVar[bool] = True
    name: str
    vms: VmSelector
    over: Domain = Domain.HOST
    by_label: str | None = None
    """The VMs of each value of this label are a group of their own; those without it are free."""
    hard: bool = True
    weight: float = 1.0

    def violations(self, snapshot: Snapshot, assignment: Assignment) -> Iterator[Violation]:
        """One if they are apart; its severity is the number outside the largest group."""
        for group in _groups(self, snapshot, assignment):
            places = _by_domain(snapshot, assignment, group, self.over)
            if len(places) > 1:
                where = ", ".join(sorted(places))
                yield Violation(
                    rule=self.name,
                    text=f"{_names(group)} are apart, in {self.over} {where}",
                    vms=tuple(vm.id for vm in group),
                    hosts=_hosts_of(group, assignment),
                    severity=len(group) - max(len(members) for members in places.values()),
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """These VMs only on those hosts."""

    is_final: ClassVar[bool] = False
    name: str
    vms: VmSelector
    to: HostSelector
    hard: bool = True
    weight: float = 1.0

    def forbids(self, vm: Vm, host: Host) -> bool:
        """Whether the rule keeps `vm` off `host`."""
        return self.vms.matches(vm) and not self.to.matches(host)

    def violations(self, snapshot: Snapshot, assignment: Assignment) -> Iterator[Violation]:
        """One for each VM outside its fence."""
        yield from _misplaced(self, snapshot, assignment, "outside its fence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ban:
    """These VMs never on those hosts."""

    is_final: ClassVar[bool] = False
    name: str
    vms: VmSelector
    hosts: HostSelector
    hard: bool = True
    weight: float = 1.0

    def forbids(self, vm: Vm, host: Host) -> bool:
        """Whether the rule keeps `vm` off `host`."""
        return self.vms.matches(vm) and self.hosts.matches(host)

    def violations(self, snapshot: Snapshot, assignment: Assignment) -> Iterator[Violation]:
        """One for each VM on a host that it is banned from."""
        yield from _misplaced(self, snapshot, assignment, "banned from there")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """These VMs stay where they are."""

    is_final: ClassVar[bool] = False
    name: str
    vms: VmSelector
    hard: bool = True
    weight: float = 1.0

    def violations(self, snapshot: Snapshot, assignment: Assignment) -> Iterator[Violation]:
        """One for each of them that would be moved."""
        for vm in _members(snapshot, assignment, self.vms):
            if assignment[vm.id] != vm.host:
                yield Violation(
                    rule=self.name,
                    text=f"{vm.name} is pinned to {vm.host} and would be on {assignment[vm.id]}",
                    vms=(vm.id,),
                    hosts=(vm.host, assignment[vm.id]),
                )


type GroupRule = Spread | Presence | Together
"""Rules about how VMs are placed relative to each other."""

type Rule = GroupRule | Fence | Ban | Pin


def _members(snapshot: Snapshot, assignment: Assignment, which: VmSelector) -> list[Vm]:
    return [vm for vm in members_of(which, snapshot) if vm.id in assignment]


def groups_in(rule: GroupRule, snapshot: Snapshot) -> list[list[Vm]]:
    """The VMs that are to be apart or together: one group, or one for each value of a label."""
    return _grouped(rule, members_of(rule.vms, snapshot))


def _grouped(rule: GroupRule, members: Sequence[Vm]) -> list[list[Vm]]:
    if rule.by_label is None:
        return [list(members)]
    groups: dict[str, list[Vm]] = {}
    for vm in members:
        if (value := vm.labels.get(rule.by_label)) is not None:
            groups.setdefault(value, []).append(vm)
    return list(groups.values())


def _groups(rule: GroupRule, snapshot: Snapshot, assignment: Assignment) -> list[list[Vm]]:
    return _grouped(rule, _members(snapshot, assignment, rule.vms))


def _by_domain(
    snapshot: Snapshot, assignment: Assignment, vms: Iterable[Vm], over: Domain
) -> dict[str, list[Vm]]:
    places: dict[str, list[Vm]] = {}
    for vm in vms:
        host = snapshot.host_by_id[assignment[vm.id]]
        places.setdefault(snapshot.domain_of(host, over), []).append(vm)
    return places


def _misplaced(
    rule: Fence | Ban, snapshot: Snapshot, assignment: Assignment, how: str
) -> Iterator[Violation]:
    for vm in _members(snapshot, assignment, rule.vms):
        host = snapshot.host_by_id[assignment[vm.id]]
        if rule.forbids(vm, host):
            yield Violation(
                rule=rule.name,
                text=f"{vm.name} is on {host.name}, {how}",
                vms=(vm.id,),
                hosts=(host.id,),
                # Data or a licence on yet another host is a breach of its own.
                breach=f"{vm.id} on {host.id}",
            )


def _names(vms: Iterable[Vm]) -> str:
    return ", ".join(sorted(vm.name for vm in vms))


def _hosts_of(vms: Iterable[Vm], assignment: Assignment) -> tuple[HostId, ...]:
    return tuple(sorted({assignment[vm.id] for vm in vms}))
