"""Devices and huge pages on the way: nothing is promised twice, at no instant."""

from __future__ import annotations

from rebalancer.cluster.inventory import HugepagePool, Snapshot
from tests.builders import GIB, a_host, a_snapshot, a_vm
from tests.unit.planning.plans import a_plan, step, why_unmoved


def devices(*counts: int) -> Snapshot:
    hosts = [a_host(f"h{k}", devices={"vf": count}) for k, count in enumerate(counts, 1)]
    return a_snapshot(hosts, [a_vm(f"v{k}", on=f"h{k}", devices={"vf": 1}) for k in (1, 2)])


def test_a_vm_waits_for_the_device_that_another_one_gives_back() -> None:
    plan = a_plan(devices(1, 1, 1), {"v1": "h2", "v2": "h3"})

    assert step(plan, "v1").depends_on == (step(plan, "v2").id,)
    assert step(plan, "v2").depends_on == ()


def test_two_that_change_devices_go_through_a_third_host() -> None:
    plan = a_plan(devices(1, 1, 1), {"v1": "h2", "v2": "h1"})

    assert len(plan.migrations) == 3


def test_where_no_third_host_has_one_the_plan_says_what_is_missing() -> None:
    plan = a_plan(devices(1, 1, 0), {"v1": "h2", "v2": "h1"})

    assert plan.migrations == ()
    assert "1 of devices vf are missing on h2" in why_unmoved(plan, "v1")


def test_huge_pages_are_given_back_before_they_are_given_out() -> None:
    pages = HugepagePool(page_bytes=GIB, total_pages=4, free_pages=0)
    free = HugepagePool(page_bytes=GIB, total_pages=4, free_pages=4)
    hosts = [a_host("h1", hugepages=(pages,)), a_host("h2", hugepages=(pages,))]
    hosts += [a_host("h3", hugepages=(free,))]
    vms = [a_vm(f"v{k}", on=f"h{k}", memory_bytes=4 * GIB, hugepage_bytes=GIB) for k in (1, 2)]

    plan = a_plan(a_snapshot(hosts, vms), {"v1": "h2", "v2": "h3"})

    assert step(plan, "v1").depends_on == (step(plan, "v2").id,)
