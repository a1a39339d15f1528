"""The laws of placement, on small clusters with everything that a policy can say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import (
    Assignment,
    Host,
    HostId,
    HostState,
    HugepagePool,
    NumaNode,
    Snapshot,
    Vm,
    VmId,
    VmState,
)
from rebalancer.cluster.plan import Placement, SolveStatus
from rebalancer.cluster.policy import (
    BalancedResource,
    BalanceGoal,
    GeographyCriterion,
    GeographyGoal,
    Goal,
    Headroom,
    Limits,
    MovementGoal,
    MovementMeasure,
    Overcommit,
    Policy,
    PowerGoal,
    RelieveGoal,
    Trigger,
)
from rebalancer.cluster.pools import relocated
from rebalancer.cluster.rules import Ban, Domain, Fence, Pin, Presence, Rule, Spread, Together
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.sites import Link, Site
from rebalancer.cluster.violations import hard_violations, overspent, worsened
from rebalancer.forecast.demand import forecast_demand
from rebalancer.placement.arrays import Bools
from rebalancer.placement.curves import Switch
from rebalancer.placement.objectives import Tier, find_tiers
from rebalancer.placement.ordering import stuck_moves
from rebalancer.placement.problem import PlacementProblem, Resource, placement_problem
from rebalancer.placement.solver import place
from tests.builders import GIB, NOON, a_host, a_policy, a_vm
from tests.property.laws import SAME, law
from tests.strategies import snapshots


def solve(snapshot: Snapshot, policy: Policy) -> Placement:
    answer = place(
        snapshot, Demand.as_measured(snapshot), policy, clock=lambda: 0.0, time_limit_seconds=60
    )
    assert isinstance(answer, Placement)
    return answer


ODD = ("states", "numbers", "pools", "pinned", "alone")
"""What may be unusual about a cluster. Not all at once, or hardly anything could move."""


@st.composite
def clusters(draw: st.DrawFn, max_hosts: int = 4, max_vms: int = 6) -> Snapshot:
    """Unequal hosts on two sites and VMs on some of them; every other cluster is odd in a way."""
    odd = draw(st.sampled_from(["", "", "", "", *ODD]))
    hosts = draw(hosts_of_all_kinds(odd, max_hosts))
    vms = draw(vms_of_all_kinds(hosts, odd, max_vms))
    return Snapshot(
        cluster="test",
        taken_at=NOON,
        hosts=tuple(hosts),
        vms=tuple(vms),
        sites=(
            Site(name="near", energy_price_per_kwh=0.3, latency_seconds={"users": 0.002}),
            Site(name="far", energy_price_per_kwh=0.2, latency_seconds={"users": 0.030}),
        ),
        links=(
            Link(name="wan", bytes_per_second=1e8, between=("near", "far"), price_per_gib=0.01),
        ),
    )


@st.composite
def hosts_of_all_kinds(draw: st.DrawFn, odd: str, most: int) -> list[Host]:
    """Odd ones are off, silent, tiny or huge, or have pools; some are busy with other things."""
    states = [*HostState, HostState.DRAINING] if odd == "states" else [HostState.DRAINING]
    cores = [0.5, 1024.0] if odd == "numbers" else []
    sizes = [2**20, 4096 * GIB] if odd == "numbers" else []
    speeds = [1.0, 1e12] if odd == "numbers" else []
    node = NumaNode(cpu_cores=4, memory_bytes=8 * GIB)
    pages = [HugepagePool(page_bytes=GIB, total_pages=8, free_pages=free) for free in (0, 4, 8)]
    return [
        a_host(
            f"h{index}",
            cpu_cores=draw(st.sampled_from([8.0, 16.0, *cores])),
            memory_bytes=draw(st.sampled_from([16 * GIB, 32 * GIB, *sizes])),
            cpu_used_cores=draw(st.sampled_from([None, None, 6.0])),
            nic_bytes_per_second=draw(st.sampled_from([1.25e9, 1.25e8, *speeds])),
            rack=draw(st.sampled_from(["r1", "r2"])),
            site=draw(st.sampled_from(["near", "far", *([None] if odd == "states" else [])])),
            devices=draw(st.sampled_from([{}, {"gpu": 1}, {"gpu": 2}])),
            state=draw(st.sampled_from([HostState.UP] * 6 + states)),
            hugepages=(draw(st.sampled_from(pages)),) if odd == "pools" else (),
            numa_nodes=(node,) * draw(st.integers(1, 2)) if odd == "pools" else None,
        )
        for index in range(draw(st.integers(2, max(2, most))))
    ]


@st.composite
def vms_of_all_kinds(draw: st.DrawFn, hosts: Sequence[Host], odd: str, most: int) -> list[Vm]:
    """Seldom none; all on one host is what hot spots are like."""
    counts = [0, 1] if odd == "alone" else [*range(2, most + 1), *range(most // 2 + 1, most + 1)]
    homes = draw(st.sampled_from([hosts, hosts[:2], hosts[:1]]))
    sizes = [1, 2**20, 1024 * GIB] if odd == "numbers" else []
    uses = [1e-9, 300.0] if odd == "numbers" else []
    node = NumaNode(cpu_cores=2, memory_bytes=2 * GIB, host_nodes=(1,))
    found = []
    for index in range(draw(st.sampled_from(counts or [most]))):
        kind = draw(st.sampled_from(["", "huge", "node"])) if odd == "pools" else ""
        found.append(
            a_vm(
                f"v{index}",
                on=draw(st.sampled_from(homes)).id,
                vcpus=draw(st.sampled_from([1, 2, 4, 16])),
                memory_bytes=draw(st.sampled_from([2 * GIB, 4 * GIB, 8 * GIB, *sizes])),
                cpu_used_cores=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, 5.0, 6.5, *uses])),
                labels={"app": draw(st.sampled_from(["db", "web"]))},
                devices=draw(st.sampled_from([{}] * 5 + [{"gpu": 1}])),
                movable=draw(st.sampled_from([True] * (1 if odd == "pinned" else 9) + [False])),
                state=draw(st.sampled_from([VmState.RUNNING] * 7 + [VmState.SHUTOFF])),
                hugepage_bytes=GIB if kind == "huge" else None,
                numa_nodes=(node,) if kind == "node" else (),
            )
        )
    return found


def db() -> VmSelector:
    return VmSelector(labels={"app": ("db",)})


def rule_choices() -> list[Rule]:
    hard = [True, False]
    return [
        *(Spread(name="apart", vms=db(), hard=h, weight=0.2) for h in hard),
        Spread(name="racks", vms=VmSelector(), over=Domain.RACK, at_most=2, by_label="app"),
        *(Together(name="close", vms=db(), hard=h, weight=0.2) for h in hard),
        Together(name="one rack", vms=db(), over=Domain.RACK),
        *(Presence(name="two racks", vms=db(), over=Domain.RACK, hard=h, weight=0.2) for h in hard),
        *(
            Fence(name="fence", vms=db(), to=HostSelector(names=("h0", "h1")), hard=h, weight=0.2)
            for h in hard
        ),
        Ban(name="ban", vms=db(), hosts=HostSelector(names=("h0",))),
        *(Pin(name="pin", vms=VmSelector(names=("v0",)), hard=h, weight=0.2) for h in hard),
    ]


def goal_choices() -> list[tuple[Goal, ...]]:
    return [
        (BalanceGoal(), MovementGoal()),
        (BalanceGoal(memory_weight=0.0), MovementGoal(weight=0.01)),
        (PowerGoal(min_awake=1), MovementGoal()),
        (PowerGoal(min_awake=2), BalanceGoal(weight=0.1), MovementGoal()),
        (PowerGoal(min_awake=1, spare_ratio=0.0, payback_seconds=3600.0), MovementGoal()),
        (BalanceGoal(guard=frozenset(BalancedResource)), MovementGoal(weight=0.01)),
        (RelieveGoal(cpu_ratio=0.3), MovementGoal(tier=2, measure=MovementMeasure.MEMORY)),
        (RelieveGoal(cpu_ratio=0.4, memory_ratio=0.5), MovementGoal(weight=0.01)),
        (
            GeographyGoal(criterion=GeographyCriterion.ENERGY_PRICE),
            BalanceGoal(weight=0.1),
            MovementGoal(weight=0.01),
        ),
        (GeographyGoal(users="users"), MovementGoal(tier=2)),
    ]


def limit_choices() -> list[Limits]:
    none = Limits(migrations=None)
    return [
        none,
        none,
        none,
        Limits(migrations=1),
        Limits(migrations=3),
        replace(none, moved_bytes=8 * GIB),
        replace(none, moves_into_host=1, moves_out_of_host=2),
        replace(none, moves_between_sites=1),
        replace(none, migrations_ratio=0.3, bytes_between_sites=4 * GIB),
    ]


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return a_policy(
        *draw(st.lists(st.sampled_from(rule_choices()), max_size=2, unique_by=lambda r: r.name)),
        goals=draw(st.sampled_from(goal_choices())),
        headroom=Headroom(
            cpu_ratio=draw(st.sampled_from([0.0, 0.1])),
            memory_ratio=draw(st.sampled_from([0.0, 0.1])),
            host_failures=draw(st.sampled_from([0, 0, 1])),
        ),
        overcommit=Overcommit(
            cpu=draw(st.sampled_from([4.0, 4.0, 1.0])),
            memory=draw(st.sampled_from([1.0, 1.0, 1.5])),
        ),
        limits=draw(st.sampled_from(limit_choices())),
        trigger=draw(st.sampled_from([None, None, None, Trigger()])),
    )


@law()
@given(clusters(max_vms=10), policies())
def test_law_1_an_answer_breaks_nothing_that_holds_now(snapshot: Snapshot, policy: Policy) -> None:
    demand = Demand.as_measured(snapshot)

    answer = solve(snapshot, policy)

    before = hard_violations(snapshot, policy, demand, snapshot.assignment)
    after = hard_violations(snapshot, policy, demand, answer.assignment)
    assert worsened(before, after) == ()
    assert answer.assignment.keys() == snapshot.assignment.keys()
    if not before and not any(host.state is HostState.DRAINING for host in snapshot.hosts):
        assert overspent(snapshot, policy, answer.assignment, frozenset()) == ()


def without_barriers(snapshot: Snapshot) -> Snapshot:
    """The same numbers, however odd, where most VMs may go to most hosts."""
    hosts = [
        replace(
            host,
            state=HostState.UP if index != 1 else host.state,
            storage=None,
            networks=None,
            arch=None,
            machine_types=None,
            cpu_model=None,
            cpu_models=None,
            cpu_features=None,
            tsc_hertz=None,
        )
        for index, host in enumerate(snapshot.hosts)
    ]
    vms = [
        replace(
            vm,
            movable=True,
            blockers=(),
            storage=frozenset(),
            networks=frozenset(),
            local_disks=(),
            local_disk_bytes=0,
            arch=None,
            machine_type=None,
            cpu_model=None,
            cpu_features=frozenset(),
            numa_nodes=vm.numa_nodes if index == 1 else (),
            devices=vm.devices if index == 2 else {},
            hugepage_bytes=vm.hugepage_bytes if index == 1 else None,
            tsc_hertz=None,
            pinned_cpus=frozenset(),
        )
        for index, vm in enumerate(snapshot.vms)
    ]
    return replace(snapshot, hosts=tuple(hosts), vms=tuple(vms))


@law()
@given(snapshots() | snapshots().map(without_barriers), policies())
def test_law_1_whatever_a_snapshot_holds_there_is_an_answer(
    snapshot: Snapshot, policy: Policy
) -> None:
    demand = forecast_demand(snapshot)

    answer = place(snapshot, demand, policy, clock=lambda: 0.0, time_limit_seconds=60)

    assert isinstance(answer, Placement)
    before = hard_violations(snapshot, policy, demand, snapshot.assignment)
    after = hard_violations(snapshot, policy, demand, answer.assignment)
    assert worsened(before, after) == ()
    assert answer.objective.bound <= answer.objective.after


@law()
@given(clusters(), policies())
def test_law_2_an_answer_is_never_worse_than_doing_nothing(
    snapshot: Snapshot, policy: Policy
) -> None:
    answer = solve(snapshot, policy)

    assert answer.objective.after <= answer.objective.before + 1e-9
    assert answer.objective.bound <= answer.objective.after + 1e-9


@law()
@given(clusters(max_vms=8), policies())
def test_law_3_placing_again_moves_nothing(snapshot: Snapshot, policy: Policy) -> None:
    # A cap on moves leaves work for the next plan, and a move may free the way for another one.
    policy = replace(policy, limits=Limits(migrations=None))
    first = solve(snapshot, policy)

    second = solve(carried_out(snapshot, first.assignment), policy)

    assert dict(second.assignment) == dict(first.assignment)


def carried_out(snapshot: Snapshot, assignment: Assignment) -> Snapshot:
    """What is observed afterwards: VMs took what they hold of a host, and use of it, along."""
    after = relocated(snapshot, assignment)
    base = Demand.as_measured(snapshot).host_base_cores
    hosts = [
        host
        if host.cpu_used_cores is None
        else replace(
            host,
            cpu_used_cores=base[host.id]
            + sum(vm.cpu_used_cores for vm in after.vms_by_host[host.id] if vm.is_active),
        )
        for host in after.hosts
    ]
    return replace(after, hosts=tuple(hosts))


@law()
@given(clusters(), policies(), st.randoms(use_true_random=False))
def test_law_7_names_and_order_do_not_change_the_objective(
    snapshot: Snapshot, policy: Policy, random: object
) -> None:
    shuffled = shuffle_and_rename(snapshot, random)

    first, second = solve(snapshot, policy).objective, solve(shuffled, policy).objective

    # What is necessary is repaired by rules of thumb, which may find more under other names.
    decided_alike = first.terms_after.keys() == second.terms_after.keys()
    if decided_alike and SolveStatus.OPTIMAL in (first.status, second.status):
        assert second.after == pytest.approx(first.after, abs=1e-4)


def shuffle_and_rename(snapshot: Snapshot, random: object) -> Snapshot:
    """New ids and another order. Names stay, as rules go by them."""
    hosts, vms = list(snapshot.hosts), list(snapshot.vms)
    random.shuffle(hosts)  # type: ignore[attr-defined]
    random.shuffle(vms)  # type: ignore[attr-defined]
    ids = {host.id: HostId(f"id{index}") for index, host in enumerate(hosts)}
    return replace(
        snapshot,
        hosts=tuple(replace(host, id=ids[host.id]) for host in hosts),
        vms=tuple(
            replace(vm, id=VmId(f"id{index}"), host=ids[vm.host]) for index, vm in enumerate(vms)
        ),
    )


# What is necessary is mended by rules of thumb, which brute force beats once in some thousand
# clusters: the same clusters every time, so that a failure here means a change in the code.
@law(same_every_time=True)
@given(clusters(max_hosts=3, max_vms=5), policies())
def test_law_8_brute_force_finds_nothing_better_than_the_bound(
    snapshot: Snapshot, policy: Policy
) -> None:
    policy = replace(policy, limits=Limits(migrations=None), trigger=None)
    problem = placement_problem(snapshot, Demand.as_measured(snapshot), policy)
    tiers = find_tiers(problem)
    assert tiers

    answer = solve(snapshot, policy)

    allowed = list(allowed_placements(problem))
    best = min(costs(problem, tiers, x) for x in allowed)
    reachable = min(costs(problem, tiers, x) for x in allowed if has_an_order(problem, x))
    found = costs(problem, tiers, indices(problem, answer.assignment))
    assert found[:-1] <= tuple(cost + SAME for cost in reachable[:-1])
    decided = next((k for k, cost in enumerate(found) if tiers[k].number > 0), None)
    if decided is not None and found[:decided] <= tuple(c + SAME for c in best[:decided]):
        goal_tier_decided = answer.objective.terms_after == tiers[decided].terms(
            problem, np.array(indices(problem, answer.assignment), np.intp)
        )
        if goal_tier_decided:
            assert answer.objective.bound <= best[decided] + 1e-7
            if answer.objective.status is SolveStatus.OPTIMAL:
                assert found[decided] == pytest.approx(best[decided], abs=2e-4)


def costs(problem: PlacementProblem, tiers: tuple[Tier, ...], x: list[int]) -> tuple[float, ...]:
    return tuple(round(tier.cost(problem, np.array(x, np.intp)), 9) for tier in tiers)


def indices(problem: PlacementProblem, assignment: Assignment) -> list[int]:
    return [problem.host_ids.index(assignment[unit[0].id]) for unit in problem.units]


def allowed_placements(problem: PlacementProblem) -> Iterator[list[int]]:
    """Every placement that the oracle does not find worse than the present one.

    The hosts in use are enough for what the power goal wants awake, and no VM is sent where it
    may not be, although the oracle would let it make up for another one that a rule is now kept
    for.
    """
    switches = [c for tier in find_tiers(problem) for c in tier.curves if isinstance(c, Switch)]
    covers = [cover for switch in switches for cover in switch.covers]
    now = hosts_used(problem, problem.start.tolist())
    least = [min(0.0, cover.surplus(now)) for cover in covers]
    facts = problem.snapshot, problem.policy, problem.demand
    before = hard_violations(*facts, problem.snapshot.assignment)
    for x in itertools.product(range(problem.host_count), repeat=problem.unit_count):
        assignment = problem.assignment(np.array(x, np.intp))
        used = hosts_used(problem, list(x))
        awake = all(c.surplus(used) >= low - 1e-9 for c, low in zip(covers, least, strict=True))
        if not awake or not all(
            host == problem.start[unit] or problem.candidates.hosts_of(unit)[host]
            for unit, host in enumerate(x)
        ):
            continue
        if not worsened(before, hard_violations(*facts, assignment)):
            yield list(x)


def has_an_order(problem: PlacementProblem, x: Sequence[int]) -> bool:
    return not stuck_moves(problem, np.array(x, np.intp)).any()


def hosts_used(problem: PlacementProblem, x: Sequence[int]) -> Bools:
    load = problem.load(np.array(x, np.intp))[Resource.VMS]
    return np.asarray((load > 0.5) & problem.scored, bool)
