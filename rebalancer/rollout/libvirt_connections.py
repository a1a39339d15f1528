"""How hosts are reached: their addresses, how long calls may take, and connections to them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.background import Link, in_background
from rebalancer.rollout.calls import RefusedError
from rebalancer.rollout.driver import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAddress:
    """How a host is reached."""

    uri: str
    """By this program: `qemu+ssh://root@h1/system`, `qemu+tls://h1/system`."""
    peer_uri: str | None = None
    """By the other hosts' libvirtd, if that is another one; peer-to-peer migration uses it."""
    migration_uri: str | None = None
    """Where guests' memory is to be sent: `tcp://10.0.1.1`. `None`: libvirt chooses."""
    storage: Mapping[str, str] = field(default_factory=dict)
    """Where it has shared storage mounted, by what all hosts call that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """How long calls may take before they are given up."""

    call_seconds: float = 60.0
    connect_seconds: float = 15.0
    """For a connection, before a call on it is given up unmade. Far less than the time for which
    all has to be quiet before a process that took over starts anything (`track.Times`)."""
    look_seconds: float = 20.0
    abort_seconds: float = 30.0
    image_seconds: float = 1800.0
    """To save a guest's memory, or to read it back."""
    migrate_seconds: float = 6 * 3600.0
    """Long after every deadline of a rollout: it would have aborted the job by then."""


class Connections:
    """One shared connection to each host, and others for single calls; made when needed."""

    def __init__(
        self,
        hosts: Mapping[HostId, HostAddress],
        connect: Callable[[HostId], Any],
        clock: Clock,
        limits: CallLimits,
    ) -> None:
        """Prepare to reach `hosts`; `connect` may hang, and is never waited for by more than it."""
        self._hosts = dict(hosts)
        self._connect = connect
        self._limits = limits
        self._links: dict[HostId, Link[Any]] = {
            host: Link(
                host,
                partial(connect, host),
                lambda connection: bool(connection.isAlive()),
                clock,
                give_up_seconds=2 * limits.call_seconds,
            )
            for host in self._hosts
        }

    def address(self, host: HostId) -> HostAddress:
        """Where a host is; raise `RefusedError` if nobody has configured it."""
        if host not in self._hosts:
            raise RefusedError(f"host {host} is not among the configured ones", code=None)
        return self._hosts[host]

    def shared(self, host: HostId) -> Any:  # noqa: ANN401  libvirt has no types
        """The connection for short calls, or raise `TimeoutError`."""
        self.address(host)
        return self._links[host].get(self._limits.connect_seconds)

    def own(self, host: HostId) -> Any:  # noqa: ANN401
        """Make one for a single long call, or raise `TimeoutError`.

        Where that hangs the call would come when it was given up long ago, and the hosts had been
        looked at for its effect; so it is not made at all.
        """
        opening = in_background(f"connect to {host} anew", partial(self._connect, host))
        try:
            return opening.result(self._limits.connect_seconds)
        except TimeoutError:
            opening.add_done_callback(_close_unused)
            raise

    def close(self) -> None:
        """Let go of the shared ones."""
        taken = [link.take() for link in self._links.values()]
        closing = [in_background("close", found.close) for found in taken if found is not None]
        for future in closing:
            # A connection that hangs while it is closed is left behind, like any other call.
            if not future.done():
                threading.Event().wait(0.01)


def _close_unused(opening: Future[Any]) -> None:
    """Close a connection that came too late to be used."""
    if opening.exception() is None:
        opening.result().close()
