"""`rebalancer leftovers`: what it lists, and what it asks for before anything is deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rebalancer.cluster.plan import MigrationState
from rebalancer.errors import ExitCode
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import this_process
from rebalancer.rollout.records import state_entry
from rebalancer.service.clock import SystemClock
from tests.builders import GIB, a_disk
from tests.cli.conftest import Rebalancer
from tests.unit.rollout.plans import a_migration, a_plan


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`db1` went from h1 to h2 with two disks, `web1` without any."""
    monkeypatch.setenv("REBALANCER_CLUSTER", "dc1")
    disks = (a_disk("vda", 20 * GIB), a_disk("vdb", 4 * GIB))
    plan = a_plan(a_migration("db1", disks=disks), a_migration("web1", id="m2"), cluster="dc1")
    with Journal.open(f"sqlite:///{tmp_path / 'journal.db'}", SystemClock()) as journal:
        lease = journal.acquire("dc1", this_process())
        number = journal.begin(plan, lease)
        ended = [state_entry(m.id, MigrationState.COMPLETE, "", None) for m in plan.migrations]
        journal.write(number, ended, lease)
        journal.release(lease)


def test_without_a_journal_nothing_is_known_and_none_is_made(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    ran = rebalancer("leftovers")

    assert ran.code == ExitCode.SUCCESS
    assert "knows of no old disks" in ran.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("moved")
def test_old_disks_are_listed_with_host_vm_size_and_file(rebalancer: Rebalancer) -> None:
    table, status = rebalancer("leftovers"), rebalancer("status")
    tree = json.loads(rebalancer("leftovers", "-o", "json").out)

    assert table.code == ExitCode.SUCCESS
    for word in ("h1", "db1", "h2", "20.0 GiB", a_disk("vda").path, a_disk("vdb").path):
        assert word in table.out
    assert "web1" not in table.out
    said = "2 old disks of VMs that moved away, 24.0 GiB, lie on h1: rebalancer leftovers"
    assert said in status.out
    assert [left["capacity_bytes"] for left in tree["left_overs"]] == [20 * GIB, 4 * GIB]


@pytest.mark.usefixtures("moved")
def test_nothing_is_deleted_without_both_words(rebalancer: Rebalancer) -> None:
    half, other = rebalancer("leftovers", "--remove", "db1"), rebalancer("leftovers", "--yes")

    assert half.code == ExitCode.SUCCESS
    assert "nothing was changed: add --yes to do it" in half.err
    assert other.code == ExitCode.USAGE
    assert "say --remove as well" in other.err


@pytest.mark.usefixtures("moved")
def test_a_vm_that_left_nothing_behind_is_refused(rebalancer: Rebalancer) -> None:
    ran = rebalancer("leftovers", "web1")

    assert ran.code == ExitCode.USAGE
    assert "the journal knows of no old disk of web1; it does of db1" in ran.err
