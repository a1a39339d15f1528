"""What hosts draw, what switching and moving cost in energy, and who has to stay awake.

Energy is in joules, power in watts. Which hosts are emptied is decided in `placement`; what is
then done with the empty ones in `planning`; both go by what is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Host, HostId, HostState, Snapshot, Vm
from rebalancer.cluster.policy import Policy, PowerGoal
from rebalancer.cluster.violations import (
    cpu_capacity_cores,
    memory_capacity_bytes,
    vcpu_capacity,
)

BASE_WATTS, IDLE_WATTS_PER_CORE, BUSY_WATTS_PER_CORE = 30.0, 3.3, 6.5
"""Draw of a typical two-socket server, for hosts whose watts are unknown."""

MIGRATION_JOULES = 20.165
MIGRATION_JOULES_PER_BYTE = 0.512e-6
"""What both hosts of a live migration draw for it on top, by the bytes it sends: measured and
fitted as 0.512·MB + 20.165 J in Liu et al., "Performance and energy modeling for live migration
of virtual machines", HPDC 2011, doi:10.1145/1996130.1996154."""


def idle_watts(host: Host) -> float:
    """Watts of the host when it is on and idle."""
    if host.idle_watts is not None:
        return host.idle_watts
    return BASE_WATTS + IDLE_WATTS_PER_CORE * host.cpu_cores


def max_watts(host: Host) -> float:
    """Watts of the host when all its cores are busy."""
    if host.max_watts is not None:
        return max(host.max_watts, idle_watts(host))
    return idle_watts(host) + BUSY_WATTS_PER_CORE * host.cpu_cores


def migration_joules(sent_bytes: float) -> float:
    """Energy that sending so many bytes from host to host takes of both."""
    return MIGRATION_JOULES + MIGRATION_JOULES_PER_BYTE * sent_bytes


def cycle_joules(goal: PowerGoal, host: Host) -> float:
    """Energy that is lost when a host goes to sleep and is woken again: boot·max watts + wear.

    Booting and shutting down keeps a host busy with nothing; wear is what the owner thinks a
    power cycle takes off its life, as energy of the same price.
    """
    return goal.boot_seconds * max_watts(host) + goal.wear_joules


def power_goal(policy: Policy) -> PowerGoal | None:
    """The policy's most important power goal, if it has any."""
    goals = [goal for goal in policy.goals if isinstance(goal, PowerGoal)]
    return min(goals, key=lambda goal: goal.tier, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwakeNeed:
    """What the hosts that are awake must have together, the largest `failures` left out.

    Σ capacity over awake hosts - the `failures` largest of these ≥ needed.
    """

    what: str
    capacity: Mapping[HostId, float]
    needed: float
    failures: int = 0

    def surplus(self, awake: Set[HostId]) -> float:
        """What the awake hosts have beyond what is needed; negative where it is not met."""
        have = sorted((self.capacity.get(host, 0.0) for host in awake), reverse=True)
        return sum(have[self.failures :]) - self.needed


def awake_needs(
    snapshot: Snapshot, policy: Policy, goal: PowerGoal, demand: Demand
) -> tuple[AwakeNeed, ...]:
    """Everything that keeps hosts awake although their VMs would fit on fewer.

    - `min_awake`: so many hosts, whatever there is to do.
    - `host_failures`: without the largest hosts awake, the others still have the memory for all
      VMs within the headroom, and the cores without it: air that is kept for such a case.
    - `spare_ratio`: that share of memory, CPU and vCPUs, all within the headroom, stays free.
    """
    return tuple(_needs(snapshot, policy, goal, demand))


def _needs(
    snapshot: Snapshot, policy: Policy, goal: PowerGoal, demand: Demand
) -> Iterator[AwakeNeed]:
    hosts = [h for h in snapshot.hosts if h.state in (HostState.UP, HostState.ASLEEP)]
    kept = {h.id for h in snapshot.hosts if h.state in (HostState.UP, HostState.DRAINING)}
    vms = [vm for vm in snapshot.vms if vm.is_active and vm.host in kept]

    def need(
        what: str, of_host: Callable[[Host], float], of_vm: Callable[[Vm], float], failures: int = 0
    ) -> AwakeNeed:
        return AwakeNeed(
            what=what,
            capacity={host.id: max(0.0, of_host(host)) for host in hosts},
            needed=float(sum(map(of_vm, vms))),
            failures=failures,
        )

    def base(host: Host) -> float:
        return demand.host_base_cores[host.id] + demand.host_margin_cores

    def peak(vm: Vm) -> float:
        return demand.vm_cpu_peak_cores[vm.id]

    yield AwakeNeed(
        what="min_awake",
        capacity=dict.fromkeys((host.id for host in hosts), 1.0),
        needed=float(goal.min_awake),
    )
    if failures := policy.headroom.host_failures:
        what = f"host_failures: {failures}"
        yield need(
            f"{what}, memory",
            lambda host: memory_capacity_bytes(host, policy),
            lambda vm: float(vm.memory_bytes),
            failures,
        )
        yield need(f"{what}, CPU", lambda host: host.cpu_cores - base(host), peak, failures)
    kept_free = f"spare: {goal.spare_ratio:.0%}" if goal.spare_ratio > 0 else "all VMs"
    share = 1 - goal.spare_ratio
    yield need(
        f"{kept_free}, memory",
        lambda host: share * memory_capacity_bytes(host, policy),
        lambda vm: float(vm.memory_bytes),
    )
    yield need(
        f"{kept_free}, CPU",
        lambda host: share * cpu_capacity_cores(host, policy) - base(host),
        peak,
    )
    yield need(
        f"{kept_free}, vCPUs",
        lambda host: share * vcpu_capacity(host, policy),
        lambda vm: float(vm.vcpus),
    )
