"""The reading ports over a simulated datacentre: inventory, past use, dirty rates.

A source sees what a controller could see and not the truth: a host that does not answer is
unknown, and so are the VMs on it; CPU use is what was measured, not what guests wanted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np

from rebalancer.cluster.inventory import (
    Host,
    HostId,
    HostState,
    Snapshot,
    UsageHistory,
    Vm,
    VmId,
    VmState,
)
from rebalancer.collect.sources import DirtyRate
from rebalancer.errors import ObservationError
from rebalancer.rollout.sightings import DomainView, JobKind
from rebalancer.simulation import disk_files
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.hosts import SimulatedHost
from rebalancer.simulation.measured_use import measure_use
from rebalancer.simulation.memory import GuestMemory
from rebalancer.simulation.migration import rng_of
from rebalancer.simulation.specification import GuestSpec

WINDOW_SECONDS = 300.0
"""Use is measured over the last five minutes."""

_SHORT_PROBE_SECONDS = 1.0
_LONG_PROBE_SECONDS = 5.0
_SATURATED_RATIO = 0.9
"""A long window that finds so much less than the short one promised has seen the whole set."""

_DOWN = "unable to connect: No route to host"


class SimulatedSource:
    """Observes a simulated datacentre as it is at the present instant of virtual time."""

    def __init__(
        self,
        datacentre: Datacentre,
        *,
        window_seconds: float = WINDOW_SECONDS,
        interval_seconds: float = 60.0,
        history_seconds: float = 0.0,
    ) -> None:
        """Measure over `window_seconds`; tell past use every `interval_seconds`.

        Snapshots carry the history of the last `history_seconds`, none by default.
        """
        self._world = datacentre
        self._window_seconds = window_seconds
        self._interval_seconds = interval_seconds
        self._history_seconds = history_seconds
        self._last: Snapshot | None = None

    def observe(self) -> Snapshot:
        """Observe the whole cluster once."""
        world = self._world
        if not any(world.answers(host) for host in world.hosts):
            raise ObservationError(
                f"none of the {len(world.hosts)} hosts of {world.spec.cluster} answered; "
                "check the network between this machine and them"
            )
        begin = world.now - timedelta(seconds=self._window_seconds)
        use = measure_use(world, list(world.guests), begin, 1, self._window_seconds)
        vms = tuple(self._observe_vms(use))
        return Snapshot(
            cluster=world.spec.cluster,
            taken_at=world.now,
            hosts=tuple(self._observe_host(host, use) for host in world.hosts.values()),
            vms=vms,
            sites=world.spec.sites,
            links=world.spec.links,
            racks=world.spec.racks,
            usage=self._recent_usage(vms),
        )

    def recent(self, max_age_seconds: float = 30.0) -> Snapshot:
        """Return the last observation, or a new one if that is older; for callers in a hurry."""
        oldest = self._world.now - timedelta(seconds=max_age_seconds)
        if self._last is None or self._last.taken_at < oldest:
            self._last = self.observe()
        return self._last

    def history(self, vms: Collection[VmId], start: datetime, end: datetime) -> UsageHistory:
        """Return the use of `vms` and of all hosts on one grid; unknown samples are NaN.

        Before the simulation began every VM was where it was at the start.
        """
        samples = max(0, int((end - start).total_seconds() // self._interval_seconds))
        return measure_use(self._world, vms, start, samples, self._interval_seconds)

    def probe(self, vms: Collection[VmId]) -> Mapping[VmId, DirtyRate]:
        """Measure running VMs that are not being migrated; those it could not are left out."""
        return {vm: self._probe(self._world.guests[vm]) for vm in vms if self._can_probe(vm)}

    def _observe_host(self, host: SimulatedHost, use: UsageHistory) -> Host:
        state = self._world.state_of(host)
        if state is HostState.UNKNOWN:
            return replace(host.facts, state=state, state_reason=_DOWN, cpu_used_cores=None)
        used = float(use.host_cpu_cores[host.id][0]) if host.powered else 0.0
        pools = disk_files.pools_of(self._world, host.id)
        return replace(
            host.facts,
            state=state,
            cpu_used_cores=used,
            disk_pools=pools,
            disk_files=disk_files.in_the_way(self._world, host.id),
        )

    def _observe_vms(self, use: UsageHistory) -> Iterator[Vm]:
        seen = self._views()
        for vm, guest in self._world.guests.items():
            if views := seen.get(vm):
                best = min(views, key=lambda host: _rank(views[host]))
                cores = float(use.vm_cpu_cores[vm][0])
                seen_vm = _vm_as_seen(guest, best, views, 0.0 if math.isnan(cores) else cores)
                yield self._with_its_migration(seen_vm, views[best])

    def _with_its_migration(self, vm: Vm, view: DomainView) -> Vm:
        """Tell that it is on its way, and where to if that host answers."""
        if view.job is not JobKind.MIGRATION_OUT:
            return vm
        asked = [host for host in self._world.hosts.values() if self._world.answers(host.id)]
        seen = ((host.id, host.view(vm.id)) for host in asked)
        arriving = (
            host
            for host, there in seen
            if isinstance(there, DomainView) and there.job is JobKind.MIGRATION_IN
        )
        migration = self._world.migration_of(vm.id)
        rate = migration.progress().bytes_per_second if migration is not None else None
        return replace(
            vm,
            is_migrating=True,
            migrating_to=next(arriving, None),
            migrating_bytes_per_second=rate or None,
        )

    def _views(self) -> dict[VmId, dict[HostId, DomainView]]:
        """Return what each answering host knows of each VM, incoming copies left out."""
        seen: dict[VmId, dict[HostId, DomainView]] = {}
        for host in self._world.hosts.values():
            if not self._world.answers(host.id):
                continue
            for vm in host.domains:
                view = host.view(vm)
                if isinstance(view, DomainView) and view.job is not JobKind.MIGRATION_IN:
                    seen.setdefault(vm, {})[host.id] = view
        return seen

    def _recent_usage(self, vms: Collection[Vm]) -> UsageHistory | None:
        if self._history_seconds <= 0:
            return None
        now = self._world.now
        start = now - timedelta(seconds=self._history_seconds)
        return self.history([vm.id for vm in vms], start, now)

    def _can_probe(self, vm: VmId) -> bool:
        running = self._world.record.running_on(vm)
        return (
            vm in self._world.guests
            and len(running) == 1
            and self._world.answers(running[0])
            and self._world.migration_of(vm) is None
        )

    def _probe(self, guest: GuestSpec) -> DirtyRate:
        """Watch which pages are written, for a short and for a long window."""
        vm = guest.vm.id
        memory = GuestMemory(guest.memory, rng_of(self._world.spec.seed, vm, 0))
        memory.pace = self._world.paces.get(vm, 1.0)
        short, long = (
            _written_bytes(memory, seconds)
            for seconds in (_SHORT_PROBE_SECONDS, _LONG_PROBE_SECONDS)
        )
        promised = short * _LONG_PROBE_SECONDS / _SHORT_PROBE_SECONDS
        return DirtyRate(
            bytes_per_second=short / _SHORT_PROBE_SECONDS,
            working_set_bytes=int(long) if long < _SATURATED_RATIO * promised else None,
            measured_at=self._world.now,
        )


def _written_bytes(memory: GuestMemory, seconds: float) -> float:
    memory.run(seconds)
    return float(np.count_nonzero(memory.take_written())) * memory.page_bytes


def _rank(view: DomainView) -> int:
    """Prefer the copy that runs, then any process, then a definition."""
    if view.state is VmState.RUNNING:
        return 0
    return 1 if view.is_active else 2


def _vm_as_seen(
    guest: GuestSpec, host: HostId, views: Mapping[HostId, DomainView], cores: float
) -> Vm:
    view = views[host]
    active = [other for other, seen in views.items() if seen.is_active]
    blockers = list(guest.vm.blockers)
    if len(active) > 1:
        blockers.append(f"it is active on {' and '.join(active)} at once")
    if view.job is not None:
        blockers.append(f"a job runs on it ({view.job})")
    return replace(
        guest.vm,
        host=host,
        state=view.state,
        cpu_used_cores=cores,
        persistent=view.persistent,
        autostart=view.autostart,
        blockers=tuple(blockers),
        resident_bytes=guest.memory.resident_bytes,
        dirty_bytes_per_second=guest.memory.dirty_bytes_per_second
        if guest.dirty_rate_known
        else None,
        working_set_bytes=guest.memory.working_set_bytes if guest.dirty_rate_known else None,
    )
