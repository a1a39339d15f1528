"""Law 8 for one host: no set of flips costs less than the grid says, however coarse it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.placement.arrays import Floats
from rebalancer.placement.flips import Choice, come_near, stay_apart
from rebalancer.placement.host_loads import Axis
from tests.property.laws import law

type Curve = Callable[[Floats], tuple[Floats, Floats]]


def squared_distance(level: float, weight: float) -> Curve:
    return lambda load: (weight * (load - level) ** 2, 2 * weight * (load - level))


@st.composite
def axes(draw: st.DrawFn) -> tuple[Axis, Axis]:
    first, second = (
        Axis(
            curve=squared_distance(
                draw(st.floats(0.2, 0.8)), draw(st.sampled_from([0.0, 0.1, 1.0, 5.0]))
            ),
            most=draw(st.sampled_from([0.5, 0.9, 1.0])),
            slope=draw(st.sampled_from([-0.2, -0.01, 0.0, 0.01, 0.2])),
        )
        for _ in range(2)
    )
    return first, second


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    count = draw(st.integers(0, 7))
    size = st.one_of(st.sampled_from([0.0, 1 / 64, 1 / 16, 1 / 8]), st.floats(0.001, 0.3))
    sign = [draw(st.sampled_from([-1.0, 1.0])) for _ in range(count)]
    return Choice(
        costs=np.array(draw(st.lists(st.floats(0.0, 0.02), min_size=count, max_size=count))),
        changes=np.array([[s * draw(size) for s in sign] for _ in range(2)]).reshape(2, count),
        begin=np.array([draw(st.floats(0.3, 0.9)), draw(st.floats(0.3, 0.9))]),
    )


def least_cost(choice: Choice, axes: tuple[Axis, Axis]) -> float:
    costs = [np.inf]
    for chosen in itertools.product([False, True], repeat=len(choice.costs)):
        flips = np.array(chosen, bool)
        load = choice.begin + choice.changes[:, flips].sum(axis=1)
        if all(z <= axis.most and z >= 0 for z, axis in zip(load, axes, strict=True)):
            places = [float(axis.above(z)) for axis, z in zip(axes, load, strict=True)]
            costs.append(sum(places) + float(choice.costs[flips].sum()))
    return min(costs)


@law()
@given(choices(), axes(), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_law_8_no_flips_cost_less_than_the_bound(
    choice: Choice, axes: tuple[Axis, Axis], most: float
) -> None:
    nearest = come_near(choice, axes, None, most)

    assert nearest.bound <= least_cost(choice, axes) + 1e-9
    assert stay_apart(choice, axes).bound <= nearest.bound + 1e-9


@law()
@given(choices(), axes())
def test_law_8_nor_when_good_flips_are_known_before(
    choice: Choice, axes: tuple[Axis, Axis]
) -> None:
    first = come_near(choice, axes, None, 1.0)
    again = come_near(choice, axes, first.flips, 1.0)

    assert again.bound <= least_cost(choice, axes) + 1e-9
