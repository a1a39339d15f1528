"""What an observer sees of the datacentre, and what it cannot see."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from rebalancer.cluster.inventory import HostId, HostState, VmId, VmState
from rebalancer.errors import ObservationError
from rebalancer.rollout.driver import Migrate, Pause
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind
from rebalancer.simulation.simulated_source import SimulatedSource
from tests.builders import GIB, MIB, NOON, a_host, a_snapshot, a_vm

VM, H1, H2 = VmId("vm1"), HostId("h1"), HostId("h2")


def migrate(datacentre: Datacentre, bytes_per_second: float) -> None:
    datacentre.ask(
        Migrate(
            vm=VM,
            host=H1,
            target=H2,
            bytes_per_second=bytes_per_second,
            max_downtime_seconds=0.3,
            persistent=True,
        )
    )


def test_it_sees_the_cluster_as_it_was_described() -> None:
    described = a_snapshot([a_host("h1"), a_host("h2")], [a_vm("vm1"), a_vm("vm2", "h2")])

    seen = SimulatedSource(Datacentre.of(described)).observe()

    assert seen.assignment == described.assignment
    assert seen.fingerprint == described.fingerprint
    assert seen.vm_by_id[VM].cpu_used_cores == pytest.approx(0.5)
    assert seen.host_by_id[H1].cpu_used_cores == pytest.approx(0.5)
    assert seen.vm_by_id[VM].dirty_bytes_per_second == MIB


def test_a_host_that_does_not_answer_is_unknown_and_so_are_its_vms() -> None:
    fault = Fault(kind=FaultKind.HOST_UNREACHABLE, host=H1, duration_seconds=60.0)
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1"), a_vm("vm2", "h2")]), faults=[fault])

    seen = SimulatedSource(datacentre).observe()
    assert seen.host_by_id[H1].state is HostState.UNKNOWN
    assert "No route to host" in seen.host_by_id[H1].state_reason
    assert set(seen.vm_by_id) == {"vm2"}

    datacentre.advance(61)
    assert SimulatedSource(datacentre).observe().host_by_id[H1].state is HostState.UP


def test_when_no_host_answers_there_is_no_snapshot() -> None:
    faults = [Fault(kind=FaultKind.HOST_UNREACHABLE, host=host) for host in (H1, H2)]

    with pytest.raises(ObservationError, match="none of the 2 hosts"):
        SimulatedSource(Datacentre.of(a_snapshot(), faults=faults)).observe()


def test_an_incoming_copy_is_no_second_vm_and_the_vm_is_busy() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1")]))
    migrate(datacentre, 10.0 * MIB)
    datacentre.advance(5)

    (vm,) = SimulatedSource(datacentre).observe().vms

    assert vm.host == H1
    assert vm.state is VmState.RUNNING
    assert vm.blockers == ("a job runs on it (migration out)",)
    assert (vm.is_migrating, vm.migrating_to) == (True, "h2")


def test_after_a_migration_use_is_counted_where_the_vm_is_now() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1", cpu_used_cores=3.0)]))
    migrate(datacentre, 0.0)
    datacentre.advance(30)

    seen = SimulatedSource(datacentre).observe()

    assert seen.host_by_id[H1].cpu_used_cores == 0
    assert seen.host_by_id[H2].cpu_used_cores == pytest.approx(3.0)


def test_a_paused_vm_uses_no_cpu() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1")]))
    datacentre.ask(Pause(vm=VM, host=H1))
    datacentre.advance(1)

    (vm,) = SimulatedSource(datacentre).observe().vms

    assert vm.state is VmState.PAUSED
    assert vm.cpu_used_cores == 0


def test_a_vm_on_two_hosts_at_once_is_seen_once_and_blocked() -> None:
    fault = Fault(kind=FaultKind.SPLIT_BRAIN)
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1")]), faults=[fault])
    migrate(datacentre, 0.0)
    datacentre.advance(60)

    (vm,) = SimulatedSource(datacentre).observe().vms

    assert "it is active on h1 and h2 at once" in vm.blockers


def test_a_full_host_hides_how_full_it_is() -> None:
    vms = [a_vm(f"vm{n}", cpu_used_cores=10.0) for n in range(2)]
    datacentre = Datacentre.of(a_snapshot([a_host("h1", cpu_cores=16.0)], vms))

    seen = SimulatedSource(datacentre).observe()

    assert seen.hosts[0].cpu_used_cores == pytest.approx(16.0)
    assert [vm.cpu_used_cores for vm in seen.vms] == pytest.approx([8.0, 8.0])


def test_history_is_one_grid_and_nan_while_a_vm_ran_nowhere() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1", cpu_used_cores=2.0)]))
    datacentre.advance(300)
    datacentre.ask(Pause(vm=VM, host=H1))
    datacentre.advance(300)

    source = SimulatedSource(datacentre, interval_seconds=60.0)
    history = source.history([VM], NOON - timedelta(minutes=5), datacentre.now)

    assert history.vm_cpu_cores[VM][:9] == pytest.approx(np.full(9, 2.0))
    assert np.isnan(history.vm_cpu_cores[VM][10:]).all()
    assert history.host_cpu_cores[H1].shape == (15,)
    assert history.host_cpu_cores[H1][0] == pytest.approx(2.0)


def test_snapshots_carry_history_if_asked_to() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1")]))

    usage = SimulatedSource(datacentre, history_seconds=3600.0).observe().usage

    assert usage is not None
    assert usage.start == NOON - timedelta(hours=1)
    assert usage.vm_cpu_cores[VM].shape == (60,)


def test_a_probe_finds_rate_and_size_of_a_hot_set_that_it_sees_whole() -> None:
    hot = a_vm("vm1", dirty_bytes_per_second=100.0 * MIB, working_set_bytes=200 * MIB)
    wide = a_vm("vm2", dirty_bytes_per_second=50.0 * MIB, working_set_bytes=3 * GIB)
    datacentre = Datacentre.of(a_snapshot(vms=[hot, wide]))

    found = SimulatedSource(datacentre).probe([VM, VmId("vm2"), VmId("nobody")])

    assert set(found) == {"vm1", "vm2"}
    assert found[VM].working_set_bytes == pytest.approx(200 * MIB, rel=0.15)
    assert found[VmId("vm2")].bytes_per_second == pytest.approx(50 * MIB, rel=0.05)
    assert found[VmId("vm2")].working_set_bytes is None


def test_a_vm_that_is_being_migrated_is_not_probed() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1")]))
    migrate(datacentre, MIB)
    datacentre.advance(1)

    assert SimulatedSource(datacentre).probe([VM]) == {}


def test_a_recent_observation_is_used_again() -> None:
    datacentre = Datacentre.of(a_snapshot(vms=[a_vm("vm1")]))
    source = SimulatedSource(datacentre)

    first = source.recent(max_age_seconds=30.0)
    datacentre.advance(20)
    assert source.recent(max_age_seconds=30.0) is first
    datacentre.advance(20)
    assert source.recent(max_age_seconds=30.0).taken_at == datacentre.now
