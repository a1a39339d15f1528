"""One pass through the stages: what a plan says fits what it does."""

from __future__ import annotations

from dataclasses import replace

from rebalancer.cluster.inventory import HostState, HugepagePool, Snapshot
from rebalancer.cluster.plan import Plan, VerdictKind
from rebalancer.cluster.policy import Headroom, MigrationPermissions, Overcommit, Policy
from rebalancer.cluster.rules import Ban, Fence
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.sites import Link, Site
from rebalancer.cluster.windows import Window
from rebalancer.errors import ExitCode
from rebalancer.service import exit_codes
from rebalancer.service.cycle import DOES_LESS, Request, run_cycle
from tests.builders import GIB, NOON, a_host, a_policy, a_snapshot, a_vm

HOT = a_snapshot(vms=[a_vm(f"v{k}", on="h1", cpu_used_cores=3.0) for k in range(4)])


def planned(snapshot: Snapshot, policy: Policy) -> Plan:
    request = Request(
        plan_id="p",
        creator="test",
        now=NOON,
        ttl_seconds=3600.0,
        solve_seconds=20.0,
        seconds_passed=lambda: 0.0,
        uris={},
    )
    return run_cycle(snapshot, policy, request).plan


def test_an_objective_that_the_plan_does_not_reach_is_not_told() -> None:
    nothing_in_time = MigrationPermissions(max_duration_seconds=0.001)

    plan = planned(HOT, a_policy(migration=nothing_in_time))

    assert plan.migrations == ()
    assert plan.verdict.kind is VerdictKind.BLOCKED
    assert plan.objective is None
    assert DOES_LESS in plan.explanation.notes


def two_sites() -> Snapshot:
    """A full host at home, one with some room, and an empty one behind a link that is too slow."""
    hosts = [
        a_host("h1", site="home", nic_bytes_per_second=1.25e9),
        a_host("h2", site="home", nic_bytes_per_second=1.25e9),
        a_host("h3", site="away", nic_bytes_per_second=1.25e9),
    ]
    # Too large and too busy for the link, so that only small ones get there in time.
    large = [
        a_vm(f"large{k}", memory_bytes=16 * GIB, cpu_used_cores=7.0, vcpus=8) for k in range(2)
    ]
    small = [a_vm(f"small{k}", on="h2", cpu_used_cores=1.0) for k in range(6)]
    link = Link(name="wan", bytes_per_second=20e6, between=("home", "away"))
    sites = [Site(name="home"), Site(name="away")]
    return a_snapshot(hosts, [*large, *small], sites=sites, links=[link])


def test_the_rest_is_placed_anew_where_a_vm_cannot_get_where_it_would_be_best() -> None:
    permitted = MigrationPermissions(max_duration_seconds=900.0)

    plan = planned(two_sites(), a_policy(migration=permitted))

    assert plan.explanation.notes[0].startswith(
        "searched again without what cannot be carried out: large"
    )
    assert DOES_LESS not in plan.explanation.notes
    assert plan.objective is not None
    moved = {migration.vm: migration.target for migration in plan.migrations}
    # Small VMs make room at home for a large one; without that, they would only fill the other.
    assert "h3" not in {target for vm, target in moved.items() if vm.startswith("large")}
    fullest = max(host.cpu_ratio_after or 0.0 for host in plan.hosts)
    assert fullest < max(host.cpu_ratio_before or 0.0 for host in plan.hosts)


def test_a_vm_that_gets_to_no_better_place_is_listed_with_what_was_found_first() -> None:
    snapshot = two_sites()
    pinned = Ban(
        name="not here", vms=VmSelector(names=("large*",)), hosts=HostSelector(names=("h2",))
    )
    permitted = MigrationPermissions(max_duration_seconds=900.0)

    plan = planned(snapshot, a_policy(pinned, migration=permitted))

    (why,) = {"; ".join(one.reasons) for one in plan.unmoved if one.vm.startswith("large")}
    assert "a duration of " in why
    assert "no way to" not in why


def test_a_drain_tells_what_really_keeps_a_vm_from_leaving_and_no_rule_that_nobody_wrote() -> None:
    slow = 20e6
    hosts = [
        a_host("h1", state=HostState.DRAINING, nic_bytes_per_second=slow),
        a_host("h2", nic_bytes_per_second=slow),
        a_host("h3", nic_bytes_per_second=slow),
    ]
    vms = [a_vm("large", memory_bytes=32 * GIB), a_vm("small", memory_bytes=1 * GIB)]
    permitted = MigrationPermissions(max_duration_seconds=600.0)

    plan = planned(a_snapshot(hosts, vms), a_policy(migration=permitted))

    assert [one.vm for one in plan.migrations] == ["small"]
    (large,) = plan.unmoved
    assert any("a duration of " in reason for reason in large.reasons)
    told = [*large.reasons, *(one.text for one in plan.explanation.conflicts)]
    assert not any("no way to" in text for text in told)


def test_an_objective_that_the_plan_reaches_is_told() -> None:
    plan = planned(HOT, a_policy())

    assert plan.migrations
    assert plan.objective is not None
    assert plan.explanation.notes == ()


def test_a_rule_that_cannot_be_mended_blocks_though_other_vms_move() -> None:
    hosts = [a_host("h1"), a_host("h2"), a_host("h3")]
    only = Fence(name="only", vms=VmSelector(names=("v0",)), to=HostSelector(names=("h3",)))
    never = Ban(name="never", vms=VmSelector(names=("v0",)), hosts=HostSelector(names=("h3",)))

    plan = planned(a_snapshot(hosts, HOT.vms), a_policy(only, never))

    assert "v0" not in {migration.vm for migration in plan.migrations}
    assert [unmoved.vm for unmoved in plan.unmoved] == ["v0"]
    assert plan.migrations
    assert "; rule only stays broken" in plan.verdict.text
    assert exit_codes.for_plan(plan) == ExitCode.BLOCKED


def test_what_does_not_fit_into_the_rest_of_a_window_is_no_reason_for_alarm() -> None:
    closing = Window(from_minute=0, to_minute=12 * 60 + 1)
    slow = replace(HOT, hosts=tuple(replace(h, nic_bytes_per_second=10e6) for h in HOT.hosts))

    plan = planned(slow, a_policy(migration=MigrationPermissions(windows=(closing,))))

    assert plan.migrations == ()
    assert plan.verdict.kind is VerdictKind.NO_GAIN
    assert "no move is over before the maintenance window closes" in plan.verdict.text


def test_a_plan_for_the_next_maintenance_window_says_when_that_opens() -> None:
    nightly = Window(from_minute=22 * 60, to_minute=5 * 60)

    plan = planned(HOT, a_policy(migration=MigrationPermissions(windows=(nightly,))))

    assert plan.migrations
    assert plan.explanation.notes == (
        "the moves are for the next maintenance window: no maintenance window is open; the next "
        "one opens at Mon 2026-11-23 22:00 UTC",
    )


def test_hosts_to_spare_are_told_of_the_huge_pages_as_the_plan_leaves_them() -> None:
    used = HugepagePool(page_bytes=GIB, total_pages=16, free_pages=0)
    # Somebody else has half of the pages of h2, so two of the four VMs fit there, and no more.
    other = HugepagePool(page_bytes=GIB, total_pages=16, free_pages=8)
    hosts = [a_host("h1", hugepages=(used,)), a_host("h2", hugepages=(other,))]
    vms = [
        a_vm(f"v{k}", memory_bytes=4 * GIB, cpu_used_cores=3.0, hugepage_bytes=GIB)
        for k in range(4)
    ]

    plan = planned(a_snapshot(hosts, vms), a_policy())

    assert len(plan.migrations) == 2
    assert plan.explanation.capacity is not None
    assert plan.explanation.capacity.spare == ("h2",)


def test_a_drain_of_the_only_host_says_that_there_is_no_other() -> None:
    alone = a_snapshot([a_host("h1", state=HostState.DRAINING)], HOT.vms)

    plan = planned(alone, a_policy())

    assert {unmoved.reasons for unmoved in plan.unmoved} == {("there is no other host",)}


def test_a_promise_that_stays_broken_is_in_the_verdict_though_all_is_balanced() -> None:
    hosts = [a_host("h1", memory_bytes=8 * GIB), a_host("h2", memory_bytes=8 * GIB)]
    vms = [a_vm(f"v{k}", on=f"h{k}", memory_bytes=8 * GIB) for k in (1, 2)]
    headroom = Headroom(cpu_ratio=0.0, memory_ratio=0.05, host_failures=0)

    plan = planned(a_snapshot(hosts, vms), a_policy(headroom=headroom))

    assert plan.migrations == ()
    assert plan.verdict.text.startswith("balanced: ")
    assert plan.verdict.text.endswith("; still broken: memory of h1, memory of h2")
    assert exit_codes.for_plan(plan) == ExitCode.SUCCESS


def test_memory_that_is_promised_twice_is_told_first_and_not_called_balanced() -> None:
    hosts = [a_host("h1", memory_bytes=8 * GIB), a_host("h2", memory_bytes=8 * GIB)]
    vms = [a_vm("v1", memory_bytes=9 * GIB), a_vm("v2", on="h2", memory_bytes=12 * GIB)]

    plan = planned(a_snapshot(hosts, vms), a_policy())

    assert plan.verdict.kind is VerdictKind.BLOCKED
    assert plan.verdict.text.startswith(
        "blocked: more memory is promised than there is on h2 (150 %), h1 (112 %), and no move was "
        "found that mends it; "
    )
    assert exit_codes.for_plan(plan) == ExitCode.BLOCKED


def test_memory_that_stays_promised_twice_is_told_beside_the_moves() -> None:
    hosts = [a_host("h1", memory_bytes=8 * GIB), a_host("h2"), a_host("h3")]
    vms = [a_vm("huge", memory_bytes=100 * GIB, movable=False)]
    busy = [a_vm(f"v{k}", on="h2", cpu_used_cores=5.0, vcpus=8) for k in range(3)]

    plan = planned(a_snapshot(hosts, [*vms, *busy]), a_policy())

    assert plan.migrations
    assert "; more memory stays promised than there is on h1 (1250 %)" in plan.verdict.text
    assert exit_codes.for_plan(plan) == ExitCode.BLOCKED


def test_memory_that_the_policy_lets_hosts_promise_twice_is_no_fault() -> None:
    hosts = [a_host("h1", memory_bytes=8 * GIB), a_host("h2", memory_bytes=8 * GIB)]
    vms = [a_vm(f"v{k}", on=f"h{k}", memory_bytes=9 * GIB) for k in (1, 2)]

    plan = planned(a_snapshot(hosts, vms), a_policy(overcommit=Overcommit(memory=1.5)))

    assert plan.verdict.kind is VerdictKind.BALANCED
    assert exit_codes.for_plan(plan) == ExitCode.SUCCESS


def test_a_plan_keeps_what_the_placement_says_of_itself() -> None:
    vms = [a_vm("a", memory_bytes=40 * GIB), a_vm("b", on="h2", memory_bytes=50 * GIB)]
    there = HostSelector(names=("h2",))
    licence = Fence(name="licence", vms=VmSelector(names=("a",)), to=there)

    plan = planned(a_snapshot(vms=vms), a_policy(licence))

    assert plan.verdict.kind is VerdictKind.BLOCKED
    (note,) = plan.explanation.notes
    assert note.startswith("with other VMs elsewhere this would be possible: licence holds; ")
