"""The oracle: what an assignment breaks, and whether that is worse than before."""

from __future__ import annotations

import pytest

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Assignment, HostId, HostState, Snapshot, VmId, VmState
from rebalancer.cluster.policy import Headroom, Overcommit, Policy
from rebalancer.cluster.rules import Fence, Pin, Spread, Violation
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.violations import hard_violations, violations, worsened
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm


def found(
    snapshot: Snapshot, policy: Policy | None = None, moved: dict[str, str] | None = None
) -> list[Violation]:
    assignment: Assignment = {
        **snapshot.assignment,
        **{VmId(vm): HostId(host) for vm, host in (moved or {}).items()},
    }
    demand = Demand.as_measured(snapshot)
    return list(violations(snapshot, policy or a_policy(), demand, assignment))


def test_a_cluster_with_room_breaks_nothing() -> None:
    assert found(a_snapshot(vms=[a_vm("a", on="h1")])) == []


def test_memory_is_promised_only_once() -> None:
    vms = [a_vm("a", on="h1", memory_bytes=40 * GIB), a_vm("b", on="h1", memory_bytes=40 * GIB)]

    [violation] = found(a_snapshot(vms=vms))

    assert violation.rule == "memory of h1"
    assert violation.vms == ("a", "b")
    assert violation.severity == pytest.approx(0.25)


def test_the_reserve_and_the_headroom_are_not_for_guests() -> None:
    host = a_host("h1", memory_bytes=64 * GIB, reserved_memory_bytes=4 * GIB)
    snapshot = a_snapshot([host], [a_vm("a", on="h1", memory_bytes=55 * GIB)])

    assert found(snapshot) == []
    assert found(snapshot, a_policy(headroom=Headroom(cpu_ratio=0, memory_ratio=0.1))) != []


def test_memory_overcommit_is_the_policys_choice() -> None:
    vms = [a_vm(name, on="h1", memory_bytes=40 * GIB) for name in "ab"]

    assert found(a_snapshot(vms=vms), a_policy(overcommit=Overcommit(memory=1.5))) == []


def test_a_vm_that_does_not_run_takes_up_nothing() -> None:
    vms = [a_vm(name, on="h1", memory_bytes=60 * GIB, state=VmState.SHUTOFF) for name in "ab"]

    assert found(a_snapshot(vms=vms)) == []


def test_cpu_counts_the_hosts_own_use_and_the_peak_of_its_vms() -> None:
    host = a_host("h1", cpu_cores=16.0, cpu_used_cores=15.0)
    snapshot = a_snapshot([host], [a_vm("a", on="h1", vcpus=16, cpu_used_cores=5.0)])
    demand = Demand(
        vm_cpu_cores={VmId("a"): 5.0},
        vm_cpu_peak_cores={VmId("a"): 7.0},
        host_base_cores={HostId("h1"): 10.0},
    )

    [violation] = violations(snapshot, a_policy(), demand, snapshot.assignment)

    assert violation.rule == "cpu of h1"
    assert violation.severity == pytest.approx(1 / 16)


def test_a_host_without_vms_breaks_no_cpu_limit_however_busy_it_is() -> None:
    assert found(a_snapshot([a_host("h1", cpu_used_cores=99.0)])) == []


def test_vcpus_are_overcommitted_up_to_the_ratio() -> None:
    snapshot = a_snapshot(vms=[a_vm("a", on="h1", vcpus=65)])

    assert [v.rule for v in found(snapshot)] == ["vcpus of h1"]
    assert found(snapshot, a_policy(overcommit=Overcommit(cpu=5.0))) == []


@pytest.mark.parametrize("state", [HostState.DRAINING, HostState.ASLEEP, HostState.UNKNOWN])
def test_only_a_host_that_is_up_receives_vms(state: HostState) -> None:
    snapshot = a_snapshot([a_host("h1"), a_host("h2", state=state)], [a_vm("a", on="h1")])

    [violation] = found(snapshot, moved={"a": "h2"})

    assert f"h2 is {state}" in violation.text


@pytest.mark.parametrize("state", [HostState.UNKNOWN, HostState.DOWN, HostState.MAINTENANCE])
def test_nothing_is_moved_off_a_host_that_nobody_knows_the_vms_of(state: HostState) -> None:
    snapshot = a_snapshot([a_host("h1", state=state), a_host("h2")], [a_vm("a", on="h1")])

    assert found(snapshot) == []
    assert [v.rule for v in found(snapshot, moved={"a": "h2"})] == ["placement of a"]


def test_a_draining_host_may_be_left() -> None:
    hosts = [a_host("h1", state=HostState.DRAINING), a_host("h2")]

    assert found(a_snapshot(hosts, [a_vm("a", on="h1")]), moved={"a": "h2"}) == []


def test_every_reason_against_a_move_is_told() -> None:
    vm = a_vm("a", on="h1", movable=False, blockers=("a backup runs",), storage=frozenset({"san"}))
    snapshot = a_snapshot([a_host("h1"), a_host("h2", storage=frozenset({"nfs"}))], [vm])

    texts = " ".join(violation.text for violation in found(snapshot, moved={"a": "h2"}))

    assert "not movable" in texts
    assert "a backup runs" in texts
    assert "does not reach storage san" in texts


def test_hosts_that_the_policy_is_not_about_are_left_alone() -> None:
    policy = a_policy(applies=HostSelector(sites=("tokyo",)))
    hosts = [a_host("h1", site="tokyo"), a_host("h2", site="osaka")]
    snapshot = a_snapshot(hosts, [a_vm("a", on="h1"), a_vm("b", on="h2")])

    assert found(snapshot, policy) == []
    assert len(found(snapshot, policy, {"a": "h2"})) == 1
    assert len(found(snapshot, policy, {"b": "h1"})) == 1


def test_the_vms_of_failed_hosts_need_a_place() -> None:
    policy = a_policy(headroom=Headroom(cpu_ratio=0, memory_ratio=0, host_failures=1))
    hosts = [a_host("h1", memory_bytes=32 * GIB), a_host("h2", memory_bytes=64 * GIB)]
    vms = [a_vm("a", on="h1", memory_bytes=16 * GIB), a_vm("b", on="h2", memory_bytes=16 * GIB)]
    one_more = a_vm("c", on="h2", memory_bytes=GIB)

    assert found(a_snapshot(hosts, vms), policy) == []
    assert [v.rule for v in found(a_snapshot(hosts, [*vms, one_more]), policy)] == ["host failures"]


def test_soft_rules_are_not_among_the_hard_violations() -> None:
    soft = Spread(name="soft", vms=VmSelector(), hard=False)
    hard = Spread(name="hard", vms=VmSelector())
    snapshot = a_snapshot(vms=[a_vm("a"), a_vm("b")])
    demand = Demand.as_measured(snapshot)
    policy = a_policy(soft, hard)

    assert {v.rule for v in violations(snapshot, policy, demand, snapshot.assignment)} == {
        "soft",
        "hard",
    }
    assert {v.rule for v in hard_violations(snapshot, policy, demand, snapshot.assignment)} == {
        "hard"
    }


def test_what_is_broken_no_more_than_before_is_not_worse() -> None:
    before = [Violation(rule="a", text="", severity=2), Violation(rule="b", text="")]

    assert worsened(before, [Violation(rule="a", text="", severity=1)]) == ()
    assert worsened(before, before) == ()


def test_what_is_broken_more_than_before_is_worse() -> None:
    more = [Violation(rule="a", text="", severity=1.5), Violation(rule="a", text="", severity=1)]

    assert worsened([Violation(rule="a", text="", severity=2)], more) == tuple(more)
    assert len(worsened([], [Violation(rule="pin", text="")])) == 1


def test_only_placed_vms_are_judged() -> None:
    snapshot = a_snapshot(vms=[a_vm("a"), a_vm("b")])
    policy = a_policy(Spread(name="apart", vms=VmSelector()), Pin(name="pin", vms=VmSelector()))

    alone = {VmId("a"): HostId("h1")}

    assert list(violations(snapshot, policy, Demand.as_measured(snapshot), alone)) == []


def test_another_forbidden_host_is_worse_than_the_one_that_it_is_on() -> None:
    fence = Fence(name="fence", vms=VmSelector(), to=HostSelector(names=("h3",)))
    snapshot = a_snapshot([a_host("h1"), a_host("h2"), a_host("h3")], [a_vm("a"), a_vm("b")])
    policy, demand = a_policy(fence), Demand.as_measured(snapshot)

    def worse_with(**moved: str) -> list[str]:
        at = {**snapshot.assignment, **{VmId(vm): HostId(host) for vm, host in moved.items()}}
        before = hard_violations(snapshot, policy, demand, snapshot.assignment)
        return [v.text for v in worsened(before, hard_violations(snapshot, policy, demand, at))]

    assert worse_with(a="h3") == []
    assert worse_with(a="h2") == ["a is on h2, outside its fence"]
    assert worse_with(a="h2", b="h3") == ["a is on h2, outside its fence"]


def test_amounts_of_memory_are_written_with_units() -> None:
    host = a_host("h1", memory_bytes=57 * GIB)
    snapshot = a_snapshot([host], [a_vm("a", memory_bytes=58 * GIB)])
    demand = Demand.as_measured(snapshot)

    (found,) = violations(snapshot, a_policy(), demand, snapshot.assignment)

    assert found.text == "h1 would need 58.0 GiB of memory and may use 57.0 GiB"


def test_more_failures_than_hosts_are_called_that() -> None:
    snapshot = a_snapshot(vms=[a_vm("a")])
    policy = a_policy(headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=9))
    demand = Demand.as_measured(snapshot)

    (found,) = violations(snapshot, policy, demand, snapshot.assignment)

    assert "host_failures is 9, and 2 hosts are up" in found.text
