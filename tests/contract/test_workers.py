"""Whoever solves the models, a search comes to the same, also when a worker is killed half way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from rebalancer.errors import ExitCode, UsageError
from rebalancer.placement.arrays import Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.easing import search_eased
from rebalancer.placement.layout import TIER_RATIO, scale_of
from rebalancer.placement.neighbourhood import Effort, improve_by_programs
from rebalancer.placement.objectives import find_tiers
from rebalancer.placement.workers import IN_THIS_PROCESS, Workers
from rebalancer.service.config_format import PlacementSettings
from rebalancer.service.worker_pool import WorkerPool
from rebalancer.service.workers import workers_for
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.programs import a_program
from tests.unit.placement.clusters import problem_of
from tests.unit.placement.test_easing import GOALS, a_cluster

EFFORT = Effort(hosts_at_once=(4,), patience=1, seconds_each=600.0, gap_ratio=0.3)
"""Programs that are always solved to the end, however busy the machine is."""


def a_search(workers: Workers) -> Ints:
    """Rounds of two programs each, over eight uneven hosts."""
    random = np.random.default_rng(7)
    hosts = [a_host(f"h{n:02}") for n in range(8)]
    vms = [
        a_vm(
            f"vm{n:03}",
            on=f"h{int(random.beta(1, 2) * 8):02}",
            memory_bytes=int(random.integers(1, 5)) * GIB,
            cpu_used_cores=float(random.integers(1, 20)) / 10,
        )
        for n in range(32)
    ]
    problem = problem_of(a_snapshot(hosts, vms))
    budget = Budget(clock=lambda: 0.0, ends_at=600.0, workers=workers)
    scale = scale_of(find_tiers(problem), TIER_RATIO)
    rng = np.random.default_rng(0)
    return improve_by_programs(problem, scale, problem.start, budget, rng, EFFORT)


@pytest.fixture(scope="module")
def serial() -> list[int]:
    return list(map(int, a_search(IN_THIS_PROCESS)))


def an_eased_search(workers: Workers, hosts: int, vms: int, rounds: int) -> list[Ints]:
    """Balance under a guard, which is looked for at several prices."""
    problem = problem_of(a_cluster(3, hosts=hosts, vms=vms), a_policy(goals=GOALS))
    budget = Budget(clock=lambda: 0.0, ends_at=600.0, workers=workers)
    scale = scale_of(find_tiers(problem), TIER_RATIO)
    return search_eased(problem, scale, problem.start, None, budget, rounds=rounds)


@contextmanager
def a_pool(width: int) -> Iterator[WorkerPool]:
    pool = WorkerPool(width)
    try:
        yield pool
    finally:
        pool.close()


def test_two_processes_come_to_the_same_as_none(serial: list[int]) -> None:
    with a_pool(2) as pool:
        assert a_search(pool).tolist() == serial

        assert len(pool.pids) == 2
        assert pool.remarks == ()


@pytest.mark.parametrize(
    ("hosts", "vms", "rounds", "beside"),
    [(6, 70, 1, 2), (110, 440, 0, 1)],
    ids=["ways and swings", "parts"],
)
def test_local_search_shared_with_processes_comes_to_the_same_as_without(
    hosts: int, vms: int, rounds: int, beside: int
) -> None:
    with a_pool(3) as pool:
        shared, alone = (
            an_eased_search(workers, hosts, vms, rounds) for workers in (pool, IN_THIS_PROCESS)
        )

        assert [x.tolist() for x in shared] == [x.tolist() for x in alone]
        assert len(pool.pids) == beside


def test_a_process_killed_half_way_changes_nothing(serial: list[int]) -> None:
    with a_pool(2) as pool:
        with one_killed(pool) as killed:
            assert a_search(pool).tolist() == serial

        assert len(killed) == 1
        assert killed[0] not in pool.pids


@contextmanager
def one_killed(pool: WorkerPool) -> Iterator[list[int]]:
    """Kill one of the processes as soon as there are two, which is when the search is at work."""
    killed: list[int] = []

    def kill() -> None:
        assert wait_for(lambda: len(pool.pids) == 2)
        killed.append(pool.pids[-1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    yield killed
    killer.join()


def wait_for(condition: Callable[[], bool]) -> bool:
    tick = threading.Event()
    return any(condition() or tick.wait(0.05) for _ in range(600))


class DaskCluster:
    """A real scheduler and its workers on loopback, as processes of their own."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        scheduler = self._start("distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard")
        self.address = self._told(scheduler, r"Scheduler at:\s+tcp://(\S+)")
        self.workers = [self._start_worker() for _ in range(2)]

    def _start_worker(self) -> subprocess.Popen[str]:
        worker = self._start(
            "distributed.cli.dask_worker",
            f"tcp://{self.address}",
            *("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"),
        )
        self._told(worker, r"(Registered to)")
        return worker

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, *arguments],
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    def _told(self, process: subprocess.Popen[str], pattern: str) -> str:
        """What the process says about itself; its log is read on, so that it never blocks."""
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(pattern, line):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                return found.group(1)
        raise AssertionError(f"{process.args!r} ended early")


@pytest.fixture
def dask() -> Iterator[DaskCluster]:
    pytest.importorskip("distributed")
    with ExitStack() as stack:
        yield DaskCluster(stack)


def on_dask(address: str) -> PlacementSettings:
    return PlacementSettings(executor=f"dask://{address}", workers=1)


def test_a_dask_cluster_comes_to_the_same_as_one_process(
    dask: DaskCluster, serial: list[int]
) -> None:
    with workers_for(on_dask(dask.address)) as workers:
        assert workers.width == 2
        assert a_search(workers).tolist() == serial

        assert workers.remarks == ()


def test_a_dask_worker_killed_half_way_changes_nothing(
    dask: DaskCluster, serial: list[int]
) -> None:
    with workers_for(on_dask(dask.address)) as workers:
        killer = threading.Timer(0.5, dask.workers[0].kill)
        killer.start()
        assert a_search(workers).tolist() == serial
        killer.join()

        assert a_search(workers).tolist() == serial


def test_a_scheduler_that_is_not_there_is_done_without(serial: list[int]) -> None:
    pytest.importorskip("distributed")
    with workers_for(on_dask("127.0.0.1:9")) as workers:
        assert a_search(workers).tolist() == serial

        (remark,) = workers.remarks
        assert "127.0.0.1:9 cannot be used" in remark
        assert remark.endswith("placements were searched on this machine")


def test_without_dask_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)

    with (
        pytest.raises(UsageError, match=r"pip install 'vm-rebalancer\[scale\]'") as refused,
        workers_for(on_dask("127.0.0.1:8786")),
    ):
        pass

    assert refused.value.exit_code == ExitCode.USAGE


def test_serial_is_this_process() -> None:
    with workers_for(PlacementSettings(executor="serial")) as workers:
        assert workers.width == 1
        assert workers.solve(a_program(items=4), 60.0, gap_ratio=0.05) is not None
