"""How long parts of migrations took: measured by the rollout, kept in the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rebalancer.cluster.inventory import Mode, Vm
from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.cluster.prediction import MeasuredPart, Part, PredictedPart
from rebalancer.rollout.executor import Settings, execute
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.records import (
    migration_from_json,
    migration_to_json,
    outcome_from_json,
    outcome_to_json,
)
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind
from rebalancer.simulation.simulated_driver import SimulatedDriver
from tests.builders import GIB, IMAGES, MIB, a_disk, a_host, a_policy, a_snapshot, a_vm, with_disks
from tests.unit.rollout.plans import a_migration, a_plan
from tests.unit.rollout.ways import STORAGE, Way


def carried_out(
    folder: Path, move: Migration, vm: Vm | None = None, *faults: Fault
) -> tuple[Outcome, list[Outcome]]:
    """How a migration ended in the simulator, and what the journal has for the next plan."""
    hosts = [
        a_host(name, storage=frozenset({STORAGE}), disk_pools={IMAGES: 100 * GIB})
        for name in ("h1", "h2")
    ]
    snapshot = a_snapshot(hosts, [vm or a_vm("vm1")])
    datacentre = Datacentre.of(snapshot, faults=faults)
    clock = VirtualClock(datacentre)
    permissions = MigrationPermissions(allow=frozenset(Mode), save_to=STORAGE, local_disks=True)
    with Journal.open(f"sqlite:///{folder}/journal.db", clock) as journal:
        result = execute(
            a_plan(move),
            driver=SimulatedDriver(datacentre),
            clock=clock,
            journal=journal,
            snapshot=snapshot,
            settings=Settings.of(a_policy(migration=permissions)),
        )
        rows = journal.timed_in_parts("test", 10)
        assert journal.timed_in_parts("another cluster", 10) == ()
    return result.outcomes[0], [row.outcome for row in rows if row.outcome is not None]


def test_a_shutdown_and_a_start_are_measured_apart(tmp_path: Path) -> None:
    outcome, kept = carried_out(tmp_path, a_migration(mode=Mode.COLD))

    assert outcome.state is MigrationState.COMPLETE
    assert [part.part for part in outcome.parts] == [Part.SHUT_DOWN, Part.START]
    assert all(part.is_over and part.seconds > 0 for part in outcome.parts)
    assert sum(part.seconds for part in outcome.parts) == pytest.approx(outcome.duration_seconds)
    assert outcome.parts[1].seconds == outcome.downtime_seconds
    assert kept == [outcome]


def test_a_request_that_was_ignored_counts_as_long_as_it_was_waited_for(tmp_path: Path) -> None:
    ignores = Fault(kind=FaultKind.IGNORES_SHUTDOWN)
    outcome, kept = carried_out(tmp_path, a_migration(mode=Mode.COLD), None, ignores)

    assert outcome.state is MigrationState.FAILED_SAFE
    (part,) = outcome.parts
    assert (part.part, part.is_over) == (Part.SHUT_DOWN, False)
    assert part.seconds == pytest.approx(180, abs=5)
    assert kept == [outcome]


def test_a_start_that_failed_teaches_nothing_of_starts(tmp_path: Path) -> None:
    fails = Fault(kind=FaultKind.START_FAILS)
    outcome, _ = carried_out(tmp_path, a_migration(mode=Mode.COLD), None, fails)

    assert outcome.state is MigrationState.FAILED_SAFE
    assert [part.part for part in outcome.parts] == [Part.SHUT_DOWN]


def test_memory_is_written_and_read_back_apart(tmp_path: Path) -> None:
    outcome, kept = carried_out(tmp_path, a_migration(**Way.SAVED.plan))

    assert outcome.state is MigrationState.COMPLETE
    assert [part.part for part in outcome.parts] == [Part.SAVE, Part.RESTORE]
    assert sum(part.seconds for part in outcome.parts) == pytest.approx(outcome.duration_seconds)
    assert kept == [outcome]


def test_the_copy_of_disks_is_measured_with_what_was_sent(tmp_path: Path) -> None:
    disk = a_disk(capacity_bytes=8 * GIB)
    vm = a_vm("vm1", **with_disks(disk, writes=4.0 * MIB))
    outcome, _ = carried_out(tmp_path, a_migration(disks=(disk,)), vm)

    assert outcome.state is MigrationState.COMPLETE
    (part,) = outcome.parts
    assert part.part is Part.DISKS
    assert part.seconds == pytest.approx(8 * GIB / (196 * MIB), rel=0.15)
    assert part.transfer_bytes is not None
    assert part.transfer_bytes >= 8 * GIB
    assert outcome.duration_seconds is not None
    assert part.seconds < outcome.duration_seconds


def test_a_live_migration_is_written_as_older_programs_wrote_it(tmp_path: Path) -> None:
    outcome, kept = carried_out(tmp_path, a_migration())

    assert (outcome.parts, kept) == ((), [])
    assert "parts" not in outcome_to_json(outcome)
    assert "parts" not in migration_to_json(a_migration())["predicted"]


def test_parts_are_read_back_as_they_were_written() -> None:
    said = PredictedPart(part=Part.START, seconds=2.0, upper_seconds=4.0, learned_from=3)
    migration = a_migration()
    changed: dict[str, Any] = migration_to_json(migration)
    changed["predicted"]["parts"] = [
        {"part": "start", "seconds": 2.0, "upper_seconds": 4.0, "learned_from": 3}
    ]
    outcome = Outcome(
        migration="m1",
        state=MigrationState.FAILED_SAFE,
        text="",
        parts=(MeasuredPart(part=Part.SHUT_DOWN, seconds=180.0, is_over=False),),
    )

    assert migration_from_json(changed).predicted.parts == (said,)
    assert outcome_from_json(outcome_to_json(outcome)) == outcome
