"""The cheapest way for one host to come near where it should be, by whole units only.

Every unit that may leave or arrive is a *flip* with a cost, and moves the host by its needs in a
plane of two loads. Each point of the plane has a cost, too: a separable convex one, 0 where the
host should be. The least sum of both is bounded by dynamic programming over a grid; what units
are off the grid by is taken off their costs, so that the bound holds for what they really need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.host_loads import Area, Axis, area_of

CELLS = (300, 200)
"""Of the grid, at most, in each of the two loads."""
DETOUR_OF, DETOUR_AT_MOST = 3, 0.4
"""How far below the area that matters a host may come while units left and none arrived yet: as
far as so many of the largest take it, and not further than this."""
PAIRED_AT_MOST = 64
"""Cheapest flips that are tried two at a time in search of a good answer to begin with."""
EXACT = 1e-9
"""Units that are off the grid by less cost are on it."""
ROUNDING = 1e-4
"""Of the bound: more than single precision can lose in some hundred additions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """What a host may flip."""

    costs: Floats
    """`(n,)`: not negative."""
    changes: Floats
    """`(2, n)`: the two of a flip have the same sign."""
    begin: Floats
    """`(2,)`: the loads without any flip."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nearest:
    """What came out."""

    bound: float
    """No set of flips, with the place it leads to, costs less."""
    flips: Bools
    """`(n,)`: a good set."""


def come_near(choice: Choice, axes: tuple[Axis, Axis], known: Bools | None, most: float) -> Nearest:
    """Find cheap flips, and a bound on what any flips cost; the bound never exceeds `most`.

    `known` is a set of flips that was good before, if there is one.
    """
    first = _areas(axes, choice, most)
    least = first[0].least + first[1].least
    flips, cost = _good_flips(choice, axes, known, least)
    most = min(most, cost)
    if most <= 0:
        return Nearest(bound=least, flips=flips)
    kept = np.flatnonzero(choice.costs < most)
    if not len(kept):
        return Nearest(bound=least + most, flips=flips)
    grid = _Grid(choice, kept, axes, _areas(axes, choice, most), most)
    found = np.zeros(len(flips), bool)
    found[grid.flipped()] = True
    exact = _cost_of(choice, axes, found, least)
    return Nearest(
        bound=least + min(most, max(0.0, grid.bound)), flips=found if exact < cost else flips
    )


def _areas(axes: tuple[Axis, Axis], choice: Choice, most: float) -> tuple[Area, Area]:
    tops = choice.begin + np.maximum(choice.changes, 0.0).sum(axis=1)
    return area_of(axes[0], float(tops[0]), most), area_of(axes[1], float(tops[1]), most)


def stay_apart(choice: Choice, axes: tuple[Axis, Axis]) -> Nearest:
    """The bound without a look at whole flips, which takes next to no time."""
    first, second = _areas(axes, choice, 0.0)
    flips = np.zeros(len(choice.costs), bool)
    return Nearest(bound=first.least + second.least, flips=flips)


def _cost_of(choice: Choice, axes: tuple[Axis, Axis], flips: Bools, least: float) -> float:
    load = choice.begin + choice.changes[:, flips].sum(axis=1)
    above = sum(float(axis.above(np.array(z))) for axis, z in zip(axes, load, strict=True))
    return above + float(choice.costs[flips].sum()) - least


def _good_flips(
    choice: Choice, axes: tuple[Axis, Axis], known: Bools | None, least: float
) -> tuple[Bools, float]:
    """Flip one or two at a time as long as that is better; begin with what was good before."""
    nothing = np.zeros(len(choice.costs), bool)
    return _improved(choice, axes, nothing if known is None else known, least)


def _improved(
    choice: Choice, axes: tuple[Axis, Axis], flips: Bools, least: float
) -> tuple[Bools, float]:
    flips = flips.copy()
    cost = _cost_of(choice, axes, flips, least)
    few = np.argsort(choice.costs, kind="stable")[:PAIRED_AT_MOST]
    while len(flips):
        sign = np.where(flips, -1.0, 1.0)
        load = choice.begin + choice.changes[:, flips].sum(axis=1)
        paid = float(choice.costs[flips].sum()) - least
        one = _after(axes, load, sign * choice.changes, sign * choice.costs) + paid
        change, extra = sign[few] * choice.changes[:, few], sign[few] * choice.costs[few]
        two = _after(axes, load, change[:, :, None] + change[:, None, :], extra[:, None] + extra)
        np.fill_diagonal(two, np.inf)
        row, column = np.unravel_index(int(two.argmin()), two.shape)
        best = int(one.argmin())
        pair = float(two[row, column]) + paid
        if min(float(one[best]), pair) >= cost - 1e-9:
            break
        chosen = [best] if one[best] <= pair else [int(few[row]), int(few[column])]
        flips[chosen] ^= True
        cost = min(float(one[best]), pair)
    return flips, cost


def _after(axes: tuple[Axis, Axis], load: Floats, change: Floats, extra: Floats) -> Floats:
    loads = [axis.above(z + c) for axis, z, c in zip(axes, load, change, strict=True)]
    return np.asarray(loads[0] + loads[1] + extra, float)


class _Grid:
    """The plane around where the host should be, and the cheapest way to each cell of it."""

    def __init__(
        self,
        choice: Choice,
        kept: Ints,
        axes: tuple[Axis, Axis],
        areas: tuple[Area, Area],
        most: float,
    ) -> None:
        changes = choice.changes[:, kept]
        falls = changes.sum(axis=0) < 0
        # What leaves goes first: then nothing that passes the upper edges ever comes back.
        order = np.lexsort((-choice.costs[kept], ~falls))
        self._kept, changes, self._falls = kept[order], changes[:, order], falls[order]
        away = np.sort(np.minimum(changes, 0.0), axis=1)[:, :DETOUR_OF].sum(axis=1)
        detour = np.clip(-away, 0.02, DETOUR_AT_MOST)
        low = [min(a.low, z) - gap for a, z, gap in zip(areas, choice.begin, detour, strict=True)]
        high = [max(a.high, z) for a, z in zip(areas, choice.begin, strict=True)]
        self._step = [_step(change, low[k], high[k], CELLS[k]) for k, change in enumerate(changes)]
        self._shape = tuple(int((high[k] - low[k]) / self._step[k]) + 3 for k in range(2))
        self._begin = tuple(int((choice.begin[k] - low[k]) / self._step[k]) + 1 for k in range(2))
        shifts = [
            np.rint(change / step).astype(int)
            for change, step in zip(changes, self._step, strict=True)
        ]
        self._shifts = list(zip(shifts[0].tolist(), shifts[1].tolist(), strict=True))
        off_by = [
            np.abs(change - shift * step)
            for change, shift, step in zip(changes, shifts, self._step, strict=True)
        ]
        back = [
            _least_cover(
                choice.costs[self._kept[~self._falls]],
                changes[k, ~self._falls],
                areas[k].low - low[k] - float(off_by[k][self._falls].sum()),
            )
            for k in range(2)
        ]
        off = [area.steepest * part for area, part in zip(areas, off_by, strict=True)]
        self._is_exact = [bool((part <= EXACT).all()) for part in off]
        self._costs = choice.costs[self._kept] - off[0] - off[1]
        self._taken: list[tuple[Bools, int, int] | None] = []
        self._spare_the_dear()
        # Half as many bytes are twice as fast, and what that rounds is far below a tolerance.
        self._ways = np.full(self._shape, np.inf, np.float32)
        self._ways[self._begin] = 0.0
        places = self._places(choice, axes, areas)
        edges = [float(place[-1]) for place in places]
        self._watched = [
            edge < most and not (exact and area.high >= axis.most - 1e-9)
            for edge, exact, area, axis in zip(edges, self._is_exact, areas, axes, strict=True)
        ]
        below, above = self._fill()
        total = self._ways + (places[0][:, None] + places[1])
        self._end = np.unravel_index(int(total.argmin()), total.shape)
        # What costs less for being off the grid may do so all at once.
        spared = float(np.minimum(self._costs, 0.0).sum())
        self.bound = -ROUNDING * most + min(
            float(total[self._end]),
            *(gone + cost for gone, cost in zip(below, back, strict=True)),
            *(gone + edge + spared for gone, edge in zip(above, edges, strict=True)),
            most + spared,
        )

    def _fill(self) -> tuple[list[float], list[float]]:
        """Go through the flips one by one; return the least cost of passing each edge.

        The lower edges are passed by what leaves; the upper ones count only where that matters.
        """
        below, above = [np.inf, np.inf], [np.inf, np.inf]
        height, width = self._shape
        ways = self._ways
        for (down, across), cost, falls in zip(
            self._shifts, self._costs.astype(np.float32), self._falls.tolist(), strict=True
        ):
            passed = below if falls else above
            for k, by in enumerate((down, across)):
                if by and (falls or self._watched[k]):
                    edge = _beyond(ways, k, by)
                    passed[k] = min(passed[k], float(edge.min(initial=np.inf) + cost))
            if abs(down) >= height or abs(across) >= width:
                self._taken.append(None)
                continue
            top, left = max(0, -down), max(0, -across)
            after = ways[top : height - max(0, down), left : width - max(0, across)] + cost
            there = ways[top + down :, left + across :][: after.shape[0], : after.shape[1]]
            better = after < there
            np.copyto(there, after, where=better)
            self._taken.append((better, top, left))
        return below, above

    def _spare_the_dear(self) -> None:
        """Of flips that shift alike, leave out those that only matter when too many are taken."""
        seen: dict[tuple[int, int], int] = {}
        kept: list[int] = []
        for number in np.argsort(self._costs, kind="stable").tolist():
            shift = self._shifts[number]
            times = seen[shift] = seen.get(shift, 0) + 1
            most = _times(shift, self._shape)
            if times <= most or self._costs[number] < 0:
                kept.append(number)
        kept.sort()
        self._shifts = [self._shifts[number] for number in kept]
        self._kept, self._costs = self._kept[kept], self._costs[kept]
        self._falls = self._falls[kept]

    def _places(
        self, choice: Choice, axes: tuple[Axis, Axis], areas: tuple[Area, Area]
    ) -> list[Floats]:
        """What it costs to end at each load: beyond the area that matters, a straight line on."""
        sums: list[Floats] = []
        for k, (axis, area) in enumerate(zip(axes, areas, strict=True)):
            load = choice.begin[k] + (np.arange(self._shape[k]) - self._begin[k]) * self._step[k]
            inside = np.clip(load, area.low, area.high)
            cost = axis.curve(inside)[0] - axis.slope * inside - area.least
            cost = np.maximum(cost, 0.0) + area.steepest * np.abs(load - inside)
            if self._is_exact[k]:
                cost[load > axis.most + 1e-9] = np.inf
            sums.append(cost)
        return sums

    def flipped(self) -> Ints:
        """The flips on the cheapest way."""
        down, across = (int(k) for k in self._end)
        flips: list[int] = []
        for number in range(len(self._taken) - 1, -1, -1):
            taken = self._taken[number]
            if taken is None:
                continue
            better, top, left = taken
            shift = self._shifts[number]
            row, column = down - shift[0] - top, across - shift[1] - left
            if 0 <= row < better.shape[0] and 0 <= column < better.shape[1] and better[row, column]:
                flips.append(number)
                down, across = down - shift[0], across - shift[1]
        return self._kept[flips]


def _beyond(ways: NDArray[np.float32], axis: int, by: int) -> NDArray[np.float32]:
    """The cells from which a shift along one axis leads out of the grid."""
    if axis == 0:
        return ways[:-by] if by < 0 else ways[-by:]
    return ways[:, :-by] if by < 0 else ways[:, -by:]


def _least_cover(costs: Floats, needs: Floats, gap: float) -> float:
    """What it costs at least to raise a load by `gap`: whole flips, and part of a last one."""
    useful = needs > 0
    costs, needs = costs[useful], needs[useful]
    order = np.argsort(costs / needs, kind="stable")
    reached = np.cumsum(needs[order])
    last = int(np.searchsorted(reached, gap))
    if last >= len(order):
        return np.inf if gap > 0 else 0.0
    missing = gap - (float(reached[last - 1]) if last else 0.0)
    part = max(0.0, missing) / float(needs[order[last]]) * float(costs[order[last]])
    return float(costs[order[:last]].sum()) + part


def _times(shift: tuple[int, int], shape: Sequence[int]) -> int:
    """How many shifts of a kind fit into the grid."""
    return min((size // abs(by) for by, size in zip(shift, shape, strict=True) if by), default=1)


def _step(changes: Floats, low: float, high: float, cells: int) -> float:
    """The width of a cell: one that all changes are multiples of, if that is not too narrow."""
    coarse = (high - low) / (cells - 3)
    sizes = np.abs(changes[changes != 0])
    if not len(sizes) or sizes.min() < coarse:
        return coarse
    times = sizes / sizes.min()
    return float(sizes.min()) if np.abs(times - np.rint(times)).max() < 1e-6 else coarse
