"""What the objective changes by when one unit is elsewhere: as the tiers themselves say."""

from __future__ import annotations

import numpy as np
import pytest

from rebalancer.cluster.policy import BalancedResource, BalanceGoal, MovementGoal, PowerGoal
from rebalancer.cluster.rules import Spread, Together
from rebalancer.cluster.selection import VmSelector
from rebalancer.placement.explain.rises import Rises
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.problem import PlacementProblem
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING, problem_of


def everything() -> PlacementProblem:
    """Goals and rules of every kind, a draining host, and a broken hard rule."""
    hosts = [a_host("h1"), a_host("h2", cpu_cores=8.0), a_host("h3"), a_host("h4", state=DRAINING)]
    vms = [
        a_vm(f"vm{k}", on=f"h{1 + k % 4}", cpu_used_cores=0.3 * k, memory_bytes=k * GIB)
        for k in range(1, 10)
    ]
    policy = a_policy(
        Spread(name="apart", vms=VmSelector(names=("vm1", "vm2")), hard=False, weight=0.3),
        Spread(name="broken", vms=VmSelector(names=("vm4", "vm8")), hard=True),
        Together(name="close", vms=VmSelector(names=("vm3", "vm7")), hard=False, weight=0.2),
        goals=(
            BalanceGoal(guard=frozenset(BalancedResource)),
            PowerGoal(weight=0.1, min_awake=1, tier=2),
            MovementGoal(),
        ),
    )
    return problem_of(a_snapshot(hosts, vms), policy)


@pytest.mark.parametrize("seed", range(5))
def test_a_rise_is_what_the_tier_costs_more_goal_by_goal(seed: int) -> None:
    problem = everything()
    rng = np.random.default_rng(seed)
    x = rng.integers(0, problem.host_count, problem.unit_count).astype(np.intp)
    tiers, hosts = find_tiers(problem), np.arange(problem.host_count)
    rises = Rises(problem, tiers, x)

    for unit in range(problem.unit_count):
        for tier in tiers:
            found = rises.by_goal(tier, unit, hosts)
            for host in hosts.tolist():
                elsewhere = x.copy()
                elsewhere[unit] = host
                before, after = tier.terms(problem, x), tier.terms(problem, elsewhere)
                for goal in before.keys() | after.keys():
                    rise = found[goal][host] if goal in found else 0.0
                    assert rise == pytest.approx(after[goal] - before[goal], abs=1e-9)


def test_nothing_changes_where_a_unit_is_already() -> None:
    problem = everything()
    rises = Rises(problem, find_tiers(problem), problem.start)

    assert rises.at(0, int(problem.start[0])).total == 0.0


def test_an_earlier_tier_decides() -> None:
    problem = everything()
    on_draining = int(np.flatnonzero(problem.drains[problem.start])[0])
    rises = Rises(problem, find_tiers(problem), problem.start)

    change = rises.at(on_draining, 0)

    assert change.by_goal == {"drain": -1.0}
