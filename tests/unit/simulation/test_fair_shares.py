"""Max-min fair sharing of bandwidth."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.simulation.network import share_fairly


def test_two_transfers_share_a_nic_fairly() -> None:
    rates = share_fairly(
        {"a": math.inf, "b": math.inf}, {"a": ["nic"], "b": ["nic"]}, {"nic": 100.0}
    )

    assert rates == {"a": 50.0, "b": 50.0}


def test_what_a_capped_transfer_leaves_goes_to_the_other() -> None:
    rates = share_fairly({"a": 20.0, "b": math.inf}, {"a": ["nic"], "b": ["nic"]}, {"nic": 100.0})

    assert rates == {"a": 20.0, "b": 80.0}


def test_a_transfer_held_back_by_the_wan_leaves_its_nic_to_others() -> None:
    rates = share_fairly(
        {"far1": math.inf, "far2": math.inf, "near": math.inf},
        {"far1": ["nic", "wan"], "far2": ["other nic", "wan"], "near": ["nic"]},
        {"nic": 100.0, "other nic": 100.0, "wan": 30.0},
    )

    assert rates == pytest.approx({"far1": 15.0, "far2": 15.0, "near": 85.0})


def test_a_dead_link_carries_nothing_and_holds_nobody_else_up() -> None:
    rates = share_fairly(
        {"cut": math.inf, "fine": 10.0},
        {"cut": ["dead", "nic"], "fine": ["nic"]},
        {"dead": 0.0, "nic": 100.0},
    )

    assert rates == {"cut": 0.0, "fine": 10.0}


def test_nothing_to_share_is_no_fault() -> None:
    assert share_fairly({}, {}, {}) == {}


def test_a_transfer_without_any_limit_is_a_bug() -> None:
    with pytest.raises(ValueError, match="without a cap"):
        share_fairly({"a": math.inf}, {"a": []}, {})


@st.composite
def networks(
    draw: st.DrawFn,
) -> tuple[dict[int, float], dict[int, list[str]], dict[str, float]]:
    pipes = draw(
        st.dictionaries(st.sampled_from("abcdef"), st.floats(1.0, 1e10), min_size=1, max_size=6)
    )
    flows = draw(st.integers(1, 8))
    paths = {
        flow: draw(st.lists(st.sampled_from(sorted(pipes)), min_size=1, max_size=3, unique=True))
        for flow in range(flows)
    }
    caps = {flow: draw(st.one_of(st.just(math.inf), st.floats(0.0, 1e10))) for flow in range(flows)}
    return caps, paths, pipes


@given(networks())
def test_no_pipe_is_overfilled_and_nobody_could_get_more(
    network: tuple[dict[int, float], dict[int, list[str]], dict[str, float]],
) -> None:
    caps, paths, pipes = network

    rates = share_fairly(caps, paths, pipes)

    used = {
        pipe: sum(rate for flow, rate in rates.items() if pipe in paths[flow]) for pipe in pipes
    }
    assert all(used[pipe] <= pipes[pipe] * (1 + 1e-6) for pipe in pipes)
    for flow, rate in rates.items():
        assert rate <= caps[flow]
        held_back = any(
            used[pipe] >= pipes[pipe] * (1 - 1e-6)
            # …and nobody on that full pipe has more than this flow.
            and all(rates[other] <= rate * (1 + 1e-6) for other in paths if pipe in paths[other])
            for pipe in paths[flow]
        )
        assert held_back or rate >= caps[flow] * (1 - 1e-6)
