"""What VMs are expected to need, from what they used.

Thin on purpose: a recent mean and an upper quantile, no trend and no season. A VM without
history is taken as measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rebalancer.cluster.demand import Demand, base_cores
from rebalancer.cluster.inventory import Snapshot, UsageHistory, Vm, VmId

LEVEL_SECONDS = 1800.0
"""The expected use is the mean over this long: a plan is for the next half hour or so."""
PEAK_QUANTILE = 0.95
"""What capacity is judged on. The 5 % above it are short, and rarely come on all VMs at once."""


def forecast_demand(snapshot: Snapshot) -> Demand:
    """Forecast the use of every VM from its history, where there is one."""
    measured = Demand.as_measured(snapshot)
    if snapshot.usage is None:
        return measured
    levels = dict(measured.vm_cpu_cores)
    peaks = dict(measured.vm_cpu_peak_cores)
    for vm in snapshot.vms:
        samples = _samples(snapshot.usage, vm)
        if vm.is_active and samples.size:
            levels[vm.id], peaks[vm.id] = _forecast(samples, vm, snapshot.usage.interval_seconds)
    return Demand(
        vm_cpu_cores=levels,
        vm_cpu_peak_cores=peaks,
        # A host's own use is what its VMs did not use at the same instant, so both are measured.
        host_base_cores=base_cores(snapshot, measured.vm_cpu_cores),
    )


def _samples(usage: UsageHistory, vm: Vm) -> NDArray[np.float64]:
    """The known samples of a VM's past, oldest first."""
    vm_id: VmId = vm.id
    found = np.asarray(usage.vm_cpu_cores.get(vm_id, ()), float)
    return found[np.isfinite(found)]


def _forecast(samples: NDArray[np.float64], vm: Vm, interval_seconds: float) -> tuple[float, float]:
    """Level and peak in cores, neither above what the VM's vCPUs can use."""
    recent = max(1, round(LEVEL_SECONDS / interval_seconds))
    level = float(samples[-recent:].mean())
    peak = max(level, float(np.quantile(samples, PEAK_QUANTILE)))
    most = float(vm.vcpus)
    return min(max(0.0, level), most), min(max(0.0, peak), most)
