"""Large neighbourhoods: a few hosts at a time, their units placed anew by an integer program.

Local search stops where no single move and no swap pays. A program over three or four hosts
sees every way of dividing their units, and solves in a tenth of a second or so.
"""

from __future__ import annotations

import numpy as np

from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.layout import Layout, Scale, movable_on
from rebalancer.placement.local_search import LEAST_GAIN, Budget
from rebalancer.placement.problem import PlacementProblem
from rebalancer.placement.program import Limits, choices_of, solve_program

HOSTS_AT_ONCE = 4
BINARIES_AT_MOST = 400
"""Larger programs take seconds, in which several smaller ones find more."""
SECONDS_EACH = 1.0
GAP_RATIO = 1e-3
"""Nothing is gained by proving the last bit of a neighbourhood."""
PATIENCE = 20
"""Neighbourhoods in a row without an improvement before the search ends."""


def improve_by_programs(
    problem: PlacementProblem, scale: Scale, x: Ints, budget: Budget, rng: np.random.Generator
) -> Ints:
    """Improve a placement host by host until nothing has been found for a while, or time is up."""
    best, cost = x, scale.cost(problem, x)
    fruitless = 0
    while fruitless < PATIENCE and not budget.is_spent:
        hosts = _choose_hosts(problem, scale, best, rng)
        found = _solve(problem, scale, best, hosts, budget)
        new_cost = scale.cost(problem, found)
        fruitless = 0 if new_cost < cost - LEAST_GAIN else fruitless + 1
        if new_cost < cost - LEAST_GAIN:
            best, cost = found, new_cost
    return best


def _choose_hosts(
    problem: PlacementProblem, scale: Scale, x: Ints, rng: np.random.Generator
) -> Bools:
    """One host that costs much, the rest at random: what helps it is not known beforehand."""
    scored = np.flatnonzero(problem.receives)
    cost = Layout(problem, x, scale).host_cost()[scored]
    weight = np.maximum(cost, 0) + 1e-9
    count = min(HOSTS_AT_ONCE, len(scored))
    chosen = np.zeros(problem.host_count, bool)
    if count:
        chosen[scored[rng.choice(len(scored), p=weight / weight.sum())]] = True
        chosen[rng.choice(scored, size=count, replace=False)] = True
    return chosen


def _solve(problem: PlacementProblem, scale: Scale, x: Ints, hosts: Bools, budget: Budget) -> Ints:
    layout = Layout(problem, x, scale)
    units = [u for host in np.flatnonzero(hosts) for u in movable_on(layout, int(host)).tolist()]
    choices = choices_of(problem, x, units, hosts)
    while choices and sum(map(len, choices.values())) > BINARIES_AT_MOST:
        choices.popitem()
    limits = Limits(budget=budget, seconds=SECONDS_EACH, gap_ratio=GAP_RATIO, rounds=2)
    return solve_program(problem, scale, x, choices, limits).x
