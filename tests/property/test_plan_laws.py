"""The laws of plans: whatever the pace, no limit is broken on the way."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, Mode
from rebalancer.cluster.plan import Migration, Plan
from rebalancer.cluster.windows import Window
from rebalancer.planning.bounds import lower_bound_seconds
from rebalancer.planning.jobs import Job, handover_seconds
from rebalancer.planning.preference import Preferences
from rebalancer.planning.routing import Router
from rebalancer.planning.timeline import Timeline
from tests.builders import MIB
from tests.property.laws import law
from tests.property.plans_on_the_way import SLACK, Case, cases, excess, worse
from tests.unit.planning.plans import a_placement

LAWS = law(0.8)


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
    assert worse(case, {**case.snapshot.assignment, **plan.final_assignment}) == ()


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
