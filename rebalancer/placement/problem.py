"""The placement problem in arrays: the only door between the nouns and numpy.

Notation used all over `placement`:

    u    a unit: VMs that only move together, nearly always a single VM
    h    a host
    r    a row of `Resource`: what a unit takes up on a host
    x    which host each unit is on, an array `(U,)` of host indices

Units and hosts are sorted by id. Whatever was broken at the start is measured here, so that
the rest can go by limits that the start always satisfies (a limit is the capacity, or what is
used now where that is more) and treat the mending as a goal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Assignment, HostId, HostState, Snapshot, Vm, VmId
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Pin, Together
from rebalancer.cluster.selection import HostSelector
from rebalancer.cluster.violations import (
    LEAVABLE_STATES,
    cpu_capacity_cores,
    memory_capacity_bytes,
    vcpu_capacity,
)
from rebalancer.placement.allowance import Allowance, allowance_of
from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.candidates import Candidates, find_candidates
from rebalancer.placement.groups import (
    Group,
    PresenceGroup,
    SpreadGroup,
    TogetherGroup,
    find_groups,
    indivisible,
)
from rebalancer.placement.pools import PoolTable, pool_table

SLACK = 1e-7
"""Room for rounding in sums of cores; the oracle allows ten times as much."""


class Resource(IntEnum):
    """Rows of the demand and load arrays. The first three are limited on every host."""

    MEMORY = 0
    """Bytes promised."""
    CPU = 1
    """Cores at the upper quantile of the forecast; what capacity is judged on."""
    VCPUS = 2
    CORES = 3
    """Cores expected; what goals weigh. Host loads include the host's own use."""
    VMS = 4
    """Number of VMs that hold anything on the host."""
    NOW = 5
    """Cores used at this moment, as measured."""


LIMITED = (Resource.MEMORY, Resource.CPU, Resource.VCPUS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacementProblem:
    """Everything that a search has to know, in arrays over units `(U,)` and hosts `(H,)`."""

    snapshot: Snapshot
    demand: Demand
    policy: Policy
    host_ids: tuple[HostId, ...]
    units: tuple[tuple[Vm, ...], ...]
    needs: Floats
    """`(R, U)`: what each unit takes up wherever it is."""
    start: Ints
    """`(U,)`: the host each unit is on now."""
    start_load: Floats
    """`(R, H)`: what is taken up on each host now."""
    capacity: Floats
    """`(3, H)`: what units may take up of the limited resources."""
    size: Floats
    """`(R, H)`: what the host has of each resource, to relate loads to; never 0."""
    movable: Bools
    """`(U,)`: whether anything may move the unit; where to is said by `candidates`."""
    receives: Bools
    """`(H,)`: hosts that units may be moved to."""
    is_up: Bools
    """`(H,)`: hosts that VMs could be started on, whoever looks after them."""
    scored: Bools
    """`(H,)`: hosts that goals look at: those that are up and that the policy is about."""
    drains: Bools
    """`(H,)`: hosts that are to be emptied."""
    candidates: Candidates
    pools: PoolTable
    """Counted things, such as huge pages and devices."""
    spreads: tuple[SpreadGroup, ...]
    togethers: tuple[TogetherGroup, ...]
    presences: tuple[PresenceGroup, ...]
    survivable_bytes: float
    """Memory that hosts that are up may hold together, to survive `host_failures`."""
    allowance: Allowance | None = None
    """What may be moved besides what has to be; `None`: anything, as while that is found out."""

    @property
    def unit_count(self) -> int:
        """U, the number of units."""
        return len(self.units)

    @property
    def host_count(self) -> int:
        """H, the number of hosts."""
        return len(self.host_ids)

    @property
    def in_arrays(self) -> PlacementProblem:
        """The same without the nouns, for a process that only searches: those travel slowly."""
        return replace(
            self,
            snapshot=Snapshot(cluster="", taken_at=self.snapshot.taken_at, hosts=(), vms=()),
            demand=Demand(vm_cpu_cores={}, vm_cpu_peak_cores={}, host_base_cores={}),
            policy=Policy(name="", applies=HostSelector(labels={})),
            units=((),) * self.unit_count,
        )

    @property
    def groups(self) -> tuple[Group, ...]:
        """All spread, together and presence groups, hard and soft."""
        return (*self.spreads, *self.togethers, *self.presences)

    def load(self, x: Ints) -> Floats:
        """What is taken up on each host when units are placed as in `x`: `(R, H)`."""
        return self.start_load + self._guests(x) - self._guests(self.start)

    def _guests(self, x: Ints) -> Floats:
        return _sums(self.needs, x, self.host_count)

    def limits(self, x: Ints) -> Floats:
        """What each host may hold, `(3, H)`: its capacity, or what `x` has there already."""
        return np.maximum(self.capacity, self.load(x)[: len(LIMITED)])

    def assignment(self, x: Ints) -> Assignment:
        """Translate a placement back into ids of VMs and hosts."""
        return {
            vm.id: self.host_ids[host]
            for unit, host in zip(self.units, x.tolist(), strict=True)
            for vm in unit
        }


def placement_problem(snapshot: Snapshot, demand: Demand, policy: Policy) -> PlacementProblem:
    """Put a snapshot, the forecast for it and a policy into arrays."""
    hosts = tuple(sorted(snapshot.hosts, key=lambda host: host.id))
    host_ids = tuple(host.id for host in hosts)
    in_scope = np.array([policy.applies.matches(host) for host in hosts], bool)
    states = [host.state for host in hosts]
    is_up = np.array([host.may_receive for host in hosts], bool)
    scored = in_scope & is_up
    units = _units(snapshot, policy)
    column = {host: index for index, host in enumerate(host_ids)}
    start = np.array([column[unit[0].host] for unit in units], np.intp)
    needs = _needs(units, demand)
    base = np.array([demand.host_base_cores[host] for host in host_ids])
    load = _sums(needs, start, len(hosts))
    load[[Resource.CORES, Resource.NOW]] += base
    leavable = in_scope & np.array([state in LEAVABLE_STATES for state in states], bool)
    capacity = _capacity(snapshot, policy, host_ids, base + demand.host_margin_cores)
    unknown = np.array([host.is_of_unknown_size for host in hosts], bool)
    # What is on a host that nobody has seen is not too much for it: nobody can tell.
    capacity[:, unknown] = load[: len(LIMITED), unknown]
    # A host whose own CPU use passes the limit takes nobody, not even an idle VM.
    receives = scored & (capacity >= 0).all(axis=0)
    groups = find_groups(policy, snapshot, units, hosts)
    return PlacementProblem(
        snapshot=snapshot,
        demand=demand,
        policy=policy,
        host_ids=host_ids,
        units=units,
        needs=needs,
        start=start,
        start_load=load,
        capacity=capacity,
        size=_size(snapshot, host_ids),
        movable=_movable(units, policy) & leavable[start],
        receives=receives,
        is_up=is_up,
        scored=scored,
        drains=in_scope & np.array([state is HostState.DRAINING for state in states], bool),
        candidates=find_candidates(units, hosts, snapshot, policy, receives),
        pools=pool_table(units, hosts, snapshot, policy),
        spreads=groups.spreads,
        togethers=groups.togethers,
        presences=groups.presences,
        survivable_bytes=_survivable_bytes(snapshot, policy),
    )


def most_moves(problem: PlacementProblem) -> int | None:
    """The units that one plan may move besides what has to be moved; `None`: any number."""
    hosts = problem.snapshot.host_by_id
    looked_after = sum(problem.policy.applies.matches(hosts[v.host]) for v in problem.snapshot.vms)
    return problem.policy.limits.most_migrations(looked_after)


def allowance_beside(problem: PlacementProblem, needed: Ints) -> Allowance | None:
    """The caps by size and place on what one plan may move besides what has to be as `needed`."""
    hosts = [problem.snapshot.host_by_id[host] for host in problem.host_ids]
    allowance = allowance_of(
        problem.policy.limits,
        hosts,
        problem.start,
        moves=most_moves(problem),
        vms=np.array([len(unit) for unit in problem.units], float),
        size=np.array([sum(vm.moved_bytes for vm in unit) for unit in problem.units], float),
    )
    return allowance.beside(needed) if allowance else None


def _units(snapshot: Snapshot, policy: Policy) -> tuple[tuple[Vm, ...], ...]:
    """VMs by id; those that a hard rule keeps together on one host as one unit."""
    rules = [r for r in policy.rules if isinstance(r, Together) and r.hard]
    leader = indivisible(snapshot, rules)
    units: dict[VmId, list[Vm]] = {}
    for vm in sorted(snapshot.vms, key=lambda vm: vm.id):
        units.setdefault(leader.get(vm.id, vm.id), []).append(vm)
    return tuple(tuple(units[key]) for key in sorted(units))


def _needs(units: Sequence[Sequence[Vm]], demand: Demand) -> Floats:
    rows = np.zeros((len(Resource), len(units)))
    for column, unit in enumerate(units):
        for vm in unit:
            if vm.is_active:
                rows[:, column] += (
                    vm.memory_bytes,
                    demand.vm_cpu_peak_cores[vm.id],
                    vm.vcpus,
                    demand.vm_cpu_cores[vm.id],
                    1,
                    vm.cpu_used_cores,
                )
    return rows


def _sums(needs: Floats, x: Ints, host_count: int) -> Floats:
    """What units need on each host, `(R, H)`."""
    # Without units, bincount would count in integers.
    return np.array([np.bincount(x, row, host_count) for row in needs], float)


def _movable(units: Sequence[Sequence[Vm]], policy: Policy) -> Bools:
    pins = [rule.vms for rule in policy.rules if isinstance(rule, Pin) and rule.hard]
    return np.array(
        [
            all(vm.can_move and not any(pin.matches(vm) for pin in pins) for vm in unit)
            for unit in units
        ],
        bool,
    )


def _capacity(
    snapshot: Snapshot, policy: Policy, host_ids: Sequence[HostId], base_cores: Floats
) -> Floats:
    """What units may take up: the host's own CPU use is off, and may leave less than nothing.

    So is the margin for joint peaks.
    """
    hosts = [snapshot.host_by_id[host] for host in host_ids]
    rows = np.array(
        [
            [memory_capacity_bytes(host, policy) for host in hosts],
            [cpu_capacity_cores(host, policy) for host in hosts],
            [vcpu_capacity(host, policy) for host in hosts],
        ]
    )
    rows[Resource.CPU] -= base_cores
    return rows


def _size(snapshot: Snapshot, host_ids: Sequence[HostId]) -> Floats:
    hosts = [snapshot.host_by_id[host] for host in host_ids]
    memory = [max(1.0, host.guest_memory_bytes) for host in hosts]
    cores = [max(1e-3, host.cpu_cores) for host in hosts]
    return np.array([memory, cores, cores, cores, np.ones(len(hosts)), cores])


def _survivable_bytes(snapshot: Snapshot, policy: Policy) -> float:
    """Σ memory capacity of the hosts that are up, the largest `host_failures` left out."""
    failures = policy.headroom.host_failures
    if failures == 0:
        return np.inf
    up = sorted(memory_capacity_bytes(h, policy) for h in snapshot.hosts if h.may_receive)
    return float(sum(up[: max(0, len(up) - failures)]))
