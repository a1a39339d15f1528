"""What everybody may rely on who observes a cluster, whatever observes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostState, Snapshot, VmState, faults_of
from rebalancer.collect.hypervisor import DomainState, HypervisorError
from rebalancer.collect.snapshot_file import SnapshotFile, read_snapshot, write_snapshot
from rebalancer.collect.sources import InventorySource
from rebalancer.errors import ExitCode, RebalancerError
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind
from rebalancer.simulation.simulated_source import SimulatedSource
from tests.builders import a_host, a_snapshot, a_vm
from tests.unit.collect import fakes

CLUSTER = a_snapshot(
    hosts=[a_host("h1"), a_host("h2")],
    vms=[
        a_vm("busy", on="h1", cpu_used_cores=1.5),
        a_vm("off", on="h1", state=VmState.SHUTOFF, cpu_used_cores=0.0),
        a_vm("idle", on="h2", cpu_used_cores=0.0),
    ],
)


class World(ABC):
    """The same small cluster for each kind of source: h1 runs `busy`, h2 runs `idle`."""

    @abstractmethod
    def source(self) -> InventorySource:
        """Everything answers."""

    @abstractmethod
    def source_without_h2(self) -> InventorySource:
        """h2 does not answer."""

    @abstractmethod
    def source_without_anything(self) -> InventorySource:
        """Nothing can be said."""


class FileWorld(World):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def source(self) -> InventorySource:
        write_snapshot(CLUSTER, self.folder / "cluster.json")
        return SnapshotFile(self.folder / "cluster.json")

    def source_without_h2(self) -> InventorySource:
        seen = a_snapshot(
            hosts=[CLUSTER.hosts[0], a_host("h2", state=HostState.UNKNOWN, state_reason="silent")],
            vms=[vm for vm in CLUSTER.vms if vm.host == "h1"],
        )
        write_snapshot(seen, self.folder / "cluster.json")
        return SnapshotFile(self.folder / "cluster.json")

    def source_without_anything(self) -> InventorySource:
        return SnapshotFile(self.folder / "missing.json")


class SimulatedWorld(World):
    def source(self) -> InventorySource:
        return self._without()

    def source_without_h2(self) -> InventorySource:
        return self._without("h2")

    def source_without_anything(self) -> InventorySource:
        return self._without("h1", "h2")

    def _without(self, *hosts: str) -> InventorySource:
        unreachable = FaultKind.HOST_UNREACHABLE
        faults = [Fault(kind=unreachable, host=a_host(host).id, at_seconds=0.0) for host in hosts]
        datacentre = Datacentre.of(CLUSTER, faults=faults)
        datacentre.advance(60.0)
        return SimulatedSource(datacentre)


class LibvirtWorld(World):
    def source(self) -> InventorySource:
        return fakes.a_source({"h1": self._h1(), "h2": self._h2()})

    def source_without_h2(self) -> InventorySource:
        return fakes.a_source({"h1": self._h1(), "h2": HypervisorError("Connection refused")})

    def source_without_anything(self) -> InventorySource:
        refused = HypervisorError("Connection refused")
        return fakes.a_source({"h1": refused, "h2": refused})

    def _h1(self) -> fakes.FakeHypervisor:
        off = fakes.FakeVm("off", state=DomainState.SHUTOFF, reason=0)
        return fakes.FakeHypervisor([fakes.FakeVm("busy", cores=1.5), off], hostname="h1")

    def _h2(self) -> fakes.FakeHypervisor:
        return fakes.FakeHypervisor([fakes.FakeVm("idle", cores=0.0)], hostname="h2")


@pytest.fixture(params=["file", "simulation", "libvirt"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Each kind of source in turn."""
    worlds = {
        "file": FileWorld(tmp_path),
        "simulation": SimulatedWorld(),
        "libvirt": LibvirtWorld(),
    }
    return worlds[request.param]


def where(snapshot: Snapshot) -> dict[str, str]:
    return {vm.name: snapshot.host_by_id[vm.host].name for vm in snapshot.vms}


def test_hosts_and_vms_hold_together(world: World) -> None:
    snapshot = world.source().observe()

    assert list(faults_of(snapshot.hosts, snapshot.vms)) == []


def test_each_vm_is_told_once_where_it_is(world: World) -> None:
    assert where(world.source().observe()) == {"busy": "h1", "off": "h1", "idle": "h2"}


def test_states_and_sizes(world: World) -> None:
    snapshot = world.source().observe()

    states = {vm.name: vm.state for vm in snapshot.vms}
    assert states == {
        "busy": VmState.RUNNING,
        "off": VmState.SHUTOFF,
        "idle": VmState.RUNNING,
    }
    assert all(host.cpu_cores > 0 and host.memory_bytes > 0 for host in snapshot.hosts)
    assert all(vm.memory_bytes > 0 and vm.vcpus >= 1 for vm in snapshot.vms)


def test_use_is_a_number_of_cores(world: World) -> None:
    used = {vm.name: vm.cpu_used_cores for vm in world.source().observe().vms}

    assert used["busy"] > 0
    assert used["idle"] == 0
    assert used["off"] == 0


def test_the_instant_is_in_utc(world: World) -> None:
    assert world.source().observe().taken_at.utcoffset() == timedelta(0)


def test_a_cluster_that_did_not_change_has_the_same_fingerprint(world: World) -> None:
    source = world.source()

    assert source.observe().fingerprint == source.observe().fingerprint


def test_whatever_was_observed_can_be_written_and_read_again(world: World, tmp_path: Path) -> None:
    for source in (world.source(), world.source_without_h2()):
        snapshot = source.observe()
        write_snapshot(snapshot, tmp_path / "copy.json")
        copy = read_snapshot(tmp_path / "copy.json")

        assert (copy.hosts, copy.vms) == (snapshot.hosts, snapshot.vms)


def test_a_host_that_does_not_answer_is_unknown_and_says_why(world: World) -> None:
    snapshot = world.source_without_h2().observe()

    (silent,) = [host for host in snapshot.hosts if host.name == "h2"]
    assert silent.state is HostState.UNKNOWN
    assert silent.state_reason
    assert not silent.may_receive


def test_its_vms_are_neither_invented_nor_those_of_others_lost(world: World) -> None:
    assert where(world.source_without_h2().observe()) == {"busy": "h1", "off": "h1"}


def test_when_nothing_can_be_said_an_error_says_so(world: World) -> None:
    with pytest.raises(RebalancerError) as raised:
        world.source_without_anything().observe()

    assert raised.value.exit_code in {ExitCode.NOT_OBSERVED, ExitCode.INVALID_FILE}
