"""What snapshot, forecast and policy become in arrays."""

from __future__ import annotations

import numpy as np

from rebalancer.cluster.inventory import HostState, VmState
from rebalancer.cluster.policy import Headroom, Overcommit
from rebalancer.cluster.rules import Ban, Fence, Pin, Spread, Together
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.placement.problem import Resource
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import problem_of

ALL = VmSelector()


def test_rows_and_columns_are_sorted_by_id() -> None:
    hosts = [a_host("h2"), a_host("h1")]
    problem = problem_of(a_snapshot(hosts, [a_vm("b", on="h2"), a_vm("a", on="h1")]))

    assert problem.host_ids == ("h1", "h2")
    assert [unit[0].id for unit in problem.units] == ["a", "b"]
    assert problem.start.tolist() == [0, 1]


def test_loads_follow_a_placement() -> None:
    vms = [a_vm("a", on="h1", memory_bytes=4 * GIB, cpu_used_cores=1.5, vcpus=3)]
    problem = problem_of(a_snapshot([a_host("h1", cpu_used_cores=2.0), a_host("h2")], vms))

    load = problem.load(np.array([1]))

    assert load[:, 1].tolist() == [4 * GIB, 1.5, 3.0, 1.5, 1.0, 1.5]
    assert load[Resource.CORES, 0] == 0.5  # the host's own use stays


def test_capacity_is_what_the_oracle_says() -> None:
    policy = a_policy(
        headroom=Headroom(cpu_ratio=0.25, memory_ratio=0.5), overcommit=Overcommit(cpu=2.0)
    )
    host = a_host("h1", cpu_cores=16.0, memory_bytes=64 * GIB, cpu_used_cores=3.0)

    problem = problem_of(a_snapshot([host]), policy)

    assert problem.capacity[:, 0].tolist() == [32 * GIB, 9.0, 32.0]


def test_a_limit_that_is_passed_is_what_it_is_passed_by() -> None:
    host = a_host("h1", memory_bytes=4 * GIB)
    problem = problem_of(a_snapshot([host], [a_vm("a", memory_bytes=6 * GIB)]))

    assert problem.limits(problem.start)[Resource.MEMORY, 0] == 6 * GIB


def test_a_vm_that_does_not_run_needs_nothing() -> None:
    problem = problem_of(a_snapshot(vms=[a_vm("a", state=VmState.SHUTOFF)]))

    assert problem.needs[:, 0].tolist() == [0.0] * len(Resource)


def test_vms_kept_together_on_one_host_are_one_unit() -> None:
    vms = [a_vm("a"), a_vm("b"), a_vm("c"), a_vm("d", on="h2")]
    policy = a_policy(
        Together(name="ab", vms=VmSelector(names=("a", "b"))),
        Together(name="bc", vms=VmSelector(names=("b", "c"))),
        Together(name="soft", vms=ALL, hard=False),
    )

    problem = problem_of(a_snapshot(vms=vms), policy)

    assert [[vm.id for vm in unit] for unit in problem.units] == [["a", "b", "c"], ["d"]]
    assert problem.needs[Resource.VMS].tolist() == [3.0, 1.0]


def test_what_may_move_is_neither_pinned_nor_blocked_nor_on_an_unknown_host() -> None:
    hosts = [a_host("h1"), a_host("h2", state=HostState.UNKNOWN)]
    vms = [
        a_vm("a"),
        a_vm("b", movable=False),
        a_vm("c", blockers=("PCI device",)),
        a_vm("d"),
        a_vm("e", on="h2"),
    ]
    policy = a_policy(Pin(name="pin", vms=VmSelector(names=("d",))))

    problem = problem_of(a_snapshot(hosts, vms), policy)

    assert problem.movable.tolist() == [True, False, False, False, False]


def test_candidates_follow_machines_and_rules() -> None:
    hosts = [
        a_host("h1"),
        a_host("h2", storage=frozenset()),
        a_host("h3", memory_bytes=2 * GIB),
        a_host("h4"),
        a_host("h5", state=HostState.DRAINING),
        a_host("h6"),
    ]
    vm = a_vm("a", storage=frozenset({"san"}), memory_bytes=4 * GIB)
    policy = a_policy(Ban(name="ban", vms=ALL, hosts=HostSelector(names=("h4",))))

    problem = problem_of(a_snapshot(hosts, [vm]), policy)

    allowed = problem.candidates.hosts_of(0)
    assert [host for host, yes in zip(problem.host_ids, allowed, strict=True) if yes] == [
        "h1",
        "h6",
    ]


def test_vms_that_are_alike_are_one_kind() -> None:
    vms = [a_vm(f"vm{k}", memory_bytes=(k + 1) * GIB) for k in range(5)]
    vms += [a_vm("special", storage=frozenset({"san"}))]

    problem = problem_of(a_snapshot(vms=vms))

    assert len(problem.candidates.allowed) == 2


def test_a_fence_that_is_broken_still_forbids_every_other_host_outside() -> None:
    fence = Fence(name="fence", vms=ALL, to=HostSelector(names=("h2",)))
    hosts = [a_host("h1"), a_host("h2"), a_host("h3")]

    problem = problem_of(a_snapshot(hosts, [a_vm("a", on="h1")]), a_policy(fence))

    assert problem.candidates.hosts_of(0).tolist() == [False, True, False]
    assert problem.candidates.broken[0].tolist() == [1.0, 0.0, 1.0]


def test_groups_that_cannot_be_broken_are_left_out() -> None:
    vms = [a_vm("a"), a_vm("b", on="h2")]
    two = Spread(name="two", vms=ALL, at_most=2)
    one = Spread(name="one", vms=ALL)

    problem = problem_of(a_snapshot(vms=vms), a_policy(two, one))

    assert [group.rule for group in problem.spreads] == ["one"]


def test_the_largest_hosts_are_the_ones_that_fail() -> None:
    hosts = [a_host(f"h{k}", memory_bytes=k * 16 * GIB) for k in (1, 2, 3)]
    policy = a_policy(headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=1))

    assert problem_of(a_snapshot(hosts), policy).survivable_bytes == 48 * GIB
    assert problem_of(a_snapshot(hosts)).survivable_bytes == np.inf
