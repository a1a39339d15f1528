"""Searches that go by prices first, and by guards and caps in the end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.policy import BalancedResource, BalanceGoal, Limits, MovementGoal
from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.easing import follow, search_eased
from rebalancer.placement.layout import Layout, Scale, scale_of
from rebalancer.placement.local_search import improve
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.problem import (
    LIMITED,
    PlacementProblem,
    Resource,
    allowance_beside,
)
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import problem_of

ENDLESS = Budget(clock=lambda: 0.0, ends_at=60.0)
GOALS = (
    BalanceGoal(memory_weight=0.0, guard=frozenset({BalancedResource.MEMORY})),
    MovementGoal(weight=0.2),
)


def a_cluster(seed: int, hosts: int = 5, vms: int = 40) -> Snapshot:
    """Equal hosts, VMs of all sizes anywhere, those on the first host busier than the others."""
    rng = np.random.default_rng(seed)
    machines = [
        a_host(f"h{k}", cpu_cores=32.0, memory_bytes=160 * GIB, reserved_memory_bytes=0)
        for k in range(hosts)
    ]
    guests = []
    for k in range(vms):
        host = int(rng.integers(hosts))
        vcpus = int(rng.choice([1, 2, 4]))
        cores = vcpus * float(rng.uniform(0.05, 0.3)) * (3.0 if host == 0 else 1.0)
        gib = vcpus * int(rng.choice([1, 2, 4]))
        guests.append(
            a_vm(
                f"vm{k}",
                on=f"h{host}",
                vcpus=vcpus,
                cpu_used_cores=cores,
                memory_bytes=gib * GIB,
            )
        )
    return a_snapshot(machines, guests)


def a_case(seed: int) -> tuple[PlacementProblem, Scale]:
    problem = problem_of(a_cluster(seed), a_policy(goals=GOALS))
    return problem, scale_of(find_tiers(problem), 1e4)


def spread(problem: PlacementProblem, resource: Resource, x: Ints) -> float:
    ratio: Floats = problem.load(x)[resource] / problem.size[resource]
    return float(ratio.std())


def test_cpu_is_evened_out_and_memory_is_no_less_even_than_before() -> None:
    problem, scale = a_case(seed=1)

    x, *_ = search_eased(problem, scale, problem.start, None, ENDLESS)

    before = spread(problem, Resource.CORES, problem.start)
    assert spread(problem, Resource.CORES, x) < 0.2 * before
    assert spread(problem, Resource.MEMORY, x) <= spread(problem, Resource.MEMORY, problem.start)


def test_going_by_prices_first_finds_more_than_being_held_to_the_guard() -> None:
    costs = []
    for seed in range(6):
        problem, scale = a_case(seed)
        held = Layout(problem, problem.start, scale)
        improve(held, ENDLESS)
        x, *_ = search_eased(problem, scale, problem.start, None, ENDLESS)
        costs.append((scale.cost(problem, x), scale.cost(problem, held.x)))

    assert sum(eased for eased, _ in costs) < sum(plain for _, plain in costs)


def test_a_cap_on_moves_is_kept_and_used() -> None:
    problem, scale = a_case(seed=2)

    x, *_ = search_eased(problem, scale, problem.start, None, replace(ENDLESS, moves=4))

    assert 0 < (x != problem.start).sum() <= 4
    assert scale.cost(problem, x) < scale.cost(problem, problem.start)


def test_prices_that_swing_find_more_under_a_cap() -> None:
    budget = replace(ENDLESS, moves=8)
    still = swung = 0.0
    for seed in range(4):
        problem = problem_of(a_cluster(seed, hosts=6, vms=70), a_policy(goals=GOALS))
        scale = scale_of(find_tiers(problem), 1e4)
        before, after = (
            search_eased(problem, scale, problem.start, None, budget, rounds=rounds)[0]
            for rounds in (0, 2)
        )
        still += scale.cost(problem, before)
        swung += scale.cost(problem, after)

    assert swung < still


def test_the_best_of_several_ways_for_moves_to_become_cheaper_is_kept() -> None:
    ends = []
    for seed in range(6):
        problem = problem_of(a_cluster(seed, hosts=6, vms=70), a_policy(goals=GOALS))
        scale = scale_of(find_tiers(problem), 1e4)
        x, *others = search_eased(problem, scale, problem.start, None, ENDLESS, rounds=0)
        costs = [scale.cost(problem, one) for one in others]
        assert scale.cost(problem, x) <= min(costs)
        ends.append(len({round(cost, 6) for cost in costs}))

    # The start is one of them, the best another.
    assert max(ends) > 2


def two_sites(hosts: int, vms: int, crossing: int) -> PlacementProblem:
    """Hosts of either site in turn; so many VMs may go from one site to the other."""
    cluster = a_cluster(5, hosts=hosts, vms=vms)
    sited = tuple(
        replace(host, site="east" if number % 2 else "west")
        for number, host in enumerate(cluster.hosts)
    )
    policy = a_policy(goals=GOALS, limits=Limits(migrations=None, moves_between_sites=crossing))
    problem = problem_of(replace(cluster, hosts=sited), policy)
    return replace(problem, allowance=allowance_beside(problem, problem.start))


def crossings(problem: PlacementProblem, x: Ints) -> int:
    sites = {host.id: host.site for host in problem.snapshot.hosts}
    site = np.array([sites[host] for host in problem.host_ids])
    return int((site[x] != site[problem.start]).sum())


def test_many_hosts_are_searched_in_parts_and_keep_what_is_asked_of_all() -> None:
    problem = two_sites(hosts=110, vms=440, crossing=5)
    scale = scale_of(find_tiers(problem), 1e4)

    x, *_ = search_eased(problem, scale, problem.start, None, ENDLESS)

    assert 0 < crossings(problem, x) <= 5
    assert spread(problem, Resource.CORES, x) < 0.8 * spread(problem, Resource.CORES, problem.start)
    assert spread(problem, Resource.MEMORY, x) <= spread(problem, Resource.MEMORY, problem.start)


def test_of_parts_that_use_up_together_what_all_share_only_the_first_is_followed() -> None:
    problem = two_sites(hosts=4, vms=24, crossing=2)
    scale = scale_of(find_tiers(problem), 1e4)
    start = problem.start
    west, east = (np.flatnonzero((start == host) & problem.movable)[:2] for host in (0, 2))
    first, second = start.copy(), start.copy()
    first[west], second[east] = 1, 3
    layout = Layout(problem, start, scale)

    follow(layout, start, first)
    follow(layout, start, second)

    assert crossings(problem, first) == crossings(problem, second) == 2
    assert layout.x.tolist() == first.tolist()


def test_the_same_search_finds_the_same() -> None:
    problem, scale = a_case(seed=4)
    budget = replace(ENDLESS, moves=5)

    first, second = (search_eased(problem, scale, problem.start, None, budget) for _ in range(2))

    assert np.array_equal(first, second)


def test_units_that_have_to_move_do_not_count_towards_the_cap() -> None:
    problem, scale = a_case(seed=2)
    exempt = problem.start == 0
    budget = replace(ENDLESS, moves=0, exempt=exempt)

    x, *_ = search_eased(problem, scale, problem.start, None, budget)

    assert (exempt | (x == problem.start)).all()


def test_no_time_is_no_change() -> None:
    problem, scale = a_case(seed=3)
    spent = Budget(clock=lambda: 0.0, ends_at=0.0)

    x, *_ = search_eased(problem, scale, problem.start, None, spent)

    assert (x == problem.start).all()


@given(seed=st.integers(0, 10_000), moves=st.none() | st.integers(0, 6))
@settings(deadline=None, max_examples=15)
def test_the_search_never_passes_a_limit_or_loses(seed: int, moves: int | None) -> None:
    problem = problem_of(a_cluster(seed, hosts=3, vms=12), a_policy(goals=GOALS))
    scale = scale_of(find_tiers(problem), 1e4)

    x, *_ = search_eased(problem, scale, problem.start, None, replace(ENDLESS, moves=moves))

    limits = problem.limits(problem.start) + 1e-6
    assert (problem.load(x)[: len(LIMITED)] <= limits).all()
    assert moves is None or (x != problem.start).sum() <= moves
    assert scale.cost(problem, x) <= scale.cost(problem, problem.start) + 1e-9
