"""What `plan --verbose` says on the way."""

from __future__ import annotations

from rebalancer.cluster.demand import Demand
from rebalancer.placement.incumbent import Incumbent
from rebalancer.placement.solver import place
from rebalancer.service.found import line_of, seconds_running
from tests.builders import a_policy
from tests.unit.placement.clusters import a_hot_host


def test_a_placement_that_moves_something_is_told_with_what_it_is_worth() -> None:
    found = Incumbent(seconds=0.5, moves=3, before=0.5, after=0.25)

    assert line_of(found, 1.24) == "1.2 s after the start: 3 VMs to move, objective 0.5 → 0.25"


def test_that_nothing_has_to_move_is_told_first() -> None:
    told: list[Incumbent] = []
    snapshot = a_hot_host()

    place(
        snapshot,
        Demand.as_measured(snapshot),
        a_policy(),
        clock=lambda: 0.0,
        tell=told.append,
    )

    assert line_of(told[0], 0.0).endswith("the present placement can be kept")
    assert told[-1].moves > 0
    assert told[-1].after < told[-1].before


def test_the_kernel_knows_how_long_we_run() -> None:
    assert seconds_running() > 0
