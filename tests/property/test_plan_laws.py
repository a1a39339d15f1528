"""The laws of plans: whatever the pace, no limit is broken on the way."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, HostState, Mode, Snapshot, VmId, VmState
from rebalancer.cluster.plan import Migration, Plan
from rebalancer.cluster.policy import (
    Headroom,
    Limits,
    MigrationPermissions,
    Overcommit,
    Policy,
)
from rebalancer.cluster.rules import Ban, Domain, Rule, Spread, Violation, groups_in
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.cluster.violations import (
    RESTART_RULE,
    hard_violations,
    memory_capacity_bytes,
    worsened,
)
from rebalancer.planning.bounds import lower_bound_seconds
from rebalancer.planning.jobs import HANDOVER_SECONDS, Job
from rebalancer.planning.preference import Preferences
from rebalancer.planning.routing import Router
from rebalancer.planning.timeline import Timeline
from tests.builders import GIB, MIB, a_host, a_policy, a_snapshot, a_vm
from tests.property.laws import law
from tests.unit.planning.plans import a_placement, a_plan

SLACK = 1e-6
LAWS = law(0.8)


@dataclass(frozen=True)
class Case:
    snapshot: Snapshot
    policy: Policy
    moves: Mapping[str, str]

    @property
    def plan(self) -> Plan:
        return a_plan(self.snapshot, self.moves, self.policy)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small tight clusters on which VMs want to change places."""
    count = draw(st.integers(2, 5))
    hosts = [
        a_host(
            f"h{i}",
            site=draw(st.sampled_from(["a", "b"])),
            rack=draw(st.sampled_from([None, "r1", "r2"])),
            memory_bytes=draw(st.sampled_from([16, 32])) * GIB,
            cpu_cores=draw(st.sampled_from([4.0, 8.0])),
            nic_bytes_per_second=draw(st.sampled_from([40.0, 500.0, 1250.0])) * MIB,
            state=draw(st.sampled_from([HostState.UP] * 5 + [HostState.DRAINING])),
        )
        for i in range(count)
    ]
    vms = [
        a_vm(
            f"v{i}",
            f"h{draw(st.integers(0, count - 1))}",
            memory_bytes=draw(st.sampled_from([1, 4, 8, 12])) * GIB,
            cpu_used_cores=draw(st.sampled_from([0.1, 1.0, 2.0])),
            dirty_bytes_per_second=draw(st.sampled_from([None, 0.0, 50.0 * MIB, 2000.0 * MIB])),
            working_set_bytes=draw(st.sampled_from([None, 64 * MIB, GIB])),
            state=draw(st.sampled_from([VmState.RUNNING] * 6 + [VmState.SHUTOFF])),
            labels={"app": draw(st.sampled_from(["x", "y"]))},
        )
        for i in range(draw(st.integers(1, 10)))
    ]
    moves = {str(vm.id): f"h{draw(st.integers(0, count - 1))}" for vm in vms}
    rules = draw(st.sets(st.sampled_from(["spread", "groups", "ban"])))
    made: dict[str, Rule] = {
        "spread": Spread(
            name="spread", vms=VmSelector(labels={"app": ("x",)}), at_most=draw(st.integers(1, 2))
        ),
        "groups": Spread(
            name="groups", vms=VmSelector(), by_label="app", over=Domain.SITE, at_most=3
        ),
        "ban": Ban(name="ban", vms=VmSelector(names=("v1",)), hosts=HostSelector(names=("h1",))),
    }
    policy = a_policy(
        *(made[name] for name in sorted(rules)),
        limits=Limits(
            migrations=None,
            per_host_out=draw(st.integers(1, 3)),
            per_host_in=draw(st.integers(1, 3)),
            cluster=draw(st.integers(1, 6)),
        ),
        overcommit=Overcommit(cpu=draw(st.sampled_from([1.0, 4.0]))),
        headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=draw(st.integers(0, 1))),
        migration=MigrationPermissions(allow=frozenset(Mode)),
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
    broken = [v.text for v in _worse(case, at) if v.rule != RESTART_RULE]
    places: dict[VmId, set[HostId]] = {vm: {host} for vm, host in at.items()}
    for migration in flying:
        places[migration.vm].add(migration.target)
    return broken + _overfull(case, places) + _crowded(case, places)


def _worse(case: Case, at: Mapping[VmId, HostId]) -> tuple[Violation, ...]:
    """What is broken more than at the start when VMs are at these hosts."""
    demand = Demand.as_measured(case.snapshot)
    before, after = (
        hard_violations(case.snapshot, case.policy, demand, assignment)
        for assignment in (case.snapshot.assignment, at)
    )
    return worsened(before, after)


def _overfull(case: Case, places: Mapping[VmId, set[HostId]]) -> list[str]:
    start: Counter[str] = Counter()
    now: Counter[str] = Counter()
    for vm in case.snapshot.vms:
        if vm.is_active:
            start[vm.host] += vm.memory_bytes
            for host in places[vm.id]:
                now[host] += vm.memory_bytes
    return [
        f"memory of {host.id}"
        for host in case.snapshot.hosts
        if now[host.id] > max(start[host.id], memory_capacity_bytes(host, case.policy)) + SLACK
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
    # Restarts one by one are promised for the end only.
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
        assert max(Counter(m.source for m in flying).values()) <= limits.per_host_out
        assert max(Counter(m.target for m in flying).values()) <= limits.per_host_in


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

    assert plan.makespan_seconds == pytest.approx(last + (HANDOVER_SECONDS if last else 0.0))
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
