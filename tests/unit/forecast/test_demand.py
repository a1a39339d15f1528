"""What VMs are expected to need."""

from __future__ import annotations

from dataclasses import replace
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


def test_the_level_is_that_of_the_last_half_hour() -> None:
    demand = forecast_demand(with_history([7.0] * 100 + [1.0, 2.0] * 3))

    assert demand.vm_cpu_cores[A] == pytest.approx(1.5)


def test_the_peak_is_an_upper_quantile_of_all_that_is_known() -> None:
    demand = forecast_demand(with_history([4.0] * 10 + [1.0] * 90))

    assert demand.vm_cpu_cores[A] == pytest.approx(1.0)
    assert demand.vm_cpu_peak_cores[A] == pytest.approx(4.0)


def test_a_short_spike_does_not_make_the_peak() -> None:
    demand = forecast_demand(with_history([8.0] * 2 + [1.0] * 98))

    assert demand.vm_cpu_peak_cores[A] == pytest.approx(1.0)


def test_missing_samples_are_left_out() -> None:
    nan = float("nan")

    demand = forecast_demand(with_history([nan, 1.0, nan, 3.0, nan]))

    assert demand.vm_cpu_cores[A] == pytest.approx(2.0)


def test_a_history_of_nothing_is_no_history() -> None:
    assert forecast_demand(with_history([float("nan")] * 3)).vm_cpu_cores[A] == 0.5
    assert forecast_demand(with_history([])).vm_cpu_cores[A] == 0.5


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
