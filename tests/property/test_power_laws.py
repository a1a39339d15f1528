"""The laws of power: no choice of hosts beats the bound, and who stays on is always enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.plan import Placement
from rebalancer.cluster.policy import (
    GeographyCriterion,
    GeographyGoal,
    Goal,
    Limits,
    MovementGoal,
    Policy,
    PowerGoal,
)
from rebalancer.cluster.violations import hard_violations, worsened
from rebalancer.placement.awake import power_bound, switches
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import scale_of
from rebalancer.placement.objectives import TOLERANCE, find_tiers
from rebalancer.placement.packing import pack
from rebalancer.placement.problem import placement_problem
from rebalancer.placement.solver import place
from rebalancer.planning.power import power_steps
from tests.property.laws import law
from tests.property.test_bound_laws import within
from tests.property.test_placement_laws import clusters, policies

ENERGY = GeographyGoal(criterion=GeographyCriterion.ENERGY_PRICE, weight=0.3)


@st.composite
def power_goals(draw: st.DrawFn) -> tuple[Goal, ...]:
    power = PowerGoal(
        min_awake=draw(st.integers(1, 2)),
        spare_ratio=draw(st.sampled_from([0.0, 0.1, 0.5])),
        payback_seconds=draw(st.sampled_from([None, 60.0, 3600.0, 1e5])),
    )
    return (power, *draw(st.sampled_from([(), (MovementGoal(),), (MovementGoal(), ENERGY)])))


@st.composite
def unequal(draw: st.DrawFn, snapshot: Snapshot) -> Snapshot:
    """The same cluster on hosts that draw differently."""
    hosts = [
        replace(
            host,
            idle_watts=draw(st.sampled_from([50.0, 100.0, 200.0])),
            max_watts=draw(st.sampled_from([250.0, 500.0])),
        )
        for host in snapshot.hosts
    ]
    return replace(snapshot, hosts=tuple(hosts))


@law()
@given(
    clusters(max_hosts=3, max_vms=5).flatmap(unequal),
    policies(),
    power_goals(),
    st.sampled_from([None, 1, 3]),
    st.integers(0, 31),
)
def test_no_choice_of_hosts_costs_less_than_the_bound_on_power(
    snapshot: Snapshot, policy: Policy, goals: tuple[Goal, ...], moves: int | None, leaving: int
) -> None:
    policy = replace(policy, goals=goals, limits=Limits(migrations=moves), trigger=None)
    problem = placement_problem(snapshot, Demand.as_measured(snapshot), policy)
    # Some have to leave draining hosts; they do not count as moves.
    must_leave = (leaving >> np.arange(problem.unit_count)) % 2 == 1
    must_leave &= problem.drains[problem.start]
    budget = Budget(clock=lambda: 0.0, ends_at=60.0, moves=moves, exempt=must_leave)
    placements = list(within(problem, moves, must_leave))

    for tier in find_tiers(problem):
        if switches(scale_of([tier], 1.0)):
            bound = power_bound(problem, tier, must_leave, budget)
            least = min((tier.cost(problem, x) for x in placements), default=np.inf)

            # The solver fills hosts to the brim where it takes that for the same; so do we.
            assert bound <= least + TOLERANCE * max(1.0, least)


@law()
@given(clusters(max_hosts=4, max_vms=8).flatmap(unequal), policies(), power_goals())
def test_packing_is_never_worse_than_doing_nothing_and_breaks_nothing(
    snapshot: Snapshot, policy: Policy, goals: tuple[Goal, ...]
) -> None:
    policy = replace(policy, goals=goals, limits=Limits(migrations=None), trigger=None)
    demand = Demand.as_measured(snapshot)
    problem = placement_problem(snapshot, demand, policy)
    tiers = [tier for tier in find_tiers(problem) if switches(scale_of([tier], 1.0))]
    for tier in tiers:
        x = pack(
            problem, scale_of([tier], 1.0), problem.start, Budget(clock=lambda: 0.0, ends_at=60.0)
        )

        assert tier.cost(problem, x) <= tier.cost(problem, problem.start) + 1e-9
        before = hard_violations(snapshot, policy, demand, problem.assignment(problem.start))
        after = hard_violations(snapshot, policy, demand, problem.assignment(x))
        assert worsened(before, after) == ()


@law(0.3)
@given(clusters(max_hosts=4, max_vms=6).flatmap(unequal), policies(), power_goals())
def test_hosts_that_stay_awake_keep_every_rule_without_those_that_sleep(
    snapshot: Snapshot, policy: Policy, goals: tuple[Goal, ...]
) -> None:
    """The oracle judges the cluster as it is once the hosts that may sleep do."""
    policy = replace(policy, goals=goals, limits=Limits(migrations=None), trigger=None)
    demand = Demand.as_measured(snapshot)
    answer = place(snapshot, demand, policy, time_limit_seconds=60.0, clock=lambda: 0.0)
    assert isinstance(answer, Placement)
    vms = tuple(replace(vm, host=answer.assignment[vm.id]) for vm in snapshot.vms)
    placed = replace(snapshot, vms=vms)
    sleeping = {step.host for step in power_steps(placed, demand, policy, ())}
    hosts = tuple(
        replace(host, state=HostState.ASLEEP) if host.id in sleeping else host
        for host in snapshot.hosts
    )

    plain = replace(policy, goals=())
    before = hard_violations(placed, plain, demand, answer.assignment)
    after = hard_violations(replace(placed, hosts=hosts), plain, demand, answer.assignment)

    assert worsened(before, after) == ()
