"""Our own power policy on the PlanetLab benchmark: the product's stages, fed from its world.

Every cycle of 300 s a snapshot is made of what an operator could have measured: whole per cents
up to now, of the VMs that are there now. It goes through forecast, stability and placement as in a
cycle of the daemon; what these want moved, the benchmark's own migrations move.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from benchmarks.planetlab_hardware import HOST_MEMORY_MB, HOST_WATTS, Floats
from benchmarks.planetlab_world import INTERVAL_SECONDS, Move, World
from rebalancer.cluster.inventory import Host, HostId, HostState, Snapshot, UsageHistory, Vm, VmId
from rebalancer.cluster.plan import Placement, Priority
from rebalancer.cluster.policy import Policy
from rebalancer.forecast.demand import forecast_demand
from rebalancer.placement.solver import place
from rebalancer.rollout.records import Move as PastMove
from rebalancer.service.stability import look_back_seconds, steadied

CORE_MIPS = 500.0
"""So that every VM has a whole number of vCPUs, and uses all of them at 100 %."""
MIB = 1024**2
BEGAN_AT = datetime(2011, 3, 3, tzinfo=UTC)
STANDBY_HOSTS = 20
"""Empty hosts that can take VMs at once."""
MEMORY_LIFTED = 1000.0
"""Overcommit of memory where it is not to count."""


@dataclass(slots=True, kw_only=True)
class Pace:
    """How long the cycles took."""

    seconds: list[float]
    forecast_seconds: float = 0.0


class Ours:
    """Decides as the product does, and remembers what the journal would."""

    def __init__(self, world: World, policy: Policy, *, solve_seconds: float) -> None:
        """Take the policy as its file says, but memory only as the track says."""
        self.policy = policy if world.rules.respects_memory else without_memory(policy)
        self.solve_seconds = solve_seconds
        self.hosts = hosts_of(world)
        self.past: list[PastMove] = []
        self.pace = Pace(seconds=[])

    def __call__(self, world: World) -> Sequence[Move]:
        """Say which VMs go where."""
        began = time.perf_counter()
        now = BEGAN_AT + timedelta(seconds=INTERVAL_SECONDS * (len(seen(world)[0]) - 1))
        snapshot = snapshot_of(world, with_sleepers(world, self.hosts), now)
        demand = forecast_demand(snapshot, self.policy)
        self.pace.forecast_seconds += time.perf_counter() - began
        back = timedelta(seconds=look_back_seconds(self.policy.limits))
        self.past = [move for move in self.past if now - move.at < back]
        held, policy = steadied(snapshot, self.policy, demand, moves=self.past, past=(), now=now)
        found = place(
            held,
            demand,
            policy,
            time_limit_seconds=self.solve_seconds,
            clock=time.monotonic,
        )
        self.pace.seconds.append(time.perf_counter() - began)
        return self._carried_out(found, snapshot, now) if isinstance(found, Placement) else ()

    def _carried_out(self, found: Placement, snapshot: Snapshot, now: datetime) -> Sequence[Move]:
        moves = [
            (vm, found.assignment[vm.id])
            for vm in snapshot.vms
            if found.assignment[vm.id] != vm.host
        ]
        self.past += [
            PastMove(vm=vm.id, source=vm.host, target=to, at=now, priority=Priority.BALANCE)
            for vm, to in moves
        ]
        return [(number_of(vm.id), number_of(to)) for vm, to in moves]


def without_memory(policy: Policy) -> Policy:
    """The same policy where memory does not count, as in CloudSim once a VM is created."""
    return replace(policy, overcommit=replace(policy.overcommit, memory=MEMORY_LIFTED))


def number_of(name: VmId | HostId) -> int:
    """The number in the benchmark's world of what is called `vm7` or `host7` here."""
    return int(name.lstrip("vmhost"))


def seen(world: World) -> Floats:
    """Whole samples up to now as shares, shape (V, k + 1); not what leaks of the next."""
    return world.traces.share[:, : int(world.now // INTERVAL_SECONDS) + 1]


def with_sleepers(world: World, hosts: tuple[Host, ...]) -> tuple[Host, ...]:
    """Let the empty hosts sleep but for a few; the ones that draw least for a core stay up.

    Whoever wakes hosts is left out here, as is the time it takes: in the benchmark it takes none.
    """
    empty = [number for number, vms in enumerate(world.lists) if not vms]
    empty.sort(
        key=lambda number: ((hosts[number].max_watts or 0.0) / hosts[number].cpu_cores, number)
    )
    asleep = frozenset(empty[STANDBY_HOSTS:])
    return tuple(
        replace(host, state=HostState.ASLEEP) if number in asleep else host
        for number, host in enumerate(hosts)
    )


def hosts_of(world: World) -> tuple[Host, ...]:
    """The hosts as a snapshot has them; they do not change."""
    return tuple(
        Host(
            id=HostId(f"host{number}"),
            name=f"host{number}",
            cpu_cores=float(mips) / CORE_MIPS,
            memory_bytes=HOST_MEMORY_MB * MIB,
            idle_watts=float(HOST_WATTS[kind, 0]),
            max_watts=float(HOST_WATTS[kind, -1]),
            nic_bytes_per_second=1.25e8,
        )
        for number, (kind, mips) in enumerate(zip(world.kind, world.mips, strict=True))
    )


def snapshot_of(world: World, hosts: tuple[Host, ...], now: datetime) -> Snapshot:
    """What can be measured now of the VMs that are there."""
    cores = seen(world) * (world.vm_mips / CORE_MIPS)[:, None]
    alive = np.flatnonzero(world.is_alive).tolist()
    samples = cores.shape[1]
    return Snapshot(
        cluster="planetlab",
        taken_at=now,
        hosts=hosts,
        vms=tuple(
            Vm(
                id=VmId(f"vm{vm}"),
                name=f"vm{vm}",
                host=hosts[world.where[vm]].id,
                memory_bytes=int(world.vm_memory_mb[vm]) * MIB,
                vcpus=round(world.vm_mips[vm] / CORE_MIPS),
                cpu_used_cores=float(cores[vm, -1]),
                labels={"mips": f"{world.vm_mips[vm]:.0f}"},
            )
            for vm in alive
        ),
        usage=UsageHistory(
            start=now - timedelta(seconds=samples * INTERVAL_SECONDS),
            interval_seconds=INTERVAL_SECONDS,
            vm_cpu_cores={VmId(f"vm{vm}"): cores[vm] for vm in alive},
            host_cpu_cores={},
        ),
    )
