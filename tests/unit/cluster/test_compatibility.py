"""Facts of two machines that keep a VM from running on a host."""

from __future__ import annotations

from typing import Any

import pytest

from rebalancer.cluster.compatibility import misfits
from rebalancer.cluster.inventory import HugepagePool, NumaNode
from tests.builders import GIB, IMAGES, MIB, a_disk, a_host, a_vm, with_disks


def why_not(vm: dict[str, Any], target: dict[str, Any], source: dict[str, Any]) -> str:
    return "; ".join(misfits(a_vm(**vm), a_host("h1", **source), a_host("h2", **target)))


def test_a_plain_vm_runs_anywhere() -> None:
    assert why_not({}, {}, {}) == ""


def test_nothing_keeps_a_vm_from_being_where_it_is() -> None:
    host = a_host("h1", arch="aarch64")

    assert misfits(a_vm(arch="x86_64"), host, host) == ()


@pytest.mark.parametrize(
    ("vm", "target", "reason"),
    [
        ({"arch": "x86_64"}, {"arch": "aarch64"}, "architecture"),
        ({"machine_type": "q35"}, {"machine_types": ("i440fx",)}, "machine type q35"),
        ({"storage": frozenset({"san"})}, {"storage": frozenset()}, "storage san"),
        ({"networks": frozenset({"br1"})}, {"networks": frozenset({"br0"})}, "network br1"),
        (
            {"memory_bytes": 65 * GIB},
            {},
            "it needs 65.0 GiB of memory, the host has 64.0 GiB for guests",
        ),
        ({"cpu_model": "EPYC"}, {"cpu_models": ("Nehalem",)}, "EPYC CPU"),
        ({"cpu_features": frozenset({"avx2"})}, {"cpu_features": frozenset()}, "lacks avx2"),
        ({"hugepage_bytes": 2 * MIB}, {}, "huge pages"),
        ({"local_disk_bytes": 5}, {}, "disks"),
        (
            with_disks(a_disk()),
            {"disk_pools": {IMAGES: 20 * GIB}},
            "only; `migration: {local_disks: true}` would let them be copied",
        ),
        (
            {"vcpus": 32, "numa_nodes": (NumaNode(cpu_cores=32, memory_bytes=GIB),)},
            {},
            "pinned vCPUs",
        ),
        (
            {"numa_nodes": (NumaNode(cpu_cores=2, memory_bytes=40 * GIB),)},
            {"numa_nodes": (NumaNode(cpu_cores=8, memory_bytes=32 * GIB),) * 2},
            "NUMA",
        ),
    ],
)
def test_a_misfit_is_named(vm: dict[str, Any], target: dict[str, Any], reason: str) -> None:
    assert reason in why_not(vm, target, {})


@pytest.mark.parametrize(
    "vm",
    [
        {"arch": "x86_64"},
        {"machine_type": "q35"},
        {"storage": frozenset({"san"})},
        {"cpu_model": "EPYC"},
        {"cpu_features": frozenset({"avx2"})},
    ],
)
def test_what_is_not_known_of_a_host_does_not_rule_it_out(vm: dict[str, Any]) -> None:
    assert why_not(vm, {}, {}) == ""


def test_a_passed_through_cpu_needs_the_same_model() -> None:
    vm = {"cpu_model": "host-passthrough"}

    assert why_not(vm, {"cpu_model": "EPYC"}, {"cpu_model": "EPYC"}) == ""
    assert "Nehalem" in why_not(vm, {"cpu_model": "Nehalem"}, {"cpu_model": "EPYC"})
    assert "unknown" in why_not(vm, {}, {"cpu_model": "EPYC"})


def test_huge_pages_must_be_of_the_size_and_enough() -> None:
    pool = HugepagePool(page_bytes=2 * MIB, total_pages=1024, free_pages=0)

    fits = {"hugepage_bytes": 2 * MIB, "memory_bytes": 2 * GIB}

    assert why_not(fits, {"hugepages": (pool,)}, {}) == ""
    assert "too few" in why_not(fits | {"memory_bytes": 3 * GIB}, {"hugepages": (pool,)}, {})


@pytest.mark.parametrize(
    ("host", "fits"),
    [
        ({}, True),
        ({"tsc_hertz": 2.1e9}, True),
        ({"tsc_hertz": 2.1e9 * (1 + 200e-6)}, True),
        ({"tsc_hertz": 2.6e9}, False),
        ({"tsc_hertz": 2.6e9, "tsc_scales": True}, True),
    ],
)
def test_a_fixed_time_stamp_counter_is_kept_or_scaled(host: dict[str, Any], fits: bool) -> None:
    assert ("time stamp counter" in why_not({"tsc_hertz": 2.1e9}, host, {})) is not fits
    assert why_not({}, host, {}) == ""


def test_devices_must_be_there_at_all() -> None:
    assert "takes 2 devices vf, the host has 1" in why_not(
        {"devices": {"vf": 2}}, {"devices": {"vf": 1}}, {}
    )
    assert "the host has 0" in why_not({"devices": {"vf": 1}}, {}, {})
    assert why_not({"devices": {"vf": 1}}, {"devices": {"vf": 1}}, {}) == ""


NODES = (NumaNode(cpu_cores=8, memory_bytes=32 * GIB), NumaNode(cpu_cores=4, memory_bytes=8 * GIB))


def cells(*sizes: int, cpus: int = 2, on: tuple[int, ...] = ()) -> tuple[NumaNode, ...]:
    return tuple(NumaNode(cpu_cores=cpus, memory_bytes=size * GIB, host_nodes=on) for size in sizes)


@pytest.mark.parametrize(
    ("vm", "reason"),
    [
        (cells(8, 32), ""),
        (cells(10, 10), "larger than any of the host's that is left"),
        (cells(1, 1, 1), "3 NUMA nodes of its own, the host 2"),
        (cells(1, on=(1,)), ""),
        (cells(1, on=(0, 3)), "bound to NUMA node 3"),
        (cells(1, cpus=9), "more vCPUs"),
        (cells(1, cpus=9, on=(0, 1)), ""),
    ],
)
def test_numa_nodes_need_nodes(vm: tuple[NumaNode, ...], reason: str) -> None:
    why = why_not({"numa_nodes": vm}, {"numa_nodes": NODES}, {})

    assert (reason in why) if reason else not why
    assert why_not({"numa_nodes": vm}, {}, {}) == ""


def test_cpus_that_a_vm_is_pinned_to_must_be_there() -> None:
    vm = {"pinned_cpus": frozenset({3, 12})}

    assert "pinned to CPU 12, the host has 12" in why_not(vm, {"numa_nodes": NODES}, {})
    assert why_not(vm, {}, {}) == ""


def test_the_reserve_of_a_host_is_not_for_guests() -> None:
    target = {"memory_bytes": 64 * GIB, "reserved_memory_bytes": 10 * GIB}

    assert "memory" in why_not({"memory_bytes": 60 * GIB}, target, {})
