from dataclasses import replace
from typing import Any

import pytest

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostState, Mode, Vm, VmId, VmState
from rebalancer.cluster.plan import Placement, Priority, Unmoved
from rebalancer.cluster.policy import Headroom, Limits, MigrationPermissions
from rebalancer.cluster.rules import Ban, Fence, Pin, Spread, Together
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.sites import Link
from tests.builders import GIB, MIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.planning.plans import SOLVED, a_placement, a_plan, step, why_unmoved


def big(name: str, on: str) -> Vm:
    """A VM of which a host of 64 GiB takes one."""
    return a_vm(name, on, memory_bytes=40 * GIB)


def test_nothing_to_move_is_a_plan_without_migrations() -> None:
    plan = a_plan(a_snapshot(vms=[a_vm()]), {})

    assert plan.migrations == ()
    assert plan.commands == {}
    assert plan.makespan_seconds == plan.makespan_lower_bound_seconds == 0
    assert len(plan.hosts) == 2


def test_a_plan_says_what_moves_how_when_and_why() -> None:
    snapshot = a_snapshot(vms=[a_vm("db")])
    placement = replace(
        a_placement(snapshot, {"db": "h2"}), reasons={VmId("db"): "h1 is at 91 % of its CPU"}
    )
    migration = step(a_plan(snapshot, {}, placement=placement), "db")

    assert (migration.id, migration.source, migration.target) == ("m1", "h1", "h2")
    assert migration.mode is Mode.LIVE
    assert migration.reason == "h1 is at 91 % of its CPU"
    assert migration.priority is Priority.BALANCE
    assert migration.wave == 1
    assert migration.memory_bytes == 4 * GIB
    assert migration.bytes_per_second % MIB == 0
    assert migration.predicted.duration_seconds > 4 * GIB / migration.bytes_per_second


def test_the_outlook_compares_hosts_before_and_after() -> None:
    hosts = [a_host("h1", cpu_cores=4.0, memory_bytes=16 * GIB), a_host("h2")]
    vm = a_vm("db", cpu_used_cores=1.0, memory_bytes=8 * GIB)
    h1, h2 = a_plan(a_snapshot(hosts, [vm]), {"db": "h2"}).hosts

    assert (h1.cpu_ratio_before, h1.cpu_ratio_after) == (0.25, 0.0)
    assert (h1.memory_ratio_before, h1.memory_ratio_after) == (0.5, 0.0)
    assert (h2.vms_before, h2.vms_after) == (0, 1)


def test_a_host_that_never_told_its_size_keeps_nobody_from_planning() -> None:
    silent = a_host("h3", state=HostState.UNKNOWN, cpu_cores=0.0, memory_bytes=0)
    snapshot = a_snapshot([a_host("h1"), a_host("h2"), silent], [a_vm("db")])
    plan = a_plan(snapshot, {"db": "h2"})

    assert [migration.vm for migration in plan.migrations] == ["db"]
    assert (plan.hosts[2].cpu_ratio_after, plan.hosts[2].memory_ratio_after) == (None, None)


def test_a_vm_waits_for_the_room_that_another_one_leaves() -> None:
    hosts = [a_host(name) for name in ("h1", "h2", "h3")]
    snapshot = a_snapshot(hosts, [big("a", "h1"), big("b", "h2")])
    plan = a_plan(snapshot, {"a": "h2", "b": "h3"})

    first, second = plan.migrations
    assert (first.vm, second.vm) == ("b", "a")
    assert second.depends_on == (first.id,)
    assert (first.wave, second.wave) == (1, 2)
    assert second.predicted.start_seconds >= first.predicted.finish_seconds


def test_two_vms_that_change_places_go_round_through_a_third_host() -> None:
    hosts = [a_host(name) for name in ("h1", "h2", "h3")]
    snapshot = a_snapshot(hosts, [big("a", "h1"), big("b", "h2")])
    plan = a_plan(snapshot, {"a": "h2", "b": "h1"})

    one, two, three = plan.migrations
    assert one.vm == three.vm
    assert (one.target, three.source) == ("h3", "h3")
    assert two.depends_on == (one.id,)
    assert set(three.depends_on) >= {two.id}
    assert plan.final_assignment == {"a": "h2", "b": "h1"}
    assert "waits here until" in one.reason
    assert plan.unmoved == ()


def test_a_swap_without_a_third_host_is_said_to_be_impossible() -> None:
    snapshot = a_snapshot(vms=[big("a", "h1"), big("b", "h2")])
    plan = a_plan(snapshot, {"a": "h2", "b": "h1"})

    assert plan.migrations == ()
    assert "16 GiB of memory are missing on h2" in why_unmoved(plan, "a")
    assert "no third host" in why_unmoved(plan, "b")


def test_a_full_host_that_nobody_leaves_is_said_to_be_full_and_nothing_else() -> None:
    snapshot = a_snapshot(vms=[big("a", "h1"), big("b", "h2")])
    plan = a_plan(snapshot, {"a": "h2"})

    assert why_unmoved(plan, "a") == (
        "16 GiB of memory are missing on h2, and no other migration makes room"
    )


def test_behind_one_that_cannot_leave_there_is_no_circle() -> None:
    hosts = [a_host(name) for name in ("h1", "h2", "h3")]
    snapshot = a_snapshot(hosts, [big("a", "h1"), big("b", "h2"), big("c", "h3")])
    plan = a_plan(snapshot, {"a": "h2", "b": "h3"})

    assert "until others have left, which cannot leave either" in why_unmoved(plan, "a")
    assert "no other migration makes room" in why_unmoved(plan, "b")


def test_room_that_was_made_and_does_not_suffice_is_told() -> None:
    hosts = [a_host(name) for name in ("h1", "h2", "h3")]
    vms = [big("a", "h1"), big("b", "h2"), a_vm("small", "h2", memory_bytes=4 * GIB)]
    plan = a_plan(a_snapshot(hosts, vms), {"a": "h2", "small": "h3"})

    assert "even after all other migrations" in why_unmoved(plan, "a")


def test_a_third_host_is_not_one_that_a_rule_keeps_the_vm_off() -> None:
    hosts = [a_host(name) for name in ("h1", "h2", "h3")]
    ban = Ban(name="not h3", vms=VmSelector(), hosts=HostSelector(names=("h3",)))
    snapshot = a_snapshot(hosts, [big("a", "h1"), big("b", "h2")])
    plan = a_plan(snapshot, {"a": "h2", "b": "h1"}, a_policy(ban))

    assert plan.migrations == ()
    assert len(plan.unmoved) == 2


def test_a_third_host_is_one_of_those_that_the_policy_looks_after() -> None:
    hosts = [a_host(name) for name in ("h1", "h2", "h3")]
    snapshot = a_snapshot(hosts, [big("a", "h1"), big("b", "h2")])
    only_two = a_policy(applies=HostSelector(names=("h1", "h2")))

    assert a_plan(snapshot, {"a": "h2", "b": "h1"}, only_two).migrations == ()


def test_replicas_are_never_together_not_even_on_the_way() -> None:
    hosts = [a_host(name) for name in ("h1", "h2", "h3")]
    apart = Spread(name="apart", vms=VmSelector(names=("db*",)))
    snapshot = a_snapshot(hosts, [a_vm("db1", "h1"), a_vm("db2", "h2")])
    plan = a_plan(snapshot, {"db1": "h2", "db2": "h3"}, a_policy(apart))

    assert step(plan, "db1").depends_on == (step(plan, "db2").id,)


def test_replicas_are_kept_apart_group_by_group() -> None:
    hosts = [a_host(name) for name in ("h1", "h2", "h3")]
    apart = Spread(name="apart", vms=VmSelector(), by_label="app")
    vms = [a_vm(f"{app}{i}", f"h{i}", labels={"app": app}) for app in ("db", "web") for i in (1, 2)]
    plan = a_plan(
        a_snapshot(hosts, [*vms, a_vm("free", "h1")]),
        {"db1": "h2", "db2": "h3", "free": "h2"},
        a_policy(apart),
    )

    assert step(plan, "db1").depends_on == (step(plan, "db2").id,)
    assert step(plan, "free").depends_on == ()


def test_vms_that_belong_together_move_one_after_the_other() -> None:
    together = Together(name="pair", vms=VmSelector(names=("web*",)))
    snapshot = a_snapshot(vms=[a_vm("web1"), a_vm("web2")])
    plan = a_plan(snapshot, {"web1": "h2", "web2": "h2"}, a_policy(together))

    assert plan.final_assignment == {"web1": "h2", "web2": "h2"}


def test_of_vms_that_belong_together_all_stay_if_one_has_to() -> None:
    together = Together(name="pair", vms=VmSelector(names=("web*",)))
    snapshot = a_snapshot(vms=[a_vm("web1"), a_vm("web2", movable=False), a_vm("other")])
    moves = {"web1": "h2", "web2": "h2", "other": "h2"}
    plan = a_plan(snapshot, moves, a_policy(together))

    assert [m.vm for m in plan.migrations] == ["other"]
    assert why_unmoved(plan, "web1") == "it cannot go unless web2 can as well (rule pair)"


@pytest.mark.parametrize(
    ("vm", "reason"),
    [
        (a_vm("db", movable=False), "not movable"),
        (a_vm("db", blockers=("a backup is running",)), "a backup is running"),
        (a_vm("db", networks=frozenset({"br9"})), "no network br9"),
        (a_vm("db", local_disk_bytes=GIB), "of its disks"),
    ],
)
def test_a_vm_that_cannot_move_stays_with_its_reason_and_the_others_move(
    vm: Vm, reason: str
) -> None:
    hosts = [a_host("h1"), a_host("h2", networks=frozenset({"br0"}))]
    plan = a_plan(a_snapshot(hosts, [vm, a_vm("other")]), {"db": "h2", "other": "h2"})

    assert [m.vm for m in plan.migrations] == ["other"]
    assert reason in why_unmoved(plan, "db")


def test_all_obstacles_are_named_at_once() -> None:
    pin = Pin(name="stay", vms=VmSelector(names=("db",)))
    fence = Fence(name="home", vms=VmSelector(), to=HostSelector(names=("h1",)))
    hosts = [a_host("h1"), a_host("h2", state=HostState.MAINTENANCE)]
    snapshot = a_snapshot(hosts, [a_vm("db", movable=False)])
    why = why_unmoved(a_plan(snapshot, {"db": "h2"}, a_policy(pin, fence)), "db")

    for part in ("not movable", "h2 is maintenance", "rule stay", "rule home"):
        assert part in why


def test_nothing_leaves_a_host_that_does_not_answer() -> None:
    hosts = [a_host("h1", state=HostState.UNKNOWN, state_reason="timeout"), a_host("h2")]
    plan = a_plan(a_snapshot(hosts, [a_vm("db")]), {"db": "h2"})

    assert "h1 is unknown (timeout)" in why_unmoved(plan, "db")


def test_what_the_placement_could_not_move_is_listed_too() -> None:
    snapshot = a_snapshot(vms=[a_vm("db")])
    placement = Placement(
        assignment=snapshot.assignment,
        objective=SOLVED,
        unmoved=(Unmoved(vm=VmId("db"), reasons=("no host has 4 GiB",)),),
    )

    assert why_unmoved(a_plan(snapshot, {}, placement=placement), "db") == "no host has 4 GiB"


def test_a_refused_mode_says_which_permission_would_unlock_the_move() -> None:
    vm = a_vm("db", memory_bytes=60 * GIB, working_set_bytes=60 * GIB)
    hot = replace(vm, dirty_bytes_per_second=9000.0 * MIB)
    plan = a_plan(a_snapshot(vms=[hot]), {"db": "h2"})

    assert "cheapest way out" in why_unmoved(plan, "db")


def test_a_vm_without_a_host_in_the_placement_stays() -> None:
    snapshot = a_snapshot(vms=[a_vm("db")])
    plan = a_plan(snapshot, {}, placement=Placement(assignment={}, objective=SOLVED))

    assert plan.migrations == ()


def test_drains_go_before_repairs_and_repairs_before_balance() -> None:
    hosts = [a_host("h1", state=HostState.DRAINING), a_host("h2"), a_host("h3")]
    hosts += [a_host("h4"), a_host("h5", memory_bytes=256 * GIB)]
    apart = Spread(name="apart", vms=VmSelector(names=("twin*",)))
    vms = [
        a_vm("wish", "h4", memory_bytes=32 * GIB),
        a_vm("twin1", "h2"),
        a_vm("twin2", "h2"),
        a_vm("leaver", "h1"),
    ]
    moves = dict.fromkeys(("wish", "twin1", "leaver"), "h5")
    one_by_one = a_policy(apart, limits=Limits(migrations=None, cluster=1))
    plan = a_plan(a_snapshot(hosts, vms), moves, one_by_one)

    assert [m.vm for m in plan.migrations] == ["leaver", "twin1", "wish"]
    assert [m.priority for m in plan.migrations] == list(Priority)
    assert "h1 is draining" in plan.migrations[0].reason


def test_a_host_that_is_too_full_already_is_not_made_fuller() -> None:
    hosts = [a_host("h1"), a_host("h2", memory_bytes=GIB)]
    snapshot = a_snapshot(hosts, [a_vm("fat", "h2"), a_vm("a", "h1", memory_bytes=GIB // 2)])
    plan = a_plan(snapshot, {"a": "h2"})

    assert plan.migrations == ()
    assert "missing on h2" in why_unmoved(plan, "a")


def test_the_reserve_for_failing_hosts_is_not_eaten_by_a_drain() -> None:
    hosts = [a_host("h1", state=HostState.DRAINING), a_host("h2"), a_host("h3")]
    snapshot = a_snapshot(hosts, [big("a", "h1"), big("b", "h2")])
    careful = a_policy(headroom=Headroom(cpu_ratio=0.0, memory_ratio=0, host_failures=1))
    plan = a_plan(snapshot, {"a": "h3"}, careful)

    assert plan.migrations == ()
    assert "reserve for failing hosts" in why_unmoved(plan, "a")


def test_shut_off_vms_need_no_room() -> None:
    vm = replace(big("off", "h1"), state=VmState.SHUTOFF)
    plan = a_plan(a_snapshot(vms=[vm, big("on", "h2")]), {"off": "h2"})

    assert step(plan, "off").mode is Mode.OFFLINE


def test_hot_vms_travel_alone_and_idle_ones_side_by_side() -> None:
    hosts = [a_host("h1"), a_host("h2"), a_host("h3")]
    hot: dict[str, Any] = {"dirty_bytes_per_second": 600.0 * MIB, "working_set_bytes": 2 * GIB}
    vms = [a_vm("hot1", **hot), a_vm("hot2", **hot), a_vm("idle1"), a_vm("idle2")]
    moves = {"hot1": "h2", "hot2": "h3", "idle1": "h2", "idle2": "h3"}
    plan = a_plan(a_snapshot(hosts, vms), moves)

    first, second = step(plan, "hot1").predicted, step(plan, "hot2").predicted
    assert second.start_seconds >= first.finish_seconds
    assert step(plan, "idle1").predicted.start_seconds == pytest.approx(
        step(plan, "idle2").predicted.start_seconds
    )
    assert "alone on its path" in step(plan, "hot1").mode_reason


def test_a_slow_link_between_sites_bounds_the_makespan() -> None:
    hosts = [a_host(f"h{i}", site="a" if i < 3 else "b") for i in range(6)]
    wan = Link(name="wan", bytes_per_second=100.0 * MIB, between=("a", "b"))
    vms = [a_vm(f"v{i}", f"h{i}") for i in range(3)]
    plan = a_plan(a_snapshot(hosts, vms, links=[wan]), {f"v{i}": f"h{i + 3}" for i in range(3)})

    assert plan.makespan_lower_bound_seconds >= 3 * 4 * GIB / (70 * MIB)
    assert plan.makespan_seconds <= 1.1 * plan.makespan_lower_bound_seconds


def test_violations_are_told_before_and_after() -> None:
    apart = Spread(name="apart", vms=VmSelector())
    snapshot = a_snapshot(vms=[a_vm("a"), a_vm("b")])
    plan = a_plan(snapshot, {"a": "h2"}, a_policy(apart))

    assert [v.rule for v in plan.violations_before] == ["apart"]
    assert plan.violations_after == ()
    assert step(plan, "a").priority is Priority.REPAIR


def test_the_same_input_gives_the_same_plan() -> None:
    hosts = [a_host(f"h{i}") for i in range(4)]
    snapshot = a_snapshot(hosts, [a_vm(f"v{i}", f"h{i % 4}") for i in range(12)])
    moves = {f"v{i}": f"h{(i + 1 + i // 4) % 4}" for i in range(12)}

    one, other = a_plan(snapshot, moves), a_plan(snapshot, moves)

    assert one.migrations == other.migrations
    assert one.commands == other.commands


def test_a_demand_beyond_the_measurement_decides_about_cpu_room() -> None:
    snapshot = a_snapshot(vms=[a_vm("a", vcpus=1), a_vm("b", on="h2", vcpus=1)])
    measured = Demand.as_measured(snapshot)
    assert measured.vm_cpu_peak_cores[VmId("a")] == 0.5
    crowded = a_policy(headroom=Headroom(cpu_ratio=0.95, memory_ratio=0, host_failures=0))

    plan = a_plan(snapshot, {"a": "h2"}, crowded)

    assert "cores of CPU are missing on h2" in why_unmoved(plan, "a")


def test_post_copy_is_planned_only_where_it_is_permitted() -> None:
    hot = a_vm("db", memory_bytes=32 * GIB, working_set_bytes=32 * GIB)
    vm = replace(hot, dirty_bytes_per_second=9000.0 * MIB)
    permitted = MigrationPermissions(allow=frozenset({Mode.LIVE, Mode.POST_COPY}))
    plan = a_plan(a_snapshot(vms=[vm]), {"db": "h2"}, a_policy(migration=permitted))

    assert step(plan, "db").mode is Mode.POST_COPY
    assert a_plan(a_snapshot(vms=[vm]), {"db": "h2"}).migrations == ()


def test_a_vm_outside_its_fence_is_not_sent_to_another_host_outside() -> None:
    fence = Fence(name="licence", vms=VmSelector(names=("db",)), to=HostSelector(names=("h3",)))
    snapshot = a_snapshot([a_host("h1"), a_host("h2"), a_host("h3")], [a_vm("db")])

    plan = a_plan(snapshot, {"db": "h2"}, a_policy(fence))

    assert plan.migrations == ()
    assert why_unmoved(plan, "db") == "rule licence keeps it off h2"
