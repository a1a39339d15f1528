"""The laws of explanations, on tiny clusters and against brute force that knows no solver."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Assignment, HostState, Snapshot
from rebalancer.cluster.policy import Headroom, Overcommit, Policy
from rebalancer.cluster.rules import Fence, Pin, Rule, Spread
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.violations import hard_violations, worsened
from rebalancer.placement.budget import Budget
from rebalancer.placement.explain.amounts import WORDS
from rebalancer.placement.explain.capacity import advise_on_capacity
from rebalancer.placement.explain.case import Case
from rebalancer.placement.explain.conflicts import Part, Whole, is_minimal, smallest_impossible
from rebalancer.placement.explain.restrictions import Restriction, restrictions_of, without_wish
from rebalancer.placement.explain.rises import Rises
from rebalancer.placement.explain.wishes import Fit, Hold, Leave, wishes_of
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.problem import placement_problem
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.property.test_placement_laws import clusters, policies
from tests.unit.placement.clusters import DRAINING, solve

ENDLESS = Budget(clock=lambda: 0.0, ends_at=60.0)
law = settings(
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ]
)


@st.composite
def full_clusters(draw: st.DrawFn) -> Snapshot:
    """A draining host and one to three others that are nearly full or asleep."""
    hosts = [
        a_host("h0", state=DRAINING, memory_bytes=32 * GIB),
        *(
            a_host(
                f"h{index}",
                cpu_cores=draw(st.sampled_from([4.0, 8.0])),
                memory_bytes=draw(st.sampled_from([8, 16])) * GIB,
                state=draw(st.sampled_from([HostState.UP] * 4 + [HostState.ASLEEP, DRAINING])),
                storage=draw(st.sampled_from([frozenset({"nfs"})] * 3 + [frozenset()])),
            )
            for index in range(1, draw(st.integers(2, 4)))
        ),
    ]
    vms = [
        a_vm(
            f"v{index}",
            on=draw(st.sampled_from(["h0", "h0", *(host.id for host in hosts)])),
            vcpus=draw(st.sampled_from([1, 4])),
            memory_bytes=draw(st.sampled_from([2, 6, 8])) * GIB,
            cpu_used_cores=draw(st.sampled_from([0.0, 1.0, 3.0])),
            labels={"app": draw(st.sampled_from(["db", "web"]))},
            movable=draw(st.sampled_from([True] * 4 + [False])),
            storage=draw(st.sampled_from([frozenset(), frozenset({"nfs"})])),
        )
        for index in range(draw(st.integers(1, 4)))
    ]
    return a_snapshot(hosts, vms)


@st.composite
def strict_policies(draw: st.DrawFn) -> Policy:
    db = VmSelector(labels={"app": ("db",)})
    rules: list[Rule] = [
        Spread(name="apart", vms=db),
        Fence(name="fence", vms=db, to=HostSelector(names=("h0", "h1"))),
        Pin(name="pin", vms=VmSelector(names=("v1",))),
    ]
    return a_policy(
        *draw(st.lists(st.sampled_from(rules), max_size=3, unique_by=lambda rule: rule.name)),
        headroom=Headroom(
            cpu_ratio=draw(st.sampled_from([0.0, 0.2])),
            memory_ratio=draw(st.sampled_from([0.0, 0.1])),
            host_failures=draw(st.sampled_from([0, 0, 1])),
        ),
        overcommit=Overcommit(cpu=draw(st.sampled_from([1.0, 4.0]))),
    )


def is_possible(case: Case, every: Sequence[Part], kept: Sequence[Part]) -> bool:
    """Try every assignment, judged by the oracle of rules and limits."""
    for part in every:
        if not any(part is one for one in kept):
            case = part.lift(case) if isinstance(part, Restriction) else without_wish(case, part)
    leaving = [part.vm for part in kept if isinstance(part, Leave)]
    mended = {part.rule for part in kept if isinstance(part, Hold)}
    mended |= {
        f"{part.resource.name.lower()} of {part.host}" for part in kept if isinstance(part, Fit)
    }
    free = {f"{resource.name.lower()} of {host}" for resource, host in case.unlimited}
    facts = case.snapshot, case.policy, case.demand
    before = hard_violations(*facts, case.snapshot.assignment)
    for assignment in assignments(case.snapshot):
        if any(assignment[vm] == case.snapshot.vm_by_id[vm].host for vm in leaving):
            continue
        after = hard_violations(*facts, assignment)
        worse = {violation.rule for violation in worsened(before, after)}
        if worse <= free and not mended & {violation.rule for violation in after}:
            return True
    return False


def assignments(snapshot: Snapshot) -> Iterator[Assignment]:
    hosts = [host.id for host in snapshot.hosts]
    for places in itertools.product(hosts, repeat=len(snapshot.vms)):
        yield {vm.id: host for vm, host in zip(snapshot.vms, places, strict=True)}


@law
@given(full_clusters(), strict_policies())
def test_a_conflict_is_impossible_and_without_any_part_of_it_the_rest_is_possible(
    snapshot: Snapshot, policy: Policy
) -> None:
    demand = Demand.as_measured(snapshot)
    # That too little is free for failing hosts is nothing that moves between them could mend.
    broken = hard_violations(snapshot, policy, demand, snapshot.assignment)
    assume(not any(violation.rule.startswith("host failures") for violation in broken))
    case = Case(snapshot=snapshot, demand=demand, policy=policy)
    problem = case.problem()
    wishes = wishes_of(problem, problem.start)
    restrictions = restrictions_of(case, wishes)
    every = (*wishes, *restrictions)
    question = Whole(case, every, ENDLESS).is_possible

    parts = smallest_impossible(every, question)

    if not parts:
        assert is_possible(case, every, every)
        return
    assert is_minimal(parts, question)
    assert not is_possible(case, every, parts)
    for part in parts:
        assert is_possible(case, every, [other for other in parts if other is not part])


@law
@given(full_clusters(), strict_policies())
def test_what_would_help_does_help(snapshot: Snapshot, policy: Policy) -> None:
    assume(not hard_violations(snapshot, policy, Demand.as_measured(snapshot), snapshot.assignment))

    for conflict in solve(snapshot, policy).explanation.conflicts:
        assert conflict.is_minimal
        assert all(one.unlocks or one.met > 0 for one in conflict.relaxations)


@law
@given(clusters(), policies(), st.integers(0, 2**32 - 1))
def test_a_rise_is_what_the_tiers_say(snapshot: Snapshot, policy: Policy, seed: int) -> None:
    problem = placement_problem(snapshot, Demand.as_measured(snapshot), policy)
    rng = np.random.default_rng(seed)
    x = rng.integers(0, problem.host_count, problem.unit_count).astype(np.intp)
    tiers = find_tiers(problem)
    rises, hosts = Rises(problem, tiers, x), np.arange(problem.host_count)

    for unit in range(min(2, problem.unit_count)):
        for tier in tiers:
            found = rises.by_goal(tier, unit, hosts)
            for host in hosts.tolist():
                elsewhere = x.copy()
                elsewhere[unit] = host
                rise = sum(each[host] for each in found.values())
                change = tier.cost(problem, elsewhere) - tier.cost(problem, x)
                # A small change of a large cost is known less exactly from the cost itself.
                error = 1e-9 * (1.0 + tier.cost(problem, x))
                assert rise == pytest.approx(change, abs=max(1e-7, error))


@law
@given(clusters(max_vms=5), policies())
def test_hosts_that_are_said_to_be_spare_can_be_emptied_all_at_once(
    snapshot: Snapshot, policy: Policy
) -> None:
    demand = Demand.as_measured(snapshot)

    advice = advise_on_capacity(snapshot, demand, policy, ENDLESS)

    assert advice.short == 0 or not advice.spare
    before = hard_violations(snapshot, policy, demand, snapshot.assignment)
    if advice.spare:
        assert any(
            not set(advice.spare) & set(assignment.values())
            and not worsened(before, hard_violations(snapshot, policy, demand, assignment))
            for assignment in assignments(snapshot)
        )


@law
@given(full_clusters(), strict_policies())
def test_a_cluster_that_is_short_of_hosts_has_no_placement_within_its_limits(
    snapshot: Snapshot, policy: Policy
) -> None:
    demand = Demand.as_measured(snapshot)
    advice = advise_on_capacity(snapshot, demand, policy, ENDLESS)
    assume(advice.short > 0)
    limits = {f"{word.lower()} of {host.id}" for word in WORDS.values() for host in snapshot.hosts}
    up = {host.id for host in snapshot.hosts if host.may_receive}

    for assignment in assignments(snapshot):
        if set(assignment.values()) <= up:
            broken = hard_violations(snapshot, policy, demand, assignment)
            assert {v.rule for v in broken} & (limits | {"host failures"})
