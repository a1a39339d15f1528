"""What VMs are expected to need."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from rebalancer.cluster.inventory import HostId, Snapshot, UsageHistory, VmId, VmState
from rebalancer.forecast.demand import forecast_demand
from tests.builders import NOON, a_host, a_snapshot, a_vm

A = VmId("a")


def a_history(samples: list[float], interval_seconds: float = 300.0) -> UsageHistory:
    return UsageHistory(
        start=NOON,
        interval_seconds=interval_seconds,
        vm_cpu_cores={A: np.array(samples)},
        host_cpu_cores={},
    )


def with_history(samples: list[float], **facts: Any) -> Snapshot:
    defaults: dict[str, Any] = {"vcpus": 8, "cpu_used_cores": 0.5}
    vm = a_vm("a", **(defaults | facts))
    return replace(a_snapshot(vms=[vm]), usage=a_history(samples))


def test_without_history_the_newest_measurement_counts() -> None:
    demand = forecast_demand(a_snapshot(vms=[a_vm("a", cpu_used_cores=0.7)]))

    assert demand.vm_cpu_cores[A] == 0.7
    assert demand.vm_cpu_peak_cores[A] == 0.7


def test_the_level_follows_what_changed_within_the_hour() -> None:
    demand = forecast_demand(with_history([7.0] * 100 + [1.0, 2.0] * 6))

    assert 1.5 < demand.vm_cpu_cores[A] < 3.0


def test_the_peak_is_an_upper_quantile_of_the_last_day() -> None:
    demand = forecast_demand(with_history(([1.0] * 9 + [4.0]) * 29))

    assert demand.vm_cpu_cores[A] == pytest.approx(1.3, abs=0.2)
    assert demand.vm_cpu_peak_cores[A] == pytest.approx(4.0, abs=0.1)


def test_a_short_spike_does_not_make_the_peak() -> None:
    demand = forecast_demand(with_history([8.0] * 2 + [1.0] * 98))

    assert demand.vm_cpu_peak_cores[A] == pytest.approx(1.0, abs=0.05)


def test_missing_samples_are_left_out() -> None:
    nan = float("nan")

    demand = forecast_demand(with_history([nan, 1.0, nan, 3.0, nan]))

    assert 2.0 < demand.vm_cpu_cores[A] < 2.5


def test_a_history_of_nothing_is_no_history() -> None:
    assert forecast_demand(with_history([float("nan")] * 3)).vm_cpu_cores[A] == 0.5
    assert forecast_demand(with_history([])).vm_cpu_cores[A] == 0.5


def test_a_short_history_gets_the_rise_that_is_usual_for_its_size() -> None:
    restless = np.tile([0.5] * 9 + [2.0], 30)
    history = {VmId(f"old{n}"): restless for n in range(3)}
    history[A] = np.full(300, np.nan)
    history[A][-1] = 0.5
    vms = [a_vm("a"), *(a_vm(f"old{n}") for n in range(3))]
    usage = replace(a_history([]), vm_cpu_cores=history)

    demand = forecast_demand(replace(a_snapshot(vms=vms), usage=usage))

    assert demand.vm_cpu_cores[A] == pytest.approx(0.5)
    assert 1.2 < demand.vm_cpu_peak_cores[A] < 2.0


def test_what_ended_long_ago_does_not_tell_the_level() -> None:
    snapshot = with_history([4.0] * 50, cpu_used_cores=1.0)
    ended = snapshot.taken_at - timedelta(hours=3, seconds=50 * 300)
    assert snapshot.usage is not None

    demand = forecast_demand(replace(snapshot, usage=replace(snapshot.usage, start=ended)))

    assert demand.vm_cpu_cores[A] == 1.0
    assert demand.vm_cpu_peak_cores[A] > 2.0


def test_nobody_needs_more_than_their_vcpus() -> None:
    demand = forecast_demand(with_history([9.5, 9.5], vcpus=2))

    assert demand.vm_cpu_cores[A] == 2.0
    assert demand.vm_cpu_peak_cores[A] == 2.0


def test_a_vm_that_does_not_run_needs_nothing() -> None:
    demand = forecast_demand(with_history([3.0] * 5, state=VmState.SHUTOFF))

    assert demand.vm_cpu_cores[A] == 0.0


def test_what_vms_do_not_explain_is_the_hosts_own_use() -> None:
    hosts = [a_host("h1", cpu_used_cores=3.0), a_host("h2"), a_host("h3", cpu_used_cores=0.1)]
    vms = [a_vm("a", on="h1", cpu_used_cores=1.0), a_vm("b", on="h3", cpu_used_cores=1.0)]

    base = forecast_demand(a_snapshot(hosts, vms)).host_base_cores

    assert base[HostId("h1")] == pytest.approx(2.0)
    assert base[HostId("h2")] == 0.0
    assert base[HostId("h3")] == 0.0


def test_a_forecast_needs_a_fraction_of_the_memory_that_the_past_takes() -> None:
    samples = np.abs(np.random.default_rng(1).normal(1.0, 0.1, (1500, 2016)))
    vms = [a_vm(f"vm{row}", on="h1") for row in range(len(samples))]
    usage = UsageHistory(
        start=NOON - timedelta(days=7),
        interval_seconds=300.0,
        vm_cpu_cores={vm.id: row for vm, row in zip(vms, samples, strict=True)},
        host_cpu_cores={},
    )
    snapshot = replace(a_snapshot(vms=vms), usage=usage)
    forecast_demand(snapshot)

    tracemalloc.start()
    forecast_demand(snapshot)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < samples.nbytes / 2
