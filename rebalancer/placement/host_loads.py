"""What a host's loads cost, one load at a time, and where a host should be at given prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Floats

WIDE = 1.5
"""Loads beyond this do not matter where the cost rises there."""
SAMPLES = 600
"""Points at which the cost of a load is looked at to find the area that matters."""
TOO_MUCH = 1e6
"""More than anything costs: what is beyond a limit."""

type Slopes = Callable[[Floats], tuple[Floats, Floats]]
"""Values and slopes of a convex function."""


@dataclass(slots=True, kw_only=True, eq=False)
class Axis:
    """One of the two loads, relative to the size of the host."""

    curve: Slopes
    """Its cost; convex."""
    most: float
    """What the host may carry."""
    slope: float = 0.0
    """The slope that the cost is compared with: its tangent's where the host should be."""

    def above(self, load: Floats) -> Floats:
        """The cost less the straight line of that slope, and very much where it is too much."""
        over = np.maximum(load - self.most - 1e-9, 0.0)
        cost = self.curve(load)[0] - self.slope * load
        return np.asarray(cost + np.where(over > 0, TOO_MUCH * (1 + over), 0.0), float)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Area:
    """The part of an axis that matters: where the cost is less than `most` above the least."""

    low: float
    high: float
    least: float
    """A little below the least cost, so that nothing is."""
    steepest: float
    """Of the cost less its straight line, within the area."""


def area_of(axis: Axis, top: float, most: float) -> Area:
    """Find where the cost, less its straight line, is within `most` of the least.

    `top` is a load that the host never comes to, whatever arrives.
    """
    end = max(1e-6, min(axis.most, top))
    if end > WIDE and float(axis.curve(np.array(WIDE))[1]) >= axis.slope:
        end = WIDE
    load = np.linspace(0.0, end, SAMPLES)
    value, slope = axis.curve(load)
    value, slope = value - axis.slope * load, slope - axis.slope
    at = int(value.argmin())
    # Convex: by its tangent, it is not less than this anywhere between the samples.
    least = float(value[at] - abs(slope[at]) * load[1])
    within = np.flatnonzero(value <= max(float(value[at]), least + most))
    low, high = max(0, int(within[0]) - 1), min(SAMPLES - 1, int(within[-1]) + 1)
    return Area(
        low=float(load[low]),
        high=float(load[high]),
        least=least,
        steepest=float(np.abs(slope[[low, high]]).max()),
    )


def best_slopes(
    axes: tuple[Axis, Axis], now: Floats, pays: Floats, change: Floats, slopes: Floats
) -> Floats:
    """The tangent along which whole and split units come to the same place, or nearly so.

    With slope s of a load, each flip whose `pays` + s·`change` is less than 0 is made; the
    larger s, the lower that load. It is halved in on where the host should be for that slope,
    one load after the other.
    """
    found = slopes.copy()
    samples = [_sampled(axis, float(now[k])) for k, axis in enumerate(axes)]
    for k in (0, 1, 0, 1):
        load, slope = samples[k]
        useful = change[k] != 0
        rates = -(pays + found[1 - k] * change[1 - k])[useful] / change[k][useful]
        order = np.argsort(rates, kind="stable")
        # A flip that lowers the load is made above its rate, one that raises it below.
        steps = np.abs(change[k][useful])[order]
        made_at_least = float(now[k] + np.minimum(change[k], 0.0).sum())
        after = made_at_least + np.cumsum(steps[::-1])[::-1]
        wanted = load[np.minimum(np.searchsorted(slope, rates[order]), len(load) - 1)]
        # Loads fall and wishes rise with the slope: the first rate where they have crossed.
        crossed = after <= wanted
        at = int(np.argmax(crossed)) if crossed.any() else len(order)
        low = float(rates[order][at - 1]) if at else -np.inf
        high = float(rates[order][at]) if at < len(order) else np.inf
        level = float(after[at]) if at < len(order) else made_at_least
        middle = float(slope[min(int(np.searchsorted(load, level)), len(load) - 1)])
        found[k] = min(max(middle, low), high)
    return found


def _sampled(axis: Axis, now: float) -> tuple[Floats, Floats]:
    """Loads that the host may carry, and the slope of its cost there."""
    load = np.linspace(0.0, max(1e-6, min(axis.most, max(WIDE, now))), SAMPLES)
    return load, axis.curve(load)[1]
