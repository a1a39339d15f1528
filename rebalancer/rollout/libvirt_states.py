"""libvirt's numbers for states, reasons and jobs, turned into our words.

Plain tables of the integers in libvirt's public headers (libvirt-domain.h), so that they can be
read and tested where libvirt is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rebalancer.cluster.inventory import VmState
from rebalancer.rollout.sightings import DomainView, JobKind, StateReason, TransferProgress

_STATES: Mapping[int, VmState] = {
    1: VmState.RUNNING,
    2: VmState.RUNNING,  # blocked on a resource
    3: VmState.PAUSED,
    4: VmState.RUNNING,  # about to shut down, which may take for ever
    5: VmState.SHUTOFF,
    6: VmState.CRASHED,
    7: VmState.SUSPENDED,
}
_CRASHED = 6

_REASONS: Mapping[tuple[VmState, int], StateReason] = {
    (VmState.RUNNING, 2): StateReason.MIGRATED,
    (VmState.RUNNING, 6): StateReason.MIGRATION_CANCELED,
    (VmState.RUNNING, 9): StateReason.CRASHED,
    (VmState.RUNNING, 10): StateReason.POST_COPY,
    (VmState.RUNNING, 11): StateReason.POST_COPY_FAILED,
    (VmState.PAUSED, 1): StateReason.USER,
    (VmState.PAUSED, 2): StateReason.MIGRATION,
    (VmState.PAUSED, 5): StateReason.IO_ERROR,
    (VmState.PAUSED, 10): StateReason.CRASHED,
    (VmState.PAUSED, 11): StateReason.STARTING_UP,
    (VmState.PAUSED, 12): StateReason.POST_COPY,
    (VmState.PAUSED, 13): StateReason.POST_COPY_FAILED,
    (VmState.SHUTOFF, 1): StateReason.USER,
    (VmState.SHUTOFF, 2): StateReason.USER,
    (VmState.SHUTOFF, 3): StateReason.CRASHED,
    (VmState.SHUTOFF, 4): StateReason.MIGRATED,
    (VmState.SHUTOFF, 5): StateReason.SAVED,
}

_NO_JOB = frozenset({0, 3, 4, 5})
"""Job types: none, completed, failed, cancelled."""

KIB = 1024
PAGE_BYTES = 4096
"""Of pages in statistics that do not say how large they are."""


def state_of(state: int, reason: int, *, has_process: bool) -> tuple[VmState, StateReason]:
    """Translate a pair of `virDomainGetState`.

    A crashed domain that was preserved still has a process, and its disks with it: it counts as
    paused. A state that is unknown to us counts as paused, too, if there is a process.
    """
    if not has_process and state not in _STATES:
        return VmState.SHUTOFF, StateReason.OTHER
    if has_process and state in (0, _CRASHED):
        return VmState.PAUSED, StateReason.CRASHED if state else StateReason.OTHER
    found = _STATES.get(state, VmState.PAUSED)
    return found, _REASONS.get((found, reason), StateReason.OTHER)


def job_of(stats: Mapping[str, Any]) -> JobKind | None:
    """Tell which job `virDomainGetJobStats` describes; `None` when none runs."""
    if stats.get("type", 0) in _NO_JOB:
        return None
    match stats.get("operation"):
        case 2:
            return JobKind.SAVE
        case 3:
            return JobKind.RESTORE
        case 5:
            return JobKind.MIGRATION_OUT
        case 4:
            return JobKind.MIGRATION_IN
    return JobKind.OTHER


def progress_of(stats: Mapping[str, Any]) -> TransferProgress:
    """Translate the statistics of a migration job, running or completed."""
    page_bytes = stats.get("memory_page_size", PAGE_BYTES)
    dirty_pages = stats.get("memory_dirty_rate")
    return TransferProgress(
        total_bytes=float(stats.get("data_total", stats.get("memory_total", 0))),
        remaining_bytes=float(stats.get("data_remaining", stats.get("memory_remaining", 0))),
        transferred_bytes=float(stats.get("data_processed", stats.get("memory_processed", 0))),
        iteration=int(stats.get("memory_iteration", 0)),
        dirty_bytes_per_second=None if dirty_pages is None else float(dirty_pages * page_bytes),
        bytes_per_second=_number(stats.get("memory_bps")),
        elapsed_seconds=_seconds(stats.get("time_elapsed")),
        downtime_seconds=_seconds(stats.get("downtime")),
        disk_total_bytes=float(stats.get("disk_total", 0)),
        disk_remaining_bytes=float(stats.get("disk_remaining", 0)),
        disk_transferred_bytes=float(stats.get("disk_processed", 0)),
    )


def view_of(
    *,
    state: tuple[int, int],
    has_process: bool,
    job: JobKind | None,
    persistent: bool,
    autostart: bool,
    memory_kib: int,
    has_managed_save: bool = False,
) -> DomainView:
    """Put together what one host says of a domain.

    `has_managed_save`: libvirt keeps a saved memory of it itself. We save to files of our own,
    and nothing that has such a one already: so it was saved by somebody else, after it had run.
    """
    found, reason = state_of(*state, has_process=has_process)
    if reason is StateReason.SAVED and has_managed_save:
        reason = StateReason.OTHER
    return DomainView(
        state=found,
        reason=reason,
        job=job,
        persistent=persistent,
        memory_bytes=memory_kib * KIB,
        autostart=autostart,
    )


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
