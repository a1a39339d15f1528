"""The five rules in what `place` answers: kept, mended, and never made worse."""

from __future__ import annotations

from rebalancer.cluster.inventory import HostState
from rebalancer.cluster.policy import BalanceGoal, MovementGoal
from rebalancer.cluster.rules import Ban, Domain, Fence, Pin, Spread, Together
from rebalancer.cluster.selection import HostSelector, VmSelector
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING, a_hot_host, moves, on, solve

ALL = VmSelector()
STILL = (MovementGoal(),)
"""No goal but to move little: what moves then, moves for a rule."""


def named(*names: str) -> VmSelector:
    return VmSelector(names=names)


def test_vms_that_are_apart_stay_apart() -> None:
    vms = [a_vm(f"vm{k}", on=f"h{k}", cpu_used_cores=k * 1.0) for k in (1, 2, 3)]
    hosts = [a_host("h1", cpu_cores=64.0), a_host("h2", cpu_cores=4.0), a_host("h3", cpu_cores=4.0)]

    answer = solve(a_snapshot(hosts, vms), a_policy(Spread(name="apart", vms=ALL)))

    assert [len(on(answer, host.id)) for host in hosts] == [1, 1, 1]


def test_vms_that_are_not_apart_are_parted() -> None:
    snapshot = a_snapshot(vms=[a_vm("a"), a_vm("b")])

    answer = solve(snapshot, a_policy(Spread(name="apart", vms=ALL), goals=STILL))

    assert len(moves(snapshot, answer)) == 1
    assert "mends apart" in next(iter(answer.reasons.values()))
    assert answer.objective.terms_after == {"repair": 0.0}


def test_vms_are_parted_as_far_as_possible() -> None:
    snapshot = a_snapshot(vms=[a_vm(name) for name in "abc"])

    answer = solve(snapshot, a_policy(Spread(name="apart", vms=ALL), goals=STILL))

    assert len(moves(snapshot, answer)) == 1
    assert {unmoved.vm for unmoved in answer.unmoved} >= {"a", "b"} - moves(snapshot, answer).keys()


def test_spread_by_label_parts_each_group() -> None:
    vms = [a_vm(f"{group}{k}", labels={"group": group}) for group in "xy" for k in (1, 2)]
    snapshot = a_snapshot(vms=vms)

    answer = solve(snapshot, a_policy(Spread(name="s", vms=ALL, by_label="group"), goals=STILL))

    assert sorted(vm[0] for vm in on(answer, "h1")) == ["x", "y"]


def test_vms_are_spread_over_racks() -> None:
    hosts = [a_host("h1", rack="r1"), a_host("h2", rack="r1"), a_host("h3", rack="r2")]
    snapshot = a_snapshot(hosts, [a_vm("a", on="h1"), a_vm("b", on="h2")])

    answer = solve(snapshot, a_policy(Spread(name="s", vms=ALL, over=Domain.RACK), goals=STILL))

    assert list(moves(snapshot, answer).values()) == ["h3"]


def test_a_soft_spread_is_bought_off_by_a_greater_gain() -> None:
    snapshot = a_snapshot(vms=[a_vm("a"), a_vm("b")])
    free = Spread(name="s", vms=ALL, hard=False, weight=1e-6)
    dear = Spread(name="s", vms=ALL, hard=False, weight=10.0)

    assert moves(snapshot, solve(snapshot, a_policy(free, goals=STILL))) == {}
    assert len(moves(snapshot, solve(snapshot, a_policy(dear, goals=STILL)))) == 1


def test_vms_that_belong_together_move_as_one() -> None:
    snapshot = a_hot_host()
    policy = a_policy(Together(name="close", vms=named("vm0", "vm1", "vm2")))

    answer = solve(snapshot, policy)

    assert len({answer.assignment[vm.id] for vm in snapshot.vms[:3]}) == 1
    assert answer.objective.after < answer.objective.before


def test_vms_that_belong_together_leave_a_draining_host_together() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2"), a_host("h3")]
    snapshot = a_snapshot(hosts, [a_vm("a", on="h1"), a_vm("b", on="h1")])

    answer = solve(snapshot, a_policy(Together(name="close", vms=ALL)))

    assert set(moves(snapshot, answer)) == {"a", "b"}
    assert len(set(moves(snapshot, answer).values())) == 1


def test_one_that_cannot_move_holds_the_others_back() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2")]
    snapshot = a_snapshot(hosts, [a_vm("a", on="h1"), a_vm("b", on="h1", movable=False)])

    answer = solve(snapshot, a_policy(Together(name="close", vms=ALL)))

    assert moves(snapshot, answer) == {}
    why = {unmoved.vm_name: unmoved.reasons for unmoved in answer.unmoved}
    assert any("b is marked as not movable" in reason for reason in why["a"])


def test_vms_that_are_torn_apart_are_brought_together() -> None:
    hosts = [a_host(f"h{k}", memory_bytes=16 * GIB) for k in (1, 2, 3)]
    vms = [a_vm("a", on="h1"), a_vm("b", on="h2"), a_vm("c", on="h3")]
    vms += [a_vm("full", on="h1", memory_bytes=8 * GIB)]
    snapshot = a_snapshot(hosts, vms)

    answer = solve(
        snapshot, a_policy(Together(name="close", vms=named("a", "b", "c")), goals=STILL)
    )

    assert len(moves(snapshot, answer)) == 2
    assert len({answer.assignment[vm.id] for vm in vms[:3]}) == 1


def test_a_group_leaves_a_site_that_drains_for_another_site() -> None:
    hosts = [a_host(f"t{k}", site="tokyo", state=DRAINING) for k in (1, 2)]
    hosts += [a_host(f"o{k}", site="osaka", memory_bytes=6 * GIB) for k in (1, 2)]
    hosts += [a_host("k1", site="kyoto", memory_bytes=6 * GIB)]
    snapshot = a_snapshot(hosts, [a_vm("a", on="t1"), a_vm("b", on="t2")])

    answer = solve(snapshot, a_policy(Together(name="close", vms=ALL, over=Domain.SITE)))

    assert set(moves(snapshot, answer).values()) == {"o1", "o2"}


def test_a_fence_keeps_vms_in() -> None:
    snapshot = a_hot_host()
    fence = Fence(name="fence", vms=ALL, to=HostSelector(names=("h1", "h2")))

    answer = solve(snapshot, a_policy(fence))

    assert on(answer, "h3") == []
    assert len(on(answer, "h2")) == 3


def test_a_vm_outside_its_fence_is_brought_in_and_the_gain_does_not_matter() -> None:
    snapshot = a_snapshot(vms=[a_vm("a", on="h1")])
    fence = Fence(name="fence", vms=ALL, to=HostSelector(names=("h2",)))

    answer = solve(snapshot, a_policy(fence, goals=STILL))

    assert moves(snapshot, answer) == {"a": "h2"}


def test_a_vm_outside_its_fence_leaves_a_draining_host_for_no_other_host_outside() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2"), a_host("h3", memory_bytes=GIB)]
    snapshot = a_snapshot(hosts, [a_vm("a", on="h1")])
    fence = Fence(name="fence", vms=ALL, to=HostSelector(names=("h3",)))

    answer = solve(snapshot, a_policy(fence))

    assert moves(snapshot, answer) == {}
    assert [unmoved.vm for unmoved in answer.unmoved] == ["a"]
    assert any("h2: fence forbids it" in reason for reason in answer.unmoved[0].reasons)


def test_balance_moves_no_vm_from_one_forbidden_host_to_another() -> None:
    hosts = [a_host("h1"), a_host("h2"), a_host("h3", state=HostState.DOWN)]
    vms = [a_vm(f"v{k}", on="h1", cpu_used_cores=4.0) for k in (1, 2, 3)]
    fence = Fence(name="fence", vms=ALL, to=HostSelector(names=("h3",)))
    ban = Ban(name="ban", vms=ALL, hosts=HostSelector(names=("h1", "h2")))

    for rule in (fence, ban):
        snapshot = a_snapshot(hosts, vms)
        answer = solve(snapshot, a_policy(rule))

        assert moves(snapshot, answer) == {}
        assert len(answer.unmoved) == 3


def test_a_vm_that_moves_is_not_listed_as_one_that_does_not() -> None:
    hosts = [a_host("h1"), a_host("h2")]
    snapshot = a_snapshot(hosts, [a_vm(name) for name in "abc"])

    answer = solve(snapshot, a_policy(Spread(name="apart", vms=ALL), goals=STILL))

    moved = set(moves(snapshot, answer))
    assert moved
    assert moved.isdisjoint(unmoved.vm for unmoved in answer.unmoved)


def test_room_is_made_for_a_vm_that_a_rule_sends_to_a_full_host() -> None:
    hosts = [a_host(f"h{k}", memory_bytes=16 * GIB) for k in (1, 2, 3)]
    vms = [a_vm("a", on="h1", memory_bytes=8 * GIB)]
    vms += [a_vm(f"b{k}", on="h2", memory_bytes=7 * GIB) for k in (1, 2)]
    snapshot = a_snapshot(hosts, vms)
    fence = Fence(name="fence", vms=named("a"), to=HostSelector(names=("h2",)))

    answer = solve(snapshot, a_policy(fence, goals=STILL))

    assert answer.assignment[vms[0].id] == "h2"
    assert len(moves(snapshot, answer)) == 2


def test_a_banned_host_is_not_used() -> None:
    snapshot = a_hot_host()
    ban = Ban(name="ban", vms=ALL, hosts=HostSelector(names=("h3",)))

    assert on(solve(snapshot, a_policy(ban)), "h3") == []


def test_a_soft_ban_is_a_price() -> None:
    snapshot = a_hot_host()
    hosts = HostSelector(names=("h3",))
    cheap = Ban(name="ban", vms=ALL, hosts=hosts, hard=False, weight=1e-6)
    dear = Ban(name="ban", vms=ALL, hosts=hosts, hard=False, weight=10.0)

    assert on(solve(snapshot, a_policy(cheap)), "h3") != []
    assert on(solve(snapshot, a_policy(dear)), "h3") == []


def test_a_pinned_vm_stays_even_on_a_draining_host() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2")]
    snapshot = a_snapshot(hosts, [a_vm("a", on="h1"), a_vm("b", on="h1")])

    answer = solve(snapshot, a_policy(Pin(name="stay", vms=named("a"))))

    assert moves(snapshot, answer) == {"b": "h2"}
    assert "it is pinned by stay" in answer.unmoved[0].reasons


def test_a_soft_pin_costs_its_weight() -> None:
    snapshot = a_hot_host()
    goals = (BalanceGoal(),)
    dear = Pin(name="stay", vms=ALL, hard=False, weight=10.0)

    assert moves(snapshot, solve(snapshot, a_policy(dear, goals=goals))) == {}


def test_rules_that_contradict_each_other_leave_the_rest_to_be_balanced() -> None:
    snapshot = a_hot_host()
    policy = a_policy(
        Fence(name="in", vms=named("vm0"), to=HostSelector(names=("h2",))),
        Ban(name="out", vms=named("vm0"), hosts=HostSelector(names=("h2",))),
    )

    answer = solve(snapshot, policy)

    assert answer.objective.after <= answer.objective.before
    assert len(on(answer, "h1")) == 2
