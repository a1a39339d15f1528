"""What has to happen whatever it costs the goals: draining hosts, mending what is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.engine import whole_choices
from rebalancer.placement.groups import TogetherGroup
from rebalancer.placement.layout import IMPOSSIBLE, TIER_RATIO, Layout, scale_of
from rebalancer.placement.local_search import descend, improve, make_room
from rebalancer.placement.objectives import TOLERANCE, Tier, is_necessary, repaired_limits
from rebalancer.placement.problem import PlacementProblem, Resource, allowance_beside
from rebalancer.placement.program import Limits, solve_program
from rebalancer.placement.shortage import relieve_shortage, shortage_of


def do_what_is_necessary(problem: PlacementProblem, tiers: Sequence[Tier], budget: Budget) -> Ints:
    """Empty draining hosts and mend what is broken, as far as possible; return the placement.

    The goals choose between ways of doing so. Units that turn out not to help stay. What has to
    move may pass the caps of a plan, but for those on where to: these are given up only where more
    can be done without them.
    """
    necessary = [tier for tier in tiers if is_necessary(tier)]
    if not necessary:
        return problem.start.copy()
    scale, found = scale_of(necessary, TIER_RATIO), []
    caps = allowance_beside(problem, problem.start)
    for allowance in (*(caps.on_where_to() if caps else ()), None):
        part = replace(problem, allowance=allowance)
        found.append(_done(part, tiers, necessary, budget))
        if scale.cost(problem, found[-1]) <= TOLERANCE:
            break
    return min(found, key=lambda x: round(scale.cost(problem, x), 6))


def _done(
    problem: PlacementProblem, tiers: Sequence[Tier], necessary: Sequence[Tier], budget: Budget
) -> Ints:
    layout = Layout(problem, problem.start, scale_of(tiers, TIER_RATIO))
    concerned = _concerned(problem)
    if (band := shortage_of(necessary)) is not None:
        relieve_shortage(layout, band, budget)
    descend(layout, budget, concerned)
    _gather(layout, budget)
    for unit in np.flatnonzero(_ill_placed(problem, layout.x)).tolist():
        make_room(layout, unit, budget)
    descend(layout, budget, concerned)
    x = _with_the_help_of_others(problem, necessary, layout.x, budget)
    return _without_idle_moves(problem, necessary, x)


def _with_the_help_of_others(
    problem: PlacementProblem, necessary: Sequence[Tier], x: Ints, budget: Budget
) -> Ints:
    """Where something is left to be done, let any unit change places with any other for it."""
    scale = scale_of(necessary, TIER_RATIO)
    if scale.cost(problem, x) <= 0:
        return x
    layout = Layout(problem, x, scale)
    improve(layout, budget)
    # From the start again: the program may leave on a draining host what was moved off first.
    choices = whole_choices(problem, problem.start)
    if not choices or scale.cost(problem, layout.x) <= 0:
        return layout.x
    part = replace(budget, ends_at=budget.clock() + 0.1 * budget.left())
    limits = Limits(budget=part, seconds=part.left())
    whole = solve_program(problem, scale, problem.start, choices, limits).x
    return min((layout.x, whole), key=lambda one: scale.cost(problem, one))


def _concerned(problem: PlacementProblem) -> Bools:
    """Units that are in the wrong place, or on a host that holds too much, or in a broken group."""
    found = _ill_placed(problem, problem.start)
    for group in problem.groups:
        if group.hard and group.excess(problem.start):
            found[list(group.members)] = True
    overfull = np.zeros(problem.host_count, bool)
    for resource, limit in repaired_limits(problem):
        overfull |= problem.start_load[resource] > limit + 1e-6
    return found | overfull[problem.start]


def _ill_placed(problem: PlacementProblem, x: Ints) -> Bools:
    """Units that are on a draining host or where a hard rule forbids them."""
    broken = problem.candidates.broken[problem.candidates.kind, x] > 0
    return problem.drains[x] | broken


def _gather(layout: Layout, budget: Budget) -> None:
    """Bring groups that belong together into one domain, where one by one does not do it."""
    problem = layout.problem
    for group in problem.togethers:
        if budget.is_spent:
            return
        leaving = group.hard and problem.drains[layout.x[list(group.members)]].any()
        if group.hard and (group.excess(layout.x) > 0 or leaving):
            _gather_group(layout, group)


def _gather_group(layout: Layout, group: TogetherGroup) -> None:
    """Try each domain for the whole group and keep what is cheapest, the present place included."""
    problem = layout.problem
    best: tuple[float, list[tuple[int, int]]]
    best = (layout.scale.cost(problem, layout.x) - 1e-6, [])
    for domain in range(group.domain_count):
        moves = _bring_to(layout, group, domain)
        cost = layout.scale.cost(problem, layout.x)
        if moves and cost < best[0]:
            best = (cost, [(unit, int(layout.x[unit])) for unit, _ in moves])
        layout.restore(moves)
    for unit, host in best[1]:
        layout.move(unit, host)


def _bring_to(layout: Layout, group: TogetherGroup, domain: int) -> list[tuple[int, int]]:
    """Move every member into the domain, the largest first; nothing unless all get there."""
    problem = layout.problem
    inside = group.domain == domain
    done: list[tuple[int, int]] = []
    with layout.ignoring(group):
        for unit in sorted(group.members, key=lambda u: -problem.needs[Resource.MEMORY, u]):
            here = int(layout.x[unit])
            if inside[here] and not problem.drains[here]:
                continue
            gains = layout.gains_of_moving(np.array([unit]), here)[0]
            gains[~inside] = -IMPOSSIBLE
            if gains.max() == -IMPOSSIBLE:
                layout.restore(done)
                return []
            done.append((unit, here))
            layout.move(unit, int(gains.argmax()))
    return done


def _without_idle_moves(problem: PlacementProblem, necessary: Sequence[Tier], x: Ints) -> Ints:
    """Send back every unit that need not have moved for what is necessary."""
    layout = Layout(problem, problem.start, scale_of(tuple(necessary), TIER_RATIO))
    for unit in np.flatnonzero(x != problem.start).tolist():
        layout.move(unit, int(x[unit]))
    for unit in np.flatnonzero(x != problem.start).tolist():
        here, home = int(layout.x[unit]), int(problem.start[unit])
        if not problem.drains[home]:
            gain = layout.gains_of_moving(np.array([unit]), here)[0, home]
            if gain >= 0:
                layout.move(unit, home)
    return layout.x
