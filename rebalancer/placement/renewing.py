"""Under a cap on moves: take some of them back, and make better ones in their place.

At the cap every move shuts out another. Single moves and exchanges do not pay any more then, and
yet a few other moves in place of a few that were made often do. So a handful that have hosts in
common are taken back, and those that gain most are made again, with a little chance in it, as long
as there are any left to make. What comes out is kept if it is hardly worse, and the best of all in
the end. (Ruin and recreate: Schrimpf, Schneider, Stamm-Wilbrandt, Dueck, "Record breaking
optimization results using the ruin and recreate principle", Journal of Computational Physics 159,
2000. Passing over the best now and then: Christiaens, Vanden Berghe, "Slack induction by string
removals for vehicle routing problems", Transportation Science 54, 2020.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.few_moves import FEW
from rebalancer.placement.layout import IMPOSSIBLE, Layout, Scale, movable_on
from rebalancer.placement.ordering import stuck_moves
from rebalancer.placement.problem import LIMITED, PlacementProblem
from rebalancer.placement.standing import GuardStanding
from rebalancer.placement.workers import shared

LEAST_GAIN = 1e-6
"""Gains below this are rounding, not improvements."""
TAKEN_BACK = 2, 6
"""Moves that are taken back at a time: so many at least, so many at most."""
TAKEN_BACK_AT_MOST = 9
"""With those that only have to give room to what comes home."""
HOSTS_WEIGHED, OTHERS_WEIGHED = 10, 30
"""Of the costliest hosts, whose units are weighed; against theirs, and those of so many others."""
TRIED = 6
"""Best-looking moves and swaps that are tried against all that is asked of them."""
PASSED_OVER = 0.15
"""How often what gains most is passed over."""
CHAINS = 2
"""Searches with chances of their own. Whatever the number of workers: it decides what is found."""
TIMES_IN_ALL, TIMES = 5000, (80, 125)
"""That moves are taken back and made again in each of them: divided by the number of hosts, as each
takes longer on more of them; so many at least, so many at most."""
TIME_SHARE = 0.5
"""Of the time that is left, at most: the answer is still to be compared with what is possible."""
SIZE_AT_MOST = 1_000_000
"""Units times hosts, beyond which all this takes longer than it is worth."""
WORSE = 0.02
"""By how much a placement may cost more than the best, relative to that, and be gone on from; at
first, and less and less."""

type Moves = list[tuple[int, int]]


def renewed(problem: PlacementProblem, scale: Scale, x: Ints, budget: Budget) -> Ints:
    """Look for a better placement than `x` where a cap on moves binds; return the best, or `x`.

    Its moves can be made one after the other, as those of `x` can; where they cannot, and where
    so few moves may be made that all sets of them have been tried, `x` is returned.
    """
    size = problem.unit_count * problem.host_count
    if budget.moves is None or budget.moves <= FEW or size > SIZE_AT_MOST:
        return x
    layout = Layout(problem, x, scale)
    if layout.switches or budget.moves_of(layout) < budget.moves or stuck_moves(problem, x).any():
        return x
    task = _Renewed(problem=problem.in_arrays, scale=scale, x=x)
    part = replace(budget, ends_at=budget.clock() + TIME_SHARE * budget.left())
    found = shared(task, tuple(range(CHAINS)), part)
    return min([x, *found], key=lambda one: scale.cost(problem, one))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Renewed:
    """What is renewed, as it is sent to other processes; its parts are seeds of chance."""

    problem: PlacementProblem
    scale: Scale
    x: Ints

    def do(self, part: int, budget: Budget) -> Ints:
        """The best placement that was come by with this seed."""
        return _renew(self.problem, self.scale, self.x, budget, np.random.default_rng(part))


def _renew(
    problem: PlacementProblem,
    scale: Scale,
    x: Ints,
    budget: Budget,
    rng: np.random.Generator,
) -> Ints:
    search = _Renewal(layout=Layout(problem, x, scale), budget=budget, rng=rng)
    best, least = x, scale.cost(problem, x)
    now, cost = x, least
    times = int(np.clip(TIMES_IN_ALL // max(1, problem.host_count), *TIMES))
    for number in range(times):
        if budget.is_spent:
            break
        if not search.take_back():
            continue
        search.make_others()
        found = scale.cost(problem, search.layout.x)
        bearable = least * (1 + WORSE * (1 - number / times))
        if found < max(cost, bearable) and search.is_allowed():
            now, cost = search.layout.x.copy(), found
            if found < least - LEAST_GAIN:
                best, least = now, found
        else:
            search.go_back(now)
    return best


@dataclass(slots=True, kw_only=True, eq=False)
class _Renewal:
    """A layout whose moves are taken back and made anew."""

    layout: Layout
    budget: Budget
    rng: np.random.Generator
    moves: int = field(init=False)
    """How many may be made."""
    price: Floats = field(init=False)
    """`(U, H)`: what linear terms cost for each unit on each host."""
    may: Bools = field(init=False)
    """`(U, H)`: where each unit could be, whatever else is there."""

    def __post_init__(self) -> None:
        problem = self.layout.problem
        self.moves = self.budget.moves or 0
        units = np.arange(problem.unit_count)
        self.price = np.zeros((problem.unit_count, problem.host_count))
        for factor, linear in self.layout.linears:
            self.price += factor * linear.of(units, problem.start)
        self.may = problem.candidates.of(units)
        self.may[units, problem.start] = True
        self.may &= problem.movable[:, None] & ~problem.drains

    def is_allowed(self) -> bool:
        """Whether the layout keeps limits and the cap, and can be come to move by move."""
        if not self.layout.is_within() or self.budget.moves_of(self.layout) > self.moves:
            return False
        return not stuck_moves(self.layout.problem, self.layout.x).any()

    def go_back(self, x: Ints) -> None:
        """Make the layout `x` again."""
        for unit in np.flatnonzero(self.layout.x != x).tolist():
            self.layout.move(unit, int(x[unit]))

    def take_back(self) -> bool:
        """Send home some units that have hosts in common, and what has to give them room.

        Return whether that could be done; the layout is as before if not.
        """
        layout, start = self.layout, self.layout.problem.start
        before = layout.x.copy()
        moved = np.flatnonzero((before != start) & self.may[np.arange(len(start)), start])
        if self.budget.exempt is not None:
            moved = moved[~self.budget.exempt[moved]]
        if not len(moved):
            return False
        first = int(self.rng.choice(moved))
        hosts = [int(before[first]), int(start[first])]
        near = np.isin(before[moved], hosts) | np.isin(start[moved], hosts)
        # Those nearby come first, in any order, and then others.
        order = moved[np.lexsort((self.rng.random(len(moved)), ~near, moved != first))]
        for unit in order[: int(self.rng.integers(TAKEN_BACK[0], TAKEN_BACK[1] + 1))].tolist():
            layout.move(unit, int(start[unit]))
        while (overfull := self._overfull()).any():
            blocking = np.flatnonzero(overfull[layout.x] & (layout.x != start))
            blocking = np.intersect1d(blocking, moved)
            if not len(blocking) or int((layout.x != before).sum()) >= TAKEN_BACK_AT_MOST:
                self.go_back(before)
                return False
            unit = int(self.rng.choice(blocking))
            layout.move(unit, int(start[unit]))
        return True

    def _overfull(self) -> Bools:
        layout = self.layout
        rows = slice(len(LIMITED))
        return np.asarray((layout.load[rows] > layout.limits[rows]).any(axis=0), bool)

    def make_others(self) -> None:
        """Make the moves and swaps that gain most, as long as any gains and is allowed."""
        by_move = bool(self.rng.random() < 0.5)
        units, others = self._weighed()
        swaps = self._swaps(units, others)
        while not self.budget.is_spent:
            left = self.moves - self.budget.moves_of(self.layout)
            move = self._best_move(units, left)
            swap = self._best_swap(swaps, left)
            gained = move[0], swap[0] / (2 if by_move and left > 1 else 1)
            gain, moves = move if gained[0] >= gained[1] else swap
            if gain <= LEAST_GAIN:
                return
            changed = np.zeros(self.layout.problem.host_count, bool)
            for unit, host in moves:
                changed[[int(self.layout.x[unit]), host]] = True
                self.layout.move(unit, host)
            # Only what these hosts are part of has to be weighed anew.
            near, nearby = changed[self.layout.x[units]], changed[self.layout.x[others]]
            swaps = _joined(
                swaps.elsewhere(changed),
                self._swaps(units[near], others),
                self._swaps(units[~near], others[nearby]),
            )

    def _counted(self, units: Ints) -> Bools:
        exempt = self.budget.exempt
        return np.ones(len(units), bool) if exempt is None else ~exempt[units]

    def _weighed(self) -> tuple[Ints, Ints]:
        """Units of the costliest hosts, and those that they may change places with."""
        order = np.argsort(-self.layout.host_cost(), kind="stable")
        costly, others = order[:HOSTS_WEIGHED], order[HOSTS_WEIGHED:]
        if len(others) > OTHERS_WEIGHED:
            others = self.rng.permutation(others)[:OTHERS_WEIGHED]
        units = self._units_of(costly)
        return units, np.concatenate([units, self._units_of(others)])

    def _units_of(self, hosts: Ints) -> Ints:
        none = np.zeros(0, np.intp)
        return np.concatenate([none, *(movable_on(self.layout, host) for host in hosts.tolist())])

    def _best_move(self, units: Ints, left: int) -> tuple[float, Moves]:
        layout, problem = self.layout, self.layout.problem
        at, home = layout.x[units], problem.start[units]
        gain = self.price[units, at][:, None] - self.price[units]
        allowed = self.may[units]
        allowed[np.arange(len(units)), at] = False
        for resource in LIMITED:
            after = layout.load[resource] + problem.needs[resource, units][:, None]
            allowed &= after <= layout.limits[resource]
        if left <= 0:
            allowed[(at == home) & self._counted(units)] = False
        for standing in layout.standings:
            need = problem.needs[standing.curve.resource, units]
            rise = standing.rise(need[:, None], np.arange(problem.host_count))
            gain += standing.gain(standing.rise(-need, at)[:, None] + rise)
        gain[~allowed] = -IMPOSSIBLE

        def moves_of(row: int, column: int) -> tuple[float, Moves]:
            unit = int(units[row])
            exact = layout.gains_of_moving(units[row : row + 1], int(layout.x[unit]))
            return float(exact[0, column]), [(unit, column)]

        return self._first(gain, moves_of)

    def _swaps(self, units: Ints, others: Ints) -> _Swaps:
        """All swaps of `units` with `others` that hosts have room for."""
        layout, problem = self.layout, self.layout.problem
        here, there = layout.x[units], layout.x[others]
        allowed = self.may[units][:, there]
        allowed &= self.may[others][:, here].T
        allowed &= here[:, None] != there
        needs = problem.needs
        for resource in LIMITED:
            more = needs[resource, units][:, None] - needs[resource, others]
            room = layout.limits[resource] - layout.load[resource]
            allowed &= more <= room[there]
            allowed &= more >= -room[here][:, None]
        row, column = np.nonzero(allowed)
        mine, theirs, source, target = units[row], others[column], here[row], there[column]
        gain = self.price[mine, source] - self.price[mine, target]
        gain += self.price[theirs, target] - self.price[theirs, source]
        guards = [one for one in layout.standings if isinstance(one, GuardStanding)]
        for standing in layout.standings:
            if not isinstance(standing, GuardStanding):
                more = needs[standing.curve.resource, mine] - needs[standing.curve.resource, theirs]
                rise = standing.rise(-more, source) + standing.rise(more, target)
                gain += standing.gain(rise)
        if not any(one.guard.cost_of(one.total) > 0 for one in guards):
            # Guards take away from what is gained then, and never add to it.
            some = np.flatnonzero(gain > LEAST_GAIN)
            mine, theirs, gain = mine[some], theirs[some], gain[some]
            source, target = source[some], target[some]
        rises = []
        for standing in guards:
            more = needs[standing.curve.resource, mine] - needs[standing.curve.resource, theirs]
            rises.append(standing.rise(-more, source) + standing.rise(more, target))
        return _Swaps(
            mine=mine,
            theirs=theirs,
            source=source,
            target=target,
            net=self._net(mine, source, target) + self._net(theirs, target, source),
            gain=gain,
            rises=tuple(rises),
        )

    def _best_swap(self, swaps: _Swaps, left: int) -> tuple[float, Moves]:
        layout = self.layout
        gain = swaps.gain.copy()
        guards = [one for one in layout.standings if isinstance(one, GuardStanding)]
        for standing, rise in zip(guards, swaps.rises, strict=True):
            gain += standing.gain(rise)
        gain[swaps.net > max(left, 0)] = -IMPOSSIBLE

        def moves_of(_: int, column: int) -> tuple[float, Moves]:
            unit, other = int(swaps.mine[column]), int(swaps.theirs[column])
            exact = layout.gains_of_swapping(
                np.array([unit]), int(layout.x[unit]), np.array([other])
            )
            moves = [(unit, int(layout.x[other])), (other, int(layout.x[unit]))]
            return float(exact[0, 0]) - layout.extra_cost(moves), moves

        return self._first(gain[None, :], moves_of)

    def _net(self, units: Ints, source: Ints, target: Ints) -> Ints:
        """By how much the moves that count change when each of `units` goes; `(n,)`."""
        start = self.layout.problem.start[units]
        net = (start != target).astype(np.intp) - (start != source)
        if self.budget.exempt is not None:
            net[self.budget.exempt[units]] = 0
        return np.asarray(net, np.intp)

    def _first(
        self, gain: Floats, moves_of: Callable[[int, int], tuple[float, Moves]]
    ) -> tuple[float, Moves]:
        """The best that is possible after all, unless chance passes it over."""
        count = min(TRIED, gain.size)
        if not count:
            return 0.0, []
        best = np.argpartition(-gain, count - 1, axis=None)[:count]
        for flat in best[np.argsort(-gain.flat[best], kind="stable")].tolist():
            row, column = divmod(flat, gain.shape[1])
            if gain[row, column] <= LEAST_GAIN:
                break
            if self.rng.random() < PASSED_OVER:
                continue
            exact, moves = moves_of(row, column)
            if exact > LEAST_GAIN:
                return exact, moves
        return 0.0, []


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Swaps:
    """Units that could change places; arrays are `(n,)`."""

    mine: Ints
    theirs: Ints
    source: Ints
    target: Ints
    """Where they are now."""
    net: Ints
    """By how much the moves that count change."""
    gain: Floats
    """What is gained but for guards."""
    rises: tuple[Floats, ...]
    """By how much the sum of each guard rises."""

    def elsewhere(self, hosts: Bools) -> _Swaps:
        """Those that none of the hosts, `(H,)`, is part of."""
        kept = np.flatnonzero(~(hosts[self.source] | hosts[self.target]))
        return _Swaps(
            mine=self.mine[kept],
            theirs=self.theirs[kept],
            source=self.source[kept],
            target=self.target[kept],
            net=self.net[kept],
            gain=self.gain[kept],
            rises=tuple(rise[kept] for rise in self.rises),
        )


def _joined(*parts: _Swaps) -> _Swaps:
    return _Swaps(
        mine=np.concatenate([part.mine for part in parts]),
        theirs=np.concatenate([part.theirs for part in parts]),
        source=np.concatenate([part.source for part in parts]),
        target=np.concatenate([part.target for part in parts]),
        net=np.concatenate([part.net for part in parts]),
        gain=np.concatenate([part.gain for part in parts]),
        rises=tuple(np.concatenate(same) for same in zip(*(p.rises for p in parts), strict=True)),
    )
