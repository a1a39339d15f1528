"""What becomes of a search when its solver hangs, dies, or cannot be started: real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rebalancer.errors import SolverError
from rebalancer.placement.budget import Budget
from rebalancer.placement.model import Solution
from rebalancer.placement.workers import IN_THIS_PROCESS, at_once, shared
from rebalancer.service.worker_pool import WorkerPool
from tests.programs import (
    Squares,
    a_linear_program,
    a_program,
    an_endless_program,
    without_column,
)

LONG = 60.0
"""Seconds that no test comes near to."""

# Stand-ins that say that they are ready, as a worker does, and then are none.
READY = "import pickle, sys; pickle.dump('ready', sys.stdout.buffer); sys.stdout.flush()"
HANGS = READY + "\nwhile True: pass"
DIES = READY + "\nsys.stdin.buffer.read(1)"
NEVER_BEGINS = "raise SystemExit(3)"


@contextmanager
def a_pool(width: int = 1, program: str = "") -> Iterator[WorkerPool]:
    command = (sys.executable, "-c", program) if program else ()
    pool = WorkerPool(width, command)
    try:
        yield pool
    finally:
        pool.close()


def solved_here(seed: int = 0) -> Solution:
    solution = IN_THIS_PROCESS.solve(a_program(seed), LONG, gap_ratio=0.05)
    assert solution is not None
    return solution


def test_a_process_answers_what_would_be_answered_here() -> None:
    with a_pool() as pool:
        solution = pool.solve(a_program(), LONG, gap_ratio=0.05)

    assert solution is not None
    assert solution.values == pytest.approx(solved_here().values)
    assert solution.bound == pytest.approx(solved_here().bound)


def test_several_models_at_once_come_to_the_same_as_one_after_the_other() -> None:
    with a_pool(width=2) as pool:
        calls = [lambda n=n: pool.solve(a_program(n), LONG, gap_ratio=0.05) for n in range(5)]
        found = at_once(pool, calls)
        used = len(pool.pids)

    assert used == 2
    assert [one and one.objective for one in found] == [
        pytest.approx(solved_here(seed).objective) for seed in range(5)
    ]


def test_a_small_model_needs_no_process() -> None:
    with a_pool() as pool:
        assert pool.solve(a_program(items=3, bins=2), LONG, gap_ratio=0.0) is not None

        assert pool.pids == ()


def test_rows_that_are_added_later_reach_the_process_that_has_the_model() -> None:
    model = a_linear_program()
    with a_pool(width=2) as pool:
        first = pool.solve(model, LONG, gap_ratio=0.0)
        without_column(model, 0)
        pool.solve(a_program(), LONG, gap_ratio=0.05)  # goes to the same process, and replaces it
        second = pool.solve(model, LONG, gap_ratio=0.0)
        without_column(model, 1)
        third = pool.solve(model, LONG, gap_ratio=0.0)

    assert [one and one.objective for one in (first, second, third)] == pytest.approx([0, 1, 2])
    assert first is not None
    assert first.bound == pytest.approx(0)
    assert third is not None
    assert len(third.prices) == 103


def test_a_solver_that_never_returns_is_killed() -> None:
    with a_pool(program=HANGS) as pool:
        assert pool.solve(a_program(), 0.05, gap_ratio=0.0) is None

        assert pool.pids == ()
        assert pool.remarks == ("the solver did not stop in time and was killed once",)


def test_a_process_that_is_suspended_is_killed_too() -> None:
    with a_pool() as pool:
        pool.solve(a_program(), LONG, gap_ratio=0.05)
        os.kill(pool.pids[0], signal.SIGSTOP)

        assert pool.solve(a_program(), 0.05, gap_ratio=0.05) is None
        assert pool.solve(a_program(), LONG, gap_ratio=0.05) is not None


def test_a_model_whose_process_is_killed_is_solved_by_another() -> None:
    with a_pool() as pool:
        pool.solve(a_program(), LONG, gap_ratio=0.05)
        killer = threading.Timer(0.3, lambda: os.kill(pool.pids[0], signal.SIGKILL))
        killer.start()
        solution = pool.solve(an_endless_program(), 3.0, gap_ratio=0.0)
        killer.join()

        assert solution is not None
        assert pool.remarks == ("a process of the solver died once; others did its work",)


def test_processes_killed_while_idle_are_not_missed() -> None:
    with a_pool(width=2) as pool:
        at_once(pool, [lambda: pool.solve(a_program(), LONG, gap_ratio=0.05)] * 2)
        pids = pool.pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert wait_for(lambda: not any(map(is_running, pids)))

        assert pool.solve(a_program(), LONG, gap_ratio=0.05) is not None


def test_a_model_that_kills_every_process_comes_to_nothing() -> None:
    with a_pool(program=DIES) as pool:
        assert pool.solve(a_program(), LONG, gap_ratio=0.0) is None

        assert pool.remarks == ("a process of the solver died twice; others did its work",)


@pytest.mark.parametrize("command", [("/does/not/exist",), (sys.executable, "-c", NEVER_BEGINS)])
def test_without_processes_models_are_solved_here_and_that_is_said(
    command: tuple[str, ...],
) -> None:
    pool = WorkerPool(4, command)

    solution = pool.solve(a_program(), LONG, gap_ratio=0.05)
    pool.close()

    assert solution is not None
    assert pool.width == 1
    assert pool.remarks[-1].endswith("placements were searched in one process")


def within(seconds: float, pool: WorkerPool) -> Budget:
    return Budget(clock=lambda: 0.0, ends_at=seconds, workers=pool)


def test_parts_of_a_task_are_done_here_and_by_a_process() -> None:
    with a_pool(width=2) as pool:
        pool.do(Squares(), 1, within(LONG, pool))  # so that it is ready
        done = shared(Squares(), list(range(400)), within(LONG, pool))

        assert {pid for _, pid in done} == {os.getpid(), *pool.pids}

    assert [square for square, _ in done] == [part * part for part in range(400)]


def test_a_part_that_kills_its_process_is_done_here() -> None:
    with a_pool(width=2) as pool:
        task = Squares(mishap="dies", here=os.getpid())
        done = shared(task, [3, 4, 5], within(LONG, pool))

        assert [square for square, _ in done] == [9, 16, 25]


def test_a_part_that_never_ends_is_given_up_and_its_process_killed() -> None:
    with a_pool() as pool:
        assert pool.do(Squares(mishap="hangs"), 3, within(0.05, pool)) is None

        assert pool.pids == ()
        assert pool.remarks == ("the solver did not stop in time and was killed once",)


def test_a_part_that_breaks_down_is_a_bug_and_said_to_be_one() -> None:
    with (
        a_pool() as pool,
        pytest.raises(SolverError, match=r"ZeroDivisionError: of the task.*please report"),
    ):
        pool.do(Squares(mishap="breaks"), 3, within(LONG, pool))


@pytest.mark.parametrize("command", [("/does/not/exist",), (sys.executable, "-c", NEVER_BEGINS)])
def test_without_processes_tasks_are_done_here(command: tuple[str, ...]) -> None:
    pool = WorkerPool(4, command)

    done = shared(Squares(), [3, 4, 5], within(LONG, pool))
    pool.close()

    assert done == [(9, os.getpid()), (16, os.getpid()), (25, os.getpid())]


def test_ctrl_c_is_no_business_of_a_worker() -> None:
    with a_pool() as pool:
        pool.solve(a_program(), LONG, gap_ratio=0.05)
        os.kill(pool.pids[0], signal.SIGINT)

        assert pool.solve(a_program(), LONG, gap_ratio=0.05) is not None
        assert pool.remarks == ()


def test_closing_ends_what_is_going_on() -> None:
    with a_pool() as pool:
        closer = threading.Timer(1.0, pool.close)
        closer.start()

        assert pool.solve(an_endless_program(), LONG, gap_ratio=0.0) is None
        closer.join()

        assert pool.remarks == ()


def test_a_fault_in_one_search_ends_the_others() -> None:
    def fault() -> Solution | None:
        raise ZeroDivisionError

    with a_pool(width=2) as pool:
        endless = an_endless_program()
        calls: list[Callable[[], Solution | None]] = [
            fault,
            lambda: pool.solve(endless, LONG, gap_ratio=0.0),
        ]
        with pytest.raises(ZeroDivisionError):
            at_once(pool, calls)

        assert pool.pids == ()


PARENT = """
from rebalancer.service.worker_pool import WorkerPool
from tests.programs import a_program, an_endless_program
with_worker = WorkerPool(1)
with_worker.solve(a_program(), 60.0, gap_ratio=0.05)
print(with_worker.pids[0], flush=True)
with_worker.solve(an_endless_program(), 600.0, gap_ratio=0.0)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(number: signal.Signals) -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=root,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert is_running(worker)

        # Python loses an interrupt that comes while a destructor runs, say. So would a human ask
        # again, and the parent does not end by itself before ten minutes are over.
        while parent.poll() is None:
            parent.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                parent.wait(5.0)

    assert wait_for(lambda: not is_running(worker))


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def wait_for(condition: Callable[[], bool]) -> bool:
    tick = threading.Event()
    return any(condition() or tick.wait(0.05) for _ in range(600))
