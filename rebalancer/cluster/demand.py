"""What VMs and hosts are expected to need over the time that a plan is made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rebalancer.cluster.inventory import HostId, Snapshot, VmId


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demand:
    """Forecast CPU use. Memory is not forecast: what was promised must be there."""

    vm_cpu_cores: Mapping[VmId, float]
    """Expected use of each VM; goals weigh it."""
    vm_cpu_peak_cores: Mapping[VmId, float]
    """An upper quantile of it, or its part of that of all VMs of a host; capacity is judged on
    the sum over a host's VMs."""
    host_base_cores: Mapping[HostId, float]
    """Use of a host that is not its VMs' and stays when they leave."""
    host_margin_cores: float = 0.0
    """What is kept free on every host with VMs besides: what joint peaks come to that is not the
    part of any one VM."""
    vm_cpu_upper_cores: Mapping[VmId, float] = field(default_factory=dict)
    """An upper quantile of each VM by itself, where `vm_cpu_peak_cores` is not that."""

    def upper_cores(self, vm: VmId) -> float:
        """The upper quantile of a VM's use by itself."""
        return self.vm_cpu_upper_cores.get(vm, self.vm_cpu_peak_cores[vm])

    @classmethod
    def as_measured(cls, snapshot: Snapshot) -> Demand:
        """Take the newest measurement for the future: the forecast of last resort."""
        used = {vm.id: vm.cpu_used_cores if vm.is_active else 0.0 for vm in snapshot.vms}
        return cls(
            vm_cpu_cores=used,
            vm_cpu_peak_cores=used,
            host_base_cores=base_cores(snapshot, used),
        )


def base_cores(snapshot: Snapshot, vm_cpu_cores: Mapping[VmId, float]) -> dict[HostId, float]:
    """Use of each host that its VMs do not explain; 0 where the host was not measured."""
    guests = {
        host: sum(vm_cpu_cores[vm.id] for vm in vms) for host, vms in snapshot.vms_by_host.items()
    }
    return {
        host.id: max(0.0, host.cpu_used_cores - guests[host.id])
        if host.cpu_used_cores is not None
        else 0.0
        for host in snapshot.hosts
    }
