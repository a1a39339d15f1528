"""The policies that come with CloudSim 3.0.3, for comparison: DVFS, THR-MMT and LR-MMT.

THR and LR tell which hosts are overloaded; MMT (minimum migration time) which VMs leave those;
PABFD (power-aware best fit decreasing) where these go, and where VMs of idle hosts go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from benchmarks.planetlab_hardware import (
    HOST_MEMORY_MB,
    HOST_MIPS,
    HOST_VMS_AT_CREATION,
    Bools,
    Floats,
    migration_seconds,
    watts,
)
from benchmarks.planetlab_world import (
    HISTORY_SAMPLES,
    INTERVAL_SECONDS,
    Move,
    World,
)

THR_SHARE, LR_SAFETY, FALLBACK_SHARE = 0.8, 1.2, 0.7
LR_SAMPLES = 10

type IsOverloaded = Callable[["Draft", int], bool]


# Before the first decision ------------------------------------------------------------------


def first_fit(world: World) -> None:
    """Create every VM on the first host that has what it was promised."""
    _create_all(world, lambda fits, _after: int(np.argmax(fits)))


def least_power(world: World) -> None:
    """Create every VM where it adds the least power; no host is known to do anything yet."""
    idle = watts(world.kind, np.zeros(len(world.kind)))

    def choose(fits: Bools, load_after: Floats) -> int:
        rise = np.full(len(fits), np.inf)
        rise[fits] = watts(world.kind[fits], load_after[fits]) - idle[fits]
        return int(np.argmin(rise))

    _create_all(world, choose)


def _create_all(world: World, choose: Callable[[Bools, Floats], int]) -> None:
    left, used = world.mips.copy(), np.zeros(len(world.mips))
    memory, count = np.zeros(len(left)), np.zeros(len(left), dtype=np.intp)
    for vm, (mips, mb) in enumerate(zip(world.vm_mips, world.vm_memory_mb, strict=True)):
        fits = (world.pe_mips >= mips) & (left >= mips)
        fits &= (memory + mb <= HOST_MEMORY_MB) & (count < HOST_VMS_AT_CREATION)
        if not fits.any():
            raise ValueError(f"VM {vm} ({mips:.0f} MIPS, {mb} MB) fits on no host")
        host = choose(fits, (used + mips) / world.mips)
        left[host] -= mips
        used[host] += mips
        memory[host] += mb
        count[host] += 1
        world.create(vm, host)


# At a decision ------------------------------------------------------------------------------


def dvfs(world: World) -> Sequence[Move]:
    """Move nothing: hosts only clock down, and are off while they have nothing to do."""
    del world
    return ()


def thr_mmt(world: World) -> Sequence[Move]:
    """Consolidate; a host above 80 % is overloaded."""
    return consolidate(world, lambda draft, host: draft.asked_share(host) > THR_SHARE)


def lr_mmt(world: World) -> Sequence[Move]:
    """Consolidate; a host is overloaded when a line through its last ten loads leads to 100 %."""
    return consolidate(world, is_overloaded_soon)


def is_overloaded_soon(draft: Draft, host: int) -> bool:
    """Whether 1.2 times the load that the line foresees is 100 % or more."""
    past = draft.past_load(host)
    if past is None:
        return draft.asked_share(host) > FALLBACK_SHARE
    intercept, slope = line_through(past)
    slowest = max(int(draft.world.vm_memory_mb[vm]) for vm in draft.lists[host])
    ahead = math.ceil(migration_seconds(slowest) / INTERVAL_SECONDS)
    return (intercept + slope * (LR_SAMPLES + ahead)) * LR_SAFETY >= 1


def added(values: Iterable[float]) -> float:
    """Add up from the left, rounding each time; `sum` rounds less, and ties turn out otherwise."""
    total = 0.0
    for value in values:
        total += value
    return total


def line_through(values: Sequence[float]) -> tuple[float, float]:
    """Least squares over 1, 2, …: intercept and slope; adds up in the order of Apache's."""
    sum_xx = sum_xy = sum_x = sum_y = mean_x = mean_y = 0.0
    for n, y in enumerate(values):
        x = n + 1.0
        if n == 0:
            mean_x, mean_y = x, y
        else:
            weight = n / (1.0 + n)
            dx, dy = x - mean_x, y - mean_y
            sum_xx += dx * dx * weight
            sum_xy += dx * dy * weight
            mean_x += dx / (1.0 + n)
            mean_y += dy / (1.0 + n)
        sum_x += x
        sum_y += y
    slope = sum_xy / sum_xx
    return (sum_y - slope * sum_x) / len(values), slope


def consolidate(world: World, is_overloaded: IsOverloaded) -> Sequence[Move]:
    """Relieve the overloaded hosts, then empty the least loaded ones, one after the other."""
    draft = Draft(world)
    over = {h for h in range(len(draft.lists)) if is_overloaded(draft, h)}
    leaving = [vm for host in sorted(over) for vm in _chosen(draft, host, is_overloaded)]
    moves: list[Move] = []
    for vm in draft.by_demand(leaving):
        host = draft.best_host(vm, over, is_overloaded)
        if host is not None:
            draft.add(vm, host)
            moves.append((vm, host))
    return [*moves, *_emptied(draft, over, is_overloaded)]


def _chosen(draft: Draft, host: int, is_overloaded: IsOverloaded) -> Iterable[int]:
    """Take VMs with little memory off a host until it is not overloaded any more."""
    while draft.lists[host]:
        vm = min(draft.lists[host], key=lambda vm: draft.world.vm_memory_mb[vm])
        draft.remove(vm, host)
        yield vm
        if not is_overloaded(draft, host):
            break


def _emptied(draft: Draft, over: Collection[int], is_overloaded: IsOverloaded) -> Iterable[Move]:
    is_on = draft.world.is_on()
    # Where idle VMs stay, a host that has nothing else is still worth emptying.
    load = draft.world.load
    tried = set(over) | set(np.flatnonzero(~is_on).tolist())
    no_target = set(tried)
    order = [h for h in np.argsort(load, kind="stable").tolist() if h not in tried and load[h] < 1]
    for host in order:
        if host in tried or not draft.lists[host]:
            continue
        tried.add(host)
        no_target.add(host)
        moves = _all_or_nothing(draft, host, no_target, is_overloaded)
        tried |= {target for _, target in moves}
        yield from moves


def _all_or_nothing(
    draft: Draft, host: int, no_target: Collection[int], is_overloaded: IsOverloaded
) -> Sequence[Move]:
    moves: list[Move] = []
    for vm in draft.by_demand(draft.lists[host]):
        target = draft.best_host(vm, no_target, is_overloaded)
        if target is None:
            for other, there in moves:
                draft.remove(other, there)
            return ()
        draft.add(vm, target)
        moves.append((vm, target))
    return moves


class Draft:
    """What the hosts would have if what was decided so far had happened."""

    def __init__(self, world: World) -> None:
        """Begin with what is."""
        self.world = world
        self.lists = [list(vms) for vms in world.lists]
        self.demand: list[float] = world.demand.tolist()
        on = world.presence()
        given = np.zeros(len(world.demand))
        given[on.vm] = world.given[on.vm]
        self.given: list[float] = given.tolist()
        self.sum_given = world.sum_by_host(on, given[on.vm])
        self.left = world.mips.copy()
        self.memory_mb = world.sum_by_host(on, world.vm_memory_mb[on.vm].astype(np.float64))
        for host, vms in enumerate(self.lists):
            self._count_left(host, vms)
        self.watts = watts(world.kind, world.load)
        past = world.history[-HISTORY_SAMPLES:]
        recent = np.array(past[-LR_SAMPLES:]).T * world.vm_mips[:, None] if past else None
        self.is_long = np.zeros(len(self.demand), dtype=bool)
        if recent is not None and len(past) >= LR_SAMPLES:
            self.is_long = (np.array(past[: -LR_SAMPLES + 1]) != 0).any(axis=0)
            self.past = [(recent / mips).tolist() for mips in HOST_MIPS]

    def _count_left(self, host: int, vms: Sequence[int]) -> None:
        pe, left = float(self.world.pe_mips[host]), float(self.world.mips[host])
        for vm in vms:
            request = min(self.demand[vm], pe)
            if left < request:
                left = 0.0
                break
            left -= request
        self.left[host] = left

    def add(self, vm: int, host: int) -> None:
        """Put a VM on a host that has what it asks for."""
        self.lists[host].append(vm)
        self._changed(host)

    def remove(self, vm: int, host: int) -> None:
        """Take a VM off a host."""
        self.lists[host].remove(vm)
        self._changed(host)

    def _changed(self, host: int) -> None:
        vms = self.lists[host]
        self._count_left(host, vms)
        pe = float(self.world.pe_mips[host])
        self.sum_given[host] = added(min(self.demand[vm], pe) for vm in vms)
        self.memory_mb[host] = sum(int(self.world.vm_memory_mb[vm]) for vm in vms)

    def by_demand(self, vms: Iterable[int]) -> list[int]:
        """The VMs that ask for most first."""
        return sorted(vms, key=lambda vm: -self.demand[vm])

    def asked_share(self, host: int) -> float:
        """What the VMs of a host ask for, as a share of what it has."""
        return added(self.demand[vm] for vm in self.lists[host]) / float(self.world.mips[host])

    def past_load(self, host: int) -> Sequence[float] | None:
        """The last ten loads that the VMs now on a host would have made; `None`: too short."""
        vms = self.lists[host]
        if not any(self.is_long[vm] for vm in vms):
            return None
        past = self.past[self.world.kind[host]]
        return [added(column) for column in zip(*(past[vm] for vm in vms), strict=True)]

    def best_host(
        self, vm: int, no_target: Collection[int], is_overloaded: IsOverloaded
    ) -> int | None:
        """Where the VM would add the least power without an overload, the first of equal ones."""
        world, demand = self.world, self.demand[vm]
        fits = (world.pe_mips >= demand) & (self.left >= demand)
        if world.rules.respects_memory:
            fits &= self.memory_mb + world.vm_memory_mb[vm] <= HOST_MEMORY_MB
        fits[list(no_target)] = False
        hosts = np.flatnonzero(fits)
        load = np.minimum((self.sum_given[hosts] + demand) / world.mips[hosts], 1.0)
        rise = watts(world.kind[hosts], load) - self.watts[hosts]
        for host in hosts[np.argsort(rise, kind="stable")].tolist():
            if self.sum_given[host] == 0 or not self._overloads(vm, host, is_overloaded):
                return int(host)
        return None

    def _overloads(self, vm: int, host: int, is_overloaded: IsOverloaded) -> bool:
        self.lists[host].append(vm)
        found = is_overloaded(self, host)
        self.lists[host].pop()
        return found
