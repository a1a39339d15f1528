"""A plan is refused when something that it relies on is no longer so, and only then."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, HostState, Mode, Snapshot, VmId
from rebalancer.cluster.plan import Plan, PowerAction, PowerStep
from rebalancer.cluster.policy import Limits, MigrationPermissions
from rebalancer.cluster.windows import Window
from rebalancer.errors import PlanRefusedError
from rebalancer.service.staleness import refuse_if_unfit
from tests.builders import MIB, NOON, a_host, a_policy, a_snapshot, a_vm
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
    first = a_migration(1, vm=VmId("a"), vm_name="a", source=HostId("h1"), target=HostId("h2"))
    second = a_migration(2, vm=VmId("a"), vm_name="a", source=HostId("h2"), target=HostId("h1"))
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


def edited(snapshot: Snapshot = SNAPSHOT, **changed: Any) -> Plan:
    """A plan whose fingerprints are right and whose migration somebody changed in the file."""
    plan = planned(snapshot)
    return replace(plan, migrations=(replace(plan.migrations[0], **changed),))


@pytest.mark.parametrize("mode", [Mode.COLD, Mode.POST_COPY])
def test_a_mode_that_the_policy_does_not_allow_is_refused(mode: Mode) -> None:
    said = reasons(edited(mode=mode), SNAPSHOT)

    assert f"m1: the policy does not allow mode {mode}" in said


def test_a_mode_that_the_policy_in_force_allows_is_accepted() -> None:
    permissive = replace(POLICY, migration=MigrationPermissions(allow=frozenset({Mode.COLD})))

    refuse_if_unfit(edited(mode=Mode.COLD), SNAPSHOT, permissive, NOON)


def test_a_longer_pause_than_the_policy_allows_is_refused() -> None:
    assert "9999 s is longer than the 0.5 s" in reasons(
        edited(max_downtime_seconds=9999.0), SNAPSHOT
    )


def test_the_owner_of_a_vm_may_allow_a_shorter_pause_only() -> None:
    touchy = a_snapshot(HOSTS, [a_vm("a", on="h1", max_downtime_seconds=0.1)])

    assert "longer than the 0.1 s" in reasons(edited(touchy), touchy)


@pytest.mark.parametrize("mode", [Mode.SUSPEND, Mode.POST_COPY])
def test_a_suspended_guest_may_pause_as_long_as_the_policy_says_of_that(mode: Mode) -> None:
    permissive = replace(POLICY, migration=MigrationPermissions(allow=frozenset(Mode)))

    refuse_if_unfit(edited(mode=mode, max_downtime_seconds=1.0), SNAPSHOT, permissive, NOON)


def test_more_bandwidth_than_the_share_of_the_links_is_refused() -> None:
    narrow = a_snapshot(
        [a_host("h1"), a_host("h2", nic_bytes_per_second=100.0 * MIB)], SNAPSHOT.vms
    )

    assert "limits.link_share: 70%" in reasons(edited(bytes_per_second=1e300), SNAPSHOT)
    assert "may use 70 MiB/s" in reasons(edited(narrow, bytes_per_second=71.0 * MIB), narrow)
    refuse_if_unfit(edited(narrow, bytes_per_second=70.0 * MIB), narrow, POLICY, NOON)


def test_a_vm_that_is_called_otherwise_is_refused() -> None:
    said = reasons(edited(vm_name="payroll"), SNAPSHOT)

    assert "the VM with id a is called a, the plan calls it payroll" in said


def test_names_that_the_cluster_does_not_know_are_refused_though_the_fingerprint_is_right() -> None:
    power = PowerStep(host=HostId("h97"), action=PowerAction.SLEEP, reason="")

    assert "target h99 is not in the cluster" in reasons(edited(target=HostId("h99")), SNAPSHOT)
    assert "takes it from h98" in reasons(edited(source=HostId("h98")), SNAPSHOT)
    assert "VM a is gone" in reasons(edited(vm=VmId("nobody")), SNAPSHOT)
    assert "host h97 is not in the cluster" in reasons(replace(planned(), power=(power,)), SNAPSHOT)


def test_a_host_that_the_plan_wakes_may_be_asleep() -> None:
    asleep = a_snapshot((a_host("h1"), a_host("h2", state=HostState.ASLEEP)), SNAPSHOT.vms[:1])
    wake = PowerStep(host=HostId("h2"), action=PowerAction.WAKE, reason="load rose")

    refuse_if_unfit(replace(planned(asleep), power=(wake,)), asleep, POLICY, NOON)
    assert "h2 is asleep now" in reasons(planned(asleep), asleep)


def test_a_plan_from_the_future_is_refused_but_clocks_may_differ_a_little() -> None:
    refuse_if_unfit(planned(), SNAPSHOT, POLICY, NOON - timedelta(minutes=4))

    assert "in the future" in reasons(planned(), SNAPSHOT, late=timedelta(minutes=-6))


def test_a_plan_is_not_good_for_longer_than_the_settings_here_say() -> None:
    immortal = planned(expires_at=NOON + timedelta(days=36500))

    refuse_if_unfit(immortal, SNAPSHOT, POLICY, NOON + timedelta(hours=1), ttl_seconds=3600)
    with pytest.raises(PlanRefusedError, match=r"plan\.ttl_seconds"):
        refuse_if_unfit(immortal, SNAPSHOT, POLICY, NOON + timedelta(hours=2), ttl_seconds=3600)


def test_everything_that_was_edited_is_told_at_once() -> None:
    plan = edited(
        mode=Mode.POST_COPY,
        max_downtime_seconds=9999.0,
        bytes_per_second=1e300,
        target=HostId("h99"),
        vm_name="x",
    )

    said = reasons(plan, SNAPSHOT)

    assert len([line for line in said.splitlines() if line.startswith("  - ")]) == 5


def test_a_policy_with_a_smaller_share_of_the_links_is_heeded() -> None:
    modest = replace(POLICY, limits=Limits(link_share=0.01))

    with pytest.raises(PlanRefusedError, match=r"link_share: 1%"):
        refuse_if_unfit(planned(), SNAPSHOT, modest, NOON)


def test_moves_that_can_wait_are_refused_while_no_maintenance_window_is_open() -> None:
    nightly = Window(from_minute=22 * 60, to_minute=5 * 60)
    policy = replace(POLICY, migration=MigrationPermissions(windows=(nightly,)))
    fit = planned(expires_at=NOON + timedelta(days=1))

    refuse_if_unfit(fit, SNAPSHOT, policy, NOON + timedelta(hours=11))
    with pytest.raises(PlanRefusedError, match="the next one opens at Mon 2026-11-23 22:00 UTC"):
        refuse_if_unfit(fit, SNAPSHOT, policy, NOON)
