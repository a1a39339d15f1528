"""The joint peak of a host's VMs, and how far VMs stray, alone and together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rebalancer.cluster.inventory import HostId, Snapshot, UsageHistory, VmId
from rebalancer.cluster.policy import Foresight
from rebalancer.forecast.demand import forecast_demand
from rebalancer.forecast.pooling import Parts, pooled_parts
from rebalancer.forecast.spread import (
    UNKNOWN_CORRELATION,
    UNKNOWN_SPREAD,
    busyness,
    correlation_of,
    past_errors,
    spread_of,
)
from tests.builders import NOON, a_host, a_policy, a_snapshot, a_vm

type Array = NDArray[np.float64]

Z_97_7 = 2.0
QUANTILE_97_7 = 0.97724987
INTERVAL = 300.0
DAY = 288


def pooled(
    expected: Array, spread: Array, *, correlation: float = 0.0, host_cores: float = 10.0
) -> Parts:
    return pooled_parts(
        expected,
        spread,
        np.full(len(expected), 4.0),
        correlation=correlation,
        quantile=QUANTILE_97_7,
        host_cores=host_cores,
    )


def test_of_a_full_host_the_parts_add_up_to_the_quantile_of_the_sum() -> None:
    expected, spread = np.full(100, 0.5), np.full(100, 0.2)

    parts = pooled(expected, spread)

    # n VMs fill 10 cores: 0.5·n + 2·0.2·√n = 10
    count = ((-0.4 + np.sqrt(0.16 + 20)) / 1.0) ** 2
    assert count * parts.peak[0] + parts.margin == pytest.approx(10.0, rel=1e-6)
    assert parts.margin == pytest.approx(Z_97_7 * 0.2 * np.sqrt(count) / 2, rel=1e-6)


def test_vms_that_rise_together_get_what_each_needs_by_itself() -> None:
    expected, spread = np.full(40, 0.5), np.full(40, 0.2)

    parts = pooled(expected, spread, correlation=1.0)

    # n·0.5 + 2·0.2·n = 10
    count = 10.0 / 0.9
    assert count * parts.peak[0] + parts.margin == pytest.approx(10.0, rel=1e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 30),
    correlation=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_the_parts_are_never_less_than_the_joint_peak(
    seed: int, count: int, correlation: float
) -> None:
    rng = np.random.default_rng(seed)
    expected, spread = rng.uniform(0.05, 1.0, 60), rng.uniform(0.01, 0.15, 60)
    parts = pooled(expected, spread, correlation=correlation)
    there = rng.choice(60, count, replace=False)
    full = (expected.sum() > 0) * spread.sum() * min(1.0, 10.0 / expected.sum())

    own, straight = (spread[there] ** 2).sum(), spread[there].sum()
    need = expected[there].sum() + Z_97_7 * np.sqrt(
        (1 - correlation) * own + correlation * straight**2
    )

    # Where Σ s is not above that of a full host, as documented.
    if correlation == 0 or straight <= 0.6 * full:
        assert parts.peak[there].sum() + parts.margin >= need - 1e-6


def test_no_part_is_more_than_the_vm_has() -> None:
    parts = pooled(np.array([0.1, 0.1, 3.9]), np.array([0.01, 0.01, 3.0]))

    assert parts.peak.max() <= 4.0


def test_nothing_is_kept_free_where_nothing_strays() -> None:
    parts = pooled(np.full(3, 0.5), np.zeros(3))

    assert (parts.margin, parts.peak.tolist()) == (0.0, [0.5] * 3)


def test_a_spread_is_learned_from_what_the_level_was_wrong_by() -> None:
    rng = np.random.default_rng(5)
    samples = np.clip(2.0 + rng.normal(0.0, [[0.1], [0.5]], (2, DAY)), 0.0, 4.0)
    vcpus = np.full(2, 4.0)

    errors = past_errors(samples, vcpus, INTERVAL, 900.0)
    spread = spread_of(errors, np.full(2, 2.0), vcpus, INTERVAL, np.full(2, True))

    # A level is itself a mean of a few samples, and an hour of the usual is mixed in.
    assert spread[0] == pytest.approx(0.12, abs=0.05)
    assert spread[1] == pytest.approx(0.52, abs=0.05)


def test_an_unknown_vm_strays_most_when_it_is_half_busy() -> None:
    samples = np.array([[0.04, 0.04], [2.0, 2.0]])
    vcpus = np.full(2, 4.0)

    errors = past_errors(samples, vcpus, INTERVAL, 900.0)
    spread = spread_of(errors, samples[:, -1], vcpus, INTERVAL, np.full(2, False))

    assert spread == pytest.approx(UNKNOWN_SPREAD * np.sqrt(busyness(samples[:, -1], vcpus)))
    assert spread[1] > 4 * spread[0]


@pytest.mark.parametrize(("shared", "correlation"), [(0.0, 0.0), (1.0, 0.5), (3.0, 0.9)])
def test_correlation_is_that_of_the_noise_that_all_share(shared: float, correlation: float) -> None:
    rng = np.random.default_rng(2)
    together = shared * rng.normal(0.0, 0.1, (1, DAY))
    samples = 2.0 + rng.normal(0.0, 0.1, (50, DAY)) + together

    errors = past_errors(samples, np.full(50, 4.0), INTERVAL, 900.0)

    assert correlation_of(errors, INTERVAL) == pytest.approx(correlation, abs=0.08)


def test_without_a_past_correlation_is_supposed() -> None:
    errors = past_errors(np.full((3, 1), 1.0), np.full(3, 4.0), INTERVAL, 900.0)

    assert correlation_of(errors, INTERVAL) == UNKNOWN_CORRELATION


def test_gaps_are_no_errors() -> None:
    samples = np.full((2, DAY), 1.0)
    samples[1, ::2] = np.nan

    errors = past_errors(samples, np.full(2, 4.0), INTERVAL, 900.0)

    assert errors.squares == pytest.approx([0.0, 0.0], abs=1e-12)
    assert errors.usual[1] == pytest.approx(errors.usual[0] / 2, rel=0.05)


# In the forecast of a cluster ---------------------------------------------------------------


def noisy(vms: int = 30) -> Snapshot:
    rng = np.random.default_rng(1)
    past = np.clip(1.0 + rng.normal(0.0, 0.3, (vms, DAY)), 0.0, 4.0)
    return replace(
        a_snapshot(
            [a_host(f"h{n}", cpu_cores=16.0) for n in range(4)],
            [a_vm(f"vm{n}", f"h{n % 4}", vcpus=4, cpu_used_cores=1.0) for n in range(vms)],
        ),
        usage=UsageHistory(
            start=NOON,
            interval_seconds=INTERVAL,
            vm_cpu_cores={VmId(f"vm{n}"): past[n] for n in range(vms)},
            host_cpu_cores={},
        ),
    )


def test_a_pooled_forecast_needs_less_than_the_sum_of_peaks() -> None:
    snapshot = noisy()
    apart = forecast_demand(snapshot, a_policy())
    together = forecast_demand(snapshot, a_policy(forecast=Foresight(is_pooled=True)))

    there = [vm.id for vm in snapshot.vms_by_host[HostId("h0")]]
    alone = sum(apart.vm_cpu_peak_cores[vm] for vm in there)
    pooled_need = sum(together.vm_cpu_peak_cores[vm] for vm in there) + together.host_margin_cores

    assert apart.host_margin_cores == 0.0
    assert sum(together.vm_cpu_cores[vm] for vm in there) < pooled_need < 0.85 * alone
    assert together.upper_cores(there[0]) == apart.vm_cpu_peak_cores[there[0]]


def test_a_higher_quantile_asks_for_more() -> None:
    snapshot = noisy()

    def need(quantile: float) -> float:
        foresight = Foresight(is_pooled=True, peak_quantile=quantile)
        demand = forecast_demand(snapshot, a_policy(forecast=foresight))
        return sum(demand.vm_cpu_peak_cores.values()) + demand.host_margin_cores

    assert need(0.5) < need(0.9) < need(0.99)
