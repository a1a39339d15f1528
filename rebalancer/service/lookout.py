"""Keeps looking at a cluster while a plan is carried out.

A rollout may take hours. Meanwhile hosts fail, VMs are started and grow, and owners change their
minds; what is checked before each step is checked against what was seen last, not against what
the plan was made from.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Self

from rebalancer.cluster.inventory import Host, HostState, Snapshot, Vm
from rebalancer.errors import RebalancerError
from rebalancer.service.access import ReadAccess

log = logging.getLogger(__name__)

EVERY_SECONDS = 15.0
"""From the end of one look to the next: a host that died is known to be dead soon, and asking
costs libvirt a few hundred milliseconds."""


@contextmanager
def watching(access: ReadAccess, first: Snapshot) -> Iterator[Callable[[], Snapshot]]:
    """Look at a cluster for a while; yield what tells the newest snapshot without blocking."""
    if access.facts is None:
        yield OccasionalLook(first, access.source.observe, access.clock.now).newest
    else:
        with Lookout(first, access.facts.observe, access.clock.now) as lookout:
            yield lookout.newest


class Lookout:
    """Looks again and again in a thread of its own, so that nobody ever waits for a slow host."""

    def __init__(
        self,
        first: Snapshot,
        look: Callable[[], Snapshot],
        now: Callable[[], datetime],
        *,
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        """Begin with what the plan was made from; nothing is asked before `with`."""
        self._newest = first
        self._look = look
        self._now = now
        self._every_seconds = every_seconds
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lookout", daemon=True)

    def newest(self) -> Snapshot:
        """Return what was seen last, at once."""
        return self._newest

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop looking. A look that is under way is not waited for: it only reads."""
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(self._every_seconds):
            self._newest = looked_again(self._newest, self._look, self._now)


class OccasionalLook:
    """Looks when asked, if the last time is long ago: for clusters that answer at once."""

    def __init__(
        self,
        first: Snapshot,
        look: Callable[[], Snapshot],
        now: Callable[[], datetime],
        *,
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        """Begin with what the plan was made from."""
        self._newest = first
        self._look = look
        self._now = now
        self._every_seconds = every_seconds
        self._looked_at = now()

    def newest(self) -> Snapshot:
        """Return what was seen last, and look before if it is due."""
        now = self._now()
        if (now - self._looked_at).total_seconds() >= self._every_seconds:
            self._looked_at = now
            self._newest = looked_again(self._newest, self._look, self._now)
        return self._newest


def looked_again(
    last: Snapshot, look: Callable[[], Snapshot], now: Callable[[], datetime]
) -> Snapshot:
    """Look once more; what was seen last stays where nothing can be seen."""
    began_at = now()
    try:
        seen = look()
    except RebalancerError as error:
        log.warning("look_failed", extra={"error": str(error)})
        return last
    # A move that ends while hosts are asked may be missing in what they say, so it has to count
    # as made after the look.
    return continued(last, replace(seen, taken_at=began_at))


def continued(last: Snapshot, seen: Snapshot) -> Snapshot:
    """What is known after a second look: a silent host is unknown, not empty.

    Its facts and VMs stay as they were seen last. So do blockers and dirty rates of VMs: a job
    that is seen on a VM may be our own migration, and is asked for again right before each step.
    """
    silent = {host.id for host in seen.hosts if host.state is HostState.UNKNOWN}
    here = {vm.id for vm in seen.vms}
    kept = tuple(vm for vm in last.vms if vm.host in silent and vm.id not in here)
    vms = tuple(_continued_vm(last.vm_by_id.get(vm.id), vm) for vm in seen.vms)
    hosts = tuple(_continued_host(last.host_by_id.get(host.id), host) for host in seen.hosts)
    return replace(seen, hosts=hosts, vms=(*vms, *kept))


def _continued_host(before: Host | None, host: Host) -> Host:
    if before is None:
        return host
    if host.state is HostState.UNKNOWN:
        return replace(before, state=host.state, state_reason=host.state_reason)
    if host.state is HostState.UP and before.state is HostState.DRAINING:
        # That a host is to be emptied is known to the journal, not to the host.
        return replace(host, state=before.state, state_reason=before.state_reason)
    return host


def _continued_vm(before: Vm | None, vm: Vm) -> Vm:
    if before is None:
        return vm
    measured = vm.dirty_bytes_per_second is not None
    return replace(
        vm,
        blockers=before.blockers,
        dirty_bytes_per_second=(
            vm.dirty_bytes_per_second if measured else before.dirty_bytes_per_second
        ),
        dirty_error_bytes_per_second=(
            vm.dirty_error_bytes_per_second if measured else before.dirty_error_bytes_per_second
        ),
        working_set_bytes=vm.working_set_bytes if measured else before.working_set_bytes,
    )
