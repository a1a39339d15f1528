"""What finished migrations say of how fast their guests write."""

from __future__ import annotations

from dataclasses import replace

from rebalancer.cluster.inventory import Mode, VmId
from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.planning.witnessed import written_at_least
from tests.builders import GIB, MIB
from tests.unit.rollout.plans import a_migration


def a_past(sent_mib: float, seconds: float = 10.0) -> tuple[Migration, Outcome]:
    migration = replace(a_migration("db", "h1", "h2"), memory_bytes=GIB)
    outcome = Outcome(
        migration=migration.id,
        state=MigrationState.COMPLETE,
        text="",
        duration_seconds=seconds,
        downtime_seconds=0.1,
        transfer_bytes=sent_mib * MIB,
    )
    return migration, outcome


def test_what_was_sent_beyond_the_memory_was_written_meanwhile() -> None:
    assert written_at_least([a_past(sent_mib=1524)]) == {VmId("db"): 50 * MIB}


def test_a_guest_of_which_not_all_was_sent_is_not_known_to_write() -> None:
    assert written_at_least([a_past(sent_mib=900)]) == {}


def test_the_newest_migrations_of_a_vm_count() -> None:
    newest_first = [a_past(2024), a_past(1524), a_past(3024), a_past(9024), a_past(9024)]

    assert written_at_least(newest_first) == {VmId("db"): 100 * MIB}


def test_what_failed_or_did_not_copy_memory_teaches_nothing() -> None:
    migration, outcome = a_past(1524)
    failed = migration, replace(outcome, state=MigrationState.FAILED_SAFE)
    cold = replace(migration, mode=Mode.COLD), outcome

    assert written_at_least([failed, cold]) == {}
