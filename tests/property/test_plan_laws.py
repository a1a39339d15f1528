"""The laws of plans: whatever the pace, no limit is broken on the way."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
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
from rebalancer.cluster.windows import Window
from rebalancer.planning.bounds import lower_bound_seconds
from rebalancer.planning.jobs import Job, handover_seconds
from rebalancer.planning.preference import Preferences
from rebalancer.planning.routing import Router
from rebalancer.planning.timeline import Timeline
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
from tests.property.laws import law
from tests.unit.planning.plans import a_placement, a_plan

SLACK = 1e-6
LAWS = law(0.8)
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
    broken = [v.text for v in _worse(case, at) if v.rule not in IN_THE_END]
    places: dict[VmId, set[HostId]] = {vm: {host} for vm, host in at.items()}
    for migration in flying:
        places[migration.vm].add(migration.target)
    full = _overfull(case, places) + _short(case, places) + _crowded(case, places)
    return broken + full + _full_of_disks(case, [*done, *flying])


def _worse(case: Case, at: Mapping[VmId, HostId]) -> tuple[Violation, ...]:
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


def waits_for(plan: Plan, name: str) -> set[str]:
    """Migrations that cannot start when the named one never completes."""
    stopped = {name}
    for migration in plan.migrations:
        if stopped.intersection(migration.depends_on):
            stopped.add(migration.id)
    return stopped - {name}


def run_at_any_pace(
    case: Case, migrations: Sequence[Migration], never_completes: set[str], seed: int
) -> set[str]:
    """Start and complete in any order that dependencies allow; returns what completed."""
    chance = random.Random(seed)
    waiting = list(migrations)
    flying: list[Migration] = []
    done: list[Migration] = []
    while True:
        finished = {migration.id for migration in done}
        ready = [m for m in waiting if finished.issuperset(m.depends_on)]
        landing = [m for m in flying if m.id not in never_completes]
        if not ready and not landing:
            return finished
        if ready and (not landing or chance.random() < 0.7):
            started = chance.choice(ready)
            waiting.remove(started)
            flying.append(started)
        else:
            landed = chance.choice(landing)
            flying.remove(landed)
            done.append(landed)
        assert excess(case, done, flying) == []


@LAWS
@given(case=cases(), seed=st.integers(0, 2**16))
def test_law_4_no_limit_is_broken_whatever_the_pace(case: Case, seed: int) -> None:
    plan = case.plan

    finished = run_at_any_pace(case, plan.migrations, set(), seed)

    assert finished == {migration.id for migration in plan.migrations}
    # Restarts one by one, and what binds VMs together, are promised for the end only.
    assert _worse(case, {**case.snapshot.assignment, **plan.final_assignment}) == ()


@LAWS
@given(case=cases(), seed=st.integers(0, 2**16), which=st.integers(0, 100))
def test_law_4_a_migration_that_hangs_stops_exactly_those_that_depend_on_it(
    case: Case, seed: int, which: int
) -> None:
    plan = case.plan
    if not plan.migrations:
        return
    hung = plan.migrations[which % len(plan.migrations)].id

    finished = run_at_any_pace(case, plan.migrations, {hung}, seed)

    everything = {migration.id for migration in plan.migrations}
    assert everything - finished == waits_for(plan, hung) | {hung}


@LAWS
@given(case=cases())
def test_every_wish_is_fulfilled_or_answered(case: Case) -> None:
    plan = case.plan
    unmoved = {each.vm for each in plan.unmoved}

    for vm in case.snapshot.vms:
        wanted = case.moves[vm.id] != vm.host
        moved = plan.final_assignment.get(vm.id) == case.moves[vm.id]
        assert (moved != (vm.id in unmoved)) if wanted else vm.id not in plan.final_assignment
    assert all(reason for each in plan.unmoved for reason in each.reasons)


@LAWS
@given(case=cases())
def test_law_5_no_lane_or_slot_is_overbooked_at_any_instant(case: Case) -> None:
    plan, limits = case.plan, case.policy.limits
    host = case.snapshot.host_by_id
    for instant in {m.predicted.start_seconds for m in plan.migrations}:
        lanes: dict[tuple[str, str], float] = defaultdict(float)
        flying = [m for m in plan.migrations if _is_flying(m, instant)]
        for m in flying:
            source, target = host[m.source], host[m.target]
            lanes["out", m.source] += m.bytes_per_second
            lanes["in", m.target] += m.bytes_per_second
            for link in case.snapshot.links_between(source, target):
                lanes[link.name, str(source.site)] += m.bytes_per_second
            if source.rack != target.rack:
                lanes["up", source.rack or ""] += m.bytes_per_second
                lanes["down", target.rack or ""] += m.bytes_per_second
        for (kind, name), used in lanes.items():
            capacity = _lane_bytes_per_second(case, kind, name)
            assert used <= limits.link_share * capacity + SLACK
        assert len(flying) <= limits.cluster
        assert max(Counter(m.source for m in flying).values(), default=0) <= limits.per_host_out
        assert max(Counter(m.target for m in flying).values(), default=0) <= limits.per_host_in


def _lane_bytes_per_second(case: Case, kind: str, name: str) -> float:
    if kind == "wan":
        return 200.0 * MIB
    if kind in ("out", "in"):
        return case.snapshot.host_by_id[HostId(name)].nic_bytes_per_second
    uplinks = {rack.name: rack.uplink_bytes_per_second for rack in case.snapshot.racks}
    return uplinks.get(name, math.inf)


def _is_flying(migration: Migration, instant: float) -> bool:
    predicted = migration.predicted
    return predicted.start_seconds <= instant < predicted.finish_seconds - SLACK


@LAWS
@given(case=cases())
def test_starts_follow_dependencies_and_numbers_follow_starts(case: Case) -> None:
    plan = case.plan
    by_id = {migration.id: migration for migration in plan.migrations}
    starts = [migration.predicted.start_seconds for migration in plan.migrations]

    assert [m.id for m in plan.migrations] == [f"m{n + 1}" for n in range(len(starts))]
    assert starts == sorted(starts)
    for migration in plan.migrations:
        waves = [by_id[other].wave for other in migration.depends_on]
        assert migration.wave == 1 + max(waves, default=0)
        for other in migration.depends_on:
            assert by_id[other].predicted.finish_seconds <= (
                migration.predicted.start_seconds + SLACK
            )


@LAWS
@given(case=cases())
def test_the_makespan_ends_when_the_last_migration_was_seen_to_finish(case: Case) -> None:
    plan = case.plan
    last = max((m.predicted.finish_seconds for m in plan.migrations), default=0.0)

    # Looking after all that fly takes longer where a host does not answer.
    seen = handover_seconds(case.snapshot) if last else 0.0
    assert plan.makespan_seconds == pytest.approx(last + seen)
    assert 0 <= plan.makespan_lower_bound_seconds <= plan.makespan_seconds


@LAWS
@given(case=cases())
def test_no_schedule_is_shorter_than_its_bound(case: Case) -> None:
    demand = Demand.as_measured(case.snapshot)
    wanted = a_placement(case.snapshot, case.moves)
    order, _, _ = Router(case.snapshot, demand, case.policy, wanted).order()
    jobs = [Job.of(position, ordered) for position, ordered in enumerate(order.moves)]

    bound = lower_bound_seconds(jobs, case.policy.limits)

    # Transfers go by slices of a tenth of a second, so a slower one can be shorter by one.
    slices = 0.2 * len(jobs)
    preferences = Preferences(jobs, case.policy.limits, bound)
    for preference in preferences.usual() if jobs else ():
        slots = Timeline(
            jobs, case.policy.limits, preference.places, preference.sharable, preference.least
        ).slots()
        assert max(slot.release_seconds for slot in slots) >= bound - slices


@LAWS
@given(case=cases())
def test_a_pause_is_never_planned_beyond_what_is_allowed(case: Case) -> None:
    permissions = case.policy.migration
    for migration in case.plan.migrations:
        upper = migration.predicted.downtime_upper_seconds
        if migration.mode in (Mode.LIVE, Mode.AUTO_CONVERGE):
            assert upper <= permissions.max_downtime_seconds + SLACK
        if migration.mode is Mode.SUSPEND:
            assert upper <= permissions.max_suspend_seconds + SLACK


@LAWS
@given(case=cases(), minutes=st.integers(1, 200), opens_in=st.integers(-100, 100))
def test_what_can_wait_begins_and_ends_within_a_maintenance_window(
    case: Case, minutes: int, opens_in: int
) -> None:
    noon = 12 * 60
    window = Window(from_minute=noon + opens_in, to_minute=noon + opens_in + minutes)
    permissions = replace(case.policy.migration, windows=(window,))
    plan = replace(case, policy=replace(case.policy, migration=permissions)).plan

    held = [m for m in plan.migrations if permissions.keeps_to_windows(m.priority)]
    if opens_in + minutes <= 0 or (opens_in > 0 and len(held) < len(plan.migrations)):
        # The plan is for now, with what cannot wait; or for the window of tomorrow.
        assert not held or len(held) == len(plan.migrations)
        return
    left_seconds = 60.0 * (minutes + min(0, opens_in))
    for migration in held:
        latest = migration.predicted.start_seconds + migration.predicted.duration_upper_seconds
        assert latest <= left_seconds + SLACK
    if opens_in > 0:
        assert not held or len(held) == len(plan.migrations)
