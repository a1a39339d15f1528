from dataclasses import replace

import pytest

from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.planning.accuracy import accuracy_of
from tests.builders import GIB, a_host, a_snapshot, a_vm
from tests.unit.planning.plans import a_plan

(PREDICTED,) = a_plan(
    a_snapshot([a_host("h1"), a_host("h2")], [a_vm("a", memory_bytes=8 * GIB)]), {"a": "h2"}
).migrations


def took(times: float, migration: Migration = PREDICTED) -> tuple[Migration, Outcome]:
    """A migration that took so many times what was predicted."""
    predicted = migration.predicted
    return migration, Outcome(
        migration=migration.id,
        state=MigrationState.COMPLETE,
        text="",
        duration_seconds=times * predicted.duration_seconds,
        downtime_seconds=times * predicted.downtime_seconds,
        transfer_bytes=times * predicted.transfer_bytes,
    )


def test_without_completed_migrations_nothing_is_claimed() -> None:
    migration, outcome = took(1.0)
    failed = replace(outcome, state=MigrationState.FAILED_SAFE)

    assert accuracy_of([]) == accuracy_of([(migration, failed)]) == ()


def test_errors_are_shares_of_what_was_measured() -> None:
    whole, pair = accuracy_of([took(0.5)] * 5 + [took(1.0)] * 4 + [took(2.0)])

    assert whole.source is None
    assert (pair.source, pair.target, pair.migrations) == ("h1", "h2", 10)
    assert pair.duration == whole.duration
    assert pair.duration.median_ratio == pytest.approx(0.75)
    assert pair.transfer.p90_ratio == pytest.approx(1.0)
    assert pair.transfer.in_band_ratio is None


def test_only_what_took_longer_than_its_band_is_outside_of_it() -> None:
    (whole, _) = accuracy_of([took(0.1), took(1.0), took(1.2), took(9.0)])

    assert whole.duration.in_band_ratio == 0.75


def test_what_was_not_measured_is_left_out() -> None:
    migration, outcome = took(1.0)
    (whole, _) = accuracy_of([(migration, replace(outcome, downtime_seconds=None)), took(2.0)])

    assert (whole.migrations, whole.downtime.count, whole.duration.count) == (2, 1, 2)


def test_pairs_of_hosts_are_judged_apart() -> None:
    back = replace(PREDICTED, source=PREDICTED.target, target=PREDICTED.source)

    whole, there, other = accuracy_of([took(1.0), took(2.0, back)])

    assert whole.migrations == 2
    assert (there.duration.median_ratio, other.duration.median_ratio) == pytest.approx((0.0, 0.5))
