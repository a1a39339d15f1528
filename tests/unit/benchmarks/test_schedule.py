"""What schedules are compared with: queues of hosts, two places each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.queues import queued_seconds
from rebalancer.cluster.demand import Demand
from rebalancer.planning.jobs import Job
from rebalancer.planning.network import whole_mib
from rebalancer.planning.routing import Router
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.planning.plans import a_placement


def jobs_of(moves: dict[str, tuple[str, str]]) -> list[Job]:
    """Equal VMs, each from one host to another with half of their links."""
    hosts = sorted({host for pair in moves.values() for host in pair})
    snapshot = a_snapshot(
        [a_host(host, memory_bytes=256 * GIB) for host in hosts],
        [a_vm(vm, pair[0], memory_bytes=4 * GIB) for vm, pair in moves.items()],
    )
    wanted = a_placement(snapshot, {vm: pair[1] for vm, pair in moves.items()})
    order, _, _ = Router(snapshot, Demand.as_measured(snapshot), a_policy(), wanted).order()
    jobs = [Job.of(position, ordered) for position, ordered in enumerate(order.moves)]
    return [replace(job, most=whole_mib(job.most / 2)) for job in jobs]


def seconds_of_one(jobs: list[Job]) -> float:
    return queued_seconds(jobs[:1], 1, 1)


def test_hosts_send_two_at_a_time_side_by_side() -> None:
    jobs = jobs_of({f"v{n}": ("h1", f"t{n}") for n in range(4)})
    one = seconds_of_one(jobs)

    assert queued_seconds(jobs, 2, 100) == pytest.approx(2 * one)
    assert queued_seconds(jobs, 1, 100) == pytest.approx(4 * one)


def test_a_migration_whose_target_is_full_waits_and_keeps_its_place() -> None:
    """Each host sends to the same target first: four wait for two places there."""
    moves = {f"a{n}": (f"h{n}", "full") for n in range(4)}
    jobs = jobs_of(moves)

    assert queued_seconds(jobs, 2, 100) == pytest.approx(2 * seconds_of_one(jobs))


def test_no_more_are_under_way_than_the_cluster_may_have() -> None:
    jobs = jobs_of({f"v{n}": (f"h{n}", f"t{n}") for n in range(4)})

    assert queued_seconds(jobs, 2, 1) == pytest.approx(4 * seconds_of_one(jobs))
