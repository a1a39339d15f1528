"""Counted things: what hosts have, what VMs take, and how a move changes both."""

from __future__ import annotations

import math
from typing import Any

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import (
    Host,
    HostId,
    HugepagePool,
    NumaNode,
    Snapshot,
    Vm,
    VmId,
    VmState,
)
from rebalancer.cluster.policy import Overcommit
from rebalancer.cluster.pools import Pool, PoolKind, capacity_of, need_of, pools_of, relocated
from rebalancer.cluster.violations import violations
from tests.builders import GIB, MIB, a_host, a_policy, a_snapshot, a_vm

BIG = Pool(kind=PoolKind.HUGEPAGES, page_bytes=GIB)
ORDINARY = Pool(kind=PoolKind.ORDINARY_MEMORY)
NODE_1 = Pool(kind=PoolKind.NODE_MEMORY, nodes=(1,))


def pages(total: int, free: int) -> tuple[HugepagePool, ...]:
    return (HugepagePool(page_bytes=GIB, total_pages=total, free_pages=free),)


def bound(memory_bytes: int, *nodes: int) -> tuple[NumaNode, ...]:
    return (NumaNode(cpu_cores=2, memory_bytes=memory_bytes, host_nodes=nodes),)


def a_huge_vm(name: str, on: str = "h1", gib: int = 4, **changed: Any) -> Vm:
    return a_vm(name, on=on, memory_bytes=gib * GIB, hugepage_bytes=GIB, **changed)


def broken(snapshot: Snapshot, moved: dict[str, str]) -> list[str]:
    assignment = {
        **snapshot.assignment,
        **{VmId(vm): HostId(host) for vm, host in moved.items()},
    }
    found = violations(snapshot, a_policy(), Demand.as_measured(snapshot), assignment)
    return [violation.rule for violation in found]


def test_a_cluster_without_counted_things_has_no_pools() -> None:
    assert pools_of(a_snapshot(vms=[a_vm("a")])) == ()


def test_only_what_a_running_vm_asks_for_is_a_pool() -> None:
    vms = [a_vm("a", devices={"vf": 1}), a_vm("b", devices={"gpu": 1}, state=VmState.SHUTOFF)]

    assert [pool.text for pool in pools_of(a_snapshot(vms=vms))] == ["devices vf"]


def test_two_vms_do_not_share_the_last_device() -> None:
    hosts = [a_host("h1", devices={"vf": 2}), a_host("h2", devices={"vf": 1})]
    snapshot = a_snapshot(hosts, [a_vm(name, devices={"vf": 1}) for name in "ab"])

    assert broken(snapshot, {"a": "h2"}) == []
    assert broken(snapshot, {"a": "h2", "b": "h2"}) == ["devices vf of h2"]


def test_both_vms_huge_pages_must_fit() -> None:
    hosts = [a_host("h1", hugepages=pages(8, 0)), a_host("h2", hugepages=pages(6, 6))]
    snapshot = a_snapshot(hosts, [a_huge_vm("a"), a_huge_vm("b")])

    assert broken(snapshot, {"a": "h2"}) == []
    assert broken(snapshot, {"a": "h2", "b": "h2"}) == [
        "huge pages of 1.00 GiB of h2",
    ]


def test_pages_that_somebody_else_has_are_not_for_vms() -> None:
    host = a_host("h1", hugepages=pages(10, 3))

    assert capacity_of(host, BIG, [a_huge_vm("a")], a_policy()) == 7 * GIB
    assert capacity_of(host, BIG, [], a_policy()) == 3 * GIB
    assert capacity_of(a_host("h2"), BIG, [], a_policy()) == 0


def test_a_vm_takes_whole_pages() -> None:
    vm = a_vm(memory_bytes=GIB + MIB, hugepage_bytes=GIB)

    assert need_of(vm, BIG) == 2 * GIB


def test_memory_set_aside_for_huge_pages_is_not_for_ordinary_vms() -> None:
    host = a_host("h1", memory_bytes=64 * GIB, reserved_memory_bytes=4 * GIB)
    host_with_pages = a_host("h2", memory_bytes=64 * GIB, hugepages=pages(40, 40))
    snapshot = a_snapshot([host, host_with_pages], [a_vm("a", memory_bytes=30 * GIB)])

    assert broken(snapshot, {}) == []
    assert broken(snapshot, {"a": "h2"}) == ["memory outside huge pages of h2"]
    doubled = a_policy(overcommit=Overcommit(memory=2.0))
    assert capacity_of(host_with_pages, ORDINARY, [], doubled) == 48 * GIB
    assert capacity_of(host, ORDINARY, [], doubled) == math.inf


def test_a_vm_bound_to_a_node_needs_the_memory_of_that_node() -> None:
    node = NumaNode(cpu_cores=8, memory_bytes=32 * GIB)
    hosts = [a_host(name, numa_nodes=(node, node)) for name in ("h1", "h2")]
    vms = [
        a_vm(name, on=on, memory_bytes=20 * GIB, numa_nodes=bound(20 * GIB, number))
        for name, on, number in (("a", "h1", 1), ("b", "h2", 1), ("c", "h2", 0))
    ]
    snapshot = a_snapshot(hosts, vms)

    assert broken(snapshot, {}) == []
    assert broken(snapshot, {"a": "h2"}) == ["memory on NUMA node 1 of h2"]
    assert broken(snapshot, {"c": "h1"}) == []


def test_what_may_lie_on_either_node_counts_for_both_together() -> None:
    both = Pool(kind=PoolKind.NODE_MEMORY, nodes=(0, 1))

    assert need_of(a_vm(numa_nodes=bound(GIB, 1)), both) == GIB
    assert need_of(a_vm(numa_nodes=bound(GIB, 0, 1)), NODE_1) == 0
    assert need_of(a_vm(numa_nodes=bound(GIB, 1), hugepage_bytes=GIB), NODE_1) == 0


def test_a_node_gives_its_share_of_the_reserve_and_its_huge_pages() -> None:
    node = NumaNode(cpu_cores=8, memory_bytes=32 * GIB, hugepages=pages(10, 10))
    host = a_host(memory_bytes=64 * GIB, reserved_memory_bytes=8 * GIB, numa_nodes=(node, node))

    assert capacity_of(host, NODE_1, [], a_policy()) == 18 * GIB
    assert capacity_of(a_host(), NODE_1, [], a_policy()) == math.inf


def test_nodes_go_by_their_numbers() -> None:
    nodes = (
        NumaNode(cpu_cores=8, memory_bytes=8 * GIB),
        NumaNode(cpu_cores=8, memory_bytes=16 * GIB, number=8),
    )
    host = a_host(numa_nodes=nodes)

    eight = Pool(kind=PoolKind.NODE_MEMORY, nodes=(8,))
    assert capacity_of(host, eight, [], a_policy()) == 16 * GIB


def test_huge_pages_of_a_node() -> None:
    pool = Pool(kind=PoolKind.HUGEPAGES, page_bytes=GIB, nodes=(1,))
    nodes = tuple(
        NumaNode(cpu_cores=8, memory_bytes=32 * GIB, hugepages=pages(total, total))
        for total in (4, 10)
    )
    vm = a_huge_vm("a", gib=8, numa_nodes=bound(8 * GIB, 1))

    assert capacity_of(a_host(numa_nodes=nodes), pool, [], a_policy()) == 10 * GIB
    assert need_of(vm, pool) == 8 * GIB
    untold = a_host(numa_nodes=(NumaNode(cpu_cores=8, memory_bytes=GIB),))
    assert capacity_of(untold, pool, [], a_policy()) == math.inf


def test_pinned_vcpus_take_the_cpus_of_their_node() -> None:
    pool = Pool(kind=PoolKind.NODE_CPUS, nodes=(0,))
    host = a_host(numa_nodes=(NumaNode(cpu_cores=8, memory_bytes=GIB),))

    assert need_of(a_vm(numa_nodes=bound(GIB, 0), pinned_cpus=frozenset({0, 1})), pool) == 2
    assert need_of(a_vm(numa_nodes=bound(GIB, 0)), pool) == 0
    assert capacity_of(host, pool, [], a_policy(overcommit=Overcommit(cpu=2.0))) == 16


def test_after_a_move_pages_are_free_where_the_vm_was() -> None:
    hosts = [a_host("h1", hugepages=pages(8, 1)), a_host("h2", hugepages=pages(8, 6))]
    snapshot = a_snapshot(hosts, [a_huge_vm("a")])

    after = relocated(snapshot, {VmId("a"): HostId("h2")})

    assert [host.hugepages[0].free_pages for host in after.hosts] == [5, 2]
    assert after.vms[0].host == "h2"
    assert capacities(after) == capacities(snapshot)


def capacities(snapshot: Snapshot) -> list[float]:
    return [
        capacity_of(host, BIG, snapshot.vms_by_host[host.id], a_policy()) for host in snapshot.hosts
    ]


def test_a_vm_without_a_pool_is_no_reason_to_look_for_one() -> None:
    host: Host = a_host("h1", devices={"vf": 1})

    assert pools_of(a_snapshot([host], [a_vm("a")])) == ()
