"""A datacentre in memory: time, links, hosts, and the record of what really happened."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebalancer.cluster.inventory import HostId, Vm, VmId, VmState
from rebalancer.cluster.sites import Link, Site
from rebalancer.rollout.driver import Failed, Migrate, Pause, Returned, SetBandwidth, Start
from rebalancer.simulation.calls import Call
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.network import Nic, Wan, Way
from tests.builders import GIB, MIB, NOON, a_host, a_snapshot, a_vm


def migrate(
    datacentre: Datacentre,
    vm: str = "vm1",
    source: str = "h1",
    target: str = "h2",
    bytes_per_second: float = 0.0,
) -> Call:
    return datacentre.ask(
        Migrate(
            vm=VmId(vm),
            host=HostId(source),
            target=HostId(target),
            bytes_per_second=bytes_per_second,
            max_downtime_seconds=0.3,
            persistent=True,
        )
    )


def idle(name: str, on: str = "h1", memory_bytes: int = 4 * GIB) -> Vm:
    return a_vm(name, on, memory_bytes=memory_bytes, dirty_bytes_per_second=0.0)


def carried(datacentre: Datacentre, host: str, way: Way) -> float:
    return datacentre.record.carried_bytes[Nic(HostId(host), way)]


def test_virtual_time_passes_only_when_somebody_sleeps() -> None:
    clock = VirtualClock(Datacentre.of(a_snapshot()))

    before = clock.now()
    clock.sleep(90)

    assert before == NOON
    assert clock.now() == NOON + timedelta(seconds=90)


def test_a_migrated_vm_changes_hosts_with_no_time_on_both() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1")]))

    call = migrate(datacentre, bytes_per_second=400.0 * MIB)
    datacentre.advance(60)

    assert isinstance(call.reply, Returned)
    assert datacentre.record.running_on(VmId("vm1")) == ("h2",)
    assert datacentre.record.violations() == ()
    (pause,) = datacentre.record.outages(VmId("vm1"))
    assert pause.end_seconds is not None
    assert pause.end_seconds - pause.begin_seconds < 0.5


def test_two_transfers_from_one_host_share_its_nic() -> None:
    hosts = [a_host(f"h{n}", nic_bytes_per_second=200.0 * MIB) for n in (1, 2, 3)]
    datacentre = Datacentre.of(a_snapshot(hosts, [idle("vm1"), idle("vm2")]))

    migrate(datacentre, "vm1", target="h2")
    migrate(datacentre, "vm2", target="h3")
    datacentre.advance(10.52)

    assert carried(datacentre, "h1", Way.OUT) == pytest.approx(2000 * MIB, rel=0.01)
    assert carried(datacentre, "h2", Way.IN) == pytest.approx(1000 * MIB, rel=0.01)


def test_a_wan_link_limits_what_passes_it_and_each_direction_has_its_own() -> None:
    sites = [Site(name="tokyo"), Site(name="osaka")]
    link = Link(name="wan", bytes_per_second=100.0 * MIB, between=("tokyo", "osaka"))
    hosts = [a_host("h1", site="tokyo"), a_host("h2", site="osaka"), a_host("h3", site="tokyo")]
    vms = [idle("vm1", "h1"), idle("vm2", "h1"), idle("vm3", "h2"), idle("vm4", "h1")]
    datacentre = Datacentre.of(a_snapshot(hosts, vms, sites=sites, links=[link]))

    migrate(datacentre, "vm1", "h1", "h2")
    migrate(datacentre, "vm2", "h1", "h2")
    migrate(datacentre, "vm3", "h2", "h1")
    migrate(datacentre, "vm4", "h1", "h3")
    datacentre.advance(2.52)

    record = datacentre.record
    assert record.carried_bytes[Wan("wan", "tokyo")] == pytest.approx(200 * MIB, rel=0.01)
    assert record.carried_bytes[Wan("wan", "osaka")] == pytest.approx(200 * MIB, rel=0.01)
    assert carried(datacentre, "h3", Way.IN) > 1000 * MIB


def test_a_changed_bandwidth_counts_from_that_moment_on() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[idle("vm1")]))
    migrate(datacentre, bytes_per_second=50.0 * MIB)
    datacentre.advance(10.52)

    datacentre.ask(SetBandwidth(vm=VmId("vm1"), host=HostId("h1"), bytes_per_second=100.0 * MIB))
    datacentre.advance(10.02)

    assert carried(datacentre, "h1", Way.OUT) == pytest.approx(1500 * MIB, rel=0.01)


def test_a_target_without_enough_memory_refuses() -> None:
    hosts = [a_host("h1"), a_host("h2", memory_bytes=2 * GIB)]
    datacentre = Datacentre.of(a_snapshot(hosts, [a_vm("vm1"), a_vm("vm2", memory_bytes=GIB)]))

    refused, fits = migrate(datacentre, "vm1"), migrate(datacentre, "vm2")
    datacentre.advance(60)

    assert isinstance(refused.reply, Failed)
    assert isinstance(fits.reply, Returned)
    assert datacentre.record.violations() == ()


def test_incoming_copies_hold_memory_from_the_request_on() -> None:
    hosts = [a_host("h1"), a_host("h2", memory_bytes=6 * GIB)]
    datacentre = Datacentre.of(a_snapshot(hosts, [a_vm("vm1"), a_vm("vm2")]))

    migrate(datacentre, "vm1", bytes_per_second=MIB)
    second = migrate(datacentre, "vm2", bytes_per_second=MIB)
    datacentre.advance(5)

    assert isinstance(second.reply, Failed)


def test_a_second_migration_of_one_vm_finds_it_busy() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1")]))
    migrate(datacentre, bytes_per_second=MIB)
    datacentre.advance(1)

    second = migrate(datacentre)
    datacentre.advance(1)

    assert isinstance(second.reply, Failed)
    assert second.reply.code == 68


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"state": VmState.SHUTOFF}, 55),
        ({"local_disk_bytes": GIB}, 81),
        ({"blockers": ("a device is passed through",)}, 55),
        ({"arch": "aarch64"}, 67),
    ],
)
def test_what_cannot_be_migrated_is_refused_as_libvirt_does(
    facts: dict[str, Any], code: int
) -> None:
    hosts = [a_host("h1", arch="x86_64"), a_host("h2", arch="x86_64")]
    datacentre = Datacentre.of(a_snapshot(hosts, [a_vm("vm1", **facts)]))

    call = migrate(datacentre)
    datacentre.advance(5)

    assert isinstance(call.reply, Failed)
    assert call.reply.code == code


def test_starting_a_second_copy_is_possible_and_recorded() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1")]))
    datacentre.hosts[HostId("h2")].define(VmId("vm1"), 4 * GIB)

    datacentre.ask(Start(vm=VmId("vm1"), host=HostId("h2")))
    datacentre.advance(1)

    (span,) = datacentre.record.doubled()
    assert span.hosts == ("h1", "h2")
    assert "vm1 ran on h1 and h2" in datacentre.record.violations()[0]


def test_a_disk_lock_keeps_a_second_copy_from_starting() -> None:
    vm = a_vm("vm1", storage=frozenset({"nfs1"}))
    datacentre = Datacentre.of(a_snapshot(vms=[vm]))
    datacentre.hosts[HostId("h2")].define(VmId("vm1"), 4 * GIB)

    call = datacentre.ask(Start(vm=VmId("vm1"), host=HostId("h2")))
    datacentre.advance(1)

    assert isinstance(call.reply, Failed)
    assert datacentre.record.doubled() == ()


def test_only_an_empty_host_is_put_to_sleep_and_waking_takes_a_while() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1")]))
    with pytest.raises(ValueError, match="still has VMs"):
        datacentre.put_to_sleep(HostId("h1"))

    datacentre.put_to_sleep(HostId("h2"))
    assert not datacentre.answers(HostId("h2"))
    datacentre.wake(HostId("h2"))
    datacentre.advance(60)
    assert not datacentre.answers(HostId("h2"))
    datacentre.advance(61)
    assert datacentre.answers(HostId("h2"))


def test_paused_vms_are_no_outage_of_more_than_the_pause() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1")]))

    datacentre.ask(Pause(vm=VmId("vm1"), host=HostId("h1")))
    datacentre.advance(10)

    (outage,) = datacentre.record.outages(VmId("vm1"))
    assert outage.end_seconds is None


@settings(deadline=None, max_examples=25)
@given(
    moves=st.lists(
        st.tuples(
            st.integers(1, 4),
            st.integers(1, 4),
            st.floats(1e6, 2e9),
            st.floats(0, 20),
            st.floats(0, 5e8),
        ),
        min_size=1,
        max_size=6,
    ),
    nic=st.floats(5e7, 2e9),
    wan=st.floats(1e7, 1e9),
)
def test_links_never_carry_more_than_they_can(
    moves: list[tuple[int, int, float, float, float]], nic: float, wan: float
) -> None:
    hosts = [
        a_host(f"h{n}", site="a" if n < 3 else "b", nic_bytes_per_second=nic) for n in range(1, 5)
    ]
    vms = [
        a_vm(f"vm{i}", f"h{source}", memory_bytes=GIB, dirty_bytes_per_second=dirty)
        for i, (source, _, _, _, dirty) in enumerate(moves)
    ]
    sites = [Site(name="a"), Site(name="b")]
    link = Link(name="wan", bytes_per_second=wan, between=("a", "b"))
    datacentre = Datacentre.of(a_snapshot(hosts, vms, sites=sites, links=[link]))

    for i, (source, target, cap, wait, _) in enumerate(moves):
        migrate(datacentre, f"vm{i}", f"h{source}", f"h{target}", cap)
        datacentre.advance(wait)
    datacentre.advance(30)

    assert datacentre.record.violations() == ()
    for carrier, total in datacentre.record.carried_bytes.items():
        capacity = wan if isinstance(carrier, Wan) else nic
        assert total <= capacity * datacentre.seconds * (1 + 1e-6)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_gives_the_same_history(seed: int) -> None:
    def run() -> list[object]:
        vms = [
            a_vm(f"vm{n}", dirty_bytes_per_second=200.0 * MIB, working_set_bytes=GIB)
            for n in range(3)
        ]
        datacentre = Datacentre.of(a_snapshot(vms=vms), seed=seed)
        for n in range(3):
            migrate(datacentre, f"vm{n}", bytes_per_second=300.0 * MIB)
        datacentre.advance(120)
        return [*datacentre.record.changes]

    assert run() == run()
