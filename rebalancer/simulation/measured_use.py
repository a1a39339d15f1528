"""CPU use as monitoring would have measured it, now and in the past.

Guests want what their traces say. A host that is asked for more cores than it has gives every
guest the same share of what it wants, so that a full host hides how full it is, as it does in
reality.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from rebalancer.cluster.inventory import HostId, UsageHistory, VmId
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.traces import mean_cores

NOWHERE = -1
"""The row of a VM that runs on no host."""


def measure_use(
    world: Datacentre, vms: Collection[VmId], start: datetime, samples: int, interval_seconds: float
) -> UsageHistory:
    """Return the use of `vms` and of all hosts on one grid; NaN while a VM ran nowhere.

    Each sample counts where the VM was at its end. Before the simulation began every VM was
    where it was at the start.
    """
    first = (start - world.spec.start).total_seconds()
    begins = first + np.arange(samples, dtype=np.float64) * interval_seconds
    guests = [guest for guest in world.guests.values() if world.record.spans(guest.vm.id)]
    wanted = _stack([mean_cores(guest.cpu, begins, interval_seconds) for guest in guests], samples)
    where = whereabouts(world, [guest.vm.id for guest in guests], begins + interval_seconds)
    base, capacity = _host_arrays(world, begins, interval_seconds)
    asked = _asked_of_hosts(wanted, where, len(world.hosts))
    share = np.minimum(1.0, np.maximum(capacity - base, 0.0) / np.maximum(asked, 1e-12))
    columns = np.arange(samples)
    measured = np.where(where == NOWHERE, np.nan, wanted * share[where, columns])
    rows = {guest.vm.id: row for row, guest in enumerate(guests)}
    used = np.minimum(base + asked * share, capacity)
    return UsageHistory(
        start=start,
        interval_seconds=interval_seconds,
        vm_cpu_cores={
            vm: measured[rows[vm]] if vm in rows else np.full(samples, np.nan)
            for vm in vms
            if vm in world.guests
        },
        host_cpu_cores={host: used[row] for row, host in enumerate(world.hosts)},
    )


def _stack(rows: list[NDArray[np.float64]], samples: int) -> NDArray[np.float64]:
    return np.vstack(rows) if rows else np.zeros((0, samples))


def whereabouts(
    world: Datacentre, vms: list[VmId], instants: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the row of the host where each VM ran at each instant, shape (V, T)."""
    host_rows: dict[HostId, int] = {host: row for row, host in enumerate(world.hosts)}
    where = np.full((len(vms), len(instants)), NOWHERE, dtype=np.int64)
    for row, vm in enumerate(vms):
        spans = world.record.spans(vm)
        hosts = np.array([host_rows[s.hosts[0]] if s.hosts else NOWHERE for s in spans])
        begins = np.array([span.begin_seconds for span in spans])
        positions = np.searchsorted(begins, instants, side="right") - 1
        where[row] = hosts[np.maximum(positions, 0)]
    return where


def _host_arrays(
    world: Datacentre, begins: NDArray[np.float64], interval_seconds: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the hosts' own use, shape (H, T), and their cores, shape (H, 1)."""
    hosts = world.hosts.values()
    base = [mean_cores(host.base_cpu, begins, interval_seconds) for host in hosts]
    cores = np.array([[host.facts.cpu_cores] for host in hosts])
    return np.minimum(_stack(base, len(begins)), cores), cores


def _asked_of_hosts(
    wanted: NDArray[np.float64], where: NDArray[np.int64], hosts: int
) -> NDArray[np.float64]:
    """Return what all VMs want of each host, shape (H, T); it may be more than there is."""
    asked = np.zeros((hosts, wanted.shape[1]))
    rows, columns = np.nonzero(where != NOWHERE)
    np.add.at(asked, (where[rows, columns], columns), wanted[rows, columns])
    return asked
