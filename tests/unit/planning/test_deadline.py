import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.inventory import HostState
from rebalancer.cluster.plan import Plan, Priority, VerdictKind
from rebalancer.cluster.policy import Limits, MigrationPermissions
from rebalancer.cluster.windows import Window
from rebalancer.planning.jobs import HANDOVER_SECONDS
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.planning.plans import a_plan


def a_drain(deadline_seconds: float | None, count: int = 3, **limits: Any) -> Plan:
    hosts = [a_host("h1", state=HostState.DRAINING), a_host("h2", memory_bytes=1024 * GIB)]
    vms = [a_vm(f"v{i}", memory_bytes=(i + 1) * GIB) for i in range(count)]
    policy = a_policy(limits=Limits(migrations=None, **limits))
    moves = {f"v{i}": "h2" for i in range(count)}
    return a_plan(a_snapshot(hosts, vms), moves, policy, deadline_seconds=deadline_seconds)


def test_nothing_is_said_about_a_deadline_that_nobody_set() -> None:
    plan = a_drain(None)

    assert (plan.deadline_seconds, plan.makespan_upper_seconds) == (None, None)
    assert plan.breaks_deadline == ()


def test_a_deadline_behind_every_band_is_proven() -> None:
    plan = a_drain(3600.0)

    assert plan.verdict.kind is VerdictKind.MOVES
    assert plan.breaks_deadline == ()
    assert plan.makespan_upper_seconds is not None
    assert plan.makespan_seconds < plan.makespan_upper_seconds < 3600


def test_a_deadline_within_the_bands_is_refused_with_the_vms_that_may_be_late() -> None:
    least = a_drain(3600.0, cluster=1)
    assert least.makespan_upper_seconds is not None

    plan = a_drain(least.makespan_upper_seconds - 0.1, cluster=1)

    assert plan.verdict.kind is VerdictKind.BLOCKED
    assert plan.breaks_deadline == (plan.migrations[-1].vm,)
    assert plan.migrations[-1].vm_name in plan.verdict.text


def test_one_after_the_other_the_bands_add_up() -> None:
    plan = a_drain(3600.0, cluster=1)

    assert plan.makespan_upper_seconds == pytest.approx(
        sum(m.predicted.duration_upper_seconds + HANDOVER_SECONDS for m in plan.migrations)
    )


def test_a_vm_that_cannot_leave_a_draining_host_breaks_any_deadline() -> None:
    hosts = [a_host("h1", state=HostState.DRAINING), a_host("h2")]
    vms = [a_vm("stays", blockers=("it has a PCI device",)), a_vm("goes")]
    plan = a_plan(a_snapshot(hosts, vms), {"stays": "h2", "goes": "h2"}, deadline_seconds=1e6)

    assert plan.breaks_deadline == ("stays",)
    assert plan.verdict.kind is VerdictKind.BLOCKED
    assert "stays cannot leave at all" in plan.verdict.text


@given(count=st.integers(1, 12), out=st.integers(1, 3), cluster=st.integers(1, 5))
def test_the_latest_end_is_never_before_the_expected_one_nor_beyond_the_worst_stretch(
    count: int, out: int, cluster: int
) -> None:
    plan = a_drain(math.inf, count, per_host_out=out, cluster=cluster)
    stretch = max(
        (m.predicted.duration_upper_seconds + HANDOVER_SECONDS)
        / (m.predicted.duration_seconds + HANDOVER_SECONDS)
        for m in plan.migrations
    )

    assert plan.makespan_upper_seconds is not None
    assert plan.makespan_seconds <= plan.makespan_upper_seconds
    assert plan.makespan_upper_seconds <= stretch * plan.makespan_seconds + 1e-6


def test_a_deadline_counts_from_now_though_the_drain_waits_for_its_window() -> None:
    hosts = [a_host("h1", state=HostState.DRAINING), a_host("h2")]
    tonight = Window(from_minute=22 * 60, to_minute=5 * 60)
    hours = MigrationPermissions(windows=(tonight,), windows_for=frozenset({Priority.DRAIN}))
    policy = a_policy(migration=hours)

    def drained_within(seconds: float) -> Plan:
        snapshot = a_snapshot(hosts, [a_vm("a")])
        return a_plan(snapshot, {"a": "h2"}, policy, deadline_seconds=seconds)

    refused, promised = drained_within(9 * 3600), drained_within(11 * 3600)

    assert refused.breaks_deadline == ("a",)
    assert promised.breaks_deadline == ()
    assert promised.makespan_upper_seconds is not None
    assert promised.makespan_upper_seconds > 10 * 3600
