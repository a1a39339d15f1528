"""Small tight clusters with plans for them, and which limits one breaks while it is carried out.

An oracle: what it counts it counts by itself, without the planner and without a schedule.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import (
    Host,
    HostId,
    HostState,
    HugepagePool,
    Mode,
    NumaNode,
    Snapshot,
    Vm,
    VmId,
    VmState,
)
from rebalancer.cluster.plan import Migration, Plan
from rebalancer.cluster.policy import (
    Headroom,
    Limits,
    MigrationPermissions,
    Overcommit,
    Policy,
)
from rebalancer.cluster.pools import capacity_of, need_of, pools_of
from rebalancer.cluster.rules import (
    Ban,
    Domain,
    Fence,
    Pin,
    Presence,
    Rule,
    Spread,
    Together,
    Violation,
    groups_in,
)
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.cluster.violations import (
    RESTART_RULE,
    cpu_capacity_cores,
    hard_violations,
    memory_capacity_bytes,
    vcpu_capacity,
    worsened,
)
from tests.builders import (
    GIB,
    IMAGES,
    MIB,
    a_disk,
    a_host,
    a_policy,
    a_snapshot,
    a_vm,
    with_disks,
)
from tests.unit.planning.plans import a_plan

SLACK = 1e-6
"""By so much a sum of what fits may be more than there is."""
IN_THE_END = {RESTART_RULE, "together", "presence"}
"""Rules that are kept by what a plan comes to, not at each instant: VMs move one by one."""
CAPACITIES: Mapping[str, Callable[[Host, Policy], float]] = {
    "memory": memory_capacity_bytes,
    "cpu": cpu_capacity_cores,
    "vcpus": vcpu_capacity,
}


@dataclass(frozen=True)
class Case:
    snapshot: Snapshot
    policy: Policy
    moves: Mapping[str, str]

    @property
    def plan(self) -> Plan:
        return a_plan(self.snapshot, self.moves, self.policy)


def roughly(least: int, most: int) -> st.SearchStrategy[int]:
    """A count that is small now and then, and otherwise anything: few plans are empty."""
    return st.sampled_from([*range(least, most + 1), *range((least + most) // 2, most + 1)])


ODD = ("states", "numbers", "counted", "disks", "limits")
"""What may be unusual about a cluster. Not all at once, or hardly anything could move."""
APP = VmSelector(labels={"app": ("x",)})


@st.composite
def hosts_of_all_kinds(draw: st.DrawFn, count: int, odd: str) -> list[Host]:
    """Unequal hosts, some of them to be emptied, off or silent."""
    states = list(HostState) if odd == "states" else [HostState.DRAINING]
    speeds = [1e-5, 1e-3, 1e6] if odd == "numbers" else []
    found = []
    for i in range(count):
        counted: dict[str, Any] = {}
        if odd == "counted":
            node = NumaNode(cpu_cores=4, memory_bytes=8 * GIB)
            counted = {
                "hugepages": draw(st.sampled_from([(), *(pages(free) for free in (1, 5, 12))])),
                "devices": {"vf": draw(st.integers(0, 2))},
                "numa_nodes": (node,) * draw(st.integers(1, 2)),
            }
        found.append(
            a_host(
                f"h{i}",
                site=draw(st.sampled_from(["a", "b", *([None] if odd == "states" else [])])),
                rack=draw(st.sampled_from([None, "r1", "r2"])),
                memory_bytes=draw(st.sampled_from([16, 32, 48])) * GIB,
                cpu_cores=draw(st.sampled_from([4.0, 8.0, 16.0])),
                nic_bytes_per_second=draw(st.sampled_from([40.0, 500.0, 1250.0, *speeds])) * MIB,
                state=draw(st.sampled_from([HostState.UP] * 6 + states)),
                disk_pools={IMAGES: draw(st.sampled_from([20, 50, 500])) * GIB},
                **counted,
            )
        )
    return found


def pages(free: int) -> tuple[HugepagePool, ...]:
    return (HugepagePool(page_bytes=GIB, total_pages=12, free_pages=free),)


@st.composite
def vms_of_all_kinds(draw: st.DrawFn, hosts: Sequence[Host], odd: str) -> list[Vm]:
    """VMs that write nothing or more than any link carries; if odd, of a byte or a terabyte."""
    found = []
    # All on few hosts is a crowd that has to change places; anywhere is what clusters are like.
    homes = draw(st.sampled_from([hosts, hosts, hosts[:2]]))
    sizes = [1, 2048 * GIB] if odd == "numbers" else []
    rates = [1e15, 1e-9] if odd == "numbers" else []
    kinds = ["huge", "device", "node"] if odd == "counted" else [""]
    node = NumaNode(cpu_cores=2, memory_bytes=2 * GIB, host_nodes=(1,))
    for i in range(draw(roughly(1, 10))):
        kind = draw(st.sampled_from(["", *kinds]))
        has_disk = odd == "disks" and draw(st.booleans())
        found.append(
            a_vm(
                f"v{i}",
                draw(st.sampled_from(homes)).id,
                vcpus=draw(st.sampled_from([1, 2, 4])),
                memory_bytes=draw(st.sampled_from([*(n * GIB for n in (1, 4, 8, 12)), *sizes])),
                cpu_used_cores=draw(st.sampled_from([0.0, 0.1, 1.0, 2.0])),
                dirty_bytes_per_second=draw(
                    st.sampled_from([None, 0.0, 1.0 * MIB, 50.0 * MIB, 2000.0 * MIB, *rates])
                ),
                working_set_bytes=draw(st.sampled_from([None, 64 * MIB, GIB])),
                state=draw(
                    st.sampled_from(
                        [VmState.RUNNING] * 6
                        + (list(VmState) if odd == "states" else [VmState.SHUTOFF])
                    )
                ),
                labels={"app": draw(st.sampled_from(["x", "y"]))},
                movable=odd != "states" or draw(st.sampled_from([True, True, True, False])),
                hugepage_bytes=GIB if kind == "huge" else None,
                devices={"vf": 1} if kind == "device" else {},
                numa_nodes=(node,) if kind == "node" else (),
                **(with_disks(a_disk(f"vd{i}")) if has_disk else {}),
            )
        )
    return found


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small tight clusters on which VMs want to change places."""
    odd = draw(st.sampled_from(["", "", "", *ODD]))
    hosts = draw(hosts_of_all_kinds(draw(roughly(2, 5)), odd))
    vms = draw(vms_of_all_kinds(hosts, odd))
    up = [host.id for host in hosts if host.may_receive]
    moves = {}
    for vm in vms:
        others = [host for host in up if host != vm.host]
        anywhere = [host.id for host in hosts]
        moves[str(vm.id)] = str(draw(st.sampled_from(others * 4 + anywhere)))
    made: list[Rule] = [
        Spread(name="spread", vms=APP, at_most=draw(st.integers(1, 2))),
        Spread(name="groups", vms=VmSelector(), by_label="app", over=Domain.SITE, at_most=3),
        Ban(name="ban", vms=VmSelector(names=("v1",)), hosts=HostSelector(names=("h1",))),
        Fence(name="fence", vms=APP, to=HostSelector(names=("h0", "h1", "h2"))),
        Pin(name="pin", vms=VmSelector(names=("v2",))),
        Together(name="together", vms=VmSelector(names=("v3", "v4"))),
        Presence(name="presence", vms=APP, over=Domain.RACK),
    ]
    rules = draw(st.lists(st.sampled_from(made), max_size=2, unique_by=lambda rule: rule.name))
    everywhere, tight = HostSelector(), odd == "limits"
    policy = a_policy(
        *rules,
        applies=HostSelector(names=("h0", "h1", "h2")) if tight else everywhere,
        limits=Limits(
            migrations=None,
            per_host_out=draw(st.integers(1, 3)),
            per_host_in=draw(st.integers(1, 3)),
            cluster=draw(st.integers(1, 6)),
            link_share=draw(st.sampled_from([0.1, 1.0])) if tight else 0.7,
        ),
        overcommit=Overcommit(cpu=1.0 if tight else 4.0),
        headroom=Headroom(
            cpu_ratio=0.1 if tight else 0.0,
            memory_ratio=0.1 if tight else 0.0,
            host_failures=draw(st.sampled_from([0, 0, 1])),
        ),
        migration=MigrationPermissions(
            allow=frozenset(Mode),
            local_disks=True,
            max_duration_seconds=1e9 if odd == "numbers" else 1800.0,
        ),
    )
    wan = Link(name="wan", bytes_per_second=200.0 * MIB, between=("a", "b"))
    racks = [
        Rack(name=name, uplink_bytes_per_second=draw(st.sampled_from([30.0, 300.0])) * MIB)
        for name in draw(st.sets(st.sampled_from(["r1", "r2"])).map(sorted))
    ]
    snapshot = replace(
        a_snapshot(hosts, vms, sites=[Site(name="a"), Site(name="b")], links=[wan]),
        racks=tuple(racks),
    )
    return Case(snapshot, policy, moves)


def excess(case: Case, done: Iterable[Migration], flying: Iterable[Migration]) -> list[str]:
    """Which limits are broken more than at the start, VMs in flight counted on both hosts."""
    at = dict(case.snapshot.assignment)
    for migration in done:
        at[migration.vm] = migration.target
    broken = [v.text for v in worse(case, at) if v.rule not in IN_THE_END]
    places: dict[VmId, set[HostId]] = {vm: {host} for vm, host in at.items()}
    for migration in flying:
        places[migration.vm].add(migration.target)
    full = _overfull(case, places) + _short(case, places) + _crowded(case, places)
    return broken + full + _full_of_disks(case, [*done, *flying])


def worse(case: Case, at: Mapping[VmId, HostId]) -> tuple[Violation, ...]:
    """What is broken more than at the start when VMs are at these hosts."""
    demand = Demand.as_measured(case.snapshot)
    before, after = (
        hard_violations(case.snapshot, case.policy, demand, assignment)
        for assignment in (case.snapshot.assignment, at)
    )
    return worsened(before, after)


def _overfull(case: Case, places: Mapping[VmId, set[HostId]]) -> list[str]:
    """Memory, CPU and vCPUs beyond what there is, and beyond what was used at the start."""
    cores = Demand.as_measured(case.snapshot).vm_cpu_peak_cores
    now: dict[tuple[str, HostId], float] = defaultdict(float)
    start: dict[tuple[str, HostId], float] = defaultdict(float)
    for vm in case.snapshot.vms:
        for table, hosts in ((now, places[vm.id]), (start, {vm.host})):
            for host in hosts if vm.is_active else ():
                table["memory", host] += vm.memory_bytes
                table["cpu", host] += cores[vm.id]
                table["vcpus", host] += vm.vcpus
    most = {
        (kind, host.id): capacity(host, case.policy)
        for kind, capacity in CAPACITIES.items()
        for host in case.snapshot.hosts
    }
    return [f"{key}" for key, used in now.items() if used > max(start[key], most[key]) + SLACK]


def _short(case: Case, places: Mapping[VmId, set[HostId]]) -> list[str]:
    """Huge pages, devices and nodes taken twice."""
    start = {vm.id: {vm.host} for vm in case.snapshot.vms}
    found = []
    for pool in pools_of(case.snapshot):
        for host in case.snapshot.hosts:
            residents = case.snapshot.vms_by_host[host.id]
            most = capacity_of(host, pool, residents, case.policy)
            used, before = (
                sum(need_of(vm, pool) for vm in case.snapshot.vms if host.id in where[vm.id])
                for where in (places, start)
            )
            if used > max(before, most) + SLACK:
                found.append(f"{pool.text} of {host.id}")
    return found


def _full_of_disks(case: Case, begun: Iterable[Migration]) -> list[str]:
    """Folders that would not hold every copy that was begun; what it was made of stays behind."""
    needs: Counter[tuple[HostId, str]] = Counter()
    for migration in begun:
        for disk in migration.disks:
            needs[migration.target, disk.folder] += disk.capacity_bytes
    free = {host.id: host.disk_pools or {} for host in case.snapshot.hosts}
    return [
        f"{folder} of {host}"
        for (host, folder), bytes_needed in needs.items()
        if bytes_needed > free[host].get(folder, 0)
    ]


def _crowded(case: Case, places: Mapping[VmId, set[HostId]]) -> list[str]:
    start = {vm.id: {vm.host} for vm in case.snapshot.vms}
    return [
        rule.name
        for rule in case.policy.rules
        if isinstance(rule, Spread) and _too_many(case, rule, places) > _too_many(case, rule, start)
    ]


def _too_many(case: Case, rule: Spread, places: Mapping[VmId, set[HostId]]) -> int:
    members: dict[tuple[int, str], set[VmId]] = defaultdict(set)
    for number, group in enumerate(groups_in(rule, case.snapshot)):
        for vm in group:
            for host in places[vm.id]:
                domain = case.snapshot.domain_of(case.snapshot.host_by_id[host], rule.over)
                members[number, domain].add(vm.id)
    return sum(max(0, len(each) - rule.at_most) for each in members.values())
