"""What keeps a migration from starting, seen on the live cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, HostState, Mode, VmId, VmState
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.cluster.rules import Spread, Together
from rebalancer.cluster.selection import VmSelector
from rebalancer.rollout.prechecks import (
    Alarm,
    AlreadyThere,
    Drop,
    Go,
    Hold,
    Precheck,
    Scene,
    precheck,
)
from rebalancer.rollout.sightings import HostView, JobKind, StateReason
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.rollout.plans import a_migration
from tests.unit.rollout.sightings import (
    ABSENT,
    SILENT,
    a_sighting,
    defined,
    paused,
    running,
)

MOVE = a_migration()
HOSTS = (a_host("h1"), a_host("h2"), a_host("h3"))


def a_scene(**changed: Any) -> Scene:
    facts: dict[str, Any] = {"snapshot": a_snapshot(HOSTS, [a_vm("vm1")])}
    return Scene(**(facts | changed))


def check(
    source: HostView,
    target: HostView = ABSENT,
    *,
    mode: Mode = Mode.LIVE,
    scene: Scene | None = None,
    **others: HostView,
) -> Precheck:
    sighting = a_sighting(source, target, others=others)
    return precheck(replace(MOVE, mode=mode), sighting, scene or a_scene())


def test_a_vm_that_is_as_planned_goes_and_is_remembered_as_it_was() -> None:
    verdict = check(running(autostart=True))

    assert isinstance(verdict, Go)
    assert verdict.before.state is VmState.RUNNING
    assert verdict.before.persistent
    assert verdict.before.autostart


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (ABSENT, ABSENT, "deleted"),
        (defined(), ABSENT, "shut off"),
        (running(memory_bytes=8 * GIB), ABSENT, "grew"),
        (paused(StateReason.IO_ERROR), ABSENT, "I/O error"),
        (running(persistent=False), defined(), "definition"),
        (ABSENT, defined(), "does not know it any more"),
    ],
)
def test_what_the_plan_relied_on_does_not_hold(
    source: HostView, target: HostView, said: str
) -> None:
    verdict = check(source, target)

    assert isinstance(verdict, Drop)
    assert said in verdict.why


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (SILENT, ABSENT),
        (running(), SILENT),
        (running(job=JobKind.MIGRATION_OUT), ABSENT),
        (running(job=JobKind.OTHER), ABSENT),
        (running(job=JobKind.MIGRATION_OUT), paused()),
    ],
)
def test_what_may_pass_is_waited_for(source: HostView, target: HostView) -> None:
    assert isinstance(check(source, target), Hold)


def test_a_vm_that_somebody_moved_to_the_target_is_there_already() -> None:
    assert isinstance(check(ABSENT, running()), AlreadyThere)
    assert isinstance(check(ABSENT, defined(), mode=Mode.OFFLINE), AlreadyThere)


def test_a_vm_that_somebody_moved_elsewhere_is_dropped() -> None:
    verdict = check(ABSENT, ABSENT, h3=running())

    assert isinstance(verdict, Drop)
    assert "h3" in verdict.why


def test_a_split_brain_is_an_alarm() -> None:
    assert isinstance(check(running(), running()), Alarm)
    assert isinstance(check(running(), ABSENT, h3=running()), Alarm)


def test_a_silent_third_host_stops_cold_moves_only() -> None:
    assert isinstance(check(running(), h3=SILENT), Go)
    assert isinstance(check(running(), mode=Mode.COLD, h3=SILENT), Hold)


def test_a_definition_on_the_target_stops_cold_moves_only() -> None:
    live = check(running(), defined())

    assert isinstance(live, Go)
    assert live.before.target_had_definition
    assert isinstance(check(running(), defined(), mode=Mode.COLD), Drop)


def test_a_cold_move_needs_a_definition_and_a_guest_that_can_be_asked() -> None:
    assert isinstance(check(running(persistent=False), mode=Mode.COLD), Drop)
    assert isinstance(check(paused(StateReason.USER), mode=Mode.COLD), Drop)


def test_an_offline_move_is_for_vms_that_are_off() -> None:
    assert isinstance(check(running(), mode=Mode.OFFLINE), Drop)
    assert isinstance(check(defined(), mode=Mode.OFFLINE), Go)


@pytest.mark.parametrize("state", [HostState.DRAINING, HostState.MAINTENANCE, HostState.DOWN])
def test_only_hosts_that_are_up_receive(state: HostState) -> None:
    hosts = [a_host("h1"), a_host("h2", state=state)]

    assert isinstance(
        check(running(), scene=a_scene(snapshot=a_snapshot(hosts, [a_vm("vm1")]))), Drop
    )


def test_a_host_that_did_not_answer_lately_is_waited_for() -> None:
    hosts = [a_host("h1"), a_host("h2", state=HostState.UNKNOWN, state_reason="timed out")]

    verdict = check(running(), scene=a_scene(snapshot=a_snapshot(hosts, [a_vm("vm1")])))

    assert isinstance(verdict, Hold)
    assert "timed out" in verdict.why


def test_a_host_that_is_being_drained_receives_nothing() -> None:
    verdict = check(running(), scene=a_scene(closed={HostId("h2"): "it is being drained"}))

    assert isinstance(verdict, Drop)
    assert "drained" in verdict.why


def test_what_others_are_moving_to_the_target_counts_as_if_it_were_there() -> None:
    hosts = (a_host("h1"), a_host("h2", memory_bytes=8 * GIB), a_host("h3"))
    vms = [a_vm("vm1"), a_vm("theirs", on="h3", memory_bytes=6 * GIB)]
    scene = a_scene(snapshot=a_snapshot(hosts, vms))
    arriving = {VmId("theirs"): HostId("h2")}

    assert isinstance(check(running(), scene=scene), Go)
    full = check(running(), scene=replace(scene, arriving=arriving))
    assert isinstance(full, Drop)
    assert full.why == "h2 has 2,147,483,648 of the 4,294,967,296 bytes it needs"


def test_vms_in_flight_to_the_target_count_in_full() -> None:
    hosts = [a_host("h1"), a_host("h2", memory_bytes=8 * GIB)]
    vms = [a_vm("vm1"), a_vm("vm2", memory_bytes=6 * GIB)]
    snapshot = a_snapshot(hosts, vms)
    other = a_migration("vm2", id="m2", memory_bytes=6 * GIB)

    assert isinstance(check(running(), scene=a_scene(snapshot=snapshot)), Go)
    full = check(running(), scene=a_scene(snapshot=snapshot, in_flight=(other,)))
    moved = check(running(), scene=a_scene(snapshot=snapshot, moved={VmId("vm2"): HostId("h2")}))
    assert isinstance(full, Drop)
    assert isinstance(moved, Drop)


@pytest.mark.parametrize("way", [("h1", "h2"), ("h2", "h3")])
def test_a_vm_that_is_off_while_it_moves_cold_keeps_its_room_at_both_ends(
    way: tuple[str, str],
) -> None:
    source, target = way
    hosts = [a_host("h1"), a_host("h2", memory_bytes=8 * GIB), a_host("h3")]
    off = a_vm("vm2", on=source, memory_bytes=6 * GIB, state=VmState.SHUTOFF)
    snapshot = a_snapshot(hosts, [a_vm("vm1"), off])
    other = a_migration("vm2", source, target, id="m2", mode=Mode.COLD, memory_bytes=6 * GIB)

    assert isinstance(check(running(), scene=a_scene(snapshot=snapshot)), Go)
    full = check(running(), scene=a_scene(snapshot=snapshot, in_flight=(other,)))
    assert isinstance(full, Hold | Drop)


def test_room_that_another_migration_is_about_to_make_is_waited_for() -> None:
    hosts = [a_host("h1"), a_host("h2", memory_bytes=8 * GIB), a_host("h3")]
    vms = [a_vm("vm1"), a_vm("vm2", on="h2", memory_bytes=6 * GIB)]
    scene = a_scene(snapshot=a_snapshot(hosts, vms), leaving=frozenset({HostId("h2")}))

    assert isinstance(check(running(), scene=scene), Hold)


def test_a_device_that_was_taken_meanwhile_is_not_promised_again() -> None:
    hosts = [a_host("h1", devices={"vf": 2}), a_host("h2", devices={"vf": 1}), a_host("h3")]
    vms = [a_vm("vm1", devices={"vf": 1}), a_vm("vm2", on="h2", devices={"vf": 1})]
    scene = a_scene(snapshot=a_snapshot(hosts, vms))

    taken = check(running(), scene=scene)
    about_to_be_free = check(running(), scene=replace(scene, leaving=frozenset({HostId("h2")})))
    free = check(running(), scene=a_scene(snapshot=a_snapshot(hosts, vms[:1])))

    assert isinstance(taken, Drop)
    assert taken.why == "h2 has too few devices vf"
    assert isinstance(about_to_be_free, Hold)
    assert isinstance(free, Go)


def test_a_hard_rule_is_never_broken_not_even_by_two_migrations_together() -> None:
    apart = Spread(name="apart", vms=VmSelector(names=("db*",)))
    vms = [a_vm("vm1"), a_vm("db1", on="h1"), a_vm("db2", on="h3")]
    snapshot = a_snapshot(HOSTS, vms)
    move = a_migration("db1")
    other = a_migration("db2", "h3", "h2", id="m2")
    scene = a_scene(snapshot=snapshot, policy=a_policy(apart))

    alone = precheck(move, a_sighting(running(), ABSENT), scene)
    together = precheck(move, a_sighting(running(), ABSENT), replace(scene, in_flight=(other,)))

    assert isinstance(alone, Go)
    assert isinstance(together, Drop)
    assert "apart" in together.why


def test_a_rule_that_is_broken_already_does_not_forbid_the_move_that_mends_it() -> None:
    apart = Spread(name="apart", vms=VmSelector(names=("db*",)))
    vms = [a_vm("db1", on="h1"), a_vm("db2", on="h1"), a_vm("db3", on="h1")]
    scene = a_scene(snapshot=a_snapshot(HOSTS, vms), policy=a_policy(apart))

    verdict = precheck(a_migration("db1"), a_sighting(running(), ABSENT), scene)

    assert isinstance(verdict, Go)


def test_vms_that_belong_together_may_leave_one_after_the_other() -> None:
    rule = Together(name="pair", vms=VmSelector(names=("db*",)))
    snapshot = a_snapshot(HOSTS, [a_vm("db1", on="h1"), a_vm("db2", on="h1")])
    scene = a_scene(snapshot=snapshot, policy=a_policy(rule))
    both = {VmId("db1"): HostId("h2"), VmId("db2"): HostId("h2")}

    first = precheck(a_migration("db1"), a_sighting(running(), ABSENT), replace(scene, ahead=both))
    alone = precheck(a_migration("db1"), a_sighting(running(), ABSENT), scene)

    assert isinstance(first, Go)
    assert isinstance(alone, Drop)
    assert "pair" in alone.why


def test_owners_who_forbid_it_are_obeyed() -> None:
    for changed in (
        {"movable": False},
        {"blockers": ("a passed-through device",)},
        {"allowed_modes": frozenset({Mode.COLD})},
    ):
        snapshot = a_snapshot(HOSTS, [a_vm("vm1", **changed)])

        assert isinstance(check(running(), scene=a_scene(snapshot=snapshot)), Drop)


@pytest.mark.parametrize("mode", [Mode.COLD, Mode.POST_COPY])
def test_a_mode_that_the_policy_does_not_allow_never_starts(mode: Mode) -> None:
    verdict = check(running(), mode=mode, scene=a_scene(policy=a_policy()))

    assert isinstance(verdict, Drop)
    assert f"does not allow mode {mode}" in verdict.why


def test_a_mode_that_the_policy_allows_starts() -> None:
    policy = replace(a_policy(), migration=MigrationPermissions(allow=frozenset({Mode.COLD})))

    assert isinstance(check(running(), mode=Mode.COLD, scene=a_scene(policy=policy)), Go)


def test_a_pause_that_the_policy_does_not_allow_is_never_asked_for() -> None:
    patient = replace(MOVE, max_downtime_seconds=9999.0)

    verdict = precheck(patient, a_sighting(running(), ABSENT), a_scene(policy=a_policy()))

    assert isinstance(verdict, Drop)
    assert "longer than the 0.5 s" in verdict.why
