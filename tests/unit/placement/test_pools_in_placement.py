"""Counted things, and rules about enough places, in what `place` answers."""

from __future__ import annotations

from rebalancer.cluster.inventory import HugepagePool, NumaNode, Snapshot
from rebalancer.cluster.policy import BalanceGoal, Headroom, MovementGoal
from rebalancer.cluster.rules import Domain, Presence
from rebalancer.cluster.selection import VmSelector
from rebalancer.cluster.violations import hard_violations
from rebalancer.placement.budget import Budget
from rebalancer.placement.layout import Layout, Scale
from rebalancer.placement.restartable import kept_restartable, missing_bytes
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING, moves, on, problem_of, solve

ALL = VmSelector()
STILL = (MovementGoal(),)
ENDLESS = Budget(clock=lambda: 0.0, ends_at=60.0)


def pages(count: int) -> tuple[HugepagePool, ...]:
    return (HugepagePool(page_bytes=GIB, total_pages=count, free_pages=count),)


def test_a_drain_leaves_behind_what_no_device_is_left_for() -> None:
    hosts = [
        a_host("h1", state=DRAINING, devices={"vf": 3}),
        a_host("h2", devices={"vf": 1}),
        a_host("h3", devices={"vf": 1}),
        a_host("h4"),
    ]
    snapshot = a_snapshot(hosts, [a_vm(name, on="h1", devices={"vf": 1}) for name in "abc"])

    answer = solve(snapshot, a_policy())

    assert sorted(moves(snapshot, answer).values()) == ["h2", "h3"]
    (left,) = (unmoved for unmoved in answer.unmoved if answer.assignment[unmoved.vm] == "h1")
    assert any("no room for its devices vf" in reason for reason in left.reasons)


def test_balance_swaps_where_pages_are_short() -> None:
    hosts = [a_host("h1", hugepages=pages(8)), a_host("h2", hugepages=pages(8))]
    vms = [
        a_vm(f"a{k}", on="h1", memory_bytes=4 * GIB, cpu_used_cores=6.0, hugepage_bytes=GIB)
        for k in (1, 2)
    ]
    vms += [
        a_vm(f"b{k}", on="h2", memory_bytes=4 * GIB, cpu_used_cores=0.0, hugepage_bytes=GIB)
        for k in (1, 2)
    ]
    snapshot = a_snapshot(hosts, vms)

    answer = solve(snapshot, a_policy(goals=(BalanceGoal(),)))

    assert [len(on(answer, host)) for host in ("h1", "h2")] == [2, 2]
    # Full hosts cannot change VMs without a third one to park on.
    assert moves(snapshot, answer) == {}
    roomy = a_snapshot([a_host("h1", hugepages=pages(12)), a_host("h2", hugepages=pages(12))], vms)
    assert len(moves(roomy, solve(roomy, a_policy(goals=(BalanceGoal(),))))) == 2


def test_vms_bound_to_a_node_are_not_piled_up_on_it() -> None:
    node = NumaNode(cpu_cores=8, memory_bytes=32 * GIB)
    hosts = [a_host("h1", state=DRAINING), *(a_host(f"h{k}") for k in (2, 3))]
    hosts = [*(h for h in hosts[:1]), *(a_host(h.id, numa_nodes=(node, node)) for h in hosts[1:])]
    bound = NumaNode(cpu_cores=2, memory_bytes=20 * GIB, host_nodes=(1,))
    vms = [a_vm(name, on="h1", memory_bytes=20 * GIB, numa_nodes=(bound,)) for name in "ab"]

    answer = solve(a_snapshot(hosts, vms), a_policy())

    assert sorted(answer.assignment.values()) == ["h2", "h3"]


def sites(*where: str) -> Snapshot:
    hosts = [a_host(f"{site}{k}", site=site) for site in ("tokyo", "osaka") for k in (1, 2)]
    return a_snapshot(hosts, [a_vm(f"r{k}", on=host) for k, host in enumerate(where)])


def test_replicas_that_are_all_in_one_site_are_brought_to_two() -> None:
    snapshot = sites("tokyo1", "tokyo1", "tokyo2")
    rule = Presence(name="two sites", vms=ALL, over=Domain.SITE, at_least=2)

    answer = solve(snapshot, a_policy(rule, goals=STILL))

    assert len(moves(snapshot, answer)) == 1
    assert answer.objective.terms_after == {"repair": 0.0}


def test_the_last_one_of_a_site_does_not_leave_it_for_balance() -> None:
    hosts = [a_host("t1", site="tokyo", cpu_cores=4.0), a_host("o1", site="osaka", cpu_cores=64.0)]
    vms = [a_vm("r1", on="t1", cpu_used_cores=3.0), a_vm("r2", on="o1"), a_vm("free", on="t1")]
    rule = Presence(name="p", vms=VmSelector(names=("r*",)), over=Domain.SITE)
    snapshot = a_snapshot(hosts, vms)

    answer = solve(snapshot, a_policy(rule, goals=(BalanceGoal(),)))

    assert {answer.assignment[vm.id] for vm in vms[:2]} == {"t1", "o1"}


def test_a_soft_presence_is_bought_off_by_a_greater_gain() -> None:
    snapshot = sites("tokyo1", "tokyo2")
    cheap = Presence(name="p", vms=ALL, over=Domain.SITE, hard=False, weight=1e-6)
    dear = Presence(name="p", vms=ALL, over=Domain.SITE, hard=False, weight=10.0)

    assert moves(snapshot, solve(snapshot, a_policy(cheap, goals=STILL))) == {}
    assert len(moves(snapshot, solve(snapshot, a_policy(dear, goals=STILL)))) == 1


SURVIVING = Headroom(cpu_ratio=0, memory_ratio=0, host_failures=1)


def test_the_only_gap_that_a_large_vm_could_restart_in_is_not_filled() -> None:
    hosts = [a_host(f"h{k}", memory_bytes=16 * GIB) for k in range(4)]
    vms = [a_vm("big", on="h0", memory_bytes=12 * GIB, cpu_used_cores=0.0)]
    vms += [
        a_vm(f"{host}{k}", on=host, memory_bytes=4 * GIB, cpu_used_cores=4.0)
        for host in ("h1", "h2")
        for k in (1, 2)
    ]
    snapshot = a_snapshot(hosts, vms)
    goals = (BalanceGoal(memory_weight=0.0),)

    free = solve(snapshot, a_policy(goals=goals))
    careful_policy = a_policy(goals=goals, headroom=SURVIVING)
    careful = solve(snapshot, careful_policy)

    assert len(on(free, "h3")) >= 1
    problem = problem_of(snapshot, careful_policy)
    assert missing_bytes(problem, problem.start) == 0
    assert hard_violations(snapshot, careful_policy, problem.demand, careful.assignment) == ()


def test_only_moves_that_fill_the_gap_are_left_out() -> None:
    hosts = [a_host(f"h{k}", memory_bytes=16 * GIB) for k in range(5)]
    vms = [a_vm("big", on="h0", memory_bytes=12 * GIB)]
    vms += [a_vm(f"v{k}", on=f"h{k}", memory_bytes=5 * GIB) for k in (1, 2, 3)]
    vms += [a_vm("fills", on="h1", memory_bytes=5 * GIB), a_vm("w", on="h2", memory_bytes=GIB)]
    problem = problem_of(a_snapshot(hosts, vms), a_policy(headroom=SURVIVING))
    names = [unit[0].name for unit in problem.units]
    layout = Layout(problem, problem.start, Scale(tiers=()))
    fills, harmless = (names.index(name) for name in ("fills", "w"))
    layout.move(fills, 4)
    layout.move(harmless, 3)

    kept = kept_restartable(problem, layout.x, problem.start, ENDLESS)

    assert kept[fills] == problem.start[fills]
    assert kept[harmless] == 3
