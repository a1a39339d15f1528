"""One host: what it is, what its VMs use, and what is left unknown."""

from __future__ import annotations

from typing import Any

import pytest

from rebalancer.cluster.inventory import HugepagePool, VmState
from rebalancer.collect.domain_reader import cpu_used_cores, cpu_waited_cores
from rebalancer.collect.host_reader import Stopwatch, read_host
from rebalancer.collect.hypervisor import DomainState, HypervisorError
from rebalancer.collect.observations import DomainReport, HostReport, LibvirtHost
from tests.builders import GIB, MIB
from tests.unit.collect.fakes import FakeHypervisor, FakeTime, FakeVm, a_disk, a_domain_xml


def read(
    hypervisor: FakeHypervisor, clock: FakeTime, *, counts_waiting: bool = False, **configured: Any
) -> HostReport:
    hypervisor.clock = clock
    host = LibvirtHost(name="h1", uri="fake://h1", **configured)
    stopwatch = Stopwatch(monotonic=clock.monotonic, sleep=clock.sleep)
    return read_host(
        host,
        hypervisor,
        sampling_seconds=5.0,
        stopwatch=stopwatch,
        counts_waiting=counts_waiting,
    )


def domain(hypervisor: FakeHypervisor) -> DomainReport:
    (report,) = read(hypervisor, FakeTime()).domains
    return report


def test_what_a_host_is() -> None:
    facts = read(FakeHypervisor(), FakeTime()).facts

    assert (facts.cpu_cores, facts.memory_bytes) == (16, 64 * GIB)
    assert (facts.arch, facts.cpu_model) == ("x86_64", "EPYC-Milan")
    assert facts.cpu_features == frozenset({"sse4.2", "popcnt", "avx2", "aes"})
    assert facts.hugepages == (HugepagePool(page_bytes=2 * MIB, total_pages=1024, free_pages=100),)
    assert facts.networks == frozenset({"br0", "lan", "virbr1"})
    assert facts.pools is not None
    assert [pool.name for pool in facts.pools] == ["vms", "default"]


def test_cpu_use_is_the_growth_of_the_counters_over_the_window() -> None:
    report = read(FakeHypervisor([FakeVm(cores=1.75)], busy_cores=6.5), FakeTime())

    assert report.facts.cpu_used_cores == pytest.approx(6.5)
    assert report.domains[0].cpu_used_cores == pytest.approx(1.75)


def test_what_vms_wait_for_counts_where_that_is_wanted_up_to_their_vcpus() -> None:
    vms = [
        FakeVm("a", cores=1.0, waiting_cores=0.5),
        FakeVm("b", cores=1.5, waiting_cores=1.25),
        FakeVm("c", cores=2.25, waiting_cores=1.0),
        FakeVm("d", state=DomainState.SHUTOFF, waiting_cores=1.0),
    ]

    plain = read(FakeHypervisor(vms, busy_cores=6.0), FakeTime())
    counted = read(FakeHypervisor(vms, busy_cores=6.0), FakeTime(), counts_waiting=True)

    assert [vm.cpu_used_cores for vm in plain.domains] == pytest.approx([1.0, 1.5, 2.25, 0.0])
    assert [vm.cpu_used_cores for vm in counted.domains] == pytest.approx([1.5, 2.0, 2.25, 0.0])
    assert plain.facts.cpu_used_cores == pytest.approx(6.0)
    assert counted.facts.cpu_used_cores == pytest.approx(6.0 + 0.5 + 0.5)


@pytest.mark.parametrize(
    ("before", "after", "waited"),
    [
        ({"vcpu.0.delay": 0}, {"vcpu.0.delay": 2_000_000_000}, 1.0),
        ({"vcpu.0.delay": 5_000_000_000}, {"vcpu.0.delay": 1_000_000_000}, 0.0),
        ({}, {"vcpu.3.delay": 9_000_000_000}, 0.0),
        ({"vcpu.0.wait": 0}, {"vcpu.0.wait": 9_000_000_000}, 0.0),
    ],
    ids=["it waited", "the counter began again", "a vcpu was plugged in", "another counter"],
)
def test_waiting_is_the_growth_of_the_time_in_the_run_queue(
    before: Any, after: Any, waited: float
) -> None:
    assert cpu_waited_cores(before, after, 2.0) == pytest.approx(waited)
    assert cpu_waited_cores(before, after, 0.0) == 0.0


def test_a_host_whose_use_is_its_guests_is_not_asked_for_it() -> None:
    hypervisor = FakeHypervisor()

    assert read(hypervisor, FakeTime(), cpu_from_guests=True).facts.cpu_used_cores is None
    assert "cpu_busy_seconds" not in hypervisor.calls


def test_the_slow_questions_are_asked_within_the_window() -> None:
    clock = FakeTime()
    hypervisor = FakeHypervisor([FakeVm()])

    read(hypervisor, clock)

    assert clock.seconds == 1005.0
    assert hypervisor.calls[0] == "stats"
    assert hypervisor.calls[-2:] == ["stats", "cpu_busy_seconds"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"cpu.time": 10e9}, {"cpu.time": 15e9}, 1.0),
        ({"cpu.time": 100e9}, {"cpu.time": 2e9, "vcpu.current": 2}, 0.4),
        ({}, {"cpu.time": 2e9, "vcpu.current": 2}, 0.4),
        ({}, {"cpu.time": 9e12, "vcpu.current": 2}, 2.0),
        ({"cpu.time": 10e9}, {}, 0.0),
        ({"cpu.time": 10e9}, {"cpu.time": "soon"}, 0.0),
    ],
    ids=["growth", "reboot", "arrival", "seen for the first time", "not told", "garbage"],
)
def test_counters_that_start_anew(before: Any, after: Any, expected: float) -> None:
    assert cpu_used_cores(before, after, 5.0) == pytest.approx(expected)


def test_two_samples_at_the_same_instant_tell_no_use() -> None:
    assert cpu_used_cores({"cpu.time": 1}, {"cpu.time": 2}, 0.0) == 0.0


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (DomainState.RUNNING, VmState.RUNNING),
        (DomainState.BLOCKED, VmState.RUNNING),
        (DomainState.SHUTDOWN, VmState.RUNNING),
        (DomainState.PAUSED, VmState.PAUSED),
        (DomainState.PMSUSPENDED, VmState.SUSPENDED),
        (DomainState.SHUTOFF, VmState.SHUTOFF),
        (DomainState.CRASHED, VmState.CRASHED),
    ],
)
def test_states(told: DomainState, state: VmState) -> None:
    assert domain(FakeHypervisor([FakeVm(state=told)])).state is state


def test_a_state_that_is_not_told_is_that_of_the_list() -> None:
    vm = FakeVm(stats={"state.state": "?"})

    assert domain(FakeHypervisor([vm])).state is VmState.RUNNING


def test_a_vm_that_is_off_uses_nothing() -> None:
    assert domain(FakeHypervisor([FakeVm(state=DomainState.SHUTOFF)])).cpu_used_cores == 0.0


def test_sizes_of_disks() -> None:
    vm = FakeVm(
        xml=a_domain_xml(devices=a_disk("/a") + a_disk("/b", "vdb")),
        stats={
            "block.count": 2,
            "block.0.name": "vda",
            "block.0.capacity": 5 * GIB,
            "block.1.name": "vdb",
            "block.1.physical": 6 * GIB,
        },
    )

    assert domain(FakeHypervisor([vm])).disk_bytes == {"vda": 5 * GIB, "vdb": 6 * GIB}


def test_sizes_of_disks_of_a_vm_that_is_off_are_asked_for() -> None:
    vm = FakeVm(xml=a_domain_xml(devices=a_disk("/a")), state=DomainState.SHUTOFF)

    assert domain(FakeHypervisor([vm])).disk_bytes == {"vda": 7 * GIB}
    assert domain(FakeHypervisor([vm], failing=["disk_bytes"])).disk_bytes == {}


@pytest.mark.parametrize("call", ["stats", "domains", "capabilities_xml", "cpu_count", "hostname"])
def test_without_the_essentials_there_is_no_report(call: str) -> None:
    with pytest.raises(HypervisorError, match=call):
        read(FakeHypervisor(failing=[call]), FakeTime())


def test_a_host_without_size_is_not_reported_unless_its_size_is_configured() -> None:
    sizeless = FakeHypervisor(memory_bytes=0, capabilities_xml="<capabilities/>")

    with pytest.raises(HypervisorError, match="set them in its configuration"):
        read(sizeless, FakeTime())
    assert read(sizeless, FakeTime(), memory_bytes=GIB).facts.memory_bytes == 0


def test_capabilities_that_are_none_are_an_error_of_the_host() -> None:
    with pytest.raises(HypervisorError, match="capabilities"):
        read(FakeHypervisor(capabilities_xml="<oops"), FakeTime())


def test_what_a_host_cannot_tell_is_unknown_and_the_rest_is_told() -> None:
    optional = [
        "memory_bytes", "cpu_busy_seconds", "cpu_model_names", "expanded_cpu_xml", "free_pages",
        "pool_xmls", "network_xmls", "interface_names",
    ]  # fmt: skip

    facts = read(FakeHypervisor([FakeVm()], failing=optional), FakeTime()).facts

    assert facts.memory_bytes == 64 * GIB  # the sum of its cells
    assert facts.cpu_used_cores is None
    assert facts.cpu_models is None
    assert facts.cpu_features is None
    assert facts.pools is None
    assert facts.networks is None


def test_one_odd_pool_or_network_does_not_hide_the_others() -> None:
    hypervisor = FakeHypervisor(
        network_xmls=["<oops", "<network><name>lan</name></network>"], pool_xmls=["<oops"]
    )

    facts = read(hypervisor, FakeTime()).facts

    assert facts.networks == frozenset({"br0", "lan"})
    assert facts.pools == ()


@pytest.mark.parametrize("xml", [None, "<domain", "<!DOCTYPE x><domain/>"])
def test_one_odd_vm_does_not_hide_its_host(xml: str | None) -> None:
    reports = read(FakeHypervisor([FakeVm("a"), FakeVm("b", xml=xml)]), FakeTime()).domains

    assert [report.facts is None for report in reports] == [False, True]
    assert reports[1].unreadable
    assert reports[1].memory_bytes == 4 * GIB


def test_a_vm_that_leaves_within_the_window_is_gone_and_one_that_comes_is_there() -> None:
    hypervisor = FakeHypervisor([FakeVm("leaving")])
    hypervisor.later = iter([[FakeVm("leaving")], [FakeVm("coming")]])

    assert [report.name for report in read(hypervisor, FakeTime()).domains] == ["coming"]


def test_each_cpu_model_is_asked_about_once() -> None:
    cpu = "<cpu mode='custom'><model>Nehalem</model></cpu>"
    vms = [FakeVm(str(number), xml=a_domain_xml(str(number), cpu=cpu)) for number in range(5)]
    hypervisor = FakeHypervisor(vms)

    reports = read(hypervisor, FakeTime()).domains

    assert {report.cpu_model_features for report in reports} == {frozenset({"sse4.2", "popcnt"})}
    assert hypervisor.calls.count("expanded_cpu_xml") == 2  # the host's own, and Nehalem
