"""Bringing hosts down to their band with the least movement: a search of its own.

General search takes the VM that relieves most, and pays for it in GiB. Here each host above its
band is asked for the cheapest set of VMs that suffices, and those go where they lift no other
host above its band. Mostly that is possible for all hosts at once; then the answer is the best
there is, and `relief_bound` proves it, as every placement has to take such a set off each host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.band import Band, could_leave, covers, find_band, gains_within_band, lack
from rebalancer.placement.budget import Budget
from rebalancer.placement.covering import cheapest_covers
from rebalancer.placement.layout import IMPOSSIBLE, Layout, Scale
from rebalancer.placement.objectives import TOLERANCE, Tier
from rebalancer.placement.problem import LIMITED, SLACK, PlacementProblem, Resource
from rebalancer.placement.relief_bound import relief_bound

SETS_TRIED = 200
"""Sets of VMs that are tried for one host before it is left to the general search."""
SQUEEZES_TRIED = 3
"""Sets for which room is made where there is none."""
SETS_OF_A_TARGET = 3
TARGETS_SEEN = 100
TARGETS_TRIED = 40
"""Ways of making room for a VM that are tried, cheapest first."""
SHARE = 0.2
"""Of the time that is left, for each of the two rounds."""
SAME = 1e-9
"""Gains closer than this are equal."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relief:
    """What the search came to, and what no placement can be better than."""

    x: Ints
    bound: float
    is_proved: bool


def relieve_tier(
    problem: PlacementProblem, tiers: Sequence[Tier], scale: Scale, x: Ints, budget: Budget
) -> Relief | None:
    """Improve the last of the tiers where relief is its business; `None` where it is not.

    It is if the tier has a band, or if an earlier one has and this one a price on moves.
    """
    band = find_band(*tiers)
    last = tiers[-1]
    is_priced = any(linear.when_moved for linear in last.linears)
    if band is None or not (find_band(last) or is_priced):
        return None
    best, bound = x, -np.inf
    # Room is only made, which takes long, if something is missing without it.
    for squeezes in (0, SQUEEZES_TRIED):
        part = replace(budget, ends_at=budget.clock() + SHARE * budget.left())
        found = relieve_hosts(problem, scale, band, best, part, squeezes=squeezes)
        best = min((best, found), key=lambda one: scale.cost(problem, one))
        budget.tell(best)
        bound = relief_bound(problem, tiers, best)
        if last.cost(problem, best) <= bound + TOLERANCE:
            return Relief(x=best, bound=bound, is_proved=True)
    return Relief(x=best, bound=bound, is_proved=False)


def relieve_hosts(
    problem: PlacementProblem,
    scale: Scale,
    band: Band,
    x: Ints,
    budget: Budget,
    *,
    squeezes: int = SQUEEZES_TRIED,
) -> Ints:
    """Bring hosts above their band down to it at the least price.

    `x` is what is given: from there, units that moved for no necessity are sent home first.
    """
    for home in _homes(problem, x, budget):
        layout = Layout(problem, home, scale)
        # What left one host may have left room for what has to leave another one.
        while not budget.is_spent and _relieve_all(layout, band, budget, squeezes):
            pass
        if _fits(problem, layout.x, x):
            return layout.x
    return x


def _homes(problem: PlacementProblem, x: Ints, budget: Budget) -> Iterator[Ints]:
    """Placements to begin with: nothing has moved but what has to, least of all first.

    Units that left an overloaded host are sent home as well at first, since relief takes load
    off that host anyway, and perhaps with less.
    """
    kept = np.zeros(len(x), bool) if budget.exempt is None else budget.exempt
    in_broken_groups = [
        unit
        for group in problem.groups
        if group.hard and group.excess(problem.start)
        for unit in group.members
    ]
    must = problem.drains[problem.start] | (
        problem.candidates.broken[problem.candidates.kind, problem.start] > 0
    )
    must[in_broken_groups] = True
    yield np.where(kept & must, x, problem.start)
    yield np.where(kept, x, problem.start)


def _fits(problem: PlacementProblem, x: Ints, given: Ints) -> bool:
    """Whether no host is fuller than it may be, or than it is in the placement that was given."""
    limits = problem.limits(given) + SLACK
    return bool((problem.load(x)[: len(limits)] <= limits).all())


def _relieve_all(layout: Layout, band: Band, budget: Budget, squeezes: int) -> bool:
    """Go through the hosts above their band once; say whether anything could be done."""
    done = [_relieve(layout, band, host, budget, squeezes) for host in _order(layout, band)]
    return any(done)


def _order(layout: Layout, band: Band) -> list[int]:
    """Hosts above their band: first those whose VMs have fewest places to go, then the fullest."""
    hosts = band.above(layout.problem, layout.load).tolist()
    return sorted(hosts, key=lambda host: _choices_left(layout, band, host))


def _choices_left(layout: Layout, band: Band, host: int) -> int:
    """In how many places the unit with the fewest could go, of those that had best leave."""
    units, price = _could_leave(layout, host)
    first = next(covers(layout, band, host, units, price), np.zeros(0, np.intp))
    places = gains_within_band(layout, band, units[first], host) > -IMPOSSIBLE
    return int(places.sum(axis=1).min(initial=layout.problem.host_count))


def _relieve(layout: Layout, band: Band, host: int, budget: Budget, squeezes: int) -> bool:
    """Move a set of units off the host: the cheapest for which there is room or can be made."""
    units, price = _could_leave(layout, host)
    free = budget.allows_first_move_of(layout, units)
    units, price = units[free], price[free]
    before = layout.x.copy()
    after = _cheapest_way(layout, band, host, units, price, budget, squeezes)
    if after is None:
        # Not all the way down, then: as far as those suffice that have a place to go to.
        places = gains_within_band(layout, band, units, host) > -IMPOSSIBLE
        can_go = places.any(axis=1)
        after = _cheapest_way(layout, band, host, units[can_go], price[can_go], budget, squeezes)
    _go_to(layout, before if after is None else after)
    return after is not None


def _could_leave(layout: Layout, host: int) -> tuple[Ints, Floats]:
    """Units that could leave the host, with what moving each costs: memory, if nothing else."""
    units, price = could_leave(layout, host)
    # Where nothing is said about movement, to move less is better all the same.
    said = (price > 0).any()
    return units, price if said else layout.problem.needs[Resource.MEMORY, units]


def _cheapest_way(
    layout: Layout,
    band: Band,
    host: int,
    units: Ints,
    price: Floats,
    budget: Budget,
    squeezes: int,
) -> Ints | None:
    """The placement after the cheapest set of units that could be moved; `None` if none could."""
    before = layout.x.copy()
    least, best, squeezed = np.inf, None, 0
    for chosen in islice(covers(layout, band, host, units, price), SETS_TRIED):
        asked = float(price[chosen].sum())
        if budget.is_spent or not len(chosen) or asked >= least - SAME:
            break
        if _place(layout, band, host, units[chosen], budget):
            least, best = asked, layout.x.copy()
        elif squeezed < squeezes:
            squeezed += 1
            spare = least - asked
            if _place_making_room(layout, band, host, units[chosen], budget, spare):
                paid = _paid(layout, before)
                least, best = (paid, layout.x.copy()) if paid < least else (least, best)
        _go_to(layout, before)
    return best


def _paid(layout: Layout, before: Ints) -> float:
    """What going from the placement `before` to the present one cost, loads left aside."""
    start = layout.problem.start
    return sum(
        factor * float(linear.at(layout.x, start).sum() - linear.at(before, start).sum())
        for factor, linear in layout.scale.linears
    )


def _go_to(layout: Layout, x: Ints) -> None:
    for unit in np.flatnonzero(layout.x != x).tolist():
        layout.move(unit, int(x[unit]))


def _place(layout: Layout, band: Band, host: int, units: Ints, budget: Budget) -> bool:
    """Move all of the units where they gain most, largest first; or none of them."""
    done: list[tuple[int, int]] = []
    memory = layout.problem.needs[Resource.MEMORY]
    for unit in sorted(units.tolist(), key=lambda u: -memory[u]):
        one = np.array([unit])
        gains = gains_within_band(layout, band, one, host)[0]
        if gains.max() == -IMPOSSIBLE or not budget.allows_first_move_of(layout, one)[0]:
            layout.restore(done)
            return False
        done.append((unit, host))
        layout.move(unit, _coolest(layout, gains))
    return True


def _place_making_room(
    layout: Layout, band: Band, host: int, units: Ints, budget: Budget, spare: float
) -> bool:
    """The same, where others have to leave the target first; for no more than `spare`."""
    done: list[tuple[int, int]] = []
    memory = layout.problem.needs[Resource.MEMORY]
    for unit in sorted(units.tolist(), key=lambda u: -memory[u]):
        before = layout.x.copy()
        if not (
            _place(layout, band, host, np.array([unit]), budget)
            or _squeeze_in(layout, band, unit, budget, spare)
        ):
            layout.restore(done)
            return False
        done += [(int(moved), int(before[moved])) for moved in np.flatnonzero(layout.x != before)]
    return True


def _squeeze_in(layout: Layout, band: Band, unit: int, budget: Budget, spare: float) -> bool:
    """Take off some host what it cheapest can spare, so that the unit fits there."""
    problem = layout.problem
    could = problem.candidates.hosts_of(unit)
    could[layout.x[unit]] = False
    options: list[tuple[float, int, Ints]] = []
    targets = np.flatnonzero(could & (problem.scored | problem.receives)).tolist()
    lacks = {target: lack(layout, band, unit, target) for target in targets}
    size = problem.size[[*LIMITED, *band.rows]]
    # Where least is missing, least has to leave; there are up to a thousand to look at.
    targets.sort(key=lambda target: float((lacks[target] / size[:, target]).sum()))
    for target in targets[:TARGETS_SEEN]:
        guests, price = _could_leave(layout, target)
        missing = lacks[target]
        needs = problem.needs[[*LIMITED, *band.rows]][:, guests]
        for chosen in islice(cheapest_covers(needs, price, missing, most=spare), SETS_OF_A_TARGET):
            options.append((float(price[chosen].sum()), target, guests[chosen]))
    for _, target, guests in sorted(options, key=lambda option: option[0])[:TARGETS_TRIED]:
        if budget.is_spent:
            return False
        home = layout.x[guests].copy()
        source = int(layout.x[unit])
        if not _place(layout, band, target, guests, budget):
            continue
        gains = gains_within_band(layout, band, np.array([unit]), source)[0]
        if gains[target] > -IMPOSSIBLE:
            layout.move(unit, target)
            return True
        layout.restore(list(zip(guests.tolist(), home.tolist(), strict=True)))
    return False


def _coolest(layout: Layout, gains: Floats) -> int:
    """Of the hosts where most is gained, the one with the least load."""
    load = layout.load[Resource.CORES] / layout.problem.size[Resource.CORES]
    best = gains >= gains.max() - SAME
    return int(np.where(best, load, np.inf).argmin())
