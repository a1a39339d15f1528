"""The ports through which a cluster is observed.

Each port has one contract suite in `tests/contract` that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from rebalancer.cluster.inventory import Snapshot, UsageHistory, VmId


class InventorySource(Protocol):
    """Tells what there is: hosts and VMs, with their newest measured use."""

    def observe(self) -> Snapshot:
        """Observe the whole cluster once.

        A host that does not answer in time is in the snapshot with state `unknown` and the
        reason; it never delays the others past the source's time limit. Raises
        `ObservationError` only when nothing at all can be said (no host answered), and
        `InvalidFileError` when it reads a file that cannot be used.
        """
        ...


class UsageSource(Protocol):
    """Tells how much CPU was used in the past."""

    def history(self, vms: Collection[VmId], start: datetime, end: datetime) -> UsageHistory:
        """Return the use of `vms` and of all hosts on one grid; unknown samples are NaN."""
        ...


class SelectiveUsageSource(UsageSource, Protocol):
    """One that can also be asked for a few VMs alone."""

    def history_of_few(
        self, vms: Collection[VmId], start: datetime, end: datetime
    ) -> UsageHistory | None:
        """Return the use of `vms` alone, on the same grid, and of no host.

        `None`: these cannot be told apart from the others before all of it is read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DirtyRate:
    """How fast a VM writes to its memory, measured over one or more windows."""

    bytes_per_second: float
    working_set_bytes: int | None
    """`None` when one window alone was measured, which does not tell the set's size."""
    measured_at: datetime
    error_bytes_per_second: float = 0.0
    """One standard error of the rate: pages are sampled, so little memory is known badly."""


class DirtyRateProbe(Protocol):
    """Measures dirty rates on demand. It disturbs guests a little, so nobody does it idly."""

    def probe(self, vms: Collection[VmId]) -> Mapping[VmId, DirtyRate]:
        """Measure running VMs that are not being migrated; those it could not are left out.

        Where time is short the first of them are measured.
        """
        ...
