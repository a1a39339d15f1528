"""Plans made from a few facts, for the tests of planning."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, Snapshot, VmId
from rebalancer.cluster.plan import (
    Migration,
    Objective,
    Placement,
    Plan,
    SolveStatus,
    Verdict,
    VerdictKind,
)
from rebalancer.cluster.policy import Limits, Policy
from rebalancer.planning.planner import make_plan
from tests.builders import NOON, a_policy

WIDE = Limits(migrations=None, cluster=1000, per_host_in=1000, per_host_out=1000)
"""Only the links limit anything."""

SOLVED = Objective(before=1.0, after=0.5, bound=0.5, status=SolveStatus.OPTIMAL, solve_seconds=0.1)


def a_placement(snapshot: Snapshot, moves: Mapping[str, str]) -> Placement:
    """Everything stays but the named VMs, which go to the named hosts."""
    wanted = {VmId(vm): HostId(host) for vm, host in moves.items()}
    return Placement(assignment={**snapshot.assignment, **wanted}, objective=SOLVED)


def a_plan(
    snapshot: Snapshot,
    moves: Mapping[str, str],
    policy: Policy | None = None,
    placement: Placement | None = None,
    deadline_seconds: float | None = None,
) -> Plan:
    """The plan that takes the named VMs to the named hosts."""
    return make_plan(
        snapshot,
        Demand.as_measured(snapshot),
        policy or a_policy(),
        placement or a_placement(snapshot, moves),
        plan_id="p1",
        creator="test",
        created_at=NOON,
        expires_at=NOON + timedelta(minutes=15),
        verdict=Verdict(kind=VerdictKind.MOVES, text="moves"),
        deadline_seconds=deadline_seconds,
    )


def step(plan: Plan, vm: str) -> Migration:
    """The one migration of a VM."""
    (found,) = (migration for migration in plan.migrations if migration.vm == vm)
    return found


def why_unmoved(plan: Plan, vm: str) -> str:
    """All reasons why a VM stays, in one text."""
    return "\n".join(reason for each in plan.unmoved if each.vm == vm for reason in each.reasons)
