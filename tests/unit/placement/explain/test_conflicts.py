"""What contradicts what, and what the least is that would help."""

from __future__ import annotations

import pytest

from rebalancer.cluster.explanation import Conflict
from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.policy import Headroom, Overcommit, Policy
from rebalancer.cluster.rules import Ban, Domain, Fence, Pin, Presence, Rule, Spread
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.placement.budget import Budget
from rebalancer.placement.explain.conflicts import find_conflicts, smallest_impossible
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING, problem_of, solve

ENDLESS = Budget(clock=lambda: 0.0, ends_at=60.0)
WEB = VmSelector(labels={"app": ("web",)})


def conflicts_of(snapshot: Snapshot, policy: Policy | None = None) -> tuple[Conflict, ...]:
    problem = problem_of(snapshot, policy)
    return find_conflicts(problem, problem.start, ENDLESS)


def helps(conflict: Conflict) -> list[str]:
    return [relaxation.text for relaxation in conflict.relaxations]


def test_a_drain_that_can_be_finished_has_no_conflict() -> None:
    snapshot = a_snapshot([a_host("h1", state=DRAINING), a_host("h2")], [a_vm("a")])

    assert solve(snapshot).explanation.conflicts == ()


def test_a_vm_that_nothing_may_move_is_the_whole_conflict() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2")]

    (conflict,) = conflicts_of(a_snapshot(hosts, [a_vm("a", movable=False), a_vm("b")]))

    assert conflict.text == "a cannot leave h1: a cannot be moved (marked as not movable)"
    assert conflict.wishes == ("a leaves h1",)
    assert conflict.is_minimal
    assert helps(conflict) == ["letting a be moved would free 1 VM"]


def test_rules_and_limits_that_only_together_leave_no_place_are_named_together() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2"), a_host("h3"), a_host("h4")]
    vms = [
        a_vm("w1", labels={"app": "web"}),
        a_vm("w2", on="h2", labels={"app": "web"}, movable=False),
        a_vm("big", on="h3", memory_bytes=59 * GIB, movable=False),
    ]
    policy = a_policy(
        Spread(name="web", vms=WEB),
        Fence(name="gold", vms=WEB, to=HostSelector(names=("h1", "h2", "h3"))),
        Spread(name="idle", vms=VmSelector(names=("nobody*",))),
        headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.05),
    )

    (conflict,) = conflicts_of(a_snapshot(hosts, vms), policy)

    assert conflict.wishes == ("w1 leaves h1",)
    assert {"rule web", "rule gold", "memory of h3"} <= set(conflict.members)
    assert not any("idle" in member or "h4" in member for member in conflict.members)
    assert conflict.is_minimal
    assert helps(conflict)[0] == "lowering headroom.memory from 5 % to 1 % would free 1 VM"
    assert "making rule web soft would free 1 VM" in helps(conflict)


def test_vms_that_do_not_all_fit_are_named_with_the_memory_that_is_short() -> None:
    hosts = [
        a_host("h1", state=DRAINING),
        a_host("h2"),
        a_host("h3", state=HostState.ASLEEP),
    ]
    vms = [a_vm(f"a{k}", memory_bytes=20 * GIB) for k in range(4)]

    (conflict,) = conflicts_of(a_snapshot(hosts, vms))

    assert len(conflict.wishes) == 4
    assert conflict.members == ("h3 (asleep)", "memory of h2")
    assert "cannot all leave h1: h3 (asleep); memory of h2" in conflict.text
    assert helps(conflict)[0] == "waking h3 would free 1 VM"


def test_vcpus_that_are_short_ask_for_as_little_overcommit_as_will_do() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2", cpu_cores=4.0)]
    policy = a_policy(overcommit=Overcommit(cpu=1.0))

    (conflict,) = conflicts_of(a_snapshot(hosts, [a_vm("a", vcpus=6)]), policy)

    assert conflict.members == ("vCPUs of h2",)
    assert helps(conflict) == ["raising overcommit.cpu from 1 to 1.5 would free 1 VM"]


def test_what_a_vm_needs_of_a_machine_is_told_and_nothing_is_offered_against_it() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2", storage=frozenset({"b"}))]

    (conflict,) = conflicts_of(a_snapshot(hosts, [a_vm("a", storage=frozenset({"a"}))]))

    assert conflict.members == ("the needs of a (the host does not reach storage a (h2))",)
    assert conflict.relaxations == ()


def test_devices_that_are_all_taken_elsewhere_are_named() -> None:
    hosts = [
        a_host("h1", state=DRAINING, devices={"gpu": 1}),
        a_host("h2", devices={"gpu": 1}),
        a_host("h3"),
    ]
    vms = [
        a_vm("a", devices={"gpu": 1}),
        a_vm("b", on="h2", devices={"gpu": 1}, movable=False),
    ]

    (conflict,) = conflicts_of(a_snapshot(hosts, vms))

    assert "devices of h2" in conflict.members
    assert conflict.is_minimal
    assert "letting b be moved would free 1 VM" not in helps(conflict)


def test_a_vm_larger_than_any_other_host_is_told_by_the_memory_of_the_hosts() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2", memory_bytes=8 * GIB)]

    (conflict,) = conflicts_of(a_snapshot(hosts, [a_vm("a", memory_bytes=16 * GIB)]))

    assert "memory of h2" in conflict.members
    assert conflict.is_minimal


def test_a_hard_rule_that_cannot_be_mended_is_a_conflict_too() -> None:
    vms = [a_vm("w1", labels={"app": "web"}), a_vm("w2", labels={"app": "web"})]
    policy = a_policy(Spread(name="web", vms=WEB), Pin(name="stay", vms=VmSelector(names=("w*",))))

    (conflict,) = conflicts_of(a_snapshot(vms=vms), policy)

    assert conflict.wishes == ("web holds",)
    assert conflict.members == ("rule stay",)
    assert helps(conflict) == ["making rule stay soft would make it possible"]


def test_a_host_that_is_overfull_for_good_is_a_conflict_too() -> None:
    vms = [a_vm("a", memory_bytes=40 * GIB), a_vm("b", memory_bytes=40 * GIB)]
    hosts = [a_host("h1"), a_host("h2", memory_bytes=16 * GIB)]

    (conflict,) = conflicts_of(a_snapshot(hosts, vms))

    assert conflict.wishes == ("h1 is within its memory",)
    assert conflict.members == ("memory of h2",)


def test_a_drain_that_would_only_fit_on_a_host_that_is_too_full_already_names_both() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2", memory_bytes=32 * GIB)]
    vms = [a_vm("a", memory_bytes=8 * GIB)]
    vms += [a_vm(f"b{k}", on="h2", memory_bytes=20 * GIB) for k in range(2)]

    found = conflicts_of(a_snapshot(hosts, vms))

    assert all(conflict.is_minimal for conflict in found)
    assert found[0].wishes == ("h2 is within its memory",)
    assert found[0].text == "h2 cannot be brought within its memory: h1 (draining)"
    assert found[1].text == "a cannot leave h1: memory of h2"


def test_another_host_that_drains_may_be_what_stands_in_the_way() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2", state=DRAINING)]

    (conflict,) = conflicts_of(a_snapshot(hosts, [a_vm("a")]))

    assert conflict.members == ("h2 (draining)",)
    assert helps(conflict) == ["draining h2 another time would free 1 VM"]


def test_of_several_causes_each_is_told_and_alike_ones_once() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2", storage=frozenset())]
    vms = [
        a_vm("a", movable=False),
        a_vm("b", storage=frozenset({"nfs"})),
        *(a_vm(f"big{k}", memory_bytes=50 * GIB) for k in range(3)),
    ]

    found = conflicts_of(a_snapshot(hosts, vms))

    assert len(found) == 3
    assert len({conflict.members for conflict in found}) == 3


def test_in_a_large_cluster_a_vm_is_looked_at_with_the_others_where_they_are() -> None:
    hosts = [a_host("h0", state=DRAINING), *(a_host(f"h{k}") for k in range(1, 40))]
    vms = [a_vm("wide", on="h0", memory_bytes=40 * GIB)]
    vms += [a_vm(f"v{k}", on=f"h{k}", memory_bytes=30 * GIB) for k in range(1, 40)]

    (conflict,) = conflicts_of(a_snapshot(hosts, vms))

    assert conflict.members == ("memory of the hosts",)
    assert conflict.assumption == "every other VM is where the plan has it"
    assert conflict.assumption in conflict.text
    assert conflict.is_minimal


def test_without_time_nothing_is_claimed_to_be_minimal() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2")]
    problem = problem_of(a_snapshot(hosts, [a_vm("a", movable=False)]))

    found = find_conflicts(problem, problem.start, Budget(clock=lambda: 0.0, ends_at=0.0))

    assert not any(conflict.is_minimal for conflict in found)


def test_the_smallest_impossible_set_is_found_among_many_parts() -> None:
    parts: list[object] = [object() for _ in range(64)]
    clash = {id(parts[3]), id(parts[40]), id(parts[63])}
    asked = []

    def possible(kept: object) -> bool:
        asked.append(kept)
        return not clash <= {id(part) for part in kept}  # type: ignore[attr-defined]

    found = smallest_impossible(parts, possible)  # type: ignore[arg-type]

    assert {id(part) for part in found} == clash
    assert len(asked) < len(parts)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            Spread(name="r", vms=WEB, over=Domain.RACK),
            "r cannot hold: its 3 VMs have 2 racks, 1 in each at most",
        ),
        (
            Presence(name="r", vms=WEB, over=Domain.RACK, at_least=3),
            "r cannot hold: it wants 3 racks, and there are 2",
        ),
        (
            Fence(name="r", vms=WEB, to=HostSelector(sites=("mars",))),
            "r cannot hold: no host is in its fence",
        ),
        (Ban(name="r", vms=WEB, hosts=HostSelector()), "r cannot hold: it bans every host"),
    ],
)
def test_a_rule_that_no_placement_keeps_says_what_it_lacks(rule: Rule, said: str) -> None:
    hosts = [a_host(f"h{k}", rack=f"r{k % 2}") for k in range(4)]
    vms = [a_vm(f"w{k}", on=f"h{k % 2}", labels={"app": "web"}) for k in range(3)]

    (conflict,) = conflicts_of(a_snapshot(hosts, vms), a_policy(rule))

    assert conflict.text == said
    assert conflict.is_minimal
    assert helps(conflict) == []


def test_what_contradicts_nothing_and_cannot_be_reached_is_told_as_that() -> None:
    hosts = [a_host("h1"), a_host("h2")]
    vms = [a_vm("a", memory_bytes=40 * GIB), a_vm("b", on="h2", memory_bytes=50 * GIB)]
    rule = Fence(name="licence", vms=VmSelector(names=("a",)), to=HostSelector(names=("h2",)))

    explanation = solve(a_snapshot(hosts, vms), a_policy(rule)).explanation

    assert explanation.conflicts == ()
    assert explanation.notes == (
        "with other VMs elsewhere this would be possible: licence holds; but that was not found "
        "in the time given, or no order of moves leads there",
    )
