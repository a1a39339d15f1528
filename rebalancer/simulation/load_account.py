"""What a stretch of simulated time came to: how long hosts were asked for too much, and energy.

The truth, as the record has it, and not what was measured: a full host hides how full it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.cluster.power import idle_watts, max_watts
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.measured_use import NOWHERE, whereabouts
from rebalancer.simulation.simulated_power import PowerChange
from rebalancer.simulation.traces import mean_cores

type _Samples = NDArray[np.float64]
type _Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadAccount:
    """Sums over all hosts."""

    overload_seconds: float
    """Host seconds in which VMs and host together wanted more cores than the host has."""
    missing_core_seconds: float
    """How much more it was, over that time."""
    peak_ratio: float
    """The most that any host was asked for, relative to its cores."""
    energy_joules: float
    """Of the hosts that had power, without what migrations took."""
    on_seconds: float
    """Host seconds with power."""


def account_of(
    world: Datacentre,
    *,
    samples: int,
    interval_seconds: float,
    asleep: frozenset[HostId] = frozenset(),
    switched: Sequence[PowerChange] = (),
) -> LoadAccount:
    """Account for the first `samples` intervals of what happened.

    Where VMs ran at the end of each interval counts, and what they wanted on the mean of it.
    `asleep` are hosts without power at the start.
    """
    begins = np.arange(samples, dtype=np.float64) * interval_seconds
    vms = list(world.guests)
    where = whereabouts(world, vms, begins + interval_seconds)
    on = _on_share(world, asleep, switched, begins, interval_seconds)
    return _account(world, vms, where, on, begins, interval_seconds)


def account_of_staying(
    world: Datacentre,
    *,
    samples: int,
    interval_seconds: float,
    asleep: frozenset[HostId] = frozenset(),
) -> LoadAccount:
    """Account for the same time if nothing had ever been moved or switched."""
    begins = np.arange(samples, dtype=np.float64) * interval_seconds
    rows = {host: row for row, host in enumerate(world.hosts)}
    home = [rows[guest.vm.host] if guest.vm.is_active else NOWHERE for guest in world.spec.guests]
    where = np.repeat(np.array(home, dtype=np.int64)[:, None], samples, axis=1)
    vms = [guest.vm.id for guest in world.spec.guests]
    on = _on_share(world, asleep, (), begins, interval_seconds)
    return _account(world, vms, where, on, begins, interval_seconds)


def _account(
    world: Datacentre,
    vms: list[VmId],
    where: _Rows,
    on: _Samples,
    begins: _Samples,
    interval_seconds: float,
) -> LoadAccount:
    hosts = list(world.hosts.values())
    asked = np.array([mean_cores(host.base_cpu, begins, interval_seconds) for host in hosts])
    for row, vm in enumerate(vms):
        wanted = mean_cores(world.guests[vm].cpu, begins, interval_seconds)
        there = where[row] != NOWHERE
        np.add.at(asked, (where[row, there], np.flatnonzero(there)), wanted[there])
    cores = np.array([[host.facts.cpu_cores] for host in hosts])
    over = asked - cores
    is_over = over > 1e-9 * cores
    idle = np.array([[idle_watts(host.facts)] for host in hosts])
    full = np.array([[max_watts(host.facts)] for host in hosts])
    watts = (idle + (full - idle) * np.minimum(asked / cores, 1.0)) * on
    return LoadAccount(
        overload_seconds=float(is_over.sum()) * interval_seconds,
        missing_core_seconds=float(over[is_over].sum()) * interval_seconds,
        peak_ratio=float((asked / cores).max(initial=0.0)),
        energy_joules=float(watts.sum()) * interval_seconds,
        on_seconds=float(on.sum()) * interval_seconds,
    )


def _on_share(
    world: Datacentre,
    asleep: frozenset[HostId],
    switched: Sequence[PowerChange],
    begins: _Samples,
    interval_seconds: float,
) -> _Samples:
    """For what share of each interval each host had power, `(H, T)`."""
    share = np.zeros((len(world.hosts), len(begins)))
    ends = begins + interval_seconds
    for row, host in enumerate(world.hosts):
        is_on, since = host not in asleep, 0.0
        changes = [(change.at_seconds, change.is_on) for change in switched if change.host == host]
        for at, turns_on in [*changes, (float("inf"), False)]:
            if is_on:
                lasts = np.minimum(ends, at) - np.maximum(begins, since)
                share[row] += np.clip(lasts, 0.0, interval_seconds) / interval_seconds
            is_on, since = turns_on, at
    return share
