"""Which limits of a plan are used up, by how many moves that count and how many that do not."""

from __future__ import annotations

import numpy as np

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.policy import Limits
from rebalancer.placement.explain.possibility import in_terms_of
from rebalancer.placement.explain.spent import Besides, limits_in_the_way
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING, problem_of, solve


def a_cluster() -> Snapshot:
    """Three VMs on a host that drains, three on one that does not."""
    hosts = [a_host("h1", state=DRAINING), a_host("h2"), a_host("h3")]
    drained = [a_vm(f"d{k}", on="h1") for k in range(3)]
    return a_snapshot(hosts, [*drained, *(a_vm(f"s{k}", on="h2") for k in range(3))])


def told(limits: Limits, unit: str, host: str, **moved: str) -> list[str]:
    """What stands against moving a VM when a plan moves others; what drains has to be moved."""
    snapshot = a_cluster()
    problem = problem_of(snapshot, a_policy(limits=limits))
    x = in_terms_of(problem, {**snapshot.assignment, **moved})  # type: ignore[dict-item]
    assert x is not None
    needed = np.where(problem.drains[problem.start], x, problem.start)
    besides = Besides.what_is_needed(problem, needed)
    index = [vms[0].id for vms in problem.units].index(unit)  # type: ignore[arg-type]
    column = problem.host_ids.index(host)
    return list(limits_in_the_way(problem, besides, x, index, column))


def test_of_a_limit_that_is_used_up_it_is_told_what_counts_and_what_does_not() -> None:
    limits = Limits(migrations=1)

    assert told(limits, "s1", "h3", d0="h2", d1="h2", d2="h3", s0="h3") == [
        "the limit of 1 migration in one plan is used up: 1 counts, "
        "3 more do not, as they have to be made"
    ]
    assert told(limits, "s1", "h3", d0="h2", d1="h2", d2="h3") == []


def test_what_is_drained_onto_a_host_counts_towards_the_moves_onto_it() -> None:
    limits = Limits(moves_into_host=2)

    assert told(limits, "s0", "h3", d0="h3", d1="h3", d2="h2") == [
        "the limit of 2 moves onto h3 is used up: 2 count, 2 of these have to be made anyway"
    ]


def test_where_a_drain_cannot_keep_the_limit_of_a_host_its_moves_do_not_count() -> None:
    limits = Limits(moves_into_host=2)

    assert told(limits, "s0", "h3", d0="h3", d1="h3", d2="h3") == []
    assert told(limits, "s0", "h3", d0="h3", d1="h3", d2="h3", s1="h3", s2="h3") == [
        "the limit of 2 moves onto h3 is used up: 2 count, 3 more do not, as they have to be made"
    ]


def test_the_move_of_a_vm_that_moves_already_is_not_in_its_own_way() -> None:
    assert told(Limits(migrations=1, moves_out_of_host=1), "s0", "h3", s0="h3") == []


def test_bytes_that_are_left_but_too_few_are_told() -> None:
    limits = Limits(moved_bytes=6 * GIB)

    assert told(limits, "s1", "h3", s0="h3", d0="h3") == [
        "the limit of 6.0 GiB moved in one plan does not allow 4.0 GiB more: 4.0 GiB count, "
        "4.0 GiB more do not, as they have to be moved"
    ]


def test_a_limit_of_nothing_is_called_that() -> None:
    assert told(Limits(migrations=0), "s0", "h3") == [
        "the policy allows no migration in one plan (the limit is 0)"
    ]


def test_a_plan_with_more_moves_than_its_limit_says_which_of_them_count() -> None:
    vms = [a_vm(f"d{k}", on="h1", cpu_used_cores=0.1) for k in range(3)]
    vms += [a_vm(f"hot{k}", on="h2", cpu_used_cores=2.0) for k in range(6)]
    hosts = [a_host("h1", state=DRAINING), a_host("h2"), a_host("h3"), a_host("h4")]

    answer = solve(a_snapshot(hosts, vms), a_policy(limits=Limits(migrations=1)))

    reasons = [text for move in answer.explanation.rejected_moves for text in move.reasons]
    assert (
        "the limit of 1 migration in one plan is used up: 1 counts, "
        "3 more do not, as they have to be made"
    ) in reasons
