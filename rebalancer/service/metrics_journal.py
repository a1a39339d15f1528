"""What the journal gives to the metrics: how rollouts went, whoever did them, and wishes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import ENDED_STATES, MigrationState
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import is_dead
from rebalancer.rollout.records import MigrationRow, RolloutRow, RolloutStatus
from rebalancer.rollout.wishes import Wishes

OVERLAP = timedelta(seconds=120)
"""Rows are stamped before they are committed, so what was read is read once more for so long."""
ROLLOUTS_READ = 50
SPLIT_BRAIN = "SPLIT BRAIN"
"""What the texts of outcomes begin with where two copies of a VM are active."""
STALE_COPY = "a stale copy of it stands still"
"""What they have where the older of two copies waits to be ended."""

_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_DOWNTIMES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 300)
_BYTES = tuple(float(2**exponent) for exponent in range(26, 42, 2))
_RATIOS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 3, 5, 10)


class Tally:
    """Counts what ends from now on, each end once."""

    def __init__(self, registry: CollectorRegistry, now: Callable[[], float]) -> None:
        """Put counters and histograms into `registry`; `now` in seconds since the epoch."""
        self._began = datetime.fromtimestamp(now(), UTC)
        self._newest = self._began
        self._counted: dict[tuple[int, str], datetime] = {}
        self._migrations = Counter(
            "rebalancer_migrations",
            "Migrations that ended, by how.",
            ["outcome"],
            registry=registry,
        )
        self._rollouts = Counter(
            "rebalancer_rollouts", "Rollouts that ended, by how.", ["status"], registry=registry
        )
        self._seconds = _histogram(
            registry, "rebalancer_migration_duration_seconds", "Time that it took.", _SECONDS
        )
        self._downtime = _histogram(
            registry,
            "rebalancer_migration_downtime_seconds",
            "Pause of the guest, as the hypervisor reported it.",
            _DOWNTIMES,
        )
        self._bytes = _histogram(
            registry, "rebalancer_migration_transfer_bytes", "Bytes that were sent.", _BYTES
        )
        self._ratio = _histogram(
            registry,
            "rebalancer_migration_duration_ratio",
            "Time that it took as a multiple of what was predicted.",
            _RATIOS,
        )
        # From 0 on, so that the first one already is an increase.
        for state in sorted(ENDED_STATES):
            self._migrations.labels(outcome=state)
        for status in RolloutStatus:
            if status is not RolloutStatus.RUNNING:
                self._rollouts.labels(status=status)

    def follow(self, journal: Journal, cluster: str) -> None:
        """Count what has ended since it was last looked."""
        since = max(self._began, self._newest - OVERLAP)
        for row in journal.ended_since(since, cluster):
            if row.changed_at is not None and self._is_new(
                (row.rollout, row.migration.id), row.changed_at
            ):
                self._count(row)
        for rollout in journal.rollouts(cluster, ROLLOUTS_READ):
            ended = rollout.ended_at
            if ended is not None and ended >= since and self._is_new((rollout.id, ""), ended):
                self._rollouts.labels(status=rollout.status).inc()
        forgotten = self._newest - OVERLAP
        self._counted = {key: at for key, at in self._counted.items() if at >= forgotten}

    def _is_new(self, what: tuple[int, str], at: datetime) -> bool:
        if self._counted.get(what) == at:
            return False
        self._counted[what] = at
        self._newest = max(self._newest, at)
        return True

    def _count(self, row: MigrationRow) -> None:
        self._migrations.labels(outcome=row.state).inc()
        outcome, predicted = row.outcome, row.migration.predicted
        if outcome is None or row.state is not MigrationState.COMPLETE:
            return
        if (took := outcome.duration_seconds) is not None:
            self._seconds.observe(took)
            if predicted.duration_seconds > 0:
                self._ratio.observe(took / predicted.duration_seconds)
        if outcome.downtime_seconds is not None:
            self._downtime.observe(outcome.downtime_seconds)
        if outcome.transfer_bytes is not None:
            self._bytes.observe(outcome.transfer_bytes)


def _histogram(
    registry: CollectorRegistry, name: str, says: str, buckets: tuple[float, ...]
) -> Histogram:
    return Histogram(name, f"{says} Of completed migrations.", buckets=buckets, registry=registry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the journal says of a cluster just now."""

    wishes: Wishes = field(default_factory=Wishes)
    is_lock_held: bool = False
    draining: tuple[HostId, ...] = ()
    running: int = 0
    """Migrations under way."""
    unknown: int = 0
    """Migrations of which nobody knows how they ended."""
    split_brains: int = 0
    """Those of them with two active copies."""
    stale_copies: int = 0
    """Those of them with a paused older copy."""
    cut_short: int = 0
    """Rollouts that nobody carries on."""


def standing_of(journal: Journal | None, cluster: str) -> Standing:
    """Read what the journal says; without a journal nothing has happened yet."""
    if journal is None:
        return Standing()
    holder = journal.holder(cluster)
    is_held = holder is not None and not is_dead(holder.owner)
    unfinished = journal.unfinished(cluster)
    rows = [row for rollout in unfinished for row in journal.migrations(rollout.id)]
    unknown = [row for row in rows if row.state is MigrationState.UNKNOWN]
    not_running = ENDED_STATES | {MigrationState.PENDING}
    return Standing(
        wishes=journal.wishes(cluster),
        is_lock_held=is_held,
        draining=tuple(sorted(journal.drains(cluster))),
        running=sum(row.state not in not_running for row in rows),
        unknown=len(unknown),
        split_brains=sum(_says(row, SPLIT_BRAIN) for row in unknown),
        stale_copies=sum(_says(row, STALE_COPY) for row in unknown),
        cut_short=0 if is_held else sum(_is_open(rollout) for rollout in unfinished),
    )


def _is_open(rollout: RolloutRow) -> bool:
    return rollout.status is RolloutStatus.RUNNING


def _says(row: MigrationRow, words: str) -> bool:
    return row.outcome is not None and words in row.outcome.text


def standing_families(standing: Standing | None) -> Iterator[Metric]:
    """Make metrics of it; `None`: the journal cannot be read, and nothing is known."""
    yield GaugeMetricFamily(
        "rebalancer_journal_up",
        "1: the journal could be read just now.",
        value=float(standing is not None),
    )
    if standing is None:
        return
    wishes = standing.wishes
    since = wishes.paused_at.timestamp() if wishes.paused_at is not None else 0.0
    for name, says, value in (
        ("paused", "1: nothing new may be started.", float(wishes.paused_at is not None)),
        ("paused_since_timestamp_seconds", "Since when; 0: it is not.", since),
        ("throttle_at_once", "Migrations at a time; 0: as policies say.", _or_0(wishes.at_once)),
        (
            "throttle_link_share_ratio",
            "Share of links; 0: as policies say.",
            _or_0(wishes.link_share),
        ),
        ("lock_held", "1: somebody alive is changing the cluster.", float(standing.is_lock_held)),
        ("migrations_running", "Migrations under way.", standing.running),
        ("migrations_unknown", "Migrations that wait for `rebalancer recover`.", standing.unknown),
        ("migrations_split_brain", "VMs that were found active twice.", standing.split_brains),
        (
            "migrations_stale_copy",
            "VMs with a paused older copy, which waits to be ended.",
            standing.stale_copies,
        ),
        (
            "rollouts_cut_short",
            "Rollouts whose process died, not looked after yet.",
            standing.cut_short,
        ),
    ):
        yield GaugeMetricFamily(f"rebalancer_{name}", says, value=value)
    draining = GaugeMetricFamily(
        "rebalancer_host_draining", "1: the host is to be empty.", labels=["host"]
    )
    for host in standing.draining:
        draining.add_metric([host], 1)
    yield draining


def _or_0(value: float | None) -> float:
    return 0.0 if value is None else value
