"""Sets of moves to be scheduled: from snapshots, and from clusters made to be difficult."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rebalancer.cluster.inventory import Host, HostId, HostState, Snapshot, Vm, VmId
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Spread, groups_in
from rebalancer.cluster.sites import Link, Site
from rebalancer.cluster.violations import (
    cpu_capacity_cores,
    memory_capacity_bytes,
    vcpu_capacity,
)

MIB = 2**20
GIB = 2**30
GBIT_PER_SECOND = 1.25e8
TAKEN_AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """VMs that are to be elsewhere."""

    name: str
    snapshot: Snapshot
    moves: Mapping[VmId, HostId]
    adversarial: bool = False


# From snapshots -----------------------------------------------------------------------------


class _Rooms:
    """What is free on the hosts while VMs are dealt to them, one after the other."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self.snapshot = snapshot
        self.capacity = {
            host.id: (
                memory_capacity_bytes(host, policy),
                cpu_capacity_cores(host, policy),
                vcpu_capacity(host, policy),
            )
            for host in snapshot.hosts
        }
        self.used = {host.id: [0.0, 0.0, 0.0] for host in snapshot.hosts}
        self.groups: dict[VmId, list[int]] = defaultdict(list)
        self.present: dict[tuple[int, HostId], int] = defaultdict(int)
        number = 0
        for rule in policy.rules:
            if isinstance(rule, Spread):
                for group in groups_in(rule, snapshot):
                    number += 1
                    for vm in group:
                        self.groups[vm.id].append(number)
        for vm in snapshot.vms:
            self.put(vm, vm.host, 1)

    def put(self, vm: Vm, host: HostId, sign: int) -> None:
        for kind, amount in enumerate(_needs(vm)):
            self.used[host][kind] += sign * amount
        for group in self.groups[vm.id]:
            self.present[group, host] += sign

    def fits(self, vm: Vm, host: HostId) -> bool:
        return all(
            used + need <= capacity
            for used, need, capacity in zip(
                self.used[host], _needs(vm), self.capacity[host], strict=True
            )
        ) and not any(self.present[group, host] for group in self.groups[vm.id])

    def load(self, host: HostId) -> float:
        return self.used[host][1] / self.capacity[host][1]


def _needs(vm: Vm) -> tuple[float, float, float]:
    return float(vm.memory_bytes), vm.cpu_used_cores, float(vm.vcpus)


def level(snapshot: Snapshot, policy: Policy, count: int) -> dict[VmId, HostId]:
    """Move VMs of the busiest hosts to the idlest that have room, as often as asked."""
    rooms = _Rooms(snapshot, policy)
    left = {
        host: sorted(
            (vm for vm in vms if vm.movable and not vm.blockers),
            key=lambda vm: (vm.cpu_used_cores, vm.id),
        )
        for host, vms in snapshot.vms_by_host.items()
    }
    busiest = [(-rooms.load(host), host) for host in left]
    heapq.heapify(busiest)
    moves: dict[VmId, HostId] = {}
    while busiest and len(moves) < count:
        load, source = heapq.heappop(busiest)
        if not left[source] or source in moves.values():
            continue
        vm = left[source].pop()
        idle = sorted(rooms.used, key=lambda h: (rooms.load(h), h))[:50]
        target = next((h for h in idle if rooms.load(h) < -load and rooms.fits(vm, h)), None)
        if target is not None:
            rooms.put(vm, source, -1)
            rooms.put(vm, target, 1)
            moves[vm.id] = target
        heapq.heappush(busiest, (-rooms.load(source), source))
    return moves


def empty(snapshot: Snapshot, policy: Policy, count: int) -> dict[VmId, HostId]:
    """Empty the hosts with the least on them into the fullest that have room."""
    rooms = _Rooms(snapshot, policy)
    by_load = sorted(rooms.used, key=lambda h: (rooms.load(h), h))
    moves: dict[VmId, HostId] = {}
    emptied: set[HostId] = set()
    for source in by_load:
        if len(moves) >= count or source in moves.values():
            continue
        emptied.add(source)
        for vm in snapshot.vms_by_host[source]:
            fullest = (h for h in reversed(by_load) if h not in emptied and rooms.fits(vm, h))
            target = next(fullest, None) if vm.movable and not vm.blockers else None
            if target is not None:
                rooms.put(vm, source, -1)
                rooms.put(vm, target, 1)
                moves[vm.id] = target
    return moves


def from_snapshot(name: str, snapshot: Snapshot, policy: Policy, count: int) -> Iterator[Workload]:
    """The two sets of moves that a snapshot is measured with."""
    for how in (level, empty):
        yield Workload(
            name=f"{name} {how.__name__}",
            snapshot=snapshot,
            moves=how(snapshot, policy, count),
        )


# Made to be difficult -----------------------------------------------------------------------


def _host(name: str, gib: int = 512, **changed: object) -> Host:
    return Host(
        id=HostId(name),
        name=name,
        cpu_cores=256.0,
        memory_bytes=gib * GIB,
        reserved_memory_bytes=0,
        **changed,  # type: ignore[arg-type]
    )


def _vm(name: str, on: str, gib: int, dirty_mib: float = 2.0, **changed: object) -> Vm:
    return Vm(
        id=VmId(name),
        name=name,
        host=HostId(on),
        vcpus=2,
        memory_bytes=gib * GIB,
        cpu_used_cores=0.1,
        dirty_bytes_per_second=dirty_mib * MIB,
        working_set_bytes=gib * GIB // 8,
        **changed,  # type: ignore[arg-type]
    )


def _workload(
    name: str, hosts: list[Host], vms: list[Vm], moves: dict[str, str], links: tuple[Link, ...] = ()
) -> Workload:
    sites = sorted({host.site for host in hosts if host.site is not None})
    return Workload(
        name=name,
        snapshot=Snapshot(
            cluster="adversarial",
            taken_at=TAKEN_AT,
            hosts=tuple(hosts),
            vms=tuple(vms),
            sites=tuple(Site(name=site) for site in sites),
            links=links,
        ),
        moves={VmId(vm): HostId(host) for vm, host in moves.items()},
        adversarial=True,
    )


SIZES_GIB = (1, 2, 2, 4, 4, 8, 16, 32)


def one_host() -> Workload:
    """All VMs of one host go to twenty others."""
    hosts = [_host("h0", 2048, state=HostState.DRAINING), *(_host(f"h{i}") for i in range(1, 21))]
    vms = [_vm(f"v{i}", "h0", SIZES_GIB[i % 8]) for i in range(120)]
    return _workload("one host", hosts, vms, {f"v{i}": f"h{1 + i * 7 % 20}" for i in range(120)})


def ring_of_swaps() -> Workload:
    """Thirty full hosts pass a large VM on in rings of three; three hosts have room to spare."""
    hosts = [_host(f"h{i}", 64) for i in range(30)]
    hosts += [_host(f"spare{i}", 96) for i in range(3)]
    vms = [_vm(f"v{i}", f"h{i}", 40 + i % 3) for i in range(30)]
    moves = {f"v{i}": f"h{i - 2 if i % 3 == 2 else i + 1}" for i in range(30)}
    return _workload("ring of swaps", hosts, vms, moves)


def wan_bottleneck() -> Workload:
    """Sixty VMs cross a link of 1 Gbit/s while forty stay at their site."""
    hosts = [_host(f"a{i}", site="a") for i in range(10)]
    hosts += [_host(f"b{i}", site="b") for i in range(10)]
    vms = [_vm(f"v{i}", f"a{i % 10}", SIZES_GIB[i % 8], dirty_mib=i % 5) for i in range(100)]
    moves = {f"v{i}": f"b{i * 3 % 10}" for i in range(60)}
    moves |= {f"v{i}": f"a{(i + 3) % 10}" for i in range(60, 100)}
    link = Link(name="wan", bytes_per_second=GBIT_PER_SECOND, between=("a", "b"))
    return _workload("wan bottleneck", hosts, vms, moves, (link,))


def memory_chains() -> Workload:
    """Chains of one to ten VMs, each of which must leave before the next has room."""
    hosts, vms, moves = [], [], {}
    for chain in range(20):
        length = 1 + chain % 10
        hosts += [_host(f"c{chain}h{i}", 48) for i in range(length + 1)]
        for i in range(length):
            vms.append(_vm(f"c{chain}v{i}", f"c{chain}h{i}", 25 + chain % 8))
            moves[f"c{chain}v{i}"] = f"c{chain}h{i + 1}"
    return _workload("memory chains", hosts, vms, moves)


def hot_guests() -> Workload:
    """Every third guest writes so fast that it needs its path alone."""
    hosts = [_host(f"h{i}") for i in range(12)]
    vms = [
        _vm(f"v{i}", f"h{i % 12}", SIZES_GIB[i % 8], dirty_mib=350.0 if i % 3 == 0 else 5.0)
        for i in range(96)
    ]
    moves = {f"v{i}": f"h{(i + 1 + i // 12) % 12}" for i in range(96)}
    return _workload("hot guests", hosts, vms, moves)


ADVERSARIAL = (one_host, ring_of_swaps, wan_bottleneck, memory_chains, hot_guests)
