"""How many hosts are missing or to spare, and never more than can be kept."""

from __future__ import annotations

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.explanation import CapacityAdvice
from rebalancer.cluster.inventory import HostId, HostState, HugepagePool, Snapshot, VmId
from rebalancer.cluster.policy import Headroom, Overcommit, Policy
from rebalancer.cluster.pools import relocated
from rebalancer.cluster.rules import Spread
from rebalancer.cluster.selection import VmSelector
from rebalancer.placement.budget import Budget
from rebalancer.placement.explain.capacity import advise_on_capacity
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING

ENDLESS = Budget(clock=lambda: 0.0, ends_at=60.0)


def advice(snapshot: Snapshot, policy: Policy | None = None) -> CapacityAdvice:
    demand = Demand.as_measured(snapshot)
    return advise_on_capacity(snapshot, demand, policy or a_policy(), ENDLESS)


def vms_of(count: int, gib: int, **changed: object) -> list[object]:
    return [
        a_vm(f"vm{k}", on=f"h{1 + k % 3}", memory_bytes=gib * GIB, **changed) for k in range(count)
    ]


def three_hosts(*vms: object, **changed: object) -> Snapshot:
    return a_snapshot([a_host(f"h{k}", **changed) for k in (1, 2, 3)], vms)  # type: ignore[arg-type]


def test_hosts_that_are_not_needed_are_named_with_what_binds_then() -> None:
    found = advice(three_hosts(*vms_of(6, 8)))

    assert len(found.spare) == 2
    assert found.short == 0
    assert found.binding == "memory"
    assert found.text.startswith("2 hosts spare: without h")
    assert "memory at 75 % of what may be used" in found.text


def test_what_is_kept_for_failing_hosts_is_not_to_spare() -> None:
    policy = a_policy(headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=1))

    found = advice(three_hosts(*vms_of(6, 8)), policy)

    assert len(found.spare) == 1
    assert "with host_failures 1" in found.text


def test_a_full_cluster_has_no_host_to_spare() -> None:
    found = advice(three_hosts(*vms_of(6, 25)))

    assert (found.spare, found.short) == ((), 0)
    assert found.text == (
        "no host to spare that could be shown: memory is used to 78 % of what may be"
    )


def test_an_overfull_cluster_is_told_how_many_hosts_it_is_short_of() -> None:
    policy = a_policy(headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.5))

    found = advice(three_hosts(*vms_of(9, 20)), policy)

    assert found.short == 3
    assert found.text == "3 hosts of the mean size short at least: 84.0 GiB of memory are missing"


def test_the_resource_that_is_short_is_the_one_that_is_told() -> None:
    policy = a_policy(overcommit=Overcommit(cpu=1.0))

    found = advice(three_hosts(*vms_of(9, 1, vcpus=8)), policy)

    assert (found.short, found.binding) == (2, "vcpus")
    assert found.text == "2 hosts of the mean size short at least: 24 vCPUs are missing"


def test_rules_can_keep_a_host_that_sums_would_spare() -> None:
    apart = Spread(name="apart", vms=VmSelector())
    vms = [a_vm(f"vm{k}", on=f"h{k}") for k in (1, 2, 3)]

    assert advice(three_hosts(*vms), a_policy(apart)).spare == ()


def test_a_host_with_a_vm_that_cannot_move_is_not_the_one_to_spare() -> None:
    found = advice(three_hosts(a_vm("stuck", movable=False), a_vm("b", on="h2")))

    assert set(found.spare) == {"h2", "h3"}


def test_of_unequal_hosts_the_large_ones_are_spared_where_that_is_possible() -> None:
    hosts = [a_host("big", memory_bytes=256 * GIB, cpu_cores=64.0), a_host("h1"), a_host("h2")]

    assert advice(a_snapshot(hosts, [a_vm("a")])).spare[0] == "big"


def test_a_draining_host_is_not_counted_on_and_its_vms_are() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2"), a_host("h3")]
    vms = [a_vm(f"a{k}", memory_bytes=25 * GIB) for k in range(2)]
    vms += [a_vm(f"b{k}", on="h2", memory_bytes=25 * GIB) for k in range(2)]

    found = advice(a_snapshot(hosts, vms))

    assert found.spare == ()
    assert found.uses[0].needed == 100 * GIB


def test_without_a_host_that_may_receive_that_is_what_is_said() -> None:
    hosts = [a_host("h1", state=HostState.DOWN)]

    assert advice(a_snapshot(hosts)).text == "no host may receive VMs"


def test_without_time_nothing_is_promised() -> None:
    snapshot = three_hosts(*vms_of(3, 4))
    spent = Budget(clock=lambda: 0.0, ends_at=0.0)

    assert advise_on_capacity(snapshot, Demand.as_measured(snapshot), a_policy(), spent).spare == ()


def test_more_failures_than_hosts_give_no_number_of_missing_hosts() -> None:
    policy = a_policy(headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=9))

    found = advice(three_hosts(*vms_of(3, 8)), policy)

    assert found.text == (
        "after the loss of 9 hosts nothing would be left of the 3 hosts that VMs may be on, "
        "so none is to spare"
    )


def test_pages_that_the_plan_itself_takes_are_not_there_twice() -> None:
    pages = HugepagePool(page_bytes=GIB, total_pages=16, free_pages=8)
    held = HugepagePool(page_bytes=GIB, total_pages=16, free_pages=0)
    vms = [a_vm(f"vm{k}", memory_bytes=4 * GIB, hugepage_bytes=GIB) for k in range(4)]
    hosts = [a_host("h1", hugepages=(held,)), a_host("h2", hugepages=(pages,))]
    half = {VmId("vm0"): HostId("h2"), VmId("vm1"): HostId("h2")}

    found = advice(relocated(a_snapshot(hosts, vms), half))

    assert found.spare == ("h2",)


def test_while_a_host_cannot_be_emptied_that_is_why_none_is_to_spare() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2"), a_host("h3")]

    found = advice(a_snapshot(hosts, [a_vm("stuck", movable=False)]))

    assert found.spare == ()
    assert found.text.startswith("VMs are left on draining hosts, and no host besides could be ")


def test_the_only_host_is_not_to_spare_and_no_share_is_given_as_the_reason() -> None:
    found = advice(a_snapshot([a_host("h1")], [a_vm("a")]))

    assert found.text.startswith("the one host that VMs may be on is not to spare: ")
