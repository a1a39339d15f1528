"""Every kind of constraint, from starts that break it: mended or no worse, and always an answer."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostState, HugepagePool, NumaNode, Snapshot, VmState
from rebalancer.cluster.plan import Placement, SolveStatus
from rebalancer.cluster.policy import BalanceGoal, Headroom, Limits, MovementGoal, Policy
from rebalancer.cluster.pools import pools_of, relocated
from rebalancer.cluster.rules import Ban, Domain, Fence, Pin, Presence, Rule, Spread, Together
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.violations import hard_violations, overspent, worsened
from rebalancer.placement.arrays import Ints
from rebalancer.placement.objectives import Tier, find_tiers
from rebalancer.placement.problem import PlacementProblem, placement_problem
from rebalancer.placement.solver import place
from tests.builders import GIB, MIB, NOON, a_host, a_policy, a_vm
from tests.property.laws import law

DB = VmSelector(labels={"app": ("db",)})
ALL = VmSelector()
PAGE = 1024 * MIB
PLACES = ("fence", "ban")
"""Rules about where a VM may be, whatever the others do."""


@st.composite
def clusters(draw: st.DrawFn, /, max_hosts: int = 5, max_vms: int = 9, **kinds: bool) -> Snapshot:
    """Hosts in sites and racks, VMs anywhere: most rules are broken somewhere.

    `kinds`: which counted things there are; huge pages, devices, nodes.
    """
    hosts = []
    for index in range(draw(st.integers(2, max_hosts))):
        pages = draw(st.integers(0, 12)) if kinds.get("huge") else 0
        free = draw(st.integers(0, pages))
        pool = HugepagePool(page_bytes=PAGE, total_pages=pages, free_pages=free)
        node = NumaNode(cpu_cores=8, memory_bytes=16 * GIB)
        hosts.append(
            a_host(
                f"h{index}",
                cpu_cores=16.0,
                memory_bytes=32 * GIB,
                site=draw(st.sampled_from(["s1", "s2", "s3", None])),
                rack=draw(st.sampled_from(["r1", "r2", None])),
                state=draw(st.sampled_from([HostState.UP] * 5 + [HostState.DRAINING])),
                hugepages=(pool,) if pages else (),
                devices={"vf": draw(st.integers(0, 2))} if kinds.get("devices") else {},
                numa_nodes=(node,) * draw(st.integers(1, 2)) if kinds.get("nodes") else None,
            )
        )
    vms = []
    for index in range(draw(st.integers(1, max_vms))):
        bytes_wanted = draw(st.sampled_from([1, 2, 4, 8])) * GIB
        bound = NumaNode(
            cpu_cores=2, memory_bytes=bytes_wanted, host_nodes=draw(st.sampled_from([(0,), (1,)]))
        )
        vms.append(
            a_vm(
                f"v{index}",
                on=draw(st.sampled_from(hosts)).id,
                memory_bytes=bytes_wanted,
                cpu_used_cores=draw(st.sampled_from([0.0, 0.5, 2.0, 5.0])),
                labels={"app": draw(st.sampled_from(["db", "db", "web"]))},
                movable=draw(st.sampled_from([True] * 6 + [False])),
                state=draw(st.sampled_from([VmState.RUNNING] * 6 + [VmState.SHUTOFF])),
                hugepage_bytes=PAGE if kinds.get("huge") and draw(st.booleans()) else None,
                devices={"vf": 1} if kinds.get("devices") and draw(st.booleans()) else {},
                numa_nodes=(bound,) if kinds.get("nodes") and draw(st.booleans()) else (),
            )
        )
    return Snapshot(cluster="test", taken_at=NOON, hosts=tuple(hosts), vms=tuple(vms))


def solve(snapshot: Snapshot, policy: Policy) -> Placement:
    demand = Demand.as_measured(snapshot)
    answer = place(snapshot, demand, policy, clock=lambda: 0.0, time_limit_seconds=60)
    assert isinstance(answer, Placement)
    return answer


def assert_no_worse(snapshot: Snapshot, policy: Policy, answer: Placement) -> None:
    facts = snapshot, policy, Demand.as_measured(snapshot)
    before = hard_violations(*facts, snapshot.assignment)
    assert worsened(before, hard_violations(*facts, answer.assignment)) == ()


def domain_rules(*, hard: bool) -> list[Rule]:
    return [
        *(
            Spread(name="s", vms=DB, over=over, at_most=most, hard=hard)
            for over in Domain
            for most in (1, 2)
        ),
        *(Together(name="t", vms=DB, over=over, hard=hard) for over in Domain),
        *(
            Presence(name="p", vms=DB, over=over, at_least=least, hard=hard)
            for over in Domain
            for least in (2, 3)
        ),
        Presence(name="p", vms=ALL, over=Domain.SITE, by_label="app", hard=hard),
        Fence(name="f", vms=DB, to=HostSelector(names=("h0", "h1")), hard=hard),
        Fence(name="f", vms=DB, to=HostSelector(sites=("s1",)), hard=hard),
        Ban(name="b", vms=DB, hosts=HostSelector(racks=("r1",)), hard=hard),
        Pin(name="pin", vms=DB, hard=hard),
    ]


def named(rule: Rule) -> str:
    over = f"-{rule.over}" if isinstance(rule, Spread | Together | Presence) else ""
    return f"{type(rule).__name__.lower()}{over}"


@pytest.mark.parametrize("rule", domain_rules(hard=True), ids=named)
@law()
@given(snapshot=clusters(max_hosts=4, max_vms=7))
def test_a_rule_that_is_broken_is_mended_or_no_worse(rule: Rule, snapshot: Snapshot) -> None:
    policy = a_policy(rule)

    answer = solve(snapshot, policy)

    assert_no_worse(snapshot, policy, answer)


@law()
@given(clusters(), st.sampled_from([r for r in domain_rules(hard=True) if named(r) in PLACES]))
def test_no_vm_goes_to_a_host_that_a_fence_or_ban_forbids(snapshot: Snapshot, rule: Rule) -> None:
    assert isinstance(rule, Fence | Ban)

    answer = solve(snapshot, a_policy(rule))

    for vm in snapshot.vms:
        target = answer.assignment[vm.id]
        assert target == vm.host or not rule.forbids(vm, snapshot.host_by_id[target])


@law()
@given(clusters(), st.sampled_from(domain_rules(hard=False)))
def test_a_soft_rule_is_a_price_and_nothing_else(snapshot: Snapshot, rule: Rule) -> None:
    policy = a_policy(replace(rule, weight=0.3))

    answer = solve(snapshot, policy)

    assert_no_worse(snapshot, policy, answer)
    assert answer.objective.after <= answer.objective.before + 1e-9


@law()
@given(
    clusters(),
    st.lists(st.sampled_from(domain_rules(hard=True)), max_size=3, unique_by=lambda r: r.name),
)
def test_rules_that_contradict_each_other_still_have_an_answer(
    snapshot: Snapshot, rules: Sequence[Rule]
) -> None:
    policy = a_policy(*rules)

    assert_no_worse(snapshot, policy, solve(snapshot, policy))


@pytest.mark.parametrize("kind", ["huge", "devices", "nodes"])
@law()
@given(data=st.data())
def test_counted_things_are_never_promised_beyond_what_is_there(
    kind: str, data: st.DataObject
) -> None:
    snapshot = data.draw(clusters(**{kind: True}))

    answer = solve(snapshot, a_policy())

    assert_no_worse(snapshot, a_policy(), answer)


@law()
@given(clusters(huge=True, devices=True), st.integers(0, 3))
def test_what_was_moved_is_counted_alike_afterwards(snapshot: Snapshot, others: int) -> None:
    policy = a_policy()
    before = with_free_pages_that_add_up(snapshot, others)
    answer = solve(before, policy)

    after = relocated(before, answer.assignment)

    assert pools_of(after) == pools_of(before)
    tables = [placement_problem(s, Demand.as_measured(s), policy).pools for s in (before, after)]
    assert (tables[0].capacity == tables[1].capacity).all()


def with_free_pages_that_add_up(snapshot: Snapshot, others: int) -> Snapshot:
    """Hosts with room for the pages of their VMs, and of others' use beside them."""
    hosts = []
    for host in snapshot.hosts:
        vms = [vm for vm in snapshot.vms_by_host[host.id] if vm.is_active]
        held = sum(vm.memory_bytes // PAGE for vm in vms if vm.hugepage_bytes)
        pool = HugepagePool(page_bytes=PAGE, total_pages=held + others + 4, free_pages=4)
        hosts.append(replace(host, hugepages=(pool,)))
    return replace(snapshot, hosts=tuple(hosts))


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    count = st.none() | st.integers(0, 3)
    size = st.none() | st.sampled_from([GIB, 4 * GIB, 10 * GIB])
    return Limits(
        migrations=draw(count),
        migrations_ratio=draw(st.none() | st.sampled_from([0.01, 0.4])),
        moved_bytes=draw(size),
        moves_out_of_host=draw(count),
        moves_into_host=draw(count),
        moves_between_sites=draw(count),
        bytes_between_sites=draw(size),
    )


GROUPED = Together(name="t", vms=DB)
"""VMs that move as one count one by one."""


@law()
@given(clusters(), limits(), st.sampled_from([(), (GROUPED,)]))
def test_caps_on_a_plan_hold_for_what_need_not_move(
    snapshot: Snapshot, caps: Limits, rules: tuple[Rule, ...]
) -> None:
    policy = a_policy(*rules, goals=(BalanceGoal(),), limits=caps)

    answer = solve(snapshot, policy)

    assert_no_worse(snapshot, policy, answer)
    drained = {
        vm.id for vm in snapshot.vms if snapshot.host_by_id[vm.host].state is not HostState.UP
    }
    facts = snapshot, policy, Demand.as_measured(snapshot)
    if not drained and not hard_violations(*facts, snapshot.assignment):
        assert overspent(snapshot, policy, answer.assignment, set()) == ()


@law()
@given(clusters(max_hosts=4), st.integers(1, 2))
def test_restarts_after_host_failures_do_not_become_impossible(
    snapshot: Snapshot, failures: int
) -> None:
    headroom = Headroom(cpu_ratio=0, memory_ratio=0, host_failures=failures)
    policy = a_policy(goals=(BalanceGoal(), MovementGoal(weight=0.01)), headroom=headroom)

    answer = solve(snapshot, policy)

    assert_no_worse(snapshot, policy, answer)


@law()
@given(clusters(), st.integers(2, 4), st.sampled_from(Domain))
def test_presence_is_what_counting_says(snapshot: Snapshot, least: int, over: Domain) -> None:
    rule = Presence(name="p", vms=DB, over=over, at_least=least)

    found = list(rule.violations(snapshot, snapshot.assignment))

    members = [vm for vm in snapshot.vms if vm.labels["app"] == "db"]
    places = Counter(snapshot.domain_of(snapshot.host_by_id[vm.host], over) for vm in members)
    missing = min(least, len(members)) - len(places)
    assert sum(v.severity for v in found) == max(0, missing)


@law()
@given(
    clusters(max_hosts=3, max_vms=4, huge=True, devices=True),
    limits(),
    st.sampled_from([(), *((rule,) for rule in domain_rules(hard=True))]),
)
def test_brute_force_finds_nothing_better_within_the_constraints(
    snapshot: Snapshot, caps: Limits, rules: tuple[Rule, ...]
) -> None:
    policy = a_policy(*rules, goals=(BalanceGoal(),), limits=caps)
    problem = placement_problem(snapshot, Demand.as_measured(snapshot), policy)
    facts = snapshot, policy, Demand.as_measured(snapshot)
    before = hard_violations(*facts, snapshot.assignment)
    # What has to be done is not held to the caps, and mended by rules of thumb.
    assume(not before and not problem.drains[problem.start].any())
    (tier,) = find_tiers(problem) or (Tier(number=1),)

    answer = solve(snapshot, policy)

    best = min(
        tier.cost(problem, x)
        for x in all_placements(problem)
        if not overspent(snapshot, policy, problem.assignment(x), set())
        and not worsened(before, hard_violations(*facts, problem.assignment(x)))
    )
    assert answer.objective.bound <= best + 1e-7
    if answer.objective.status is SolveStatus.OPTIMAL:
        assert answer.objective.after <= best + 2e-4


def all_placements(problem: PlacementProblem) -> Iterator[Ints]:
    for x in itertools.product(range(problem.host_count), repeat=problem.unit_count):
        yield np.array(x, np.intp)
