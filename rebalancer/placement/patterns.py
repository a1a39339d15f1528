"""A stronger bound: what each host may come to by whole units, and not by parts of them.

In the linear relaxation a host may send away a third of a unit, and receive CPU without the
memory that comes with it. Here all that ties hosts together is given a price instead (a
Lagrangian relaxation; Fisher, Management Science 27(1), 1981, doi:10.1287/mnsc.27.1.1):

    transfer[u]   what the host that unit u leaves pays to the one that it arrives on
    move          for every move, where there is a cap
    guard[g]      for what the hosts add to a guarded sum

Then each host on its own is asked for the least that any leaving and arriving of whole units
can cost it. Whatever the prices, the sum over all hosts is a bound. They begin as the linear
program has them, and are changed for as long as that pays: a unit that more hosts want than
there are becomes dearer to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.curves import Deviation, Excess, Switch
from rebalancer.placement.flips import Choice, come_near, stay_apart
from rebalancer.placement.host_loads import Axis, best_slopes
from rebalancer.placement.lowest_prices import Prices, most_load
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import PlacementProblem, Resource

REGRET_AT_MOST = 8.0
"""Bounds of hosts are cut off at so many times the mean of what could still be gained."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Duals:
    """The prices of what ties hosts together, and the slopes that come with them."""

    transfer: Floats
    """`(U,)`"""
    move: float
    guard: Floats
    """`(G,)`"""
    slopes: Floats
    """`(2, H)`: of each host's cost where it should be; the first guess at them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """What every host is asked about."""

    problem: PlacementProblem
    tier: Tier
    prices: Prices
    must_leave: Bools
    moves: int | None
    exempt: Bools

    @property
    def plane(self) -> tuple[Resource, Resource] | None:
        """The two loads that costs depend on; `None` if there are others."""
        if self.prices.carrying or any(isinstance(c, Switch) for c in self.tier.curves):
            return None
        found = {c.resource for c in self.tier.curves} | {g.resource for g in self.tier.guards}
        others = sorted(found - {Resource.MEMORY}) or [Resource.CORES]
        return (others[0], Resource.MEMORY) if len(others) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pattern:
    """What one host would do at given prices."""

    host: int
    bound: float
    leaves: Ints
    arrives: Ints
    guarded: Floats
    """`(G,)`: what the host would add to each guarded sum."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """What given prices come to."""

    duals: Duals
    bound: float
    patterns: tuple[Pattern, ...]


class Hosts:
    """Asks the hosts, and remembers what each did last."""

    def __init__(self, asked: Asked, plane: tuple[Resource, Resource], most: float) -> None:
        self._asked, self._plane, self._most = asked, plane, most
        problem = asked.problem
        self._limits = np.array([most_load(problem, r) / problem.size[r] for r in plane])
        self._foreign = [self._may_arrive(host) for host in range(problem.host_count)]
        self._home = [
            np.flatnonzero((problem.start == host) & asked.prices.can_leave)
            for host in range(problem.host_count)
        ]
        self._last: dict[int, Ints] = {}
        self._slopes: dict[int, Floats] = {}

    def _may_arrive(self, host: int) -> Ints:
        problem = self._asked.problem
        if not problem.receives[host]:
            return np.zeros(0, np.intp)
        candidates = problem.candidates
        may = candidates.allowed[candidates.kind, host] & self._asked.prices.can_leave
        may &= candidates.largest_bytes <= candidates.guest_bytes[host]
        return np.flatnonzero(may & (problem.start != host))

    def judge(self, duals: Duals, budget: Budget) -> Judged:
        """Ask all hosts; once time is up, they are only asked for what parts of units say."""
        asked = self._asked
        bound = asked.prices.constant
        bound -= duals.move * (asked.moves or 0)
        allowed = [guard.allowed for guard in asked.tier.guards]
        bound -= float(duals.guard @ np.array(allowed)) if allowed else 0.0
        patterns = [
            self._ask(host, duals, by_parts=budget.is_spent)
            for host in range(asked.problem.host_count)
        ]
        return Judged(
            duals=duals,
            bound=bound + sum(pattern.bound for pattern in patterns),
            patterns=tuple(patterns),
        )

    def _ask(self, host: int, duals: Duals, *, by_parts: bool) -> Pattern:
        """The least that the host's own cost, what it pays and what it is paid can come to.

        Units are flips from what is best along the tangent: then no flip gains anything, and
        no place does; there is only regret, which is least if whole units fit by chance.
        """
        problem, asked = self._asked.problem, self._asked
        home, foreign = self._home[host], self._foreign[host]
        units = np.concatenate([home, foreign])
        sign = np.concatenate([-np.ones(len(home)), np.ones(len(foreign))])
        counted = duals.move * ~asked.exempt[home]
        pays = np.concatenate(
            [
                asked.prices.leaving[home] + counted + duals.transfer[home],
                -duals.transfer[foreign],
            ]
        )
        size = problem.size[list(self._plane), host]
        change = sign * problem.needs[list(self._plane)][:, units] / size[:, None]
        now = problem.start_load[list(self._plane), host] / size
        axes = self._axes(host, duals)
        forced = np.concatenate([asked.must_leave[home], np.zeros(len(foreign), bool)])
        slopes = self._slopes.get(host, duals.slopes[:, host])
        gone = now + change[:, forced].sum(axis=1)
        slopes = best_slopes(axes, gone, pays[~forced], change[:, ~forced], slopes)
        self._slopes[host] = slopes
        rate = pays + slopes @ change
        default = (rate < 0) | forced
        choice = Choice(
            costs=np.abs(rate[~forced]),
            changes=np.where(default, -change, change)[:, ~forced],
            begin=now + change[:, default].sum(axis=1),
        )
        for axis, slope in zip(axes, slopes.tolist(), strict=True):
            axis.slope = slope
        nearest = (
            stay_apart(choice, axes)
            if by_parts
            else come_near(choice, axes, self._known(host, units, default, forced), self._most)
        )
        done = default.copy()
        done[~forced] ^= nearest.flips
        self._last[host] = units[done]
        load = (now + change[:, done].sum(axis=1)) * size
        return Pattern(
            host=host,
            bound=float(rate[default].sum() + slopes @ now) + nearest.bound,
            leaves=home[done[: len(home)]],
            arrives=foreign[done[len(home) :]],
            guarded=np.array(
                [
                    float(g.curve.cost(load[[self._plane.index(g.resource)]], np.array([host]))[0])
                    for g in asked.tier.guards
                ]
            ),
        )

    def _known(self, host: int, units: Ints, default: Bools, forced: Bools) -> Bools | None:
        if host not in self._last:
            return None
        flips: Bools = np.isin(units, self._last[host]) != default
        return flips[~forced]

    def _axes(self, host: int, duals: Duals) -> tuple[Axis, Axis]:
        tier = self._asked.tier
        weighed = [(1.0, curve) for curve in tier.curves if not isinstance(curve, Switch)]
        weighed += [
            (float(price), guard.curve)
            for price, guard in zip(duals.guard, tier.guards, strict=True)
        ]
        first, second = (
            Axis(
                curve=_Cost(
                    tuple((w, c) for w, c in weighed if c.resource == resource and w > 0),
                    host,
                    float(self._asked.problem.size[resource, host]),
                ),
                most=float(self._limits[k, host]),
            )
            for k, resource in enumerate(self._plane)
        )
        return first, second


@dataclass(frozen=True, slots=True)
class _Cost:
    """What the curves of one resource cost a host, by its load relative to its size."""

    weighed: tuple[tuple[float, Deviation | Excess], ...]
    host: int
    size: float

    def __call__(self, load: Floats) -> tuple[Floats, Floats]:
        """Values and slopes."""
        hosts = np.array(self.host)
        value, slope = np.zeros(np.shape(load)), np.zeros(np.shape(load))
        for weight, curve in self.weighed:
            steep, level = curve.tangent(load * self.size, hosts)
            value = value + weight * (level + steep * load * self.size)
            slope = slope + weight * steep * self.size
        return value, slope


def best_bound(
    asked: Asked, duals: Duals, *, bound: float, target: float, budget: Budget
) -> tuple[float, Duals]:
    """Improve the bound by whole units, until time is up or it does not rise any more.

    `target` is a cost that some placement is known to have. Return the bound and the best prices
    that were seen, from which another search for a better one may go on.
    """
    plane = asked.plane
    if plane is None or target <= bound:
        return bound, duals
    most = REGRET_AT_MOST * (target - bound) / max(1, int(asked.problem.scored.sum()))
    hosts = Hosts(asked, plane, most)
    seen = list(_ascent(hosts, asked, duals, target, budget))
    best = max(seen, key=lambda judged: judged.bound, default=None)
    return (bound, duals) if best is None else (max(bound, best.bound), best.duals)


ROUNDS = 60
STEP, GROW, SHRINK, LEAST_STEP = 0.3, 1.2, 0.75, 1e-3
"""Of the way to the target, as far as the subgradient tells: at first, after a better bound,
after a worse one, and when there is nothing more to be had."""
STEP_UNDER_CAP, SHRINK_UNDER_CAP = 0.15, 0.5
"""A cap on moves keeps a bound far from its target: steps towards it lead astray more often."""
KEPT = 0.6
"""Of the direction so far; the rest is that of the last answer, also where it was worse."""
GUARD_SCALE = 30.0
"""Prices of guards are of another order than those of units, by about so much."""


def _ascent(
    hosts: Hosts, asked: Asked, duals: Duals, target: float, budget: Budget
) -> Iterator[Judged]:
    """Change prices along the subgradient, by steps towards the target (Polyak's).

    It always goes on from the best prices, more carefully after a step that led astray.
    """
    is_capped = asked.moves is not None
    step, shrink = (STEP_UNDER_CAP, SHRINK_UNDER_CAP) if is_capped else (STEP, SHRINK)
    best, at_best = -np.inf, duals
    heading: Floats | None = None
    scale = _scale(asked, duals)
    for _ in range(ROUNDS):
        if budget.is_spent or step < LEAST_STEP:
            return
        judged = hosts.judge(duals, budget)
        yield judged
        step *= GROW if judged.bound > best else shrink
        if judged.bound > best:
            best, at_best = judged.bound, duals
        away = _subgradient(asked, judged) * scale
        heading = away if heading is None else KEPT * heading + (1 - KEPT) * away
        length = step * (target - best) / max(1e-12, float(heading @ heading))
        duals = _moved(asked, at_best, length * heading * scale)


def _scale(asked: Asked, duals: Duals) -> Floats:
    """Of what order each price is, relative to the largest of units: large ones are dearer."""
    units = asked.prices.leaving + np.abs(duals.transfer)
    units = 0.1 + units / max(1e-12, float(units.max(initial=0.0)))
    return np.concatenate([units, [1.0], np.full(len(asked.tier.guards), GUARD_SCALE)])


def _subgradient(asked: Asked, judged: Judged) -> Floats:
    """By how much hosts together do more than can be: per unit, of moves, of guarded sums."""
    problem = asked.problem
    units = np.zeros(problem.unit_count)
    guarded = -np.array([guard.allowed for guard in asked.tier.guards])
    moves = 0.0
    for pattern in judged.patterns:
        units[pattern.leaves] += 1
        units[pattern.arrives] -= 1
        moves += float((~asked.exempt[pattern.leaves]).sum())
        guarded = guarded + pattern.guarded
    over = 0.0 if asked.moves is None else moves - asked.moves
    return np.concatenate([units, [over], guarded])


def _moved(asked: Asked, duals: Duals, by: Floats) -> Duals:
    count = asked.problem.unit_count
    most = np.array([guard.price for guard in asked.tier.guards])
    return replace(
        duals,
        transfer=duals.transfer + by[:count],
        move=max(0.0, duals.move + float(by[count])),
        guard=np.clip(duals.guard + by[count + 1 :], 0.0, most),
    )
