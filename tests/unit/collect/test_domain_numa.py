"""Which nodes and CPUs of its host a definition binds a VM to."""

from __future__ import annotations

import pytest

from rebalancer.cluster.inventory import HugepagePool, NumaNode
from rebalancer.collect.domain_numa import numbers_in
from rebalancer.collect.domain_xml import read_domain
from tests.builders import GIB, MIB
from tests.unit.collect.fakes import FakeHypervisor, FakeVm, a_domain_xml, a_source

CELLS = (
    "<cpu><numa><cell id='0' cpus='0-1' memory='2' unit='GiB'/>"
    "<cell id='1' cpus='2-3' memory='1' unit='GiB'/></numa></cpu>"
)


def test_each_cell_is_bound_to_its_own_nodes() -> None:
    tuning = (
        "<numatune><memnode cellid='0' mode='strict' nodeset='1'/>"
        "<memnode cellid='1' mode='preferred' nodeset='0'/></numatune>"
    )

    assert read_domain(a_domain_xml(cpu=CELLS, extra=tuning)).numa_nodes == (
        NumaNode(cpu_cores=2, memory_bytes=2 * GIB, host_nodes=(1,)),
    )


def test_cells_without_nodes_of_their_own_are_bound_like_the_whole() -> None:
    tuning = "<numatune><memory mode='strict' nodeset='0-1'/></numatune>"

    nodes = read_domain(a_domain_xml(cpu=CELLS, extra=tuning)).numa_nodes

    assert [node.host_nodes for node in nodes] == [(0, 1), (0, 1)]


def test_a_guest_without_cells_is_bound_as_a_whole() -> None:
    tuning = "<numatune><memory mode='strict' nodeset='1'/></numatune>"

    assert read_domain(a_domain_xml(extra=tuning)).numa_nodes == (
        NumaNode(cpu_cores=2, memory_bytes=4 * GIB, host_nodes=(1,)),
    )


@pytest.mark.parametrize("mode", ["preferred", "interleave"])
def test_a_preference_binds_to_nothing(mode: str) -> None:
    tuning = f"<numatune><memory mode='{mode}' nodeset='1'/></numatune>"

    assert read_domain(a_domain_xml(extra=tuning)).numa_nodes == ()


def test_pinned_cpus() -> None:
    pins = "<cputune><vcpupin vcpu='0' cpuset='4'/><vcpupin vcpu='1' cpuset='6-8,^7'/></cputune>"

    assert read_domain(a_domain_xml(extra=pins)).pinned_cpus == {4, 6, 8}
    assert read_domain(a_domain_xml(vcpu="<vcpu cpuset='2-3'>2</vcpu>")).pinned_cpus == {2, 3}
    assert read_domain(a_domain_xml()).pinned_cpus == frozenset()


def test_a_time_stamp_counter_of_a_fixed_frequency() -> None:
    clock = "<clock><timer name='tsc' frequency='2096056000'/></clock>"

    assert read_domain(a_domain_xml(extra=clock)).tsc_hertz == 2_096_056_000.0
    assert read_domain(a_domain_xml(extra=clock, kind="qemu")).tsc_hertz is None
    assert read_domain(a_domain_xml()).tsc_hertz is None


def test_free_huge_pages_of_each_node() -> None:
    size = 2 * MIB
    free = {0: {size: 12}, 1: {size: 500}}
    host = FakeHypervisor([FakeVm()], free_pages={size: 512}, free_pages_by_node=free)

    nodes = a_source({"h1": host}).observe().hosts[0].numa_nodes

    assert nodes is not None
    assert [node.hugepages for node in nodes] == [
        (HugepagePool(page_bytes=size, total_pages=512, free_pages=count),) for count in (12, 500)
    ]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-2,8", (0, 1, 2, 8)), ("0-3,^2", (0, 1, 3)), ("", ()), (None, ()), ("x,1-x", ())],
)
def test_sets_of_numbers(text: str | None, numbers: tuple[int, ...]) -> None:
    assert numbers_in(text) == numbers
