"""Exchanges of small sets of units between two hosts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.policy import (
    BalancedResource,
    BalanceGoal,
    GeographyCriterion,
    GeographyGoal,
    Limits,
    MovementGoal,
)
from rebalancer.cluster.rules import Pin, Rule, Spread
from rebalancer.cluster.selection import VmSelector
from rebalancer.cluster.sites import Site
from rebalancer.placement.budget import Budget
from rebalancer.placement.exchange import (
    exchange_among,
    gains_of_shifting,
    most_from_shifting,
)
from rebalancer.placement.layout import Layout, scale_of
from rebalancer.placement.local_search import descend
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.problem import PlacementProblem, Resource, allowance_beside
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import problem_of

ENDLESS = Budget(clock=lambda: 0.0, ends_at=60.0)
CPU_ONLY = BalanceGoal(memory_weight=0.0)
GUARDED = BalanceGoal(memory_weight=0.0, guard=frozenset({BalancedResource.MEMORY}))


def a_layout(problem: PlacementProblem) -> Layout:
    return Layout(problem, problem.start, scale_of(find_tiers(problem), 1e4))


def a_pair(*vms: tuple[str, str, float, float]) -> Snapshot:
    """Two hosts of 16 cores and 64 GiB with VMs of a name, a host, cores and GiB."""
    hosts = [a_host(name, cpu_cores=16.0, memory_bytes=64 * GIB) for name in ("h1", "h2")]
    return a_snapshot(
        hosts,
        [
            a_vm(name, on=on, cpu_used_cores=cores, memory_bytes=int(gib * GIB))
            for name, on, cores, gib in vms
        ],
    )


def where(layout: Layout) -> dict[str, str]:
    return {vm: str(host) for vm, host in layout.problem.assignment(layout.x).items()}


def test_two_small_vms_are_exchanged_for_a_large_one() -> None:
    # Memory is even and guarded: no move and no swap of one for one keeps it so.
    snapshot = a_pair(
        ("a", "h1", 3.0, 8.0),
        ("b", "h1", 3.0, 8.0),
        ("rest", "h1", 2.0, 1.0),
        ("c", "h2", 2.0, 16.0),
    )
    pinned = Pin(name="rest", vms=VmSelector(names=("rest",)))
    layout = a_layout(problem_of(snapshot, a_policy(pinned, goals=(GUARDED,))))
    assert not descend(layout, ENDLESS)

    assert exchange_among(layout, np.arange(2), ENDLESS)

    assert where(layout) == {"a": "h2", "b": "h2", "c": "h1", "rest": "h1"}


def test_a_moved_vm_is_replaced_by_a_lighter_one() -> None:
    snapshot = a_pair(
        ("heavy", "h1", 4.0, 16.0), ("light", "h1", 4.0, 1.0), ("idle", "h2", 0.0, 1.0)
    )
    problem = problem_of(snapshot, a_policy(goals=(CPU_ONLY, MovementGoal())))
    layout = a_layout(problem)
    names = [unit[0].name for unit in problem.units]
    layout.move(names.index("heavy"), 1)

    assert exchange_among(layout, np.arange(2), ENDLESS)

    assert where(layout)["heavy"] == "h1"
    assert where(layout)["light"] == "h2"


def test_the_gain_of_a_shift_is_the_fall_of_the_cost() -> None:
    snapshot = a_pair(("a", "h1", 5.0, 8.0), ("b", "h1", 1.0, 2.0), ("c", "h2", 0.5, 30.0))
    problem = problem_of(snapshot, a_policy(goals=(GUARDED,)))
    layout = a_layout(problem)
    before = layout.scale.cost(problem, layout.x)

    gains = gains_of_shifting(layout, 0, 1, problem.needs[:, :2])

    for unit in (0, 1):
        moved = np.where(np.arange(3) == unit, 1, problem.start)
        assert gains[unit] == pytest.approx(before - layout.scale.cost(problem, moved))


def test_no_shift_gains_more_than_is_said_before() -> None:
    snapshot = a_pair(("a", "h1", 5.0, 8.0), ("b", "h1", 1.0, 2.0), ("c", "h2", 0.5, 30.0))
    problem = problem_of(snapshot, a_policy(goals=(CPU_ONLY,)))
    layout = a_layout(problem)
    cores = np.zeros((len(Resource), 400))
    cores[Resource.CORES] = np.linspace(-1.0, 6.0, 400)

    gains = gains_of_shifting(layout, 0, 1, cores)

    assert gains.max() == pytest.approx(most_from_shifting(layout, 0, 1), rel=1e-3)
    assert gains.max() <= most_from_shifting(layout, 0, 1) + 1e-12


@pytest.mark.parametrize(
    "rule", [Spread(name="apart", vms=VmSelector(names=("a", "b", "d"))), None]
)
def test_a_rule_keeps_vms_from_being_exchanged(rule: Rule | None) -> None:
    snapshot = a_pair(("a", "h1", 6.0, 8.0), ("c", "h1", 6.0, 60.0), ("b", "h2", 0.5, 1.0))
    rules = () if rule is None else (rule,)
    layout = a_layout(problem_of(snapshot, a_policy(*rules, goals=(CPU_ONLY,))))

    exchange_among(layout, np.arange(2), ENDLESS)

    assert layout.problem.groups == () or where(layout)["a"] != where(layout)["b"]
    assert rule is not None or where(layout)["a"] == "h2"


def test_no_more_units_are_moved_than_may_be() -> None:
    snapshot = a_pair(*((f"vm{k}", "h1", 1.0, 1.0) for k in range(8)))
    layout = a_layout(problem_of(snapshot, a_policy(goals=(CPU_ONLY,))))
    budget = replace(ENDLESS, moves=3)

    exchange_among(layout, np.arange(2), budget)

    assert budget.moves_of(layout) == 3


def test_no_more_memory_is_moved_than_may_be() -> None:
    snapshot = a_pair(*((f"vm{k}", "h1", 1.0, 4.0) for k in range(8)))
    policy = replace(
        a_policy(goals=(CPU_ONLY,)), limits=Limits(migrations=None, moved_bytes=9 * GIB)
    )
    problem = problem_of(snapshot, policy)
    layout = a_layout(replace(problem, allowance=allowance_beside(problem, problem.start)))

    exchange_among(layout, np.arange(2), ENDLESS)

    assert (layout.x != problem.start).sum() == 2


def test_vms_are_exchanged_where_only_prices_differ() -> None:
    # Both hosts are full, so the VM that saves most goes, and another comes.
    snapshot = a_pair(("busy", "h1", 4.0, 60.0), ("idle", "h2", 1.0, 60.0))
    snapshot = replace(
        snapshot,
        hosts=(
            replace(snapshot.hosts[0], site="dear"),
            replace(snapshot.hosts[1], site="cheap"),
        ),
        sites=(
            Site(name="dear", energy_price_per_kwh=0.3),
            Site(name="cheap", energy_price_per_kwh=0.1),
        ),
    )
    cheap = GeographyGoal(criterion=GeographyCriterion.ENERGY_PRICE)
    layout = a_layout(problem_of(snapshot, a_policy(goals=(cheap,))))

    exchange_among(layout, np.arange(2), ENDLESS)

    assert where(layout) == {"busy": "h2", "idle": "h1"}


def test_hosts_without_vms_have_nothing_to_exchange() -> None:
    layout = a_layout(problem_of(a_pair(), a_policy(goals=(GUARDED,))))

    assert not exchange_among(layout, np.arange(2), ENDLESS)


def test_exchanges_end_where_none_pays() -> None:
    snapshot = a_pair(*((f"vm{k}", "h1", 0.3 * k, float(k)) for k in range(1, 9)))
    layout = a_layout(problem_of(snapshot, a_policy(goals=(GUARDED, MovementGoal()))))

    exchange_among(layout, np.arange(2), ENDLESS)

    assert not exchange_among(layout, np.arange(2), ENDLESS)
    assert np.allclose(layout.load, layout.problem.load(layout.x))


def test_where_a_rough_answer_will_do_pairs_are_weighed_only_so_often() -> None:
    snapshot = a_pair(*((f"vm{k}", "h1", 0.3 * k, float(k)) for k in range(1, 9)))
    problem = problem_of(snapshot, a_policy(goals=(GUARDED, MovementGoal())))
    costs = []
    for weighings in (0, 1, None):
        layout = a_layout(problem)
        improved = exchange_among(layout, np.arange(2), ENDLESS, weighings=weighings)
        assert improved == (weighings != 0)
        costs.append(layout.scale.cost(problem, layout.x))

    assert costs[0] > costs[1] > costs[2]
