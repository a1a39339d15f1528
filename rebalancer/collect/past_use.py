"""Puts past use into snapshots, and judges whether it is good enough to act on.

A plan can always be made: without history, from what libvirt measured. To change a cluster on its
own account a program should see it well, so what is missing is told in `Snapshot.usage_fault`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from rebalancer.cluster.inventory import HostId, HostState, Snapshot, UsageHistory, Vm, VmState
from rebalancer.collect.sources import InventorySource, UsageSource
from rebalancer.errors import ObservationError

type Cores = NDArray[np.float64]

_SLEEPING = {HostState.ASLEEP, HostState.DOWN, HostState.UNKNOWN}
_MOST_CORES_A_VCPU = 2.0
"""QEMU's own threads come on top of the vCPUs, but not so many of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How fresh and how complete past use is."""

    newest_age_seconds: float
    """Since the end of the newest sample of any VM; infinite when there is none."""
    vm_ratio: float
    """Running VMs with a recent sample, of all running VMs; 1 where none runs."""
    host_ratio: float
    """The same for hosts that are up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """How fresh and how complete it has to be to act on it."""

    max_age_seconds: float = 900.0
    min_ratio: float = 0.95

    def shortfall(self, coverage: Coverage) -> str:
        """Say what is lacking, in a sentence; empty when nothing is."""
        if math.isinf(coverage.newest_age_seconds):
            return "it has no sample of any VM; check prometheus.vm_cpu_query and the exporters"
        if coverage.newest_age_seconds > self.max_age_seconds:
            return (
                f"its newest sample is {coverage.newest_age_seconds:.0f} s old, "
                f"prometheus.max_age_seconds allows {self.max_age_seconds:.0f} s; check the "
                "exporters, and the clocks of both machines"
            )
        for what, ratio in (("running VMs", coverage.vm_ratio), ("hosts", coverage.host_ratio)):
            if ratio < self.min_ratio:
                return (
                    f"it knows {ratio:.0%} of the {what}, prometheus.min_coverage asks for "
                    f"{self.min_ratio:.0%}; check the exporters of the others, and their labels"
                )
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryWithHistory:
    """Observes through one source, and adds the past use that another one tells."""

    inventory: InventorySource
    usage: UsageSource
    now: Callable[[], datetime]
    history_seconds: float
    step_seconds: float
    requirement: Requirement = Requirement()
    asks_hosts: bool = True
    hosts_from_guests: Collection[HostId] = ()
    """Hosts whose use is the sum over the VMs that they have now."""

    def observe(self) -> Snapshot:
        """Observe the whole cluster once; trouble with the history is told and not raised."""
        snapshot = self.inventory.observe()
        end = _floor(self.now(), self.step_seconds)
        start = end - timedelta(seconds=self._samples * self.step_seconds)
        try:
            read = self.usage.history([vm.id for vm in snapshot.vms], start, end)
        except ObservationError as error:
            return replace(snapshot, usage_fault=f"past use could not be read: {error}")
        usage = _with_sums(read, snapshot, self.hosts_from_guests)
        if strange := _not_cores(usage, snapshot):
            return replace(snapshot, usage_fault=f"past use was not taken: {strange}")
        found = coverage_of(usage, snapshot, self.now(), self.requirement.max_age_seconds)
        if not self.asks_hosts:
            found = replace(found, host_ratio=1.0)
        lacking = self.requirement.shortfall(found)
        is_empty = math.isinf(found.newest_age_seconds) and any(map(_runs, snapshot.vms))
        return replace(
            snapshot,
            usage=None if is_empty else usage,
            usage_fault=f"past use is not good enough to act on: {lacking}" if lacking else "",
        )

    @property
    def _samples(self) -> int:
        return max(1, round(self.history_seconds / self.step_seconds))


def coverage_of(
    usage: UsageHistory, snapshot: Snapshot, now: datetime, recent_seconds: float
) -> Coverage:
    """Measure how fresh and complete a history is, as seen at `now`."""
    vms = [vm for vm in snapshot.vms if _runs(vm)]
    hosts = [host for host in snapshot.hosts if host.state not in _SLEEPING]
    vm_ages = np.array([_age(usage, usage.vm_cpu_cores.get(vm.id), now) for vm in vms])
    host_ages = np.array([_age(usage, usage.host_cpu_cores.get(host.id), now) for host in hosts])
    newest = float(vm_ages.min()) if vms else 0.0
    return Coverage(
        newest_age_seconds=max(0.0, newest),
        vm_ratio=_share(vm_ages, recent_seconds),
        host_ratio=_share(host_ages, recent_seconds),
    )


def _share(ages: Cores, recent_seconds: float) -> float:
    return float(np.mean(ages <= recent_seconds)) if ages.size else 1.0


def _age(usage: UsageHistory, cores: Cores | None, now: datetime) -> float:
    """How long ago the newest known sample ended, in seconds."""
    known = np.flatnonzero(np.isfinite(cores)) if cores is not None else np.zeros(0, int)
    if known.size == 0:
        return math.inf
    end = usage.start + timedelta(seconds=(int(known[-1]) + 1) * usage.interval_seconds)
    return (now - end).total_seconds()


def _runs(vm: Vm) -> bool:
    return vm.state is VmState.RUNNING


def _with_sums(usage: UsageHistory, snapshot: Snapshot, hosts: Collection[HostId]) -> UsageHistory:
    """Put the sum over its present VMs for the use of each of `hosts`."""
    sums = {}
    for host in hosts:
        vms = [vm for vm in snapshot.vms_by_host.get(host, ()) if vm.is_active]
        rows = [usage.vm_cpu_cores[vm.id] for vm in vms if vm.id in usage.vm_cpu_cores]
        if rows:
            stacked = np.stack(rows)
            known = np.isfinite(stacked)
            total = np.where(known, stacked, 0.0).sum(axis=0)
            sums[host] = np.where(known.any(axis=0), total, np.nan)
        else:
            samples = next((row.size for row in usage.vm_cpu_cores.values()), 0)
            sums[host] = np.zeros(samples)
    return replace(usage, host_cpu_cores={**usage.host_cpu_cores, **sums})


def _not_cores(usage: UsageHistory, snapshot: Snapshot) -> str:
    """Say so if the numbers cannot be cores: a query for per cent is an easy mistake."""
    typical = [
        (vm, float(np.median(known)))
        for vm in snapshot.vms
        if (known := _known(usage.vm_cpu_cores.get(vm.id))).size
    ]
    above = [(vm, cores) for vm, cores in typical if cores > _MOST_CORES_A_VCPU * vm.vcpus + 1]
    if len(above) * 2 <= len(typical):
        return ""
    vm, cores = above[0]
    return (
        f"it says that VM {vm.name} with {vm.vcpus} vCPUs used {cores:,.4g} cores; "
        "prometheus.vm_cpu_query must give cores, not per cent or nanoseconds"
    )


def _known(
    cores: Cores | None,
) -> Cores:
    return cores[np.isfinite(cores)] if cores is not None else np.zeros(0)


def _floor(instant: datetime, step_seconds: float) -> datetime:
    """The grid is the same from cycle to cycle, so that the same time gives the same sample."""
    passed = instant.timestamp() // step_seconds * step_seconds
    return datetime.fromtimestamp(passed, tz=UTC)
