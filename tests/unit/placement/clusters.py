"""Small clusters, and a way to place them without a clock."""

from __future__ import annotations

from collections.abc import Mapping

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.plan import Placement
from rebalancer.cluster.policy import Policy
from rebalancer.placement.problem import PlacementProblem, placement_problem
from rebalancer.placement.solver import place
from tests.builders import a_host, a_policy, a_snapshot, a_vm

DRAINING = HostState.DRAINING


def a_hot_host() -> Snapshot:
    """Six VMs on the first of three hosts."""
    vms = [a_vm(f"vm{index}", on="h1", cpu_used_cores=2.0) for index in range(6)]
    return a_snapshot([a_host("h1"), a_host("h2"), a_host("h3")], vms)


def solve(snapshot: Snapshot, policy: Policy | None = None, *, seconds: float = 60.0) -> Placement:
    """Place with time standing still, so that only the searches' own ends count."""
    answer = place(
        snapshot,
        Demand.as_measured(snapshot),
        policy or a_policy(),
        time_limit_seconds=seconds,
        clock=lambda: 0.0,
    )
    assert isinstance(answer, Placement)
    return answer


def moves(snapshot: Snapshot, answer: Placement) -> Mapping[str, str]:
    """The VMs that move, by id, and where to."""
    placed = answer.assignment
    return {vm.id: placed[vm.id] for vm in snapshot.vms if placed[vm.id] != vm.host}


def on(answer: Placement, host: str) -> list[str]:
    """The VMs on a host."""
    return sorted(vm for vm, place_of in answer.assignment.items() if place_of == host)


def problem_of(snapshot: Snapshot, policy: Policy | None = None) -> PlacementProblem:
    return placement_problem(snapshot, Demand.as_measured(snapshot), policy or a_policy())
