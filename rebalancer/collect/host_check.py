"""Asks every host what has to be known before one relies on it.

May it be looked at, may it be changed, what runs there, which definitions does it keep. Nothing is
changed; but to know whether it could be, a connection with the right to write is opened, and closed
again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from rebalancer.cluster.inventory import HostState
from rebalancer.collect.hypervisor import DomainRecord, HypervisorError
from rebalancer.collect.libvirt_connection import connect_for_check, connect_for_probe
from rebalancer.collect.observations import LibvirtHost
from rebalancer.collect.patience import Abandoned, Patience

_NOT_ASKED = {HostState.ASLEEP, HostState.DOWN}


class CheckConnection(Protocol):
    """A read-only connection to one host. Every call may hang, or raise `HypervisorError`."""

    def hostname(self) -> str:
        """What the host calls itself."""
        ...

    def versions(self) -> tuple[int, int | None]:
        """Of libvirt and of the hypervisor, as libvirt numbers them (9_001_000 is 9.1.0)."""
        ...

    def domains(self) -> Sequence[DomainRecord]:
        """All domains, active or only defined."""
        ...

    def close(self) -> None:
        """Let go of the host."""
        ...


class Closeable(Protocol):
    """A connection of which nothing more is asked."""

    def close(self) -> None:
        """Let go of the host."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCheck:
    """What one host answered."""

    name: str
    uri: str
    stated: HostState | None = None
    """What the operator says it is; a host that is asleep or down is not asked."""
    read_error: str = ""
    """Why it cannot be looked at; empty: it can."""
    write_error: str = ""
    """Why it cannot be changed; empty: it can."""
    hostname: str = ""
    libvirt_version: int | None = None
    hypervisor_version: int | None = None
    domains: tuple[DomainRecord, ...] = ()

    @property
    def was_asked(self) -> bool:
        """Whether it was asked at all."""
        return self.stated not in _NOT_ASKED

    @property
    def answered(self) -> bool:
        """Whether what it has is known."""
        return self.was_asked and not self.read_error


def check_hosts(
    hosts: Sequence[LibvirtHost],
    *,
    timeout_seconds: float,
    read: Callable[[str], CheckConnection] = connect_for_check,
    write: Callable[[str], Closeable] = connect_for_probe,
    monotonic: Callable[[], float] = time.monotonic,
) -> tuple[HostCheck, ...]:
    """Ask all hosts, at once; one that does not answer in time is told as such."""
    asked = {host.name: host for host in hosts if host.state not in _NOT_ASKED}
    patience = Patience(monotonic=monotonic)
    seen = patience.run(
        {name: partial(_look, host, read) for name, host in asked.items()},
        timeout_seconds=timeout_seconds,
    )
    can_write = Patience(monotonic=monotonic).run(
        {name: partial(_write_error, host.uri, write) for name, host in asked.items()},
        timeout_seconds=timeout_seconds,
    )
    return tuple(_check(host, seen.get(host.name), can_write.get(host.name, "")) for host in hosts)


def _check(
    host: LibvirtHost, seen: HostCheck | Abandoned | None, write_error: str | Abandoned
) -> HostCheck:
    bare = HostCheck(name=host.name, uri=host.uri, stated=host.state)
    if seen is None:
        return bare
    found = replace(bare, read_error=seen.why) if isinstance(seen, Abandoned) else seen
    refused = write_error.why if isinstance(write_error, Abandoned) else write_error
    return replace(found, write_error=refused)


def _look(host: LibvirtHost, read: Callable[[str], CheckConnection]) -> HostCheck:
    try:
        with contextlib.closing(read(host.uri)) as connection:
            libvirt_version, hypervisor_version = connection.versions()
            return HostCheck(
                name=host.name,
                uri=host.uri,
                stated=host.state,
                hostname=connection.hostname(),
                libvirt_version=libvirt_version,
                hypervisor_version=hypervisor_version,
                domains=tuple(connection.domains()),
            )
    except HypervisorError as error:
        return HostCheck(name=host.name, uri=host.uri, stated=host.state, read_error=str(error))


def _write_error(uri: str, write: Callable[[str], Closeable]) -> str:
    try:
        write(uri).close()
    except HypervisorError as error:
        return str(error)
    return ""
