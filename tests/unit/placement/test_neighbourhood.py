"""Rounds of programs: apart in hosts, and together within what holds for all hosts."""

from __future__ import annotations

import numpy as np
import pytest

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.rules import Domain, Spread
from rebalancer.cluster.selection import VmSelector
from rebalancer.placement.arrays import Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import TIER_RATIO, Layout, scale_of
from rebalancer.placement.neighbourhood import Effort, improve_by_programs, programs_at_once
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.problem import PlacementProblem
from tests.builders import a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import problem_of

SIDES = ("full", "idle")
QUICK = Effort(hosts_at_once=(2,), patience=1, seconds_each=600.0)


def pairs_of_hosts(count: int) -> Snapshot:
    """Pairs of an overloaded and an empty host, in a rack each."""
    hosts = [a_host(f"{side}{n}", rack=f"r{n}") for n in range(count) for side in SIDES]
    vms = [
        a_vm(f"vm{n}-{k}", on=f"full{n}", cpu_used_cores=3.0, labels={"pair": str(n)})
        for n in range(count)
        for k in range(4)
    ]
    return a_snapshot(hosts, vms)


def improved(problem: PlacementProblem, moves: int | None = None) -> Ints:
    budget = Budget(clock=lambda: 0.0, ends_at=600.0, moves=moves)
    scale = scale_of(find_tiers(problem), TIER_RATIO)
    return improve_by_programs(
        problem, scale, problem.start, budget, np.random.default_rng(0), QUICK
    )


def test_programs_of_one_round_have_no_host_in_common() -> None:
    problem = problem_of(pairs_of_hosts(7))
    layout = Layout(problem, problem.start, scale_of(find_tiers(problem), TIER_RATIO))

    sets = list(programs_at_once(layout, 3, np.random.default_rng(1)))

    assert len(sets) == 4
    assert [int(hosts.sum()) for hosts in sets] == [3, 3, 3, 3]
    assert np.sum(sets, axis=0).max() == 1


@pytest.mark.parametrize("hosts", [0, 1, 2])
def test_where_there_are_few_hosts_one_program_has_them_all(hosts: int) -> None:
    problem = problem_of(a_snapshot([a_host(f"h{n}") for n in range(hosts)] or [a_host("h")]))
    layout = Layout(problem, problem.start, scale_of(find_tiers(problem), TIER_RATIO))

    sets = list(programs_at_once(layout, 4, np.random.default_rng(1)))

    assert [int(one.sum()) for one in sets] == [max(1, hosts)]


def test_what_several_programs_found_is_done_together() -> None:
    problem = problem_of(pairs_of_hosts(3))
    x = improved(problem)

    assert (x != problem.start).sum() >= 3


def test_all_programs_together_move_no_more_than_may_be_moved() -> None:
    problem = problem_of(pairs_of_hosts(3))

    assert (improved(problem, moves=1) != problem.start).sum() == 1


def test_a_rule_over_many_hosts_holds_for_all_programs_together() -> None:
    apart = Spread(name="apart", vms=VmSelector(), over=Domain.RACK, at_most=4)
    problem = problem_of(pairs_of_hosts(3), a_policy(apart))

    x = improved(problem)

    racks = [problem.snapshot.host_by_id[problem.host_ids[host]].rack for host in x]
    assert max(racks.count(rack) for rack in set(racks)) <= 4
