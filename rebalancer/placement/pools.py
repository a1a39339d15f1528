"""Counted things in arrays: what units take of pools, and what each host has of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rebalancer.cluster.inventory import Host, Snapshot, Vm
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.pools import Pool, capacity_of, need_of, pools_of
from rebalancer.placement.arrays import Bools, Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolTable:
    """The pools that any VM needs; in most clusters there are none and this costs nothing."""

    pools: tuple[Pool, ...]
    needs: Floats
    """`(P, U)`: what each unit takes of each pool wherever it is."""
    capacity: Floats
    """`(P, H)`: what each host has; infinity where that is not known."""

    def load(self, x: Ints) -> Floats:
        """What is taken on each host when units are placed as in `x`: `(P, H)`."""
        hosts = self.capacity.shape[1]
        rows = [np.bincount(x, row, hosts) for row in self.needs]
        return np.array(rows, float).reshape(len(rows), hosts)

    def limits(self, x: Ints) -> Floats:
        """What each host may hold, `(P, H)`: what it has, or what `x` has there already."""
        return np.maximum(self.capacity, self.load(x))

    def keeps(self, x: Ints, limits: Floats) -> bool:
        """Whether no host holds more than its limit."""
        return not self.pools or bool((self.load(x) <= limits).all())

    def allowed(self, units: Ints, load: Floats, limits: Floats) -> Bools:
        """Whether each host has enough for each of `units` on top of its load: `(n, H)`."""
        fits = np.ones((len(units), self.capacity.shape[1]), bool)
        for number, row in enumerate(self.needs):
            need = row[units]
            if need.any():
                after = load[number] + need[:, None]
                fits &= (after <= limits[number]) | (need[:, None] <= 0)
        return fits


def pool_table(
    units: Sequence[Sequence[Vm]], hosts: Sequence[Host], snapshot: Snapshot, policy: Policy
) -> PoolTable:
    """Count what the units of a problem need and what its hosts have."""
    pools = pools_of(snapshot)
    needs = np.zeros((len(pools), len(units)))
    capacity = np.zeros((len(pools), len(hosts)))
    for number, pool in enumerate(pools):
        needs[number] = [sum(need_of(vm, pool) for vm in unit) for unit in units]
        capacity[number] = [
            capacity_of(host, pool, snapshot.vms_by_host[host.id], policy) for host in hosts
        ]
    return PoolTable(pools=pools, needs=needs, capacity=capacity)
