"""The real libvirt behind our port, with the driver that it has for tests; and no libvirt."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from rebalancer.cluster.inventory import HostState, VmState
from rebalancer.collect import hypervisor
from rebalancer.collect.hypervisor import HypervisorError
from rebalancer.collect.libvirt_connection import (
    connect_for_probe,
    connect_read_only,
    libvirt_library,
)
from rebalancer.collect.libvirt_source import LibvirtHost, LibvirtSource
from rebalancer.errors import ObservationError, UsageError
from tests.builders import GIB, NOON

libvirt = pytest.importorskip("libvirt")

TEST_HOST = LibvirtHost(name="t1", uri="test:///default")
NOBODY = LibvirtHost(name="dead", uri="qemu+tcp://127.0.0.1:1/system")


def a_source(*hosts: LibvirtHost) -> LibvirtSource:
    return LibvirtSource(hosts, cluster="test", now=lambda: NOON, sampling_seconds=0.01)


def test_a_libvirt_host_is_observed() -> None:
    snapshot = a_source(TEST_HOST).observe()

    (host,), (vm,) = snapshot.hosts, snapshot.vms
    assert (host.cpu_cores, host.memory_bytes, host.arch) == (16, 6 * GIB, "i686")
    assert host.networks == frozenset({"default", "virbr0", "eth1"})
    assert (vm.name, vm.state, vm.memory_bytes, vm.vcpus) == ("test", VmState.RUNNING, 8 * GIB, 2)
    assert vm.networks == {"default"}


def test_a_host_that_refuses_is_unknown_with_libvirts_words() -> None:
    snapshot = a_source(TEST_HOST, NOBODY).observe()

    assert snapshot.hosts[1].state is HostState.UNKNOWN
    assert "Connection refused" in snapshot.hosts[1].state_reason


def test_nobody_there() -> None:
    with pytest.raises(ObservationError, match="Connection refused"):
        a_source(NOBODY).observe()


def test_errors_of_libvirt_end_at_our_port(capfd: pytest.CaptureFixture[str]) -> None:
    connection = connect_read_only("test:///default")

    with pytest.raises(HypervisorError, match="not supported"):
        connection.memory_bytes()
    with pytest.raises(HypervisorError):
        connect_read_only("nonsense://")
    connection.close()
    assert capfd.readouterr().err == ""


def test_a_connection_to_observe_cannot_change_anything() -> None:
    connection = connect_read_only("test:///default")

    raw = connection._connection  # type: ignore[attr-defined]
    with pytest.raises(libvirt.libvirtError, match="read only"):
        raw.lookupByName("test").suspend()


@pytest.mark.parametrize(
    ("ours", "prefix"),
    [
        (hypervisor.DomainState, "VIR_DOMAIN_"),
        (hypervisor.RunningReason, "VIR_DOMAIN_RUNNING_"),
        (hypervisor.PausedReason, "VIR_DOMAIN_PAUSED_"),
        (hypervisor.ShutoffReason, "VIR_DOMAIN_SHUTOFF_"),
        (hypervisor.JobOperation, "VIR_DOMAIN_JOB_OPERATION_"),
    ],
)
def test_our_numbers_are_libvirts(ours: type[hypervisor.DomainState], prefix: str) -> None:
    irregular = {"IO_ERROR": "IOERROR"}
    for member in ours:
        name = irregular.get(member.name, member.name)
        assert getattr(libvirt, prefix + name) == member.value


class Domain:
    """One that answers who asks for its job with an error of libvirt."""

    def __init__(self, name: str, code: int, *, active: bool | int = True) -> None:
        self.name, self._code, self._active = name, code, active

    def UUIDString(self) -> str:  # noqa: N802 (libvirt's)
        return self.name

    def jobStats(self, _flags: int) -> dict[str, int]:  # noqa: N802 (libvirt's)
        raise an_error(self._code)

    def isActive(self) -> bool:  # noqa: N802 (libvirt's)
        if isinstance(self._active, bool):
            return self._active
        raise an_error(self._active)


class Domains(list[Domain]):
    """What a connection lists."""

    def listAllDomains(self, _flags: int) -> list[Domain]:  # noqa: N802 (libvirt's)
        return list(self)


def an_error(code: int) -> Exception:
    error = libvirt.libvirtError("no statistics")
    error.err = (code, 0, "no statistics", 2, "", "", "", 0, 0)
    return error  # type: ignore[no-any-return]


def test_a_vm_whose_job_libvirt_does_not_tell_is_left_alone() -> None:
    connection = connect_for_probe("test:///default")
    connection._connection = Domains(  # type: ignore[attr-defined]
        [
            Domain("gone", libvirt.VIR_ERR_NO_DOMAIN),
            Domain("of a driver without jobs", libvirt.VIR_ERR_NO_SUPPORT),
            Domain("off", libvirt.VIR_ERR_OPERATION_INVALID, active=False),
            Domain("gone since", libvirt.VIR_ERR_OPERATION_INVALID, active=42),
            Domain("arriving", libvirt.VIR_ERR_OPERATION_UNSUPPORTED),
            Domain("arriving at an older one", libvirt.VIR_ERR_OPERATION_INVALID),
            Domain("locked", libvirt.VIR_ERR_OPERATION_TIMEOUT),
            Domain("not answering", libvirt.VIR_ERR_RPC),
            Domain("lost", libvirt.VIR_ERR_OPERATION_INVALID, active=libvirt.VIR_ERR_RPC),
        ]
    )

    busy = connection.busy_with_jobs()

    assert busy == {"arriving", "arriving at an older one", "locked", "not answering", "lost"}


@pytest.fixture
def without_libvirt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which libvirt-python was never installed."""
    monkeypatch.setitem(sys.modules, "libvirt", None)
    libvirt_library.cache_clear()
    yield
    libvirt_library.cache_clear()


@pytest.mark.usefixtures("without_libvirt")
def test_without_libvirt_python_one_sentence_says_what_to_install() -> None:
    with pytest.raises(UsageError, match=r"pip install 'vm-rebalancer\[libvirt\]'"):
        a_source(TEST_HOST, NOBODY).observe()
