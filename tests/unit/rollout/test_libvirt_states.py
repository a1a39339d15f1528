"""What the numbers in libvirt's headers mean to a rollout."""

from __future__ import annotations

import pytest

from rebalancer.cluster.inventory import VmState
from rebalancer.rollout.libvirt_request import mib_per_second, milliseconds
from rebalancer.rollout.libvirt_states import job_of, progress_of, state_of, view_of
from rebalancer.rollout.sightings import JobKind, StateReason

R = StateReason


@pytest.mark.parametrize(
    ("state", "reason", "has_process", "meaning"),
    [
        (1, 1, True, (VmState.RUNNING, R.OTHER)),
        (1, 2, True, (VmState.RUNNING, R.MIGRATED)),
        (1, 5, True, (VmState.RUNNING, R.OTHER)),
        (1, 6, True, (VmState.RUNNING, R.MIGRATION_CANCELED)),
        (1, 10, True, (VmState.RUNNING, R.POST_COPY)),
        (1, 11, True, (VmState.RUNNING, R.POST_COPY_FAILED)),
        (2, 0, True, (VmState.RUNNING, R.OTHER)),
        (3, 1, True, (VmState.PAUSED, R.USER)),
        (3, 2, True, (VmState.PAUSED, R.MIGRATION)),
        (3, 5, True, (VmState.PAUSED, R.IO_ERROR)),
        (3, 11, True, (VmState.PAUSED, R.STARTING_UP)),
        (3, 12, True, (VmState.PAUSED, R.POST_COPY)),
        (3, 13, True, (VmState.PAUSED, R.POST_COPY_FAILED)),
        (4, 0, True, (VmState.RUNNING, R.OTHER)),
        (5, 1, False, (VmState.SHUTOFF, R.USER)),
        (5, 3, False, (VmState.SHUTOFF, R.CRASHED)),
        (5, 4, False, (VmState.SHUTOFF, R.MIGRATED)),
        (6, 0, False, (VmState.CRASHED, R.OTHER)),
        (7, 0, True, (VmState.SUSPENDED, R.OTHER)),
    ],
)
def test_states_and_reasons(
    state: int, reason: int, has_process: bool, meaning: tuple[VmState, StateReason]
) -> None:
    assert state_of(state, reason, has_process=has_process) == meaning


@pytest.mark.parametrize("state", [0, 6, 8, 99])
def test_whatever_has_a_process_counts_as_active(state: int) -> None:
    view = view_of(
        state=(state, 0),
        has_process=True,
        job=None,
        persistent=True,
        autostart=False,
        memory_kib=1024,
    )

    assert view.is_active
    assert view.memory_bytes == 1024 * 1024


@pytest.mark.parametrize(("by_somebody", "reason"), [(False, R.SAVED), (True, R.OTHER)])
def test_what_libvirt_saved_for_somebody_else_is_not_off_because_we_saved_it(
    by_somebody: bool, reason: R
) -> None:
    view = view_of(
        state=(5, 5),
        has_process=False,
        job=None,
        persistent=True,
        autostart=False,
        memory_kib=1024,
        has_managed_save=by_somebody,
    )

    assert view.reason is reason


def test_a_state_of_the_future_without_a_process_is_off() -> None:
    assert state_of(99, 0, has_process=False)[0] is VmState.SHUTOFF


@pytest.mark.parametrize(
    ("stats", "job"),
    [
        ({"type": 0}, None),
        ({}, None),
        ({"type": 2, "operation": 5}, JobKind.MIGRATION_OUT),
        ({"type": 2, "operation": 4}, JobKind.MIGRATION_IN),
        ({"type": 1, "operation": 9}, JobKind.OTHER),
        ({"type": 2, "operation": 2}, JobKind.SAVE),
        ({"type": 2, "operation": 3}, JobKind.RESTORE),
        ({"type": 2, "operation": 8}, JobKind.OTHER),
        ({"type": 2}, JobKind.OTHER),
        ({"type": 3, "operation": 5}, None),
        ({"type": 5, "operation": 5}, None),
    ],
)
def test_jobs(stats: dict[str, int], job: JobKind | None) -> None:
    assert job_of(stats) is job


def test_statistics_come_in_bytes_and_seconds() -> None:
    progress = progress_of(
        {
            "type": 2,
            "operation": 5,
            "data_total": 1000,
            "data_processed": 400,
            "data_remaining": 600,
            "memory_iteration": 3,
            "memory_dirty_rate": 100,
            "memory_page_size": 4096,
            "memory_bps": 5000,
            "time_elapsed": 2500,
            "downtime": 120,
        }
    )

    assert (progress.total_bytes, progress.transferred_bytes) == (1000, 400)
    assert progress.remaining_bytes == 600
    assert progress.dirty_bytes_per_second == 409_600
    assert progress.elapsed_seconds == 2.5
    assert progress.downtime_seconds == 0.12


def test_statistics_may_be_missing() -> None:
    progress = progress_of({"type": 2, "operation": 5})

    assert progress.total_bytes == 0
    assert progress.dirty_bytes_per_second is None
    assert progress.downtime_seconds is None


def test_bandwidth_is_rounded_down_and_is_never_unlimited() -> None:
    assert mib_per_second(50 * 1024 * 1024 + 1000) == 50
    assert mib_per_second(10.0) == 1
    assert mib_per_second(0.0) == 1
    assert milliseconds(0.0001) == 1
    assert milliseconds(0.3) == 300
