"""Asking every host whether it can be looked at and changed, with libvirt's own test driver too."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from rebalancer.cluster.inventory import HostState
from rebalancer.collect.host_check import HostCheck, check_hosts
from rebalancer.collect.hypervisor import DomainRecord, HypervisorError
from rebalancer.collect.observations import LibvirtHost


class Answering:
    """A connection that says the same whoever asks."""

    def hostname(self) -> str:
        return "node"

    def versions(self) -> tuple[int, int | None]:
        return 9_000_000, None

    def domains(self) -> Sequence[DomainRecord]:
        return [DomainRecord(uuid="u", name="db", is_active=True, xml=None)]

    def close(self) -> None:
        pass


def refuse(uri: str) -> Answering:
    raise HypervisorError(f"{uri} says no")


def hang(uri: str) -> Answering:
    threading.Event().wait(60)
    raise AssertionError(uri)


def a_host(name: str = "h1", state: HostState | None = None) -> LibvirtHost:
    return LibvirtHost(name=name, uri=f"test://{name}/default", state=state)


def answering(uri: str) -> Answering:
    del uri
    return Answering()


def check(
    host: LibvirtHost,
    read: object = answering,
    write: object = answering,
    timeout_seconds: float = 30.0,
) -> HostCheck:
    (found,) = check_hosts(
        [host],
        timeout_seconds=timeout_seconds,
        read=read,  # type: ignore[arg-type]
        write=write,  # type: ignore[arg-type]
    )
    return found


def test_a_host_that_answers() -> None:
    found = check(a_host())

    assert (found.answered, found.read_error, found.write_error) == (True, "", "")
    assert (found.hostname, found.libvirt_version, found.hypervisor_version) == (
        "node",
        9_000_000,
        None,
    )
    assert [domain.name for domain in found.domains] == ["db"]


def test_a_host_that_may_not_be_changed_is_looked_at_all_the_same() -> None:
    found = check(a_host(), write=refuse)

    assert found.answered
    assert found.write_error == "test://h1/default says no"


def test_a_host_that_refuses() -> None:
    assert check(a_host(), read=refuse).read_error == "test://h1/default says no"


def test_a_host_that_hangs_is_given_up() -> None:
    reading, writing = (
        check(a_host(), timeout_seconds=0.2, **{way: hang}) for way in ("read", "write")
    )

    assert reading.read_error == "no answer within 0.2 s"
    assert writing.write_error == "no answer within 0.2 s"


def test_a_host_that_is_asleep_is_not_asked() -> None:
    found = check(a_host(state=HostState.ASLEEP), read=refuse, write=refuse)

    assert (found.was_asked, found.answered, found.read_error) == (False, False, "")


def test_hosts_come_back_in_their_order() -> None:
    hosts = [a_host("h2"), a_host("h1", HostState.DOWN), a_host("h3")]

    found = check_hosts(hosts, timeout_seconds=30.0, read=answering, write=answering)

    assert [host.name for host in found] == ["h2", "h1", "h3"]


def test_libvirts_own_test_driver() -> None:
    pytest.importorskip("libvirt")
    hosts = [
        LibvirtHost(name="t", uri="test:///default"),
        LibvirtHost(name="dead", uri="qemu+tcp://127.0.0.1:1/system"),
    ]

    alive, dead = check_hosts(hosts, timeout_seconds=20.0)

    assert (alive.answered, alive.write_error) == (True, "")
    assert alive.libvirt_version is not None
    assert alive.libvirt_version >= 1_000_000
    assert [domain.name for domain in alive.domains] == ["test"]
    assert "Connection refused" in dead.read_error
    assert "Connection refused" in dead.write_error
