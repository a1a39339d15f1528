"""Large neighbourhoods: a few hosts at a time, some of their units placed anew by a program.

Local search stops where no single move and no swap pays. A program over a few hosts sees every
way of dividing their units. Programs of one round have no host in common, so what they find can
be done together, and they can be solved at the same time. How many there are in a round does not
depend on the number of workers: with any number of them the answer is the same, unless time
runs out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.curves import Switch
from rebalancer.placement.layout import Layout, Scale, movable_on
from rebalancer.placement.local_search import LEAST_GAIN
from rebalancer.placement.problem import PlacementProblem, Resource
from rebalancer.placement.program import Limits, choices_of, solve_program
from rebalancer.placement.workers import at_once

UNITS_PER_HOST = 8
"""With 8 hosts that makes some 500 binaries; from there on solvers take seconds."""
PROGRAMS_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard to try, besides the time that there is in all."""

    hosts_at_once: tuple[int, ...] = (4, 6, 8)
    """Small programs first: they are solved to the end, and find more in the same time. Larger
    ones see what those cannot, and come when those find nothing any more."""
    patience: int = 3
    """Rounds in a row without an improvement before programs become larger, or the search ends."""
    seconds_each: float = 2.0
    gap_ratio: float = 0.01
    """Of what its hosts cost: nothing is gained by proving the last bit of a neighbourhood."""


def improve_by_programs(
    problem: PlacementProblem,
    scale: Scale,
    x: Ints,
    budget: Budget,
    rng: np.random.Generator,
    effort: Effort | None = None,
) -> Ints:
    """Improve a placement by programs until they find nothing for a while, or time is up."""
    effort = effort or Effort()
    layout = Layout(problem, x, scale)
    for size in effort.hosts_at_once:
        fruitless = 0
        while fruitless < effort.patience and not budget.is_spent:
            did_something = _improve_once(layout, size, effort, budget, rng)
            fruitless = 0 if did_something else fruitless + 1
    return layout.x


def _improve_once(
    layout: Layout, size: int, effort: Effort, budget: Budget, rng: np.random.Generator
) -> bool:
    """Solve one round of programs, and do what they found; say whether it was anything."""
    now = layout.x.copy()
    searches = [
        partial(_solve, layout, now, units, hosts, effort, budget)
        for hosts in programs_at_once(layout, size, rng)
        for units in [_worth_a_choice(layout, hosts, rng)]
    ]
    answers = at_once(budget.workers, searches)
    return sum(_take_over(layout, now, answer, budget) for answer in answers) > 0


def programs_at_once(layout: Layout, size: int, rng: np.random.Generator) -> Iterator[Bools]:
    """Sets of `size` hosts, of which half cost much: what helps these is not known beforehand."""
    open_hosts = np.flatnonzero(layout.problem.receives)
    weight = np.maximum(layout.host_cost()[open_hosts], 0) + 1e-9
    count = max(1, min(PROGRAMS_AT_ONCE, len(open_hosts) // size))
    if any(isinstance(curve, Switch) for _, curve in layout.scale.curves):
        # Two programs at once might each empty the last host that has to stay awake.
        count = 1
    costly = _drawn(open_hosts, min(count * (size // 2), len(open_hosts)), rng, weight)
    others = np.setdiff1d(open_hosts, costly)
    others = _drawn(others, min(count * size - len(costly), len(others)), rng)
    for first in range(count if len(open_hosts) else 0):
        hosts = np.zeros(layout.problem.host_count, bool)
        hosts[costly[first::count]] = True
        hosts[others[first::count]] = True
        yield hosts


def _drawn(of: Ints, count: int, rng: np.random.Generator, weight: Floats | None = None) -> Ints:
    if not len(of):
        return of
    share = None if weight is None else weight / weight.sum()
    return rng.choice(of, size=count, replace=False, p=share)


def _worth_a_choice(layout: Layout, hosts: Bools, rng: np.random.Generator) -> list[int]:
    """Some units of each host: those moved already, and others that bring much for their bytes."""
    problem, chosen = layout.problem, []
    for host in np.flatnonzero(hosts).tolist():
        units = movable_on(layout, host)
        is_moved = layout.x[units] != problem.start[units]
        moved, others = units[is_moved][:UNITS_PER_HOST], units[~is_moved]
        missing = min(UNITS_PER_HOST - len(moved), len(others))
        cores = problem.needs[Resource.CORES, others] / problem.size[Resource.CORES, host]
        memory = problem.needs[Resource.MEMORY, others] / problem.size[Resource.MEMORY, host]
        weight = (cores + memory + 1e-6) / (memory + 1e-3)
        chosen += [*moved.tolist(), *sorted(_drawn(others, missing, rng, weight).tolist())]
    return chosen


def _solve(
    layout: Layout, x: Ints, units: list[int], hosts: Bools, effort: Effort, budget: Budget
) -> Ints:
    problem, scale = layout.problem, layout.scale
    choices = choices_of(problem, x, units, hosts)
    # A solver relates the gap to the whole cost, that of all the other hosts included.
    share = layout.host_cost()[hosts].sum() / max(scale.cost(problem, x), 1e-12)
    gap_ratio = float(np.clip(effort.gap_ratio * share, 1e-9, effort.gap_ratio))
    limits = Limits(budget=budget, seconds=effort.seconds_each, gap_ratio=gap_ratio, rounds=2)
    return solve_program(problem, scale, x, choices, limits).x


def _take_over(layout: Layout, before: Ints, answer: Ints, budget: Budget) -> bool:
    """Do what one program found, unless that is too much together with what others found.

    Hosts are no concern, as no two programs share one; groups and caps over many hosts are.
    """
    moves = [(unit, int(before[unit])) for unit in np.flatnonzero(answer != before).tolist()]
    if not moves:
        return False
    cost = layout.scale.cost(layout.problem, layout.x)
    for unit, _ in moves:
        layout.move(unit, int(answer[unit]))
    gain = cost - layout.scale.cost(layout.problem, layout.x)
    over = budget.moves is not None and budget.moves_of(layout) > budget.moves
    if gain > LEAST_GAIN and not over and layout.is_within():
        return True
    layout.restore(moves)
    return False
