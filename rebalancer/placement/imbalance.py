"""How uneven a cluster is: what decides whether anything should be done at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, HostState, Snapshot
from rebalancer.cluster.policy import Policy, Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class Imbalance:
    """Loads of the hosts that are up and that the policy is about, relative to their size."""

    spread_cpu_ratio: float
    """Largest distance of a host's CPU load from the mean."""
    spread_memory_ratio: float
    hottest_ratio: float
    """Highest load of any host, CPU or memory; 0 without hosts."""
    hottest_cpu_ratio: float
    hottest_memory_ratio: float
    hot_hosts: tuple[HostId, ...]
    """Hosts above the policy's `hot_ratio` in CPU or memory, hottest first."""


def imbalance(snapshot: Snapshot, demand: Demand, policy: Policy) -> Imbalance:
    """Measure how uneven the cluster is now."""
    hosts = [
        host
        for host in sorted(snapshot.hosts, key=lambda host: host.id)
        if host.state is HostState.UP and policy.applies.matches(host)
    ]
    if not hosts:
        return Imbalance(
            spread_cpu_ratio=0.0,
            spread_memory_ratio=0.0,
            hottest_ratio=0.0,
            hottest_cpu_ratio=0.0,
            hottest_memory_ratio=0.0,
            hot_hosts=(),
        )
    guests = [[vm for vm in snapshot.vms_by_host[host.id] if vm.is_active] for host in hosts]
    cores = np.array(
        [
            demand.host_base_cores[host.id] + sum(demand.vm_cpu_cores[vm.id] for vm in vms)
            for host, vms in zip(hosts, guests, strict=True)
        ]
    )
    memory = np.array([float(sum(vm.memory_bytes for vm in vms)) for vms in guests])
    cpu_size = np.array([max(1e-3, host.cpu_cores) for host in hosts])
    memory_size = np.array([max(1.0, host.guest_memory_bytes) for host in hosts])
    cpu_ratio, memory_ratio = cores / cpu_size, memory / memory_size
    fullest = np.maximum(cpu_ratio, memory_ratio)
    hot_ratio = (policy.trigger or Trigger()).hot_ratio
    hot = [index for index in np.argsort(-fullest, kind="stable") if fullest[index] > hot_ratio]
    return Imbalance(
        spread_cpu_ratio=float(abs(cpu_ratio - cores.sum() / cpu_size.sum()).max()),
        spread_memory_ratio=float(abs(memory_ratio - memory.sum() / memory_size.sum()).max()),
        hottest_ratio=float(fullest.max()),
        hottest_cpu_ratio=float(cpu_ratio.max()),
        hottest_memory_ratio=float(memory_ratio.max()),
        hot_hosts=tuple(hosts[index].id for index in hot),
    )
