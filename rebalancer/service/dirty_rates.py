"""How fast guests write to their memory: measured where a plan hangs on it, and remembered.

Measuring takes seconds and disturbs guests a little. So only VMs that a placement wants to move
are measured, between placement and plan, and only where what is remembered of them is too old.
What is found is kept beside the journal, in the same database; losing it does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from rebalancer.cluster.inventory import Snapshot, Vm, VmId, VmState
from rebalancer.collect.sources import DirtyRate, DirtyRateProbe
from rebalancer.planning.calibration import NEWEST
from rebalancer.planning.witnessed import written_at_least
from rebalancer.rollout import tables
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.rows import as_instant, as_text
from rebalancer.service.journal_table import JournalTable
from rebalancer.service.telemetry_format import DirtyRateSettings
from rebalancer.service.wording import count_text, seconds_text

TOO_LOW_RATIO = 0.5
"""A measurement that, with two standard errors on top, is less than half of what the VM was seen
to write in its last migrations is not believed: page sampling can miss a load altogether
(gitlab.com/qemu-project/qemu/-/issues/1200)."""

OLD_ERROR_RATIO = 0.5
"""How uncertain a rate counts as that was measured a while ago, as a share of it."""


class RememberedRates(JournalTable):
    """The table of dirty rates. Use it from one thread."""

    def keep(self, cluster: str, measured: Mapping[VmId, DirtyRate], *, oldest: datetime) -> None:
        """Remember rates in place of what was known of these VMs; forget what is too old."""
        table = tables.dirty_rates
        rows = [_row_of(cluster, vm, rate) for vm, rate in measured.items()]
        with self._database.writing() as db:
            db.execute(sa.delete(table).where(table.c.at < as_text(oldest)))
            for row in rows:
                here = sa.and_(table.c.cluster == cluster, table.c.vm == row["vm"])
                db.execute(sa.delete(table).where(here))
            if rows:
                db.execute(sa.insert(table), rows)

    def of(self, cluster: str, *, since: datetime) -> dict[VmId, DirtyRate]:
        """What was measured since an instant, by VM."""
        table = tables.dirty_rates
        query = sa.select(table).where(table.c.cluster == cluster, table.c.at >= as_text(since))
        with self._database.reading() as db:
            return {VmId(row.vm): _rate_of(row) for row in db.execute(query)}


def _row_of(cluster: str, vm: VmId, rate: DirtyRate) -> dict[str, object]:
    return {
        "cluster": cluster,
        "vm": vm,
        "at": as_text(rate.measured_at),
        "bytes_per_second": rate.bytes_per_second,
        "working_set_bytes": rate.working_set_bytes,
        "error_bytes_per_second": rate.error_bytes_per_second,
    }


def _rate_of(row: sa.Row[tuple[object, ...]]) -> DirtyRate:
    return DirtyRate(
        bytes_per_second=row.bytes_per_second,
        working_set_bytes=row.working_set_bytes,
        measured_at=as_instant(row.at),
        error_bytes_per_second=row.error_bytes_per_second,
    )


def is_fresh(rate: DirtyRate, now: datetime, fresh_seconds: float) -> bool:
    """Whether a rate need not be measured again."""
    return now - rate.measured_at <= timedelta(seconds=fresh_seconds)


def with_rates(
    snapshot: Snapshot, rates: Mapping[VmId, DirtyRate], now: datetime, fresh_seconds: float
) -> Snapshot:
    """Put rates into the VMs that run; what is not fresh counts as uncertain by half."""

    def told(vm: Vm) -> Vm:
        rate = rates.get(vm.id)
        if rate is None or vm.state is not VmState.RUNNING:
            return vm
        error = rate.error_bytes_per_second
        if not is_fresh(rate, now, fresh_seconds):
            error = max(error, OLD_ERROR_RATIO * rate.bytes_per_second)
        return replace(
            vm,
            dirty_bytes_per_second=rate.bytes_per_second,
            dirty_error_bytes_per_second=error,
            working_set_bytes=rate.working_set_bytes,
        )

    return replace(snapshot, vms=tuple(told(vm) for vm in snapshot.vms)) if rates else snapshot


def to_measure(
    snapshot: Snapshot, vms: Collection[VmId], known: Collection[VmId]
) -> tuple[VmId, ...]:
    """Which of `vms` can be measured and are not `known`; those with the most memory first."""
    chosen = [
        vm
        for vm in snapshot.vms
        if vm.id in vms and vm.id not in known and vm.state is VmState.RUNNING and vm.can_move
    ]
    return tuple(vm.id for vm in sorted(chosen, key=lambda vm: (-vm.memory_bytes, vm.id)))


def most_on_one_host(snapshot: Snapshot, vms: Sequence[VmId]) -> int:
    """How many of `vms` the host has that has most of them."""
    hosts = [snapshot.assignment[vm] for vm in vms]
    return max((hosts.count(host) for host in set(hosts)), default=0)


def checked(
    rates: Mapping[VmId, DirtyRate], at_least: Mapping[VmId, float]
) -> dict[VmId, DirtyRate]:
    """Compare measurements with what VMs were seen to write in their last migrations.

    One that is far too low is replaced by that, with nothing said of the working set.
    """
    return {vm: _checked(rate, at_least.get(vm, 0.0)) for vm, rate in rates.items()}


def _checked(rate: DirtyRate, at_least: float) -> DirtyRate:
    if rate.bytes_per_second + 2 * rate.error_bytes_per_second >= TOO_LOW_RATIO * at_least:
        return rate
    return replace(
        rate,
        bytes_per_second=at_least,
        working_set_bytes=None,
        error_bytes_per_second=max(rate.error_bytes_per_second, OLD_ERROR_RATIO * at_least),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A cluster whose VMs can be measured, and what is remembered of them."""

    cluster: str
    settings: DirtyRateSettings
    now: datetime
    probe: Callable[[], DirtyRateProbe]
    url: str | None
    """The journal's; `None` where nothing is remembered: a rehearsal."""
    past: Callable[[], Mapping[VmId, float]]
    """What VMs were seen to write at least."""
    say: Callable[[str], None]

    def of(self, snapshot: Snapshot, vms: Collection[VmId], *, anew: bool) -> Snapshot:
        """Measure `vms` as far as that can be done; those that are fresh only if `anew`."""
        known: Collection[VmId] = () if anew else self._fresh()
        wanted = to_measure(snapshot, vms, known)
        if not wanted:
            return snapshot
        if self.url is None:
            found = self.probe().probe(wanted)
        else:
            seconds = self.settings.probe_plan().seconds_for(most_on_one_host(snapshot, wanted))
            count = count_text(len(wanted), "VM")
            self.say(f"measuring how fast {count} write: {seconds_text(seconds)} or so")
            found = checked(self.probe().probe(wanted), self.past())
            oldest = self.now - timedelta(seconds=self.settings.keep_seconds)
            with RememberedRates.open(self.url) as remembered:
                remembered.keep(self.cluster, found, oldest=oldest)
        return with_rates(snapshot, found, self.now, self.settings.fresh_seconds)

    def _fresh(self) -> Collection[VmId]:
        return remembered_rates(self.url, self.cluster, self.now, self.settings.fresh_seconds)


def remembered_rates(
    url: str | None, cluster: str, now: datetime, seconds: float
) -> dict[VmId, DirtyRate]:
    """What was measured within so many seconds; nothing where there is no journal."""
    if url is None:
        return {}
    with RememberedRates.open(url) as remembered:
        return remembered.of(cluster, since=now - timedelta(seconds=seconds))


def witnessed(journal: Journal | None, cluster: str) -> Mapping[VmId, float]:
    """What VMs were seen to write at least in their last migrations, in bytes a second."""
    rows = journal.completed(cluster, NEWEST) if journal is not None else ()
    return written_at_least((row.migration, row.outcome) for row in rows if row.outcome is not None)
