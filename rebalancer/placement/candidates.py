"""Where each unit could go at all: facts of the machines, and the rules fence and ban.

Thousands of VMs are alike in this respect, so they are sorted into *kinds*, and each kind is
judged once per kind of host.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rebalancer.cluster.compatibility import HOST_CPU, misfits
from rebalancer.cluster.disks import copy_obstacles, folder_needs
from rebalancer.cluster.inventory import Host, HostId, Snapshot, Vm, VmId
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Ban, Fence
from rebalancer.cluster.selection import members_of, places_by_name, places_of
from rebalancer.placement.arrays import Bools, Floats, Ints

_NOWHERE = HostId("")
"""The id of a source that is none of the hosts: a VM is compatible with the host it is on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Per kind of unit, the hosts that could take it and what rules say about them."""

    kind: Ints
    """`(U,)`: the kind of each unit."""
    allowed: Bools
    """`(K, H)`: whether a unit of that kind could be moved to the host."""
    largest_bytes: Floats
    """`(U,)`: memory of the largest VM of the unit; no host of less memory can run it."""
    guest_bytes: Floats
    """`(H,)`: memory that guests may use."""
    broken: Floats
    """`(K, H)`: number of hard rules, broken at the start, that being there breaks."""
    soft_cost: Floats
    """`(K, H)`: weights of the soft rules that being there breaks."""

    def hosts_of(self, unit: int) -> Bools:
        """The hosts that could take the unit, `(H,)`; its own host is not asked about."""
        return np.asarray(self.of(np.array([unit]))[0], bool)

    def of(self, units: Ints) -> Bools:
        """The hosts that could take each of `units`, `(n, H)`."""
        large_enough = self.largest_bytes[units, None] <= self.guest_bytes
        return np.asarray(self.allowed[self.kind[units]] & large_enough, bool)


def find_candidates(
    units: Sequence[Sequence[Vm]],
    hosts: Sequence[Host],
    snapshot: Snapshot,
    policy: Policy,
    receives: Bools,
) -> Candidates:
    """Sort units into kinds and judge each kind."""
    judge = _Judge(hosts, snapshot, policy, receives)
    kinds: dict[Hashable, int] = {}
    first: list[Sequence[Vm]] = []
    kind = np.empty(len(units), np.intp)
    for index, unit in enumerate(units):
        signature = tuple(judge.signature(vm) for vm in unit)
        if (known := kinds.get(signature)) is None:
            known = kinds[signature] = len(first)
            first.append(unit)
        kind[index] = known
    rows = [judge.rows(unit) for unit in first] or [judge.rows(())]
    return Candidates(
        kind=kind,
        allowed=np.array([row[0] for row in rows], bool),
        broken=np.array([row[1] for row in rows], float),
        soft_cost=np.array([row[2] for row in rows], float),
        largest_bytes=np.array([max(vm.memory_bytes for vm in unit) for unit in units], float),
        guest_bytes=np.array([host.guest_memory_bytes for host in hosts], float),
    )


class _Judge:
    """Judges kinds of VMs; remembers what it found about kinds of hosts."""

    def __init__(
        self, hosts: Sequence[Host], snapshot: Snapshot, policy: Policy, receives: Bools
    ) -> None:
        self._hosts = hosts
        self._snapshot = snapshot
        self._receives = receives
        self._rules = [rule for rule in policy.rules if isinstance(rule, Fence | Ban)]
        # A rule's host side does not depend on the VM, nor its VM side on the host. There may be
        # a rule for each of hundreds of hosts (`stability.reverse_bans`), about a VM or two.
        places = places_by_name(hosts)
        self._shut = [_shut_hosts(rule, hosts, places) for rule in self._rules]
        self._rules_of: dict[VmId, list[int]] = {}
        for index, rule in enumerate(self._rules):
            for vm in members_of(rule.vms, snapshot):
                self._rules_of.setdefault(vm.id, []).append(index)
        self._copies_disks = policy.migration.local_disks
        self._host_kinds, self._example = _kinds_of_hosts(hosts, copies_disks=self._copies_disks)
        self._files_in_the_way = frozenset(path for host in hosts for path in host.disk_files)
        self._column = {host.id: index for index, host in enumerate(hosts)}
        self._fitting: dict[Hashable, Bools] = {}

    def signature(self, vm: Vm) -> Hashable:
        """Everything about a VM, memory aside, that decides where it could go."""
        column = self._column[vm.host]
        rules = tuple(
            (index, bool(self._shut[index][column])) for index in self._rules_of.get(vm.id, ())
        )
        return (self._machine_signature(vm), rules)

    def _machine_signature(self, vm: Vm) -> Hashable:
        passed_through = vm.cpu_model == HOST_CPU
        return (
            vm.arch,
            vm.cpu_model,
            self._snapshot.host_by_id[vm.host].cpu_model if passed_through else None,
            vm.cpu_features,
            vm.machine_type,
            vm.storage,
            vm.networks,
            self._disk_signature(vm),
            (vm.hugepage_bytes, vm.memory_bytes) if vm.hugepage_bytes is not None else None,
            (vm.numa_nodes, vm.vcpus) if vm.numa_nodes else None,
            tuple(sorted(vm.devices.items())),
            vm.tsc_hertz,
            max(vm.pinned_cpus, default=None),
        )

    def _disk_signature(self, vm: Vm) -> Hashable:
        """What decides where its own disks could go; nothing but that it has some, if nowhere."""
        if not (self._copies_disks and vm.local_disk_bytes):
            return vm.local_disk_bytes > 0
        # Their names and paths differ from VM to VM: what counts is what there is in the way.
        against = tuple(copy_obstacles(vm.local_disks, vm.local_disk_bytes, None))
        in_the_way = tuple(d.path for d in vm.local_disks if d.path in self._files_in_the_way)
        return against, tuple(sorted(folder_needs(vm.local_disks).items())), vm.state, in_the_way

    def rows(self, unit: Sequence[Vm]) -> tuple[Bools, Floats, Floats]:
        """Hosts allowed, hard rules broken there already, cost of soft rules: `(H,)` each."""
        allowed = self._receives.copy()
        broken = np.zeros(len(self._hosts))
        soft = np.zeros(len(self._hosts))
        for vm in unit:
            allowed &= self._fits(vm)
            for index in self._rules_of.get(vm.id, ()):
                rule, shut = self._rules[index], self._shut[index]
                if not rule.hard:
                    soft += rule.weight * shut
                    continue
                # Each new host is a breach of its own, so one that is there is never renewed.
                allowed &= ~shut
                if shut[self._column[vm.host]]:
                    broken += shut
        return allowed, broken, soft

    def _fits(self, vm: Vm) -> Bools:
        key = self._machine_signature(vm)
        if key not in self._fitting:
            source = replace(self._snapshot.host_by_id[vm.host], id=_NOWHERE)
            # Memory differs from VM to VM and is compared apart, except for huge pages.
            example = vm if vm.hugepage_bytes is not None else replace(vm, memory_bytes=0)
            fits = [
                not misfits(example, source, host, copies_disks=self._copies_disks)
                for host in self._example
            ]
            self._fitting[key] = np.array(fits, bool)[self._host_kinds]
        return self._fitting[key]


def _shut_hosts(
    rule: Fence | Ban, hosts: Sequence[Host], places: Mapping[str, Sequence[int]]
) -> Bools:
    """Hosts that the rule keeps its VMs off, `(H,)`."""
    meant = np.zeros(len(hosts), bool)
    if isinstance(rule, Fence):
        meant[places_of(rule.to, hosts, places)] = True
        return ~meant
    meant[places_of(rule.hosts, hosts, places)] = True
    return meant


def _kinds_of_hosts(hosts: Sequence[Host], *, copies_disks: bool) -> tuple[Ints, list[Host]]:
    """Which kind each host is of, `(H,)`, and an example of each kind."""
    kinds: dict[Hashable, int] = {}
    examples: list[Host] = []
    found = np.empty(len(hosts), np.intp)
    for index, host in enumerate(hosts):
        signature = (
            host.arch,
            host.cpu_model,
            host.cpu_models,
            host.cpu_features,
            host.machine_types,
            host.storage,
            host.networks,
            host.hugepages,
            host.numa_nodes,
            host.cpu_cores,
            tuple(sorted(host.devices.items())),
            (host.tsc_hertz, host.tsc_scales),
            tuple(sorted((host.disk_pools or {}).items())) if copies_disks else None,
            host.disk_files if copies_disks else None,
            # A VM made free of memory must not meet a host whose reserve exceeds its memory.
            host.guest_memory_bytes < 0,
        )
        if signature not in kinds:
            kinds[signature] = len(examples)
            examples.append(host)
        found[index] = kinds[signature]
    return found, examples
