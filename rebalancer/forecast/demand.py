"""What VMs are expected to need, from what they used.

A VM without any history is taken as measured; one with a short history gets, above that, the
rise that is usual among VMs of its size. The method is in `outlook`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostState, Snapshot, UsageHistory, Vm, VmId
from rebalancer.cluster.policy import Foresight, Policy
from rebalancer.cluster.violations import cpu_capacity_cores
from rebalancer.forecast.outlook import Outlook, Question, foresee
from rebalancer.forecast.pooling import Parts, pooled_parts
from rebalancer.forecast.quantile import Array

_MOST_GAP_SECONDS = 86_400.0
"""A history that ended longer ago than this is treated as if it had ended so long ago."""


def forecast_demand(snapshot: Snapshot, policy: Policy | None = None) -> Demand:
    """Forecast the use of every VM from their history, as the policy's `forecast` asks.

    Without a policy its defaults hold.
    """
    asked = policy.forecast if policy is not None else Foresight()
    measured = Demand.as_measured(snapshot)
    if snapshot.usage is None:
        return measured
    vms = [vm for vm in snapshot.vms if vm.is_active]
    vcpus = np.array([float(vm.vcpus) for vm in vms])
    outlook = foresee(
        _on_one_grid(snapshot, snapshot.usage, vms),
        vcpus,
        np.array([vm.cpu_used_cores for vm in vms], dtype=np.float64),
        Question(
            interval_seconds=snapshot.usage.interval_seconds,
            horizon_seconds=asked.horizon_seconds,
            quantile=asked.peak_quantile,
        ),
    )
    parts = Parts(peak=outlook.peak, margin=0.0)
    if policy is not None and asked.is_pooled:
        parts = _pooled(outlook, vcpus, snapshot, policy)
    return Demand(
        vm_cpu_cores={**measured.vm_cpu_cores, **_by_vm(vms, outlook.expected)},
        vm_cpu_peak_cores={**measured.vm_cpu_peak_cores, **_by_vm(vms, parts.peak)},
        vm_cpu_upper_cores={**measured.vm_cpu_peak_cores, **_by_vm(vms, outlook.peak)},
        # What its VMs did not use at the same instant, so both are measured. The history
        # does not tell where a VM was at the time: one that moved away would remain in it.
        host_base_cores=measured.host_base_cores,
        host_margin_cores=parts.margin,
    )


def _pooled(outlook: Outlook, vcpus: Array, snapshot: Snapshot, policy: Policy) -> Parts:
    """Share out the joint peak of the mean host that the policy looks after."""
    there = (HostState.UP, HostState.DRAINING, HostState.ASLEEP)
    cores = [
        cpu_capacity_cores(host, policy)
        for host in snapshot.hosts
        if host.state in there and policy.applies.matches(host)
    ]
    return pooled_parts(
        outlook.expected,
        outlook.spread,
        vcpus,
        correlation=outlook.correlation,
        quantile=policy.forecast.peak_quantile,
        host_cores=sum(cores) / len(cores) if cores else 0.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _OneGrid:
    """Histories whose last columns are the same time; stacked as they are asked for.

    All of them at once would be the whole past a second time.
    """

    pasts: list[Array]
    columns: int

    def __len__(self) -> int:
        return len(self.pasts)

    def __getitem__(self, rows: slice) -> Array:
        some = self.pasts[rows]
        grid = np.full((len(some), self.columns), np.nan)
        for row, past in zip(grid, some, strict=True):
            row[: past.size] = past
        grid[~np.isfinite(grid)] = np.nan
        return grid


def _on_one_grid(snapshot: Snapshot, usage: UsageHistory, vms: list[Vm]) -> _OneGrid:
    """Put the histories so that the last column is the newest time of all.

    When the history ends long before the snapshot was taken, columns of NaN follow: what was is
    then told from what is.
    """
    pasts = [np.asarray(usage.vm_cpu_cores.get(vm.id, ()), dtype=np.float64) for vm in vms]
    known = max((past.size for past in pasts), default=0)
    elapsed = (snapshot.taken_at - usage.start).total_seconds() / usage.interval_seconds
    longest = known + round(_MOST_GAP_SECONDS / usage.interval_seconds)
    columns = max(known, min(int(elapsed), longest)) if known else 0
    return _OneGrid(pasts=pasts, columns=columns)


def _by_vm(vms: list[Vm], cores: Array) -> Mapping[VmId, float]:
    return {vm.id: float(used) for vm, used in zip(vms, cores, strict=True)}
