"""Law 8 for the bound alone: whatever is relaxed, no placement costs less than it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.policy import (
    BalancedResource,
    BalanceGoal,
    Goal,
    Limits,
    MovementGoal,
    Policy,
    PowerGoal,
    RelieveGoal,
)
from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.bound import relax, strengthen
from rebalancer.placement.budget import Budget
from rebalancer.placement.curves import Cover, Switch
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.problem import PlacementProblem, Resource, placement_problem
from tests.property.laws import law
from tests.property.test_placement_laws import allowed_placements, clusters, policies

MEMORY = frozenset({BalancedResource.MEMORY})


def goal_choices() -> list[tuple[Goal, ...]]:
    return [
        (BalanceGoal(), MovementGoal()),
        (BalanceGoal(memory_weight=0.1, guard=MEMORY), MovementGoal(weight=0.3)),
        (BalanceGoal(memory_weight=0.0), MovementGoal(weight=0.01)),
        (RelieveGoal(cpu_ratio=0.5, memory_ratio=0.6), MovementGoal()),
        (RelieveGoal(cpu_ratio=0.4), BalanceGoal(weight=0.1)),
        (PowerGoal(min_awake=1), MovementGoal()),
        (PowerGoal(min_awake=2), BalanceGoal(weight=0.1), MovementGoal()),
    ]


@law()
@given(
    clusters(max_hosts=3, max_vms=5),
    policies(),
    st.sampled_from(goal_choices()),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from([0.0, 0.01, 0.5]),
    st.one_of(st.just(0), st.integers(0, 31)),
)
def test_law_8_no_placement_costs_less_than_its_bound(
    snapshot: Snapshot,
    policy: Policy,
    goals: tuple[Goal, ...],
    moves: int | None,
    known: float,
    leaving: int,
) -> None:
    policy = replace(policy, goals=goals, limits=Limits(migrations=moves), trigger=None)
    problem = placement_problem(snapshot, Demand.as_measured(snapshot), policy)
    # Some have to leave their hosts, as in a drain; they do not count as moves.
    must_leave = (leaving >> np.arange(problem.unit_count)) % 2 == 1
    budget = Budget(clock=lambda: 0.0, ends_at=60.0, moves=moves, exempt=must_leave)
    placements = list(within(problem, moves, must_leave))

    for tier in find_tiers(problem):
        least = min((tier.cost(problem, x) for x in placements), default=np.inf)
        relaxation = relax(problem, tier, must_leave=must_leave, budget=budget)

        if relaxation is None:
            assert not placements
            continue
        assert relaxation.bound <= least + 1e-7
        if placements:
            stronger = strengthen(relaxation, known=least + known, budget=budget)
            assert relaxation.bound <= stronger.bound <= least + 1e-7


def within(problem: PlacementProblem, moves: int | None, must_leave: Bools) -> Iterator[Ints]:
    """Every allowed placement with so many moves at most, that leaves awake what has to be."""
    covers = [
        cover
        for tier in find_tiers(problem)
        for curve in tier.curves
        if isinstance(curve, Switch)
        for cover in curve.covers
    ]
    for hosts in allowed_placements(problem):
        x = np.array(hosts, np.intp)
        moved = x != problem.start
        few = moves is None or (moved & ~must_leave).sum() <= moves
        if (
            few
            and moved[must_leave].all()
            and all(is_covered(problem, cover, x) for cover in covers)
        ):
            yield x


def is_covered(problem: PlacementProblem, cover: Cover, x: Ints) -> bool:
    """Whether the hosts used have what is needed, or no less than those used now."""
    used, now = (
        (problem.load(where)[Resource.VMS] > 0.5) & problem.scored for where in (x, problem.start)
    )
    have, had = (float(cover.capacity[some | cover.always].sum()) for some in (used, now))
    return cover.surplus(used) >= 0 or have >= had
