"""Prices in the place of guards and caps, and of what else is asked of a move.

At a price, a guard's sum counts from its first unit on instead of from what is allowed; each unit
that is away from its start costs something instead of being shut out; and what is only about moves
costs so many times what it does. `easing` finds out which prices are fair, and lets them swing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rebalancer.placement.arrays import Floats
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import Scale
from rebalancer.placement.objectives import Tier
from rebalancer.placement.prices import Linear
from rebalancer.placement.problem import PlacementProblem

AMPLITUDE = 0.7
"""How far prices swing, in natural logarithms: twice as dear or half as dear at most."""
NOISE = 2.0
"""How far what moving a unit costs does at most, beside what it does for all of them."""
DEARER = 0.4, 1.8
"""How far what moves cost does where nothing caps them: 1.5 to 6 times as dear."""
HALVINGS = 5
"""Of a range of prices, in logarithms: down to a factor of 1.3 for guards, of 1.4 for moves."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prices:
    """What is asked for instead of guards and caps."""

    guard_share: float
    """Of the price of a guard, for each unit of its sum."""
    move: float
    """For each unit that is away from its start."""
    times: float | Floats = 1.0
    """Times what terms cost otherwise that are only about what moved, such as movement; one for
    all units or `(U,)`."""


def eased(problem: PlacementProblem, scale: Scale, budget: Budget, prices: Prices) -> Scale:
    """The scale with prices in the place of its guards and of the budget's cap."""
    tiers = [(factor, _eased_tier(tier, prices)) for factor, tier in scale.tiers]
    if prices.move > 0:
        tiers.append((1.0, _charging_for_moves(problem, budget, prices.move)))
    return Scale(tiers=tuple(tiers))


def _eased_tier(tier: Tier, prices: Prices) -> Tier:
    """The tier with each guard turned into a curve that counts at a share of its price."""
    curves = (
        replace(guard.curve, weight=guard.curve.weight * guard.price * prices.guard_share)
        for guard in tier.guards
    )
    linears = tuple(
        replace(linear, factor=linear.factor * prices.times) if linear.when_moved else linear
        for linear in tier.linears
    )
    return replace(tier, curves=(*tier.curves, *curves), guards=(), linears=linears)


def swung(prices: Prices, units: int, rng: np.random.Generator) -> tuple[Prices, ...]:
    """Other prices, and those on the way back from them."""
    guard, move = np.exp(rng.uniform(-AMPLITUDE, AMPLITUDE, 2)).tolist()
    noise = float(rng.uniform(0.0, NOISE))
    times = np.exp(rng.uniform(-noise, noise, units))
    others = Prices(guard_share=prices.guard_share * guard, move=prices.move * move, times=times)
    if prices.move > 0:
        return (others,)
    dearer = float(np.exp(rng.uniform(*DEARER)))
    back = replace(prices, times=float(np.sqrt(dearer)))
    return replace(others, times=dearer * times), back


def _charging_for_moves(problem: PlacementProblem, budget: Budget, price: float) -> Tier:
    counted = np.ones(problem.unit_count, bool) if budget.exempt is None else ~budget.exempt
    charge = Linear(
        goal="moves",
        factor=np.where(counted, price, 0.0),
        kind=np.zeros(problem.unit_count, np.intp),
        matrix=np.ones((1, problem.host_count)),
        when_moved=True,
    )
    return Tier(number=0, linears=(charge,))


def least(range_: tuple[float, float], is_enough: Callable[[float], bool]) -> float:
    """About the least value of a range that is enough."""
    low, high = range_
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return float(np.sqrt(low * high))
