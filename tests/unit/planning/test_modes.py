from dataclasses import replace
from typing import Any

import pytest

from rebalancer.cluster.inventory import Mode, Vm, VmState
from rebalancer.cluster.policy import Limits, MigrationPermissions
from rebalancer.planning.mode_reasons import reason_for
from rebalancer.planning.modes import Choice, Refusal, choose
from rebalancer.planning.network import Network, Path
from tests.builders import GIB, MIB, a_host, a_snapshot, a_vm

EVERYTHING = MigrationPermissions(allow=frozenset(Mode))


def a_path(bytes_per_second: float = 800.0 * MIB) -> Path:
    hosts = [a_host(name, nic_bytes_per_second=bytes_per_second) for name in ("h1", "h2")]
    limits = Limits(link_share=1.0)
    return Network(a_snapshot(hosts), limits).path(hosts[0].id, hosts[1].id)


def a_hot_vm(dirty_mib: float, working_set: int = 2 * GIB, **changed: Any) -> Vm:
    facts: dict[str, Any] = {
        "memory_bytes": 8 * GIB,
        "dirty_bytes_per_second": dirty_mib * MIB,
        "working_set_bytes": working_set,
    }
    return a_vm(**(facts | changed))


def chosen(
    vm: Vm, permissions: MigrationPermissions | None = None, path: Path | None = None
) -> Choice:
    choice = choose(vm, path or a_path(), permissions or MigrationPermissions())
    assert isinstance(choice, Choice)
    return choice


def refused(vm: Vm, permissions: MigrationPermissions, path: Path | None = None) -> str:
    refusal = choose(vm, path or a_path(), permissions)
    assert isinstance(refusal, Refusal)
    return "\n".join(refusal.reasons)


def test_an_idle_vm_goes_live_with_whatever_bandwidth_there_is() -> None:
    choice = chosen(a_vm())

    assert choice.mode is Mode.LIVE
    assert not choice.alone
    assert choice.least_bytes_per_second < choice.most_bytes_per_second


def test_a_hot_vm_gets_its_path_alone_before_it_is_moved_in_a_harsher_way() -> None:
    choice = chosen(a_hot_vm(600))

    assert choice.mode is Mode.LIVE
    assert choice.alone
    assert choice.least_bytes_per_second == choice.most_bytes_per_second == 800 * MIB


def test_a_vm_that_writes_a_little_too_fast_is_slowed_down() -> None:
    choice = chosen(a_hot_vm(1000))

    assert choice.mode is Mode.AUTO_CONVERGE
    assert "slowed by 30%" in reason_for(choice, 800 * MIB)


def test_a_vm_that_writes_far_too_fast_is_suspended_for_the_rest() -> None:
    choice = chosen(a_hot_vm(5000))

    assert choice.mode is Mode.SUSPEND
    assert choice.estimate(800 * MIB).downtime_upper_seconds <= 5.0


def test_suspend_is_not_used_when_the_pause_would_be_longer_than_allowed() -> None:
    why = refused(a_hot_vm(5000, 4 * GIB), MigrationPermissions())

    assert "a pause of 7.8 s instead of at most 5.0 s" in why


def test_cold_is_taken_where_it_is_the_only_way_left() -> None:
    huge = a_hot_vm(5000, 8 * GIB)

    assert chosen(huge, EVERYTHING).mode is Mode.POST_COPY
    without = replace(EVERYTHING, allow=EVERYTHING.allow - {Mode.POST_COPY})
    assert chosen(huge, without).mode is Mode.COLD


def test_of_suspend_and_cold_the_one_with_the_shorter_outage_is_taken() -> None:
    batch = a_hot_vm(5000, 200 * GIB, memory_bytes=256 * GIB)
    patient = MigrationPermissions(
        allow=frozenset({Mode.SUSPEND, Mode.COLD}), max_suspend_seconds=3600
    )

    assert chosen(batch, patient).mode is Mode.COLD
    assert chosen(a_hot_vm(5000), patient).mode is Mode.SUSPEND


SAVING = MigrationPermissions(
    allow=frozenset({Mode.LIVE, Mode.COLD}), save_to="vmstore", save_bytes_per_second=200 * MIB
)


def a_shared_path(*reach: frozenset[str] | None) -> Path:
    hosts = [
        a_host(name, nic_bytes_per_second=800.0 * MIB, storage=storage)
        for name, storage in zip(("h1", "h2"), reach, strict=True)
    ]
    return Network(a_snapshot(hosts), Limits(link_share=1.0)).path(hosts[0].id, hosts[1].id)


BOTH = a_shared_path(frozenset({"vmstore"}), frozenset({"vmstore", "nfs"}))


def test_a_vm_that_must_go_cold_is_saved_where_both_hosts_reach_the_storage() -> None:
    huge = a_hot_vm(5000, 8 * GIB)

    choice = chosen(huge, SAVING, BOTH)

    assert choice.mode is Mode.COLD
    assert choice.saved_to == "vmstore"
    assert not choice.transfers
    assert choice.estimate(0).downtime_seconds == pytest.approx(2 * 8 * GIB / (200 * MIB) + 4, 0.01)
    assert reason_for(choice, 0) == (
        "no milder mode will do: its memory, 8 GiB, is written to vmstore and read back at "
        "200 MiB/s, a pause of about 86 s; it does not boot anew"
    )


@pytest.mark.parametrize("reach", [frozenset({"nfs"}), None])
def test_storage_that_a_host_does_not_tell_of_is_not_there(reach: frozenset[str] | None) -> None:
    path = a_shared_path(frozenset({"vmstore"}), reach)

    assert chosen(a_hot_vm(5000, 8 * GIB), SAVING, path).saved_to == ""


def test_a_vm_is_shut_down_rather_than_saved_for_ever() -> None:
    batch = a_hot_vm(5000, 200 * GIB, memory_bytes=256 * GIB)

    assert chosen(batch, SAVING, BOTH).saved_to == ""
    assert chosen(a_hot_vm(5000, 32 * GIB, memory_bytes=32 * GIB), SAVING, BOTH).saved_to


def test_what_is_shorter_than_suspending_goes_before_it() -> None:
    permissions = replace(SAVING, allow=SAVING.allow | {Mode.SUSPEND}, max_suspend_seconds=3600)
    slow = a_path(50.0 * MIB)
    path = replace(BOTH, lanes=slow.lanes, bytes_per_second=slow.bytes_per_second)

    assert chosen(a_hot_vm(5000), permissions, BOTH).mode is Mode.SUSPEND
    assert chosen(a_hot_vm(5000, 8 * GIB), permissions, path).saved_to == "vmstore"


def test_what_is_not_permitted_is_named_once() -> None:
    live_only = replace(SAVING, allow=frozenset({Mode.LIVE}))

    why = refused(a_hot_vm(5000, 8 * GIB), live_only, BOTH).splitlines()

    assert sum("cold" in line for line in why) == 1
    assert "cheapest way out: allow suspend" in why[-1]


def test_a_refusal_names_the_cheapest_permission_that_would_unlock_the_move() -> None:
    live_only = MigrationPermissions(allow=frozenset({Mode.LIVE}))
    transient = a_hot_vm(5000, 4 * GIB, persistent=False)

    assert "cheapest way out: allow suspend" in refused(a_hot_vm(5000), live_only)
    assert "cold: it is transient" in refused(transient, live_only)


def test_the_cheapest_way_out_is_cold_where_a_pause_would_take_longer() -> None:
    batch = a_hot_vm(5000, 200 * GIB, memory_bytes=256 * GIB)

    assert "allow cold: about 2 min 02 s down" in refused(batch, MigrationPermissions())


def test_the_owner_of_a_vm_narrows_the_modes() -> None:
    vm = a_vm(allowed_modes=frozenset({Mode.COLD}))

    assert chosen(vm, EVERYTHING).mode is Mode.COLD
    assert "the VM's owner to allow them" in refused(vm, MigrationPermissions())


def test_modes_that_the_same_thing_speaks_against_are_named_together() -> None:
    vm = a_vm(allowed_modes=frozenset({Mode.COLD}))
    why = refused(vm, MigrationPermissions()).splitlines()

    assert why[0] == "live, auto_converge and suspend would need: the VM's owner to allow them"
    assert len([line for line in why if "the VM's owner to allow" in line]) <= 3


def test_the_owner_of_a_vm_narrows_the_pause() -> None:
    vm = a_hot_vm(5000, max_downtime_seconds=1.0)

    assert chosen(a_hot_vm(5000)).mode is Mode.SUSPEND
    assert "instead of at most 1.0 s" in refused(vm, MigrationPermissions())


def test_a_pause_limit_below_the_switch_over_rules_live_out() -> None:
    why = refused(a_vm(max_downtime_seconds=0.1), MigrationPermissions())

    assert "live and auto_converge: the switch-over alone takes longer than 0.10 s" in why


def test_what_would_take_too_long_is_refused_with_the_time_it_needs() -> None:
    slow = MigrationPermissions(max_duration_seconds=60)
    why = refused(a_vm(memory_bytes=256 * GIB), slow)

    assert "instead of at most 60 s" in why


def test_a_vm_that_does_not_run_moves_offline() -> None:
    choice = chosen(a_vm(state=VmState.SHUTOFF))

    assert choice.mode is Mode.OFFLINE
    assert not choice.transfers


def test_moving_offline_needs_permission_too() -> None:
    why = refused(a_vm(state=VmState.SHUTOFF), MigrationPermissions(allow=frozenset({Mode.LIVE})))

    assert "cheapest way out: allow offline: no downtime" in why


def test_a_paused_vm_is_not_shut_down_to_move_it() -> None:
    only_cold = MigrationPermissions(allow=frozenset({Mode.COLD}))

    assert "it is paused" in refused(a_vm(state=VmState.PAUSED), only_cold)
    assert chosen(a_vm(state=VmState.PAUSED)).mode is Mode.LIVE


def test_a_path_without_bandwidth_is_no_path() -> None:
    why = refused(a_vm(), EVERYTHING, a_path(0.5 * MIB))

    assert "1 MiB/s is the least" in why
    assert chosen(a_vm(state=VmState.SHUTOFF), path=a_path(0.5 * MIB)).mode is Mode.OFFLINE


@pytest.mark.parametrize("dirty_mib", [0, 100, 600, 1000, 5000])
def test_every_reason_is_a_sentence_with_numbers(dirty_mib: float) -> None:
    choice = chosen(a_hot_vm(dirty_mib))
    reason = reason_for(choice, choice.most_bytes_per_second)

    assert "MiB/s" in reason
    assert " s is allowed" in reason
