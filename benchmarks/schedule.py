"""Measure how near to the shortest possible our schedules are, and whether they come true.

    python benchmarks/schedule.py [SNAPSHOT.json ...] [--moves 1000] [--placed 60] [--simulate 200]
                                  [--json]

Each snapshot, as `rebalancer snapshot` or `from_neutral.py` writes it, gives sets of moves: VMs
of its busiest hosts go to its idlest (`level`), its emptiest hosts are emptied (`empty`), and
with `--placed` everything goes where our own placement wants it after so many seconds of search
(`placed`). Clusters made to be difficult, which need no file, come on top.

Every set is scheduled within the limits of `policies/balance.yaml` here (5 at a time in the
cluster), and again with no limit on the cluster, so that links and hosts are what is scarce.
The columns say how long the schedule is beside

    bound   what no schedule can be shorter than
    serial  the same moves one after the other, each with its whole path
    queued  fixed concurrency as other systems have it: each host sends two at a time, in the
            plan's order, each with half of its NIC; one whose target takes two already waits,
            and keeps its place (`queues.py`)
    fixed   the same with our list scheduler: whichever of the plan has room starts, so that no
            host ever stands waiting; kinder than anything that is in use
            In brackets behind both: bound / theirs, which no schedule at all can be below
    real    what a rollout takes in the simulated datacentre, whose physics are its own

Seconds for scheduling and for the whole plan are CPU time, so that a busy machine counts less.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from queues import queued_seconds
from workloads import ADVERSARIAL, Workload, from_snapshot

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import (
    MigrationState,
    Objective,
    Placement,
    Plan,
    SolveStatus,
    Unsolved,
    Verdict,
    VerdictKind,
)
from rebalancer.cluster.policy import Limits, Policy
from rebalancer.collect.snapshot_file import read_snapshot
from rebalancer.placement.solver import place
from rebalancer.planning.jobs import Job
from rebalancer.planning.network import whole_mib
from rebalancer.planning.order import Ordered
from rebalancer.planning.planner import make_plan
from rebalancer.planning.routing import Router
from rebalancer.planning.schedule import schedule
from rebalancer.planning.timeline import Timeline
from rebalancer.rollout.executor import Settings, execute
from rebalancer.rollout.journal import Journal
from rebalancer.service.policy_file import read_policy
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.simulated_driver import SimulatedDriver

POLICY = Path(__file__).parent / "policies" / "balance.yaml"
FIXED_PER_HOST = 2
NO_LIMIT = 100_000


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One set of moves under one set of limits."""

    workload: str
    cluster_limit: int
    adversarial: bool
    moves: int
    makespan_seconds: float
    over_bound: float
    over_serial: float
    over_queued: float
    bound_over_queued: float
    over_fixed: float
    bound_over_fixed: float
    schedule_seconds: float
    plan_seconds: float
    simulated_over_predicted: float | None
    completed: int | None


def measure(work: Workload, policy: Policy, limit: int, simulate: int) -> Measured:
    """Plan, schedule, compare, and roll out in the simulator if it is small enough."""
    limits = replace(policy.limits, cluster=limit)
    policy = replace(policy, limits=limits)
    demand = Demand.as_measured(work.snapshot)
    placement = _placement(work)
    order, _, _ = Router(work.snapshot, demand, policy, placement).order()
    begin = time.process_time()
    table = schedule(order.moves, limits)
    schedule_seconds = time.process_time() - begin
    begin = time.process_time()
    plan = _plan(work, demand, policy, placement)
    plan_seconds = time.process_time() - begin
    alike = _fixed_jobs(order.moves, limits)
    fixed = _fixed_seconds(alike, limits)
    queued = queued_seconds(alike, FIXED_PER_HOST, limits.cluster)
    seconds, completed = (
        _simulated(work, plan, policy) if len(plan.migrations) <= simulate else (None, None)
    )
    return Measured(
        workload=work.name,
        cluster_limit=limit,
        adversarial=work.adversarial,
        moves=len(order.moves),
        makespan_seconds=round(table.makespan_seconds, 1),
        over_bound=_ratio(table.makespan_seconds, table.lower_bound_seconds),
        over_serial=_ratio(table.makespan_seconds, _serial_seconds(order.moves)),
        over_queued=_ratio(table.makespan_seconds, queued),
        bound_over_queued=_ratio(table.lower_bound_seconds, queued),
        over_fixed=_ratio(table.makespan_seconds, fixed),
        bound_over_fixed=_ratio(table.lower_bound_seconds, fixed),
        schedule_seconds=round(schedule_seconds, 2),
        plan_seconds=round(plan_seconds, 2),
        simulated_over_predicted=None
        if seconds is None
        else _ratio(seconds, plan.makespan_seconds),
        completed=completed,
    )


def _ratio(one: float, other: float) -> float:
    return round(one / other, 3) if other else 1.0


def _placement(work: Workload) -> Placement:
    nothing = Objective(
        before=1.0, after=0.0, bound=0.0, status=SolveStatus.SEARCHED, solve_seconds=0.0
    )
    return Placement(assignment={**work.snapshot.assignment, **work.moves}, objective=nothing)


def _plan(work: Workload, demand: Demand, policy: Policy, placement: Placement) -> Plan:
    now: datetime = work.snapshot.taken_at
    return make_plan(
        work.snapshot,
        demand,
        policy,
        placement,
        plan_id="benchmark",
        creator="benchmark",
        created_at=now,
        expires_at=now + timedelta(days=1),
        verdict=Verdict(kind=VerdictKind.MOVES, text="moves"),
    )


def _serial_seconds(moves: Sequence[Ordered]) -> float:
    return sum(Job.of(position, ordered).seconds for position, ordered in enumerate(moves))


def _fixed_jobs(moves: Sequence[Ordered], limits: Limits) -> tuple[Job, ...]:
    """The moves with an equal share of their links for each.

    A link between sites is shared by as many as may be under way. No guest is given less than
    it needs, which is kinder than other systems are.
    """
    return tuple(_fixed(Job.of(p, ordered), limits, len(moves)) for p, ordered in enumerate(moves))


def _fixed_seconds(jobs: Sequence[Job], limits: Limits) -> float:
    """So many per host, first come first served, but never waiting for one that has no room."""
    limits = replace(limits, per_host_out=FIXED_PER_HOST, per_host_in=FIXED_PER_HOST)
    lanes = [frozenset(lane.name for lane in job.lanes) for job in jobs]
    slots = Timeline(jobs, limits, range(len(jobs)), lanes).slots()
    return max((slot.release_seconds for slot in slots), default=0.0)


def _fixed(job: Job, limits: Limits, count: int) -> Job:
    if not job.lanes:
        return job
    crowd = min(limits.cluster, count, 20)
    share = min(
        lane.budget_bytes_per_second / (crowd if lane.is_shared else FIXED_PER_HOST)
        for lane in job.lanes
    )
    rate = max(job.least, min(job.most, whole_mib(share)))
    return replace(job, least=rate, most=rate)


def _simulated(work: Workload, plan: Plan, policy: Policy) -> tuple[float, int]:
    """Seconds that a rollout takes in the simulated datacentre, and migrations that completed."""
    datacentre = Datacentre.of(work.snapshot)
    clock = VirtualClock(datacentre)
    with Journal.open("sqlite://", clock) as journal:
        result = execute(
            plan,
            driver=SimulatedDriver(datacentre),
            clock=clock,
            journal=journal,
            snapshot=work.snapshot,
            settings=Settings.of(policy),
        )
    seconds = (result.ended_at - result.started_at).total_seconds()
    return seconds, len(result.in_state(MigrationState.COMPLETE))


def workloads(
    files: Sequence[Path], policy: Policy, count: int, placed_seconds: float
) -> Iterator[Workload]:
    """Everything that is measured."""
    for make in ADVERSARIAL:
        yield make()
    for file in files:
        snapshot = read_snapshot(file)
        yield from from_snapshot(file.stem, snapshot, policy, count)
        if placed_seconds:
            yield _placed(file.stem, snapshot, policy, placed_seconds)


def _placed(name: str, snapshot: Snapshot, policy: Policy, seconds: float) -> Workload:
    """What our own placement wants to be moved."""
    found = place(
        snapshot,
        Demand.as_measured(snapshot),
        policy,
        time_limit_seconds=seconds,
        clock=time.monotonic,
    )
    wanted = {} if isinstance(found, Unsolved) else found.assignment
    moves = {vm: host for vm, host in wanted.items() if host != snapshot.assignment[vm]}
    return Workload(name=f"{name} placed", snapshot=snapshot, moves=moves)


def _print_row(row: Measured) -> None:
    real = row.simulated_over_predicted
    limit = "none" if row.cluster_limit == NO_LIMIT else str(row.cluster_limit)
    print(
        f"{row.workload:24} {limit:>7} {row.moves:6} {row.makespan_seconds:9.0f} "
        f"{row.over_bound:6.3f} {row.over_serial:7.3f} "
        f"{row.over_queued:6.3f} ({row.bound_over_queued:5.3f}) "
        f"{row.over_fixed:6.3f} ({row.bound_over_fixed:5.3f}) "
        f"{row.schedule_seconds:7.2f} {row.plan_seconds:6.2f} "
        + ("" if real is None else f"{real:6.3f} {row.completed:5}"),
        flush=True,
    )


def summary(rows: Sequence[Measured]) -> dict[str, float]:
    """The worst of each figure."""
    usual = [row for row in rows if not row.adversarial]
    hard = [row for row in rows if row.adversarial]
    real = [r.simulated_over_predicted for r in rows if r.simulated_over_predicted is not None]
    return {
        "worst_over_bound": max((row.over_bound for row in usual), default=math.nan),
        "worst_over_bound_adversarial": max((row.over_bound for row in hard), default=math.nan),
        "worst_over_serial": max(row.over_serial for row in rows),
        "worst_over_queued": max(row.over_queued for row in rows),
        "worst_over_fixed": max(row.over_fixed for row in rows),
        "worst_schedule_seconds": max(row.schedule_seconds for row in rows),
        "worst_simulated_error": max((abs(each - 1) for each in real), default=math.nan),
    }


def main() -> None:
    """Print how good the schedules are."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("snapshots", type=Path, nargs="*", metavar="SNAPSHOT")
    parser.add_argument("--moves", type=int, default=1000, help="of each snapshot, at most")
    parser.add_argument(
        "--simulate", type=int, default=200, help="roll plans of up to so many moves out"
    )
    parser.add_argument(
        "--placed", type=float, default=0.0, help="seconds to look for a placement; 0: none"
    )
    parser.add_argument("--only", default="", help="sets of moves with this in their name")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked = parser.parse_args()
    policy = read_policy(POLICY)
    rows = []
    if not asked.json:
        print(
            f"{'':24} {'limit':>7} {'moves':>6} {'makespan':>9} {'/bound':>6} {'/serial':>7} "
            f"{'/queue':>6} {'(best)':>7} {'/fixed':>6} {'(best)':>7} "
            f"{'sched s':>7} {'plan s':>6} {'real':>6} {'done':>5}"
        )
    for work in workloads(asked.snapshots, policy, asked.moves, asked.placed):
        if asked.only not in work.name:
            continue
        for limit in (policy.limits.cluster, NO_LIMIT):
            rows.append(measure(work, policy, limit, asked.simulate))
            if not asked.json:
                _print_row(rows[-1])
    figures = summary(rows)
    if asked.json:
        print(json.dumps({**figures, "rows": [asdict(row) for row in rows]}))
        return
    print()
    for name, value in figures.items():
        print(f"{name:30} {value:.3f}")


if __name__ == "__main__":
    main()
