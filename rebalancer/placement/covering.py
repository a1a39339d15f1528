"""Which VMs to take off one host, cheapest way first: covering knapsacks in order of price.

To bring a host down to its band, VMs that use at least its excess together must leave. This
finds such sets in the order of what they cost, so that the first one is the cheapest there is,
and the next ones are there for when its VMs have nowhere to go.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np

from rebalancer.placement.arrays import Floats, Ints

STEPS_AT_MOST = 20_000
"""Steps after which the search for further sets ends; the first ones come within hundreds."""


def cheapest_covers(
    needs: Floats, prices: Floats, target: Floats, *, most: float = np.inf
) -> Iterator[Ints]:
    """Sets of items whose needs reach the target in every resource, cheapest first.

    `needs` is `(R, n)`, `prices` `(n,)` and not negative, `target` `(R,)`; yields indices. Sets
    that cost more than `most` are not looked for.
    Only minimal sets: nothing in them could stay. Best-first branch and bound; the bound of a
    node is the price of covering what is missing with parts of items, one resource at a time
    (the fractional knapsack: Dantzig, Operations Research 5(2), 1957, doi:10.1287/opre.5.2.266).
    """
    wanted = np.maximum(target, 0.0)
    if (needs.sum(axis=1) < wanted).any():
        return
    order = np.argsort(_rates(needs, prices, wanted), kind="stable")
    needs, prices = needs[:, order], prices[order]
    rates = [np.argsort(_rate(prices, row), kind="stable") for row in needs]
    # Of sets with the same price small ones first; the counter keeps the rest in order.
    counter = 0
    heap: list[tuple[float, int, int, int, tuple[int, ...]]] = [(0.0, 0, counter, 0, ())]
    while heap and counter < STEPS_AT_MOST:
        _, _, _, first, chosen = heapq.heappop(heap)
        taken = list(chosen)
        missing = wanted - needs[:, taken].sum(axis=1)
        if (missing <= 0).all():
            if _is_minimal(needs[:, taken], wanted):
                yield order[taken]
            continue
        if first == len(prices):
            continue
        price = float(prices[taken].sum())
        left = missing - needs[:, first]
        for rest, further in ((left, (*chosen, first)), (missing, chosen)):
            more = price + (float(prices[first]) if len(further) > len(chosen) else 0.0)
            bound = more + _least_price(needs, prices, rates, rest, first + 1)
            if bound <= most and bound < np.inf:
                counter += 1
                heapq.heappush(heap, (bound, len(further), counter, first + 1, further))


def _rates(needs: Floats, prices: Floats, wanted: Floats) -> Floats:
    """Price of each item for the share of the target that it covers; those worth most first."""
    asked = wanted > 0
    if not asked.any():
        return prices
    shares = np.minimum(needs[asked] / wanted[asked, None], 1.0).sum(axis=0)
    return _rate(prices, shares)


def _rate(prices: Floats, amounts: Floats) -> Floats:
    """Price for a unit of what is there; infinite where nothing is."""
    rate = np.full(len(prices), np.inf)
    np.divide(prices, amounts, out=rate, where=amounts > 1e-12)
    return rate


def _is_minimal(needs: Floats, wanted: Floats) -> bool:
    spare = needs.sum(axis=1) - wanted
    return not (needs <= spare[:, None]).all(axis=0).any()


def _least_price(
    needs: Floats, prices: Floats, rates: list[Ints], missing: Floats, first: int
) -> float:
    """What the items from `first` on cost at least to cover what is missing."""
    least = 0.0
    for row, order, lack in zip(needs, rates, missing.tolist(), strict=True):
        if lack <= 0:
            continue
        free = order[order >= first]
        covered = np.cumsum(row[free])
        last = int(np.searchsorted(covered, lack))
        if last >= len(free):
            return np.inf
        before = float(covered[last - 1]) if last else 0.0
        part = (lack - before) / float(row[free[last]])
        least = max(least, float(prices[free[:last]].sum() + part * prices[free[last]]))
    return least
