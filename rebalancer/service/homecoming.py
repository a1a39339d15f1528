"""VMs that a drain moved away come home, once their host may be used again.

Which ones these are is worked out from the journal, so it holds whoever drained the host, and
over restarts: VMs whose last moves were all for drains, and which are still where those left them.
One that was moved for anything else since has found a new home.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, Snapshot, Vm, VmId
from rebalancer.cluster.plan import Placement, Plan, Priority, Unmoved, Verdict, VerdictKind
from rebalancer.cluster.policy import Policy, Trigger
from rebalancer.forecast.demand import forecast_demand
from rebalancer.rollout.records import Move
from rebalancer.service.cycle import Request, plan_towards
from rebalancer.service.verdict import stay
from rebalancer.service.wording import count_text, ratio_text

LOOK_BACK_SECONDS = 7 * 86400.0
"""How far back drains of a host count that is not marked as drained any more."""


def homes_of(
    moves: Sequence[Move],
    snapshot: Snapshot,
    since: Mapping[HostId, datetime],
    still_drained: Mapping[HostId, datetime],
) -> Mapping[VmId, HostId]:
    """Return where VMs come home to, of those that drains of the hosts in `since` moved away.

    `since` says for each host that may be used again from when on its drain counts,
    `still_drained` the same for hosts that may not: whose home is there waits for it.
    """
    drained = {**still_drained, **since}
    trips: defaultdict[VmId, list[Move]] = defaultdict(list)
    for move in sorted(moves, key=lambda each: each.at):
        if move.priority is not Priority.DRAIN:
            trips[move.vm].clear()
        else:
            trips[move.vm].append(move)
    homes = {}
    for vm, trip in trips.items():
        if not trip or (seen := snapshot.vm_by_id.get(vm)) is None or seen.host != trip[-1].target:
            continue
        left = [m.source for m in trip if m.source in drained and m.at >= drained[m.source]]
        if left and left[0] in since and left[0] != seen.host:
            homes[vm] = left[0]
    return homes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Loads:
    """CPU load of hosts relative to their cores, kept up to date as VMs come home."""

    cores: dict[HostId, float]
    capacity: Mapping[HostId, float]
    demand: Demand

    @classmethod
    def of(cls, snapshot: Snapshot, demand: Demand) -> _Loads:
        cores = {host.id: demand.host_base_cores[host.id] for host in snapshot.hosts}
        for vm in snapshot.vms:
            if vm.is_active:
                cores[vm.host] += demand.vm_cpu_cores[vm.id]
        capacity = {host.id: max(host.cpu_cores, 1e-9) for host in snapshot.hosts}
        return cls(cores=cores, capacity=capacity, demand=demand)

    def ratio(self, host: HostId) -> float:
        return self.cores[host] / self.capacity[host]

    def move(self, vm: Vm, home: HostId) -> None:
        if vm.is_active:
            self.cores[vm.host] -= self.demand.vm_cpu_cores[vm.id]
            self.cores[home] += self.demand.vm_cpu_cores[vm.id]


def plan_homecoming(
    snapshot: Snapshot, policy: Policy, request: Request, homes: Mapping[VmId, HostId]
) -> Plan:
    """Plan the way home, under the same rules and limits as every move.

    A VM stays where it is if it would make its home hot that is not, or hotter than the host that
    it leaves: coming home is a habit, and no reason to harm anybody.
    """
    demand = forecast_demand(snapshot, policy)
    loads = _Loads.of(snapshot, demand)
    hot = (policy.trigger or Trigger()).hot_ratio
    assignment, reasons, harmed = dict(snapshot.assignment), dict[VmId, str](), list[Unmoved]()
    coming = [snapshot.vm_by_id[vm] for vm in homes]
    for vm in sorted(coming, key=lambda vm: (-vm.memory_bytes, vm.name, vm.id)):
        home, was = homes[vm.id], loads.ratio(vm.host)
        loads.move(vm, home)
        if loads.ratio(home) > max(hot, was) + 1e-9:
            why = f"it would bring its home {home} to {ratio_text(loads.ratio(home))} CPU"
            harmed.append(Unmoved(vm=vm.id, reasons=(why,)))
            loads.move(replace(vm, host=home), vm.host)
        else:
            assignment[vm.id] = home
            reasons[vm.id] = f"comes home: {home} may be used again"
    placement: Placement = replace(
        stay(snapshot), assignment=assignment, reasons=reasons, unmoved=tuple(harmed)
    )
    plan = plan_towards(placement, snapshot, demand, policy, request)
    return replace(plan, verdict=_verdict(plan, homes), objective=None)


def _verdict(plan: Plan, homes: Collection[VmId]) -> Verdict:
    coming = len(plan.final_assignment)
    if not homes:
        text = "nothing to bring home: no VM is where a drain of these hosts moved it"
        return Verdict(kind=VerdictKind.BALANCED, text=text)
    if not coming:
        text = f"blocked: none of {count_text(len(homes), 'VM')} can come home"
        return Verdict(kind=VerdictKind.BLOCKED, text=text)
    away = len(homes) - coming
    left = f"; {count_text(away, 'VM')} cannot" if away > 0 else ""
    text = f"{count_text(coming, 'VM')} can come home{left}"
    return Verdict(kind=VerdictKind.MOVES, text=text, is_unmet=away > 0)
