"""Cheapest sets first: compared with trying every set there is."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.placement.covering import cheapest_covers

amounts = st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.0, 8.0])


def every_cover(needs: np.ndarray, prices: np.ndarray, target: np.ndarray) -> list[float]:
    """Prices of all minimal covers, by brute force."""
    items = range(len(prices))
    sets = [set(some) for size in range(len(prices) + 1) for some in combinations(items, size)]
    covers = [one for one in sets if (needs[:, sorted(one)].sum(axis=1) >= target).all()]
    minimal = [one for one in covers if not any(other < one for other in covers)]
    return sorted(float(prices[sorted(one)].sum()) for one in minimal)


def test_the_cheapest_set_that_suffices_comes_first() -> None:
    needs = np.array([[4.0, 1.0, 3.0, 2.0]])
    prices = np.array([64.0, 2.0, 8.0, 4.0])

    found = [sorted(one.tolist()) for one in cheapest_covers(needs, prices, np.array([3.0]))]

    assert found == [[1, 3], [2], [0]]


def test_nothing_is_found_where_everything_together_does_not_suffice() -> None:
    assert list(cheapest_covers(np.array([[1.0, 1.0]]), np.ones(2), np.array([3.0]))) == []


def test_what_needs_no_covering_is_covered_by_nothing() -> None:
    assert [len(one) for one in cheapest_covers(np.ones((1, 3)), np.ones(3), np.zeros(1))] == [0]


def test_sets_above_the_given_price_are_not_looked_for() -> None:
    needs, prices = np.array([[1.0, 1.0]]), np.array([2.0, 5.0])

    found = list(cheapest_covers(needs, prices, np.array([1.0]), most=4.0))

    assert [one.tolist() for one in found] == [[0]]


@given(
    st.lists(st.tuples(amounts, amounts, st.sampled_from([1.0, 2.0, 2.5, 7.0])), max_size=7),
    st.tuples(amounts, amounts),
)
def test_all_minimal_covers_are_found_in_the_order_of_their_price(
    items: list[tuple[float, float, float]], target: tuple[float, float]
) -> None:
    table = np.array(items, float).reshape(len(items), 3).T
    needs, prices, wanted = table[:2], table[2], np.array(target)

    found = [float(prices[one].sum()) for one in cheapest_covers(needs, prices, wanted)]

    assert found == sorted(found)
    assert sorted(found) == every_cover(needs, prices, wanted)
