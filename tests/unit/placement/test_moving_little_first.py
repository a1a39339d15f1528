"""Where moving little comes before everything else, later goals only choose where things go."""

from __future__ import annotations

from rebalancer.cluster.policy import BalanceGoal, MovementGoal
from tests.builders import a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING, moves, solve

GOALS = (MovementGoal(tier=1, weight=1.0), BalanceGoal(tier=2))


def test_a_drain_sends_vms_to_the_emptiest_hosts_and_moves_nothing_else() -> None:
    hosts = [a_host("h1", state=DRAINING), a_host("h2"), a_host("h3"), a_host("h4")]
    vms = [a_vm(f"d{k}", on="h1", cpu_used_cores=1.0) for k in (1, 2)]
    vms += [a_vm(f"busy{k}", on="h2", cpu_used_cores=3.0) for k in range(4)]
    vms += [a_vm("some", on="h3", cpu_used_cores=2.0)]
    snapshot = a_snapshot(hosts, vms)

    answer = solve(snapshot, a_policy(goals=GOALS))

    assert moves(snapshot, answer).keys() == {"d1", "d2"}
    assert "h2" not in moves(snapshot, answer).values()


def test_nothing_moves_where_nothing_has_to() -> None:
    vms = [a_vm(f"busy{k}", on="h1", cpu_used_cores=3.0) for k in range(5)]
    snapshot = a_snapshot(vms=vms)

    assert moves(snapshot, solve(snapshot, a_policy(goals=GOALS))) == {}
