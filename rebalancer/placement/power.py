"""The power goal: watts of the hosts that stay on, and what it costs to get there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rebalancer.cluster.inventory import Host
from rebalancer.cluster.policy import PowerGoal
from rebalancer.cluster.power import (
    AwakeNeed,
    awake_needs,
    cycle_joules,
    idle_watts,
    max_watts,
    migration_joules,
)
from rebalancer.placement.arrays import Floats
from rebalancer.placement.curves import Cover, Curve, Switch
from rebalancer.placement.movement import bytes_sent, mean_nic
from rebalancer.placement.prices import Linear, everywhere
from rebalancer.placement.problem import PlacementProblem, Resource


def power(problem: PlacementProblem, goal: PowerGoal) -> Iterator[Linear | Curve]:
    """Use few watts: Σ_h idle[h]·y[h] + Σ_v cores[v]·busy[h(v)], and what getting there costs.

    y[h] is 1 where anything runs. Watts of a host rise linearly with its CPU use (Fan, Weber,
    Barroso, ISCA 2007, doi:10.1145/1250662.1250665). With a pay-back time T, energy that is
    spent once counts as watts over that time: emptying a host that is in use saves
    idle[h] - cycle[h]/T, and every move costs joules[v]/T. What does not pay within T is left
    alone then. All in watts of a mean host at full load.
    """
    hosts = [problem.snapshot.host_by_id[host] for host in problem.host_ids]
    idle = np.array([idle_watts(host) for host in hosts])
    full = np.array([max_watts(host) for host in hosts])
    if not problem.scored.any():
        return
    unit = goal.weight / max(1.0, float(full[problem.scored].mean()))
    yield Switch(
        goal="power",
        resource=Resource.VMS,
        cost_when_used=unit * _saved_watts(problem, goal, hosts, idle) * problem.scored,
        covers=tuple(_covers(problem, goal)),
    )
    per_core = (full - idle) / problem.size[Resource.CORES]
    yield everywhere(problem, "power", problem.needs[Resource.CORES], unit * per_core)
    if goal.payback_seconds is not None:
        yield Linear(
            goal="power",
            factor=unit * _moving_joules(problem) / goal.payback_seconds,
            kind=np.zeros(problem.unit_count, np.intp),
            matrix=np.ones((1, problem.host_count)),
            when_moved=True,
        )


def _moving_joules(problem: PlacementProblem) -> Floats:
    """Energy of moving each unit, `(U,)`."""
    nic = mean_nic(problem)
    return np.array(
        [sum(migration_joules(bytes_sent(vm, nic)) for vm in unit) for unit in problem.units]
    )


def _saved_watts(
    problem: PlacementProblem, goal: PowerGoal, hosts: list[Host], idle: Floats
) -> Floats:
    """What a host is worth switched off, a power cycle paid back where it is in use now."""
    if goal.payback_seconds is None:
        return idle
    cycle = np.array([cycle_joules(goal, host) for host in hosts]) / goal.payback_seconds
    in_use = problem.start_load[Resource.VMS] > 0.5
    return np.asarray(np.maximum(0.0, idle - np.where(in_use, cycle, 0.0)), float)


def _covers(problem: PlacementProblem, goal: PowerGoal) -> Iterator[Cover]:
    """What keeps hosts awake: of those that are up, those outside the policy always count."""
    for need in awake_needs(problem.snapshot, problem.policy, goal, problem.demand):
        yield Cover(
            name=need.what,
            capacity=_capacity(problem, need) * problem.is_up,
            needed=need.needed * (1 - 1e-9),
            failures=need.failures,
            always=problem.is_up & ~problem.scored,
        )


def _capacity(problem: PlacementProblem, need: AwakeNeed) -> Floats:
    return np.array([need.capacity.get(host, 0.0) for host in problem.host_ids])
