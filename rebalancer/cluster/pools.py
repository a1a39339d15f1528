"""What a host has a counted number of besides memory and CPU: a *pool*, of which few VMs need any.

Huge pages of one size, memory and CPUs of NUMA nodes, devices of one kind, and what memory is
left for VMs without huge pages. What a VM takes of a pool it takes from the moment it runs
there; what a host can give is judged like its memory: `violations` asks that it is not exceeded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from rebalancer.cluster.amounts import bytes_text
from rebalancer.cluster.inventory import Assignment, Host, HugepagePool, NumaNode, Snapshot, Vm
from rebalancer.cluster.policy import Policy


class PoolKind(StrEnum):
    """What a pool is made of."""

    DEVICES = "devices"
    HUGEPAGES = "huge pages"
    """Bytes of them."""
    NODE_MEMORY = "memory of NUMA nodes"
    """Ordinary memory of the nodes, for VMs that are bound to them."""
    NODE_CPUS = "CPUs of NUMA nodes"
    ORDINARY_MEMORY = "memory outside huge pages"
    """What a host that has set huge pages aside has left for VMs that use none."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Pool:
    """One kind of thing that each host has so and so many of."""

    kind: PoolKind
    name: str = ""
    """Of devices: what the pool is called, the same on all hosts."""
    page_bytes: int = 0
    nodes: tuple[int, ...] = ()
    """The NUMA nodes that it is on; empty: all of the host."""

    @property
    def is_in_bytes(self) -> bool:
        """Whether amounts of it are bytes; otherwise it is counted."""
        return self.kind not in (PoolKind.DEVICES, PoolKind.NODE_CPUS)

    def amount_text(self, amount: float) -> str:
        """Write an amount of it: `2.00 GiB` of memory or pages, `3` of devices."""
        return bytes_text(amount) if self.is_in_bytes else f"{amount:,.6g}"

    @property
    def text(self) -> str:
        """What it is, for people."""
        where = f" on NUMA node {', '.join(map(str, self.nodes))}" if self.nodes else ""
        match self.kind:
            case PoolKind.DEVICES:
                return f"devices {self.name}"
            case PoolKind.HUGEPAGES:
                return f"huge pages of {bytes_text(self.page_bytes)}{where}"
            case PoolKind.NODE_MEMORY:
                return f"memory{where}"
            case PoolKind.NODE_CPUS:
                return f"CPUs{where}"
            case PoolKind.ORDINARY_MEMORY:
                return "memory outside huge pages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """A pool of which VMs take more than the host has."""

    pool: Pool
    used: float
    capacity: float


def pools_of(snapshot: Snapshot) -> tuple[Pool, ...]:
    """The pools that VMs of a cluster need anything of; none at all in most clusters."""
    found = {pool for vm in snapshot.vms if vm.is_active for pool in _named_by(vm)}
    if any(host.hugepages for host in snapshot.hosts):
        found.add(Pool(kind=PoolKind.ORDINARY_MEMORY))
    return tuple(sorted(found))


def _named_by(vm: Vm) -> Iterator[Pool]:
    for name in vm.devices:
        yield Pool(kind=PoolKind.DEVICES, name=name)
    page = vm.hugepage_bytes
    if page is not None:
        yield Pool(kind=PoolKind.HUGEPAGES, page_bytes=page)
    for node in vm.numa_nodes:
        if not node.host_nodes:
            continue
        nodes = tuple(sorted(set(node.host_nodes)))
        if vm.pinned_cpus:
            yield Pool(kind=PoolKind.NODE_CPUS, nodes=nodes)
        if page is None:
            yield Pool(kind=PoolKind.NODE_MEMORY, nodes=nodes)
        else:
            yield Pool(kind=PoolKind.HUGEPAGES, page_bytes=page, nodes=nodes)


def need_of(vm: Vm, pool: Pool) -> float:
    """What a VM takes of a pool where it runs.

    Of several NUMA nodes together it takes what it must have on some of them: whatever is bound
    to a part of them counts, so that no division of it over the nodes is tried in vain.
    """
    if not vm.is_active:
        return 0.0
    match pool.kind:
        case PoolKind.DEVICES:
            return float(vm.devices.get(pool.name, 0))
        case PoolKind.ORDINARY_MEMORY:
            return float(vm.memory_bytes) if vm.hugepage_bytes is None else 0.0
        case PoolKind.NODE_CPUS:
            if not vm.pinned_cpus:
                return 0.0
            return float(sum(node.cpu_cores for node in vm.numa_nodes if _lies_in(node, pool)))
        case PoolKind.NODE_MEMORY:
            return 0.0 if vm.hugepage_bytes is not None else _bound_bytes(vm, pool)
        case PoolKind.HUGEPAGES:
            if vm.hugepage_bytes != pool.page_bytes:
                return 0.0
            bytes_used = _bound_bytes(vm, pool) if pool.nodes else vm.memory_bytes
            return float(math.ceil(bytes_used / pool.page_bytes) * pool.page_bytes)


def _bound_bytes(vm: Vm, pool: Pool) -> float:
    return float(sum(node.memory_bytes for node in vm.numa_nodes if _lies_in(node, pool)))


def _lies_in(node: NumaNode, pool: Pool) -> bool:
    return bool(node.host_nodes) and set(node.host_nodes) <= set(pool.nodes)


def capacity_of(host: Host, pool: Pool, residents: Iterable[Vm], policy: Policy) -> float:
    """What a host can give of a pool to all its VMs; infinity where that is not known.

    `residents` are the VMs that are on it now: huge pages that are taken, but not by them, stay
    taken. The host's reserve comes out of its ordinary memory, evenly from all nodes.
    """
    match pool.kind:
        case PoolKind.DEVICES:
            return float(host.devices.get(pool.name, 0))
        case PoolKind.ORDINARY_MEMORY:
            return _ordinary_bytes(host, policy)
        case PoolKind.HUGEPAGES if not pool.nodes:
            return _hugepage_bytes(host.hugepages, pool, residents)
        case PoolKind.HUGEPAGES:
            pages = [page for node in _nodes_of(host, pool) for page in node.hugepages]
            is_told = host.numa_nodes is not None and any(n.hugepages for n in host.numa_nodes)
            return _hugepage_bytes(pages, pool, residents) if is_told else math.inf
        case PoolKind.NODE_CPUS:
            cores = sum(node.cpu_cores for node in _nodes_of(host, pool))
            return math.inf if host.numa_nodes is None else cores * policy.overcommit.cpu
        case PoolKind.NODE_MEMORY:
            if host.numa_nodes is None:
                return math.inf
            share = host.guest_memory_bytes / max(1, host.memory_bytes)
            return sum(
                n.memory_bytes * share - _set_aside(n.hugepages) for n in _nodes_of(host, pool)
            )


def _ordinary_bytes(host: Host, policy: Policy) -> float:
    """Like all of the memory, overcommitted and less the headroom, without what is set aside."""
    if not host.hugepages:
        return math.inf
    ordinary = max(0, host.guest_memory_bytes - _set_aside(host.hugepages))
    return ordinary * policy.overcommit.memory * (1 - policy.headroom.memory_ratio)


def _set_aside(pages: Iterable[HugepagePool]) -> int:
    return sum(each.total_pages * each.page_bytes for each in pages)


def _hugepage_bytes(pages: Iterable[HugepagePool], pool: Pool, residents: Iterable[Vm]) -> float:
    """All pages but those that somebody else has: total - max(0, total - free - of residents)."""
    mine = [each for each in pages if each.page_bytes == pool.page_bytes]
    total = sum(each.total_pages for each in mine) * pool.page_bytes
    free = sum(each.free_pages for each in mine) * pool.page_bytes
    held = sum(need_of(vm, pool) for vm in residents)
    return float(total - max(0.0, total - free - held))


def _nodes_of(host: Host, pool: Pool) -> list[NumaNode]:
    return [
        node
        for place, node in enumerate(host.numa_nodes or ())
        if _number(node, place) in pool.nodes
    ]


def _number(node: NumaNode, place: int) -> int:
    return place if node.number is None else node.number


def shortages(
    host: Host, members: Iterable[Vm], pools: Iterable[Pool], snapshot: Snapshot, policy: Policy
) -> Iterator[Shortage]:
    """The pools that `members` would take too much of, were they on the host: Σ need ≤ capacity."""
    members = tuple(members)
    for pool in pools:
        used = sum(need_of(vm, pool) for vm in members)
        if used <= 0:
            continue
        capacity = capacity_of(host, pool, snapshot.vms_by_host[host.id], policy)
        if used > capacity:
            yield Shortage(pool=pool, used=used, capacity=capacity)


def relocated(snapshot: Snapshot, assignment: Assignment) -> Snapshot:
    """The cluster as it would be observed once every VM is where `assignment` has it."""
    vms = tuple(replace(vm, host=assignment.get(vm.id, vm.host)) for vm in snapshot.vms)
    after = replace(snapshot, vms=vms)
    if not any(host.hugepages for host in snapshot.hosts):
        return after
    hosts = (
        _with_pages_held(host, snapshot.vms_by_host[host.id], after.vms_by_host[host.id])
        for host in snapshot.hosts
    )
    return replace(after, hosts=tuple(hosts))


def _with_pages_held(host: Host, before: Iterable[Vm], after: Iterable[Vm]) -> Host:
    """Give the pages of VMs that left back, and take those of VMs that came."""
    before, after = tuple(before), tuple(after)
    if not host.hugepages or before == after:
        return host

    def recounted(
        pages: tuple[HugepagePool, ...], nodes: tuple[int, ...] = ()
    ) -> tuple[HugepagePool, ...]:
        return tuple(_recount(each, nodes, before, after) for each in pages)

    cells = tuple(
        replace(node, hugepages=recounted(node.hugepages, (_number(node, place),)))
        for place, node in enumerate(host.numa_nodes or ())
    )
    return replace(
        host,
        hugepages=recounted(host.hugepages),
        numa_nodes=None if host.numa_nodes is None else cells,
    )


def _recount(
    pages: HugepagePool, nodes: tuple[int, ...], before: tuple[Vm, ...], after: tuple[Vm, ...]
) -> HugepagePool:
    pool = Pool(kind=PoolKind.HUGEPAGES, page_bytes=pages.page_bytes, nodes=nodes)
    change = sum(need_of(vm, pool) for vm in before) - sum(need_of(vm, pool) for vm in after)
    free = pages.free_pages + round(change / pages.page_bytes)
    return replace(pages, free_pages=min(pages.total_pages, max(0, free)))
