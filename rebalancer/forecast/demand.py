"""What VMs are expected to need, from what they used.

A VM without any history is taken as measured; one with a short history gets, above that, the
rise that is usual among VMs of its size. The method is in `outlook`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Snapshot, UsageHistory, Vm, VmId
from rebalancer.forecast.outlook import HORIZON_SECONDS, PEAK_QUANTILE, Question, foresee
from rebalancer.forecast.quantile import Array

_MOST_GAP_SECONDS = 86_400.0
"""A history that ended longer ago than this is treated as if it had ended so long ago."""


def forecast_demand(
    snapshot: Snapshot,
    *,
    horizon_seconds: float = HORIZON_SECONDS,
    peak_quantile: float = PEAK_QUANTILE,
) -> Demand:
    """Forecast the use of every VM over the next `horizon_seconds` from their history."""
    measured = Demand.as_measured(snapshot)
    if snapshot.usage is None:
        return measured
    vms = [vm for vm in snapshot.vms if vm.is_active]
    samples = _on_one_grid(snapshot, snapshot.usage, vms)
    outlook = foresee(
        samples,
        np.array([float(vm.vcpus) for vm in vms]),
        np.array([vm.cpu_used_cores for vm in vms], dtype=np.float64),
        Question(
            interval_seconds=snapshot.usage.interval_seconds,
            horizon_seconds=horizon_seconds,
            quantile=peak_quantile,
        ),
    )
    return Demand(
        vm_cpu_cores={**measured.vm_cpu_cores, **_by_vm(vms, outlook.expected)},
        vm_cpu_peak_cores={**measured.vm_cpu_peak_cores, **_by_vm(vms, outlook.peak)},
        # What its VMs did not use at the same instant, so both are measured. The history
        # does not tell where a VM was at the time: one that moved away would remain in it.
        host_base_cores=measured.host_base_cores,
    )


def _on_one_grid(snapshot: Snapshot, usage: UsageHistory, vms: list[Vm]) -> Array:
    """Stack the histories so that the last column is the newest time of all, shape (V, T).

    When the history ends long before the snapshot was taken, columns of NaN follow: what was is
    then told from what is.
    """
    pasts = [np.asarray(usage.vm_cpu_cores.get(vm.id, ()), dtype=np.float64) for vm in vms]
    known = max((past.size for past in pasts), default=0)
    elapsed = (snapshot.taken_at - usage.start).total_seconds() / usage.interval_seconds
    longest = known + round(_MOST_GAP_SECONDS / usage.interval_seconds)
    grid = np.full((len(vms), max(known, min(int(elapsed), longest)) if known else 0), np.nan)
    for row, past in zip(grid, pasts, strict=True):
        row[: past.size] = past
    grid[~np.isfinite(grid)] = np.nan
    return grid


def _by_vm(vms: list[Vm], cores: Array) -> Mapping[VmId, float]:
    return {vm.id: float(used) for vm, used in zip(vms, cores, strict=True)}
