"""A plan is refused when something that it relies on is no longer so, and only then."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, HostState, Snapshot, VmId
from rebalancer.cluster.plan import Plan
from rebalancer.errors import PlanRefusedError
from rebalancer.service.staleness import refuse_if_unfit
from tests.builders import NOON, a_host, a_policy, a_snapshot, a_vm
from tests.unit.service.samples import a_migration, a_plan

POLICY = replace(a_policy(), fingerprint="f" * 16)
HOSTS = (a_host("h1"), a_host("h2"))
SNAPSHOT = a_snapshot(HOSTS, [a_vm("a", on="h1"), a_vm("b", on="h2")])


def planned(snapshot: Snapshot = SNAPSHOT, **changed: Any) -> Plan:
    move = a_migration(
        vm=VmId("a"),
        vm_name="a",
        source=HostId("h1"),
        target=HostId("h2"),
        memory_bytes=snapshot.vm_by_id[VmId("a")].memory_bytes,
    )
    facts: dict[str, Any] = {
        "cluster": "test",
        "created_at": NOON,
        "expires_at": NOON + timedelta(hours=1),
        "policy_fingerprint": POLICY.fingerprint,
        "snapshot_fingerprint": snapshot.fingerprint,
        "migrations": (move,),
    }
    return a_plan(**(facts | changed))


def reasons(plan: Plan, snapshot: Snapshot, *, late: timedelta = timedelta()) -> str:
    with pytest.raises(PlanRefusedError) as refused:
        refuse_if_unfit(plan, snapshot, POLICY, NOON + late)
    return str(refused.value)


def test_a_fresh_plan_is_accepted() -> None:
    refuse_if_unfit(planned(), SNAPSHOT, POLICY, NOON)


def test_measurements_do_not_make_a_plan_stale() -> None:
    busier = a_snapshot(HOSTS, [a_vm("a", on="h1", cpu_used_cores=9), a_vm("b", on="h2")])

    refuse_if_unfit(planned(), busier, POLICY, NOON)


def test_neither_does_somebody_elses_vm() -> None:
    one_more = a_snapshot(HOSTS, [*SNAPSHOT.vms, a_vm("c", on="h1")])

    refuse_if_unfit(planned(), one_more, POLICY, NOON)


def test_a_vm_that_moved_makes_it_stale() -> None:
    elsewhere = a_snapshot(HOSTS, [a_vm("a", on="h2"), a_vm("b", on="h2")])

    assert "VM a is on h2, the plan takes it from h1" in reasons(planned(), elsewhere)


def test_a_vm_that_is_gone_makes_it_stale() -> None:
    assert "VM a is gone" in reasons(planned(), a_snapshot(HOSTS, [a_vm("b", on="h2")]))


def test_a_vm_that_grew_makes_it_stale() -> None:
    grown = a_snapshot(HOSTS, [a_vm("a", on="h1", memory_bytes=2**40), a_vm("b", on="h2")])

    assert "VM a grew" in reasons(planned(), grown)


def test_a_target_that_may_not_be_used_any_more_makes_it_stale() -> None:
    hosts = (a_host("h1"), a_host("h2", state=HostState.MAINTENANCE))

    assert "h2 is maintenance now" in reasons(planned(), a_snapshot(hosts, SNAPSHOT.vms))


def test_an_expired_plan_is_refused() -> None:
    assert "expired" in reasons(planned(), SNAPSHOT, late=timedelta(hours=2))


def test_another_policy_or_cluster_is_refused() -> None:
    assert "--policy" in reasons(planned(policy_fingerprint="e" * 16), SNAPSHOT)
    assert "cluster" in reasons(planned(cluster="other"), SNAPSHOT)


def test_all_reasons_are_given_at_once() -> None:
    elsewhere = a_snapshot((a_host("h1"), a_host("h2", state=HostState.DOWN)), [a_vm("a", on="h2")])

    said = reasons(planned(), elsewhere, late=timedelta(hours=2))

    assert all(words in said for words in ("expired", "VM a is on h2", "h2 is down now"))


def test_a_vm_may_move_in_two_steps() -> None:
    first = a_migration(1, vm=VmId("a"), source=HostId("h1"), target=HostId("h2"))
    second = a_migration(2, vm=VmId("a"), source=HostId("h2"), target=HostId("h1"))
    grown = 2**40

    refuse_if_unfit(
        planned(
            migrations=(
                replace(first, memory_bytes=grown),
                replace(second, memory_bytes=grown),
            ),
            snapshot_fingerprint="another",
        ),
        SNAPSHOT,
        POLICY,
        NOON,
    )
