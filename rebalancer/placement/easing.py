"""Guards and caps at a fair price first: a search that is held to them from the start gets stuck.

At the edge of what a guard allows, every move that costs it anything is shut, however good, and
none is rewarded that would make room; at a cap on moves the first that came are kept. So the
search begins with prices: a guard's sum counts from its first unit on, and each move costs
something. At the right prices the sum and the number of moves come out at about what is allowed;
which ones these are is found by quick searches. At the end guards and caps themselves count.
(Lagrangian relaxation as a heuristic: Fisher, "The Lagrangian Relaxation Method for Solving
Integer Programming Problems", Management Science 27, 1981.)

What moves cost begins dear and falls to what it is by steps: what gains most for each byte is
moved first, and the rest only completes it. Several ways to fall end in different places, of
which the best is kept. They know nothing of each other, so other processes can try some of them.
On many hosts there is time for one way only. There hosts are dealt out to parts, again and again,
and each part exchanges by itself, in whatever process: at prices no guard ties hosts together.

The prices then swing: up or down for a while (what moves cost mostly up, where nothing caps
moves), back to what was fair, to the guards and the cap themselves again. What moving costs swings
for each unit by itself, so that each time others go first. What comes back is not what went, and
the better of the two is kept; two leave from the same place at the same time. That pays most
under a cap on moves, where every move that is made shuts out another.
(Strategic oscillation: Glover, "Heuristics for integer programming using surrogate constraints",
Decision Sciences 8, 1977. Noising: Charon, Hudry, "The noising method", Operations Research
Letters 14, 1993.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.easing_prices import Prices, eased, least, swung
from rebalancer.placement.exchange import exchange_among
from rebalancer.placement.few_moves import FEW, sets_of_few_moves
from rebalancer.placement.layout import Layout, Scale
from rebalancer.placement.local_search import descend
from rebalancer.placement.problem import PlacementProblem
from rebalancer.placement.workers import shared

GUARD_SHARES = 1e-5, 0.03
"""Prices tried for a guard, as shares of what it costs where it is broken."""
MOVE_SHARES = 1e-7, 1e-2
"""Prices tried for a move, as shares of what the placement costs that the search begins with."""
STEP = 1.4
"""How much dearer is made what is over after the search at the prices found."""
STEPS = 4
FALLS = (7.0, 3.0, 1.4), (20.0, 5.0, 2.0), (8.0, 4.0, 2.0), (5.0, 3.0, 1.8, 1.3)
"""Ways for what moves cost to come down to what it is: the steps, as times of that."""
FALLS_IN_ALL = 160
"""How many of the ways are tried, divided by the number of hosts and rounded."""
WEIGHINGS_WHILE_DEAR = 12
"""Times that blocks of pairs are weighed at each step of a fall, for each host: what comes after
that took half of the time on 200 full hosts, for a hundredth of what was gained before."""
HOSTS_IN_TWO_PARTS, PARTS_AT_MOST = 100, 8
"""Many hosts exchange in parts, at the same time: two parts for every so many hosts."""
DEALS = 3
"""Times that hosts are dealt out to parts at each step of a fall."""
ROUNDS, ROUNDS_UNDER_CAP = 90, 120
"""Times that prices swing, if there is time: divided by the number of hosts and rounded, as a
swing takes longer on more of them."""
ROUNDS_AT_MOST = 10
SWINGS_AT_ONCE = 2
"""In a round, all from the same place. Whatever the number of workers: it decides what is found."""
TIMES_FAIR = 0.0, 0.3, 1.0, 3.0
"""Prices of guards that sets of few moves are tried at, relative to what was found fair."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Easing:
    """A search that goes by prices."""

    task: _EasedSearch
    budget: Budget

    @property
    def problem(self) -> PlacementProblem:
        return self.task.problem

    @property
    def scale(self) -> Scale:
        return self.task.scale

    @property
    def x(self) -> Ints:
        return self.task.x

    @property
    def likely(self) -> Bools | None:
        return self.task.likely

    @property
    def hosts(self) -> Ints:
        return np.flatnonzero(self.problem.scored)

    @property
    def uncapped(self) -> Budget:
        return replace(self.budget, moves=None)

    def prices(self) -> Prices:
        """The prices at which a quick search just keeps guards and caps."""
        prices = Prices(guard_share=0.0, move=0.0)
        if self.scale.guards:
            prices = self._fair_guard(prices)
        if self.budget.moves is not None and self._is_over(self._quick(prices)):
            prices = self._fair_move(prices)
            if self.scale.guards:
                prices = self._fair_move(self._fair_guard(prices))
        return prices

    def _fair_guard(self, prices: Prices) -> Prices:
        def is_enough(share: float) -> bool:
            return not self._is_broken(self._quick(replace(prices, guard_share=share)))

        return replace(prices, guard_share=least(GUARD_SHARES, is_enough))

    def _fair_move(self, prices: Prices) -> Prices:
        cost = self.scale.cost(self.problem, self.x)

        def is_enough(price: float) -> bool:
            return not self._is_over(self._quick(replace(prices, move=price)))

        range_ = MOVE_SHARES[0] * cost, MOVE_SHARES[1] * cost
        return replace(prices, move=least(range_, is_enough))

    def _quick(self, prices: Prices) -> Layout:
        layout = Layout(self.problem, self.x, self.eased(prices))
        if self.likely is not None:
            descend(layout, self.uncapped, only=self.likely, is_thorough=False)
        descend(layout, self.uncapped, is_thorough=False)
        return layout

    def falls(self, prices: Prices) -> tuple[tuple[float, ...], ...]:
        """The ways that what moves cost may fall, as many as there is time for on so many hosts.

        Under a cap each move has a price already, and to begin with fewer finds less.
        """
        if prices.move > 0 or not any(linear.when_moved for _, linear in self.scale.linears):
            return ((),)
        return FALLS[: round(FALLS_IN_ALL / max(1, int(self.problem.scored.sum())))] or ((),)

    def search(
        self, prices: Prices, fall: Sequence[float], *, is_alone: bool
    ) -> tuple[Ints, Prices]:
        """Search at the prices, and at higher ones where guards or caps are not kept.

        What moves cost comes down by the steps of `fall` before. Return the placement, and the
        prices at which it was found. Other processes have time for parts of it if it `is_alone`.
        """
        steps = [*(replace(prices, times=times) for times in fall), prices]
        x = self._quick(steps[0]).x
        parts = self._parts() if is_alone else 1
        # What is found while moves are dear is only where the next step goes on from.
        for step in steps if parts > 1 else steps[:-1]:
            x = self._roughly_exchanged(x, step, parts)
        layout = Layout(self.problem, x, self.eased(prices))
        for _ in range(STEPS):
            exchange_among(layout, self.hosts, self.uncapped)
            is_broken, is_over = self._is_broken(layout), self._is_over(layout)
            if not (is_broken or is_over) or self.budget.is_spent:
                break
            prices = Prices(
                guard_share=prices.guard_share * (STEP if is_broken else 1.0),
                move=prices.move * (STEP if is_over else 1.0),
            )
            layout = Layout(self.problem, layout.x, self.eased(prices))
        return layout.x, prices

    def _parts(self) -> int:
        """In how many parts hosts exchange at the same time."""
        return max(1, min(PARTS_AT_MOST, 2 * (len(self.hosts) // HOSTS_IN_TWO_PARTS)))

    def _roughly_exchanged(self, x: Ints, prices: Prices, parts: int) -> Ints:
        """Exchange at prices from `x` on, as long as that gains most.

        In parts, hosts are dealt out anew each time, costly ones and others to each, so that in
        the end most of them have met.
        """
        weighings = WEIGHINGS_WHILE_DEAR * len(self.hosts)
        if parts == 1:
            return self.exchanged(x, prices, self.hosts, weighings)
        for number in range(DEALS):
            layout = Layout(self.problem, x, self.eased(prices))
            order = self.hosts[np.argsort(-layout.host_cost()[self.hosts], kind="stable")]
            most = weighings // (parts * DEALS)
            dealt = [
                _Apart(x=x, prices=prices, hosts=hosts, weighings=most)
                for hosts in _dealt(order, parts, np.random.default_rng(number))
            ]
            for ended, _ in shared(self.task, dealt, self.budget):
                follow(layout, x, ended)
            x = layout.x
        return x

    def rounds(self, prices: Prices) -> int:
        """How many times prices may swing."""
        rounds = ROUNDS_UNDER_CAP if prices.move > 0 else ROUNDS
        return min(ROUNDS_AT_MOST, round(rounds / max(1, int(self.problem.scored.sum()))))

    def best_of_few(self, prices: Prices) -> Ints | None:
        """The best set of moves, where so few are allowed that their sets can be tried.

        They can be made one after the other as they were found.
        """
        if self.budget.moves is None:
            return None
        left = self.budget.moves - self.budget.moves_of(Layout(self.problem, self.x, self.scale))
        if not 0 < left <= FEW:
            return None
        found = [self.x]
        for times in TIMES_FAIR:
            scale = self.eased(Prices(guard_share=times * prices.guard_share, move=0.0))
            found += sets_of_few_moves(Layout(self.problem, self.x, scale), left, self.budget)
        return min(found, key=lambda one: self.scale.cost(self.problem, one))

    def exchanged(self, x: Ints, prices: Prices, hosts: Ints, weighings: int | None = None) -> Ints:
        """Exchange between hosts at prices from `x` on, to the end or for so many weighings."""
        layout = Layout(self.problem, x, self.eased(prices))
        exchange_among(layout, hosts, self.uncapped, weighings=weighings)
        return layout.x

    def settled(self, x: Ints) -> Ints:
        """Search on from `x` by what is really asked: guards and caps themselves."""
        x = _within_cap(self.problem, self.scale, x, self.budget)
        layout = Layout(self.problem, x, self.scale)
        descend(layout, self.budget)
        exchange_among(layout, self.hosts, self.budget)
        return layout.x

    def eased(self, prices: Prices) -> Scale:
        return eased(self.problem, self.scale, self.budget, prices)

    def _is_broken(self, layout: Layout) -> bool:
        return any(guard.cost(layout.load[guard.resource]) > 0 for _, guard in self.scale.guards)

    def _is_over(self, layout: Layout) -> bool:
        return self.budget.moves is not None and self.budget.moves_of(layout) > self.budget.moves


def search_eased(
    problem: PlacementProblem,
    scale: Scale,
    x: Ints,
    likely: Bools | None,
    budget: Budget,
    *,
    rounds: int | None = None,
) -> list[Ints]:
    """Improve `x` by moves and exchanges; return what was found, the best first, and `x`.

    Units that are `likely` to be worth moving, `(U,)`, go first. Prices swing in so many rounds;
    `None`: as often as suits the number of hosts.
    """
    task = _EasedSearch(problem=problem.in_arrays, scale=scale, x=x, likely=likely)
    easing = task.within(budget)
    if scale.guards or budget.moves is not None:
        fair = easing.prices()
        ways = easing.falls(fair)
        falls = [_Fall(prices=fair, steps=steps, is_alone=len(ways) == 1) for steps in ways]
        ended = shared(task, falls, budget)
        best, prices = min(ended, key=lambda one: scale.cost(problem, one[0]))
        times = easing.rounds(prices) if rounds is None else rounds
        swung = _swing(task, best, prices, times, budget)
        found = [swung, *(settled for settled, _ in ended)]
        if (few := easing.best_of_few(prices)) is not None:
            found += [easing.settled(few), few]
    else:
        layout = Layout(problem, x, scale)
        if likely is not None:
            descend(layout, budget, only=likely)
        found = [easing.settled(layout.x)]
    # What began with broken guards may end in a dead end worse than where it came from.
    return sorted([*found, x], key=lambda one: scale.cost(problem, one))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _EasedSearch:
    """What is searched, as it is sent to other processes; its parts are falls and swings."""

    problem: PlacementProblem
    scale: Scale
    x: Ints
    likely: Bools | None

    def within(self, budget: Budget) -> _Easing:
        """The search, in a budget."""
        return _Easing(task=self, budget=budget)

    def do(self, part: _Fall | _Apart | _Swing, budget: Budget) -> tuple[Ints, Prices]:
        """Where a part of the search ends, and the prices on the way there."""
        return part.search(self.within(budget))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fall:
    """One way down for what moves cost, and from there to guards and caps themselves."""

    prices: Prices
    steps: Sequence[float]
    is_alone: bool

    def search(self, easing: _Easing) -> tuple[Ints, Prices]:
        x, prices = easing.search(self.prices, self.steps, is_alone=self.is_alone)
        return easing.settled(x), prices


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Apart:
    """Exchanges at prices between some of the hosts, while others are busy with the rest."""

    x: Ints
    prices: Prices
    hosts: Ints
    weighings: int

    def search(self, easing: _Easing) -> tuple[Ints, Prices]:
        x = easing.exchanged(self.x, self.prices, self.hosts, self.weighings)
        return x, self.prices


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Swing:
    """From a placement to other prices, back to the fair ones, to guards and caps themselves."""

    x: Ints
    others: Sequence[Prices]
    prices: Prices

    def search(self, easing: _Easing) -> tuple[Ints, Prices]:
        x = self.x
        for prices in (*self.others, self.prices):
            x = easing.exchanged(x, prices, easing.hosts)
        return easing.settled(x), self.prices


def _swing(task: _EasedSearch, x: Ints, prices: Prices, rounds: int, budget: Budget) -> Ints:
    """Improve `x`, which keeps guards and caps, by leaving it at other prices and coming back.

    The same each time, unless time runs out: the prices come from a generator of its own.
    """
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        if budget.is_spent:
            break
        swings = [
            _Swing(x=x, others=swung(prices, task.problem.unit_count, rng), prices=prices)
            for _ in range(SWINGS_AT_ONCE)
        ]
        ended = [x, *(settled for settled, _ in shared(task, swings, budget))]
        x = min(ended, key=lambda one: task.scale.cost(task.problem, one))
    return x


def _dealt(hosts: Ints, parts: int, rng: np.random.Generator) -> list[Ints]:
    """The hosts in so many parts, of neighbours in their order one to each: any of them."""
    rows = -(-len(hosts) // parts)
    part = np.array([rng.permutation(parts) for _ in range(rows)]).ravel()[: len(hosts)]
    return [hosts[part == number] for number in range(parts)]


def follow(layout: Layout, before: Ints, after: Ints) -> None:
    """Make the moves in the layout that lead from one placement to another, if limits are kept.

    Each part of a search keeps them for itself; what all hosts of a site share, say, two parts
    may use up together.
    """
    moved = np.flatnonzero(before != after)
    back = layout.x[moved]
    for unit, host in zip(moved.tolist(), after[moved].tolist(), strict=True):
        layout.move(unit, host)
    if not layout.is_within():
        for unit, host in zip(moved.tolist(), back.tolist(), strict=True):
            layout.move(unit, host)


def _within_cap(problem: PlacementProblem, scale: Scale, x: Ints, budget: Budget) -> Ints:
    """Send home what is moved beyond the cap, each time what costs least there."""
    layout = Layout(problem, x, scale)
    while budget.moves is not None and budget.moves_of(layout) > budget.moves:
        moved = layout.x != problem.start
        if budget.exempt is not None:
            moved &= ~budget.exempt
        homeward = [
            (float(layout.gains_of_moving(np.array([unit]), int(layout.x[unit]))[0, home]), unit)
            for unit, home in zip(
                np.flatnonzero(moved).tolist(), problem.start[moved].tolist(), strict=True
            )
        ]
        gain, unit = max(homeward)
        if gain == -np.inf:
            return problem.start
        layout.move(unit, int(problem.start[unit]))
    return layout.x
