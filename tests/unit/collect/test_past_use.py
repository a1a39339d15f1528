"""Past use in snapshots: what is taken, and what an operator is told when it is too little."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from rebalancer.cluster.inventory import (
    HostId,
    HostState,
    Snapshot,
    UsageHistory,
    Vm,
    VmId,
    VmState,
)
from rebalancer.collect.past_use import Coverage, InventoryWithHistory, Requirement, coverage_of
from rebalancer.errors import ObservationError
from tests.builders import NOON, a_host, a_snapshot, a_vm

STEP = 300.0
NAN = float("nan")
AFTER_NOON = NOON + timedelta(seconds=100)


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Sees what the test says."""

    snapshot: Snapshot

    def observe(self) -> Snapshot:
        return self.snapshot


@dataclass(kw_only=True)
class Usage:
    """Knows the newest samples of VMs and hosts; the last one ends where the question does."""

    vms: dict[str, list[float]] = field(default_factory=dict)
    hosts: dict[str, list[float]] = field(default_factory=dict)
    trouble: str = ""
    asked: list[tuple[datetime, datetime]] = field(default_factory=list)

    def history(self, vms: Collection[VmId], start: datetime, end: datetime) -> UsageHistory:
        if self.trouble:
            raise ObservationError(self.trouble)
        self.asked.append((start, end))
        samples = round((end - start).total_seconds() / STEP)
        return UsageHistory(
            start=start,
            interval_seconds=STEP,
            vm_cpu_cores={vm: _row(self.vms.get(vm, []), samples) for vm in vms},
            host_cpu_cores={HostId(host): _row(row, samples) for host, row in self.hosts.items()},
        )


def _row(newest: list[float], samples: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    row = np.full(samples, NAN)
    if newest:
        row[-len(newest) :] = newest
    return row


def two_vms(**of_b: object) -> tuple[Vm, Vm]:
    return a_vm("a"), replace(a_vm("b"), **of_b)  # type: ignore[arg-type]


def seen(usage: Usage, vms: Collection[Vm] = (), **changed: object) -> Snapshot:
    snapshot = a_snapshot(hosts=[a_host("h1")], vms=vms or two_vms())
    facts: dict[str, object] = {"now": lambda: AFTER_NOON, "asks_hosts": False}
    source = InventoryWithHistory(
        inventory=Inventory(snapshot=snapshot),
        usage=usage,
        history_seconds=3600.0,
        step_seconds=STEP,
        **(facts | changed),  # type: ignore[arg-type]
    )
    return source.observe()


def test_good_history_is_taken_and_nothing_said() -> None:
    usage = Usage(vms={"a": [1.0], "b": [0.5]})

    snapshot = seen(usage)

    assert snapshot.usage is not None
    assert snapshot.usage.vm_cpu_cores[VmId("a")][-1] == 1.0
    assert snapshot.usage_fault == ""


def test_the_grid_is_the_same_from_cycle_to_cycle() -> None:
    usage = Usage(vms={"a": [1.0], "b": [0.5]})

    seen(usage)

    assert usage.asked == [(NOON - timedelta(hours=1), NOON)]


def test_a_plan_can_be_made_when_the_history_cannot_be_read() -> None:
    snapshot = seen(Usage(trouble="no answer from Prometheus at http://prom1:9090"))

    assert snapshot.usage is None
    assert len(snapshot.vms) == 2
    assert snapshot.usage_fault == (
        "past use could not be read: no answer from Prometheus at http://prom1:9090"
    )


def test_no_sample_at_all_is_no_history() -> None:
    snapshot = seen(Usage())

    assert snapshot.usage is None
    assert "no sample of any VM" in snapshot.usage_fault


def test_an_hour_old_is_too_old_to_act_on_and_still_good_for_a_plan() -> None:
    old = [1.0] + [NAN] * 11

    snapshot = seen(Usage(vms={"a": old, "b": old}))

    assert snapshot.usage is not None
    assert "3400 s old, prometheus.max_age_seconds allows 900 s" in snapshot.usage_fault


def test_too_few_vms_are_told_with_their_share() -> None:
    snapshot = seen(Usage(vms={"a": [1.0]}))

    assert snapshot.usage is not None
    assert "it knows 50% of the running VMs" in snapshot.usage_fault


def test_a_vm_that_is_off_need_not_be_known() -> None:
    snapshot = seen(Usage(vms={"a": [1.0]}), two_vms(state=VmState.SHUTOFF))

    assert snapshot.usage_fault == ""


def test_an_unknown_host_is_told_when_hosts_are_asked_about() -> None:
    usage = Usage(vms={"a": [1.0], "b": [1.0]}, hosts={"h1": [NAN]})

    assert "it knows 0% of the hosts" in seen(usage, asks_hosts=True).usage_fault
    assert seen(usage, asks_hosts=False).usage_fault == ""


def test_hosts_in_a_lab_use_what_their_vms_use() -> None:
    usage = Usage(vms={"a": [1.0, NAN, 1.0], "b": [0.5, NAN, NAN]})

    snapshot = seen(usage, asks_hosts=True, hosts_from_guests={HostId("h1")})

    assert snapshot.usage is not None
    np.testing.assert_array_equal(snapshot.usage.host_cpu_cores[HostId("h1")][-3:], [1.5, NAN, 1.0])
    assert snapshot.usage_fault == ""


@pytest.mark.parametrize("value", [70.0, 4e9, 1e300])
def test_per_cent_and_nanoseconds_are_not_taken_for_cores(value: float) -> None:
    snapshot = seen(Usage(vms={"a": [value], "b": [value]}))

    assert snapshot.usage is None
    assert "must give cores" in snapshot.usage_fault
    assert len(snapshot.usage_fault) < 200


def test_a_cluster_without_vms_lacks_nothing() -> None:
    snapshot = a_snapshot(hosts=[a_host("h1", state=HostState.ASLEEP)])
    empty = UsageHistory(start=NOON, interval_seconds=STEP, vm_cpu_cores={}, host_cpu_cores={})

    found = coverage_of(empty, snapshot, NOON, 900.0)

    assert found == Coverage(newest_age_seconds=0.0, vm_ratio=1.0, host_ratio=1.0)
    assert Requirement().shortfall(found) == ""
