"""The parts of the engine: layout, local search, relaxation, programs, order."""

from __future__ import annotations

import numpy as np
import pytest

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.policy import BalancedResource, BalanceGoal, MovementGoal, PowerGoal
from rebalancer.cluster.rules import Domain, Spread, Together
from rebalancer.cluster.selection import VmSelector
from rebalancer.placement.bound import relax
from rebalancer.placement.budget import Budget
from rebalancer.placement.curves import Deviation, Excess
from rebalancer.placement.engine import whole_choices
from rebalancer.placement.layout import Layout, scale_of
from rebalancer.placement.local_search import best_move_off, descend, improve, swap_off
from rebalancer.placement.model import Model, Row
from rebalancer.placement.neighbourhood import improve_by_programs
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.ordering import make_orderable, needs_parking, stuck_moves
from rebalancer.placement.problem import PlacementProblem, Resource
from rebalancer.placement.program import Limits, solve_program
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING, a_hot_host, problem_of

ALL = VmSelector()
ENDLESS = Budget(clock=lambda: 0.0, ends_at=60.0)
SPENT = Budget(clock=lambda: 0.0, ends_at=0.0)


def a_layout(problem: PlacementProblem) -> Layout:
    return Layout(problem, problem.start, scale_of(find_tiers(problem), 1e4))


def a_mixed_cluster() -> Snapshot:
    """Three unequal hosts and eight unequal VMs, most of them on the first host."""
    hosts = [a_host("h1"), a_host("h2", cpu_cores=8.0), a_host("h3", memory_bytes=32 * GIB)]
    vms = [
        a_vm(f"vm{k}", on="h1" if k < 6 else "h2", cpu_used_cores=0.3 * k, memory_bytes=k * GIB)
        for k in range(1, 9)
    ]
    return a_snapshot(hosts, vms)


def everything() -> PlacementProblem:
    """The mixed cluster with goals and rules of every kind, soft ones included."""
    policy = a_policy(
        Spread(name="apart", vms=VmSelector(names=("vm1", "vm2")), hard=False, weight=0.3),
        Together(name="close", vms=VmSelector(names=("vm3", "vm7")), hard=False, weight=0.2),
        goals=(
            BalanceGoal(guard=frozenset(BalancedResource)),
            PowerGoal(weight=0.1, min_awake=1),
            MovementGoal(),
        ),
    )
    return problem_of(a_mixed_cluster(), policy)


def test_gains_are_the_falls_of_the_cost() -> None:
    problem = everything()
    layout = a_layout(problem)
    scale = layout.scale
    before = scale.cost(problem, problem.start)
    units = np.flatnonzero(problem.start == 0)

    gains = layout.gains_of_moving(units, 0)

    for row, unit in enumerate(units):
        for host in (1, 2):
            moved = problem.start.copy()
            moved[unit] = host
            assert gains[row, host] == pytest.approx(before - scale.cost(problem, moved))
    assert (gains[:, 0] == -np.inf).all()


def test_gains_of_swaps_are_the_falls_of_the_cost() -> None:
    problem = problem_of(a_mixed_cluster())
    layout = a_layout(problem)
    before = layout.scale.cost(problem, problem.start)
    here, there = np.flatnonzero(problem.start == 0), np.flatnonzero(problem.start == 1)

    gains = layout.gains_of_swapping(here, 0, there)

    for row, unit in enumerate(here):
        for column, other in enumerate(there):
            moved = problem.start.copy()
            moved[unit], moved[other] = 1, 0
            cost = layout.scale.cost(problem, moved)
            assert gains[row, column] == pytest.approx(before - cost)


def test_a_layout_keeps_up_with_its_moves() -> None:
    problem = everything()
    layout = a_layout(problem)

    layout.move(0, 2)
    layout.move(6, 0)
    layout.move(0, 1)

    assert np.allclose(layout.load, problem.load(layout.x))
    assert layout.host_cost().sum() == pytest.approx(
        sum(f * t.cost(problem, layout.x) for f, t in layout.scale.tiers)
        - sum(f * term.at(layout.x, problem.start).sum() for f, term in layout.scale.linears)
        - sum(layout.scale.weight_of(g) * g.excess(layout.x) for g in problem.groups)
    )


def test_a_host_that_is_full_is_no_target() -> None:
    hosts = [a_host("h1"), a_host("h2", memory_bytes=4 * GIB)]
    problem = problem_of(a_snapshot(hosts, [a_vm("a", memory_bytes=8 * GIB, cpu_used_cores=8.0)]))

    assert best_move_off(a_layout(problem), 0, ENDLESS) is None


def test_descent_ends_where_no_move_pays() -> None:
    problem = problem_of(a_mixed_cluster())
    layout = a_layout(problem)

    descend(layout, ENDLESS)

    assert all(best_move_off(layout, host, ENDLESS) is None for host in range(3))


def test_a_swap_is_undone_where_a_rule_forbids_it() -> None:
    hosts = [a_host(f"h{k}", memory_bytes=8 * GIB) for k in (1, 2)]
    vms = [
        a_vm("hot", on="h1", memory_bytes=8 * GIB, cpu_used_cores=2.0),
        a_vm("warm", on="h1", memory_bytes=0, cpu_used_cores=2.0),
        a_vm("cold", on="h2", memory_bytes=8 * GIB, cpu_used_cores=0.0),
    ]
    together = Together(name="close", vms=VmSelector(names=("hot", "warm")))
    free = problem_of(a_snapshot(hosts, vms))
    bound = problem_of(a_snapshot(hosts, vms), a_policy(together))

    assert swap_off(a_layout(free), 0, ENDLESS)
    layout = a_layout(bound)
    assert not swap_off(layout, 0, ENDLESS)
    assert (layout.x == bound.start).all()


def test_a_spent_budget_changes_nothing() -> None:
    layout = a_layout(problem_of(a_hot_host()))

    improve(layout, SPENT)

    assert (layout.x == layout.problem.start).all()


def test_exempt_units_do_not_count_as_moves() -> None:
    problem = problem_of(a_hot_host())
    exempt = np.zeros(problem.unit_count, bool)
    exempt[0] = True
    layout = a_layout(problem)

    improve(layout, Budget(clock=lambda: 0.0, ends_at=60.0, moves=1, exempt=exempt))

    moved = np.flatnonzero(layout.x != problem.start)
    assert len(moved) == 2
    assert 0 in moved


@pytest.mark.parametrize("load", [0.0, 3.0, 8.0, 15.0, 20.0])
def test_tangents_are_nowhere_above_their_curve(load: float) -> None:
    one = np.ones(1)
    curves: list[Deviation | Excess] = [
        Deviation(goal="g", resource=Resource.CORES, weight=one, size=16 * one, level=0.4, hot=0.8),
        Excess(goal="g", resource=Resource.CORES, weight=one, limit=8 * one),
    ]
    here = np.array([0])
    for curve in curves:
        slope, level = curve.tangent(np.array([load]), here)
        grid = np.linspace(0, 32, 65)
        assert (slope * grid + level <= curve.cost(grid, here) + 1e-12).all()
        assert slope * load + level == pytest.approx(curve.cost(np.array([load]), here))


def test_the_relaxation_is_below_what_a_program_proves_to_be_best() -> None:
    problem = problem_of(a_mixed_cluster())
    [tier] = find_tiers(problem)
    scale = scale_of([tier], 1e4)
    nobody = np.zeros(problem.unit_count, bool)

    relaxation = relax(problem, tier, must_leave=nobody, budget=ENDLESS)
    limits = Limits(budget=ENDLESS, seconds=20.0)
    choices = whole_choices(problem, problem.start)
    best = solve_program(problem, scale, problem.start, choices, limits)

    cost = scale.cost(problem, best.x)
    assert relaxation is not None
    assert relaxation.bound <= best.bound + 1e-9
    assert best.bound == pytest.approx(cost, abs=1e-5)
    assert cost < scale.cost(problem, problem.start)


def test_a_program_counts_everything_that_the_tiers_count() -> None:
    problem = everything()
    scale = scale_of(find_tiers(problem), 1e4)
    choices = whole_choices(problem, problem.start)

    answer = solve_program(
        problem, scale, problem.start, choices, Limits(budget=ENDLESS, seconds=20.0)
    )

    assert answer.bound == pytest.approx(scale.cost(problem, answer.x), abs=1e-5)


def test_without_time_nothing_is_known() -> None:
    problem = problem_of(a_hot_host())
    tiers = find_tiers(problem)
    nobody = np.zeros(problem.unit_count, bool)
    choices = whole_choices(problem, problem.start)

    answer = solve_program(
        problem,
        scale_of(tiers, 1e4),
        problem.start,
        choices,
        Limits(budget=SPENT, seconds=1.0),
    )

    assert relax(problem, tiers[0], must_leave=nobody, budget=SPENT) is None
    assert (answer.x == problem.start).all()
    assert answer.bound == -np.inf


def test_programs_over_a_few_hosts_improve_the_whole() -> None:
    problem = problem_of(a_mixed_cluster())
    scale = scale_of(find_tiers(problem), 1e4)

    x = improve_by_programs(problem, scale, problem.start, ENDLESS, np.random.default_rng(0))

    assert scale.cost(problem, x) < scale.cost(problem, problem.start)
    assert (problem.load(x)[:3] <= problem.limits(problem.start) + 1e-6).all()


def test_moves_in_a_ring_are_stuck_and_moves_in_a_row_are_not() -> None:
    hosts = [a_host(f"h{k}", memory_bytes=8 * GIB) for k in (1, 2, 3)]
    vms = [a_vm(f"vm{k}", on=f"h{k}", memory_bytes=8 * GIB) for k in (1, 2)]
    problem = problem_of(a_snapshot(hosts, vms))

    assert stuck_moves(problem, np.array([1, 0])).all()
    assert needs_parking(problem, np.array([1, 0]))
    assert not stuck_moves(problem, np.array([1, 2])).any()


def test_a_host_that_drains_is_not_emptied_to_where_a_stuck_move_left_no_place() -> None:
    # big and other cannot change places, so big stays in rack r1, where leaver was to go.
    hosts = [
        a_host("h1", rack="r1", memory_bytes=14 * GIB, reserved_memory_bytes=0),
        a_host("h2", rack="r2", memory_bytes=10 * GIB, reserved_memory_bytes=0),
        a_host("h3", rack="r2", state=DRAINING),
    ]
    vms = [
        a_vm("big", on="h1", memory_bytes=8 * GIB),
        a_vm("other", on="h2", memory_bytes=8 * GIB),
        a_vm("leaver", on="h3", memory_bytes=4 * GIB),
    ]
    apart = Spread(name="racks", vms=VmSelector(names=("big", "leaver")), over=Domain.RACK)
    problem = problem_of(a_snapshot(hosts, vms), a_policy(apart))
    names = [unit[0].name for unit in problem.units]
    wanted = np.array([{"big": 1, "other": 0, "leaver": 0}[name] for name in names])

    x = make_orderable(problem, wanted, find_tiers(problem), ENDLESS)

    assert all((group.counts(x) <= 1).all() for group in problem.spreads)


def test_a_model_knows_its_rows_by_name_and_proves_its_answer() -> None:
    model = Model("knapsack", constant=10.0)
    columns = [model.column(-value, high=1.0, is_integer=True) for value in (3.0, 4.0, 5.0)]
    model.add([Row(name="weight", columns=columns, coefficients=[2.0, 3.0, 4.0], high=5.0)])

    solution = model.solve(10.0)

    assert solution is not None
    assert solution.is_optimal
    assert solution.objective == pytest.approx(3.0)
    assert solution.bound == pytest.approx(3.0)


def test_a_model_that_contradicts_itself_has_no_solution() -> None:
    model = Model("impossible")
    column = model.column(high=1.0)
    model.add([Row(name="too much", columns=[column], coefficients=[1.0], low=2.0)])

    assert model.solve(10.0) is None
