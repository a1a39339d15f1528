"""The journal: committed, fenced, and clear about what is wrong with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import MigrationState, Outcome
from rebalancer.cluster.prediction import MeasuredPart, Part
from rebalancer.errors import JournalError, LockHeldError, PlanRefusedError
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Owner, is_dead, this_process
from rebalancer.rollout.records import Entry, RecordKind, RolloutStatus, state_entry
from tests.builders import NOON
from tests.postgres.server import Server
from tests.unit.rollout.plans import a_migration, a_plan


class HandClock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.at = NOON
        self.awake = 5_000.0

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.awake += seconds

    def seconds_awake(self) -> float:
        return self.awake


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        return server.new_database()
    return f"sqlite:///{tmp_path}/state/journal.db"


only_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


@pytest.fixture
def journal(url: str, clock: HandClock) -> Iterator[Journal]:
    with Journal.open(url, clock) as found:
        yield found


ELSEWHERE = Owner(host="other-machine", pid=1)
PLAN = a_plan(a_migration(), a_migration("vm2", id="m2"))
MOVED = Outcome(
    migration="m1", state=MigrationState.COMPLETE, text="it is there", duration_seconds=20.0
)


def test_what_was_written_is_there_for_the_next_process(
    journal: Journal, url: str, clock: HandClock
) -> None:
    lease = journal.acquire("test")
    number = journal.begin(PLAN, lease, plan_text='{"id": "p1"}')
    journal.write(number, [Entry(migration="m1", kind=RecordKind.NOTE, payload={"a": 1})], lease)
    journal.write(number, [state_entry("m1", MigrationState.COMPLETE, "done", MOVED)], lease)

    with Journal.open(url, clock) as other:
        rows = other.migrations(number)
        assert [record.kind for record in other.records(number)] == ["note", "state"]
        assert other.plan_text(number) == '{"id": "p1"}'
        assert rows[0].migration == PLAN.migrations[0]
        assert rows[0].outcome == MOVED
        assert rows[1].state is MigrationState.PENDING
        assert rows[1].outcome is None


def test_a_plan_is_applied_once(journal: Journal) -> None:
    lease = journal.acquire("test")
    assert not journal.applied("p1")

    journal.begin(PLAN, lease)

    assert journal.applied("p1")
    with pytest.raises(PlanRefusedError, match="p1 was applied before"):
        journal.begin(PLAN, lease)


def test_the_lock_has_one_owner_and_says_who(journal: Journal) -> None:
    journal.acquire("test", owner=ELSEWHERE)

    with pytest.raises(LockHeldError, match="process 1 on other-machine"):
        journal.acquire("test")
    journal.acquire("another cluster")


def test_a_released_lock_is_free_and_its_token_still_grows(journal: Journal) -> None:
    first = journal.acquire("test", owner=ELSEWHERE)
    journal.release(first)

    second = journal.acquire("test")

    assert second.token > first.token


def test_an_owner_elsewhere_loses_the_lock_once_it_was_watched_being_silent(
    journal: Journal, url: str, clock: HandClock
) -> None:
    journal.acquire("test", owner=ELSEWHERE)
    clock.sleep(10_000)
    with pytest.raises(LockHeldError, match="If it is dead, try again in 120 s"):
        journal.acquire("test", seconds_passed=clock.seconds_awake)
    clock.sleep(119)
    # Another process of this machine goes on watching.
    with Journal.open(url, clock) as other, pytest.raises(LockHeldError, match="again in 1 s"):
        other.acquire("test", seconds_passed=clock.seconds_awake)
    clock.sleep(1)

    assert journal.acquire("test", seconds_passed=clock.seconds_awake).token == 2


def test_a_heartbeat_keeps_the_lock(journal: Journal, clock: HandClock) -> None:
    lease = journal.acquire("test", owner=ELSEWHERE)
    for _ in range(5):
        with pytest.raises(LockHeldError, match="try again in 120 s"):
            journal.acquire("test", seconds_passed=clock.seconds_awake)
        clock.sleep(100)
        journal.heartbeat(lease)

    with pytest.raises(LockHeldError):
        journal.acquire("test", seconds_passed=clock.seconds_awake)


@pytest.mark.parametrize("hours", [-10, 10])
def test_a_time_of_day_that_is_wrong_takes_the_lock_from_nobody(
    journal: Journal, url: str, clock: HandClock, hours: int
) -> None:
    """Our machine's clock is hours off, and is set anew while we watch."""
    lease = journal.acquire("test", owner=ELSEWHERE)
    ours = HandClock()
    ours.at += timedelta(hours=hours)
    with Journal.open(url, ours) as other:
        for _ in range(3):
            with pytest.raises(LockHeldError):
                other.acquire("test", seconds_passed=ours.seconds_awake)
            ours.at -= timedelta(hours=2 * hours)
        journal.heartbeat(lease)


def test_each_machine_watches_by_a_clock_of_its_own(journal: Journal, clock: HandClock) -> None:
    """Seconds of two machines have nothing to do with each other."""
    journal.acquire("test", owner=ELSEWHERE)
    with pytest.raises(LockHeldError, match="in 120 s"):
        journal.acquire("test", clock="mgmt2", seconds_passed=clock.seconds_awake)

    with pytest.raises(LockHeldError, match="in 120 s"):
        journal.acquire("test", clock="mgmt3", seconds_passed=lambda: 1e9)


def test_a_watch_begins_anew_with_every_owner(journal: Journal, clock: HandClock) -> None:
    first = journal.acquire("test", owner=ELSEWHERE)
    with pytest.raises(LockHeldError):
        journal.acquire("test", seconds_passed=clock.seconds_awake)
    journal.release(first)
    journal.acquire("test", owner=replace(ELSEWHERE, pid=2))
    clock.sleep(1_000)

    with pytest.raises(LockHeldError, match=r"process 2 on other-machine.*in 120 s"):
        journal.acquire("test", seconds_passed=clock.seconds_awake)


def test_a_lock_that_could_not_be_given_back_is_this_process_s_to_take_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database did not answer just then; nobody waits two minutes for a holder that is us."""
    lease = journal.acquire("test")
    with pytest.raises(LockHeldError):
        journal.acquire("test")
    with monkeypatch.context() as gone:
        gone.setattr(journal, "_writing", fails)
        with pytest.raises(JournalError):
            journal.release(lease)

    assert journal.acquire("test").token == lease.token + 1
    with pytest.raises(LockHeldError):
        journal.acquire("test")


def fails(*_: object) -> NoReturn:
    raise JournalError("the server cannot be reached")


def test_a_dead_owner_here_loses_the_lock_at_once(journal: Journal) -> None:
    here = this_process()
    journal.acquire("test", owner=replace(here, pid=2**22 + 1))

    journal.acquire("test")


def test_who_lost_the_lock_cannot_write_any_more(journal: Journal, clock: HandClock) -> None:
    old = journal.acquire("test", owner=ELSEWHERE)
    number = journal.begin(PLAN, old)
    with pytest.raises(LockHeldError):
        journal.acquire("test", seconds_passed=clock.seconds_awake)
    clock.sleep(500)
    journal.acquire("test", seconds_passed=clock.seconds_awake)

    with pytest.raises(LockHeldError, match="lost the lock"):
        journal.write(number, [state_entry("m1", MigrationState.PREPARE, "")], old)
    with pytest.raises(LockHeldError):
        journal.heartbeat(old)
    assert journal.records(number) == ()


def test_a_process_is_only_dead_if_that_is_certain() -> None:
    here = this_process()

    assert not is_dead(here)
    assert not is_dead(ELSEWHERE)
    assert not is_dead(replace(here, namespace="another container"))
    assert is_dead(replace(here, started="at another time"))
    assert is_dead(replace(here, boot="an earlier one"))
    assert is_dead(replace(here, pid=2**22 + 1))


def test_with_a_shared_journal_a_machine_of_the_same_name_may_be_another_one() -> None:
    here = this_process()

    assert not is_dead(replace(here, boot="of another machine"), may_be_elsewhere=True)
    assert not is_dead(replace(here, boot="", pid=2**22 + 1), may_be_elsewhere=True)
    assert is_dead(replace(here, pid=2**22 + 1), may_be_elsewhere=True)


def test_unfinished_rollouts_and_unknown_outcomes_are_found(journal: Journal) -> None:
    lease = journal.acquire("test")
    ended = journal.begin(a_plan(a_migration(), id="ended"), lease)
    journal.write(ended, [state_entry("m1", MigrationState.COMPLETE, "", MOVED)], lease)
    journal.end(ended, RolloutStatus.ENDED, "", lease)
    unknown = journal.begin(a_plan(a_migration("vm9"), id="unknown"), lease)
    journal.write(unknown, [state_entry("m1", MigrationState.UNKNOWN, "?")], lease)
    journal.end(unknown, RolloutStatus.ENDED, "", lease)
    died = journal.begin(PLAN, lease)
    journal.write(died, [state_entry("m1", MigrationState.REQUEST, "")], lease)

    assert [row.id for row in journal.unfinished("test")] == [unknown, died]
    assert [row.migration.vm for row in journal.unresolved("test")] == ["vm9", "vm1"]
    assert journal.unfinished("another cluster") == ()


def test_moves_are_remembered_for_cool_downs(journal: Journal, clock: HandClock) -> None:
    lease = journal.acquire("test")
    number = journal.begin(PLAN, lease)
    journal.write(number, [state_entry("m1", MigrationState.COMPLETE, "", MOVED)], lease)

    moves = journal.moves_since(NOON - timedelta(hours=1), "test")

    assert [(move.vm, move.source, move.target) for move in moves] == [("vm1", "h1", "h2")]
    assert journal.moves_since(NOON + timedelta(seconds=1), "test") == ()


def test_a_drain_is_a_wish_that_lasts(journal: Journal, clock: HandClock) -> None:
    journal.mark_drain("test", HostId("h1"), "new memory")
    clock.sleep(60)
    journal.mark_drain("test", HostId("h1"), "asked twice")

    marks = journal.drains("test")
    assert marks[HostId("h1")].since == NOON
    assert marks[HostId("h1")].reason == "new memory"
    journal.unmark_drain("test", HostId("h1"))
    assert journal.drains("test") == {}


def test_a_newer_journal_is_not_touched(journal: Journal, url: str, clock: HandClock) -> None:
    with journal._database.engine.begin() as db:
        db.exec_driver_sql("UPDATE schema_version SET version = 99")

    with pytest.raises(JournalError, match="has version 99, this program reads version 4"):
        Journal.open(url, clock)


def test_a_file_that_is_no_journal_is_named(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "notes.db"
    path.write_text("dear diary, " * 100)

    with pytest.raises(JournalError, match="not a journal"):
        Journal.open(f"sqlite:///{path}", clock)


def test_a_url_that_makes_no_sense_is_named(clock: HandClock) -> None:
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal.open("journal.db", clock)


@only_sqlite
def test_a_full_disk_stops_before_the_act(journal: Journal) -> None:
    lease = journal.acquire("test")
    number = journal.begin(PLAN, lease)
    with journal._database.engine.connect() as db:  # the pool hands the same connection out again
        pages = db.exec_driver_sql("PRAGMA page_count").scalar()
        db.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    big = Entry(migration="m1", kind=RecordKind.NOTE, payload={"text": "x" * 100_000})

    with pytest.raises(JournalError, match="disk is full"):
        journal.write(number, [big], lease)

    assert journal.records(number) == ()


@only_sqlite
def test_commits_are_durable(journal: Journal) -> None:
    with journal._database.engine.connect() as db:
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2


@only_sqlite
def test_a_locked_database_is_named(journal: Journal, tmp_path: Path) -> None:
    lease = journal.acquire("test")
    with journal._database.engine.connect() as db:
        db.exec_driver_sql("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(tmp_path / "state" / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(JournalError, match="keeps it locked"):
            journal.heartbeat(lease)
    finally:
        other.rollback()
        other.close()


def test_a_lock_that_was_given_back_is_nobody_s(journal: Journal) -> None:
    with journal.hold("test") as lease:
        during = journal.holder("test")
    again = journal.acquire("test")

    assert during is not None
    assert during.token == lease.token
    assert again.token == lease.token + 1
    journal.release(again)
    assert journal.holder("test") is None


@only_postgresql
def test_a_commit_on_a_server_is_durable_whatever_its_default(url: str, postgres: Server) -> None:
    name = url.split("/")[3].split("?")[0]
    postgres.run(f"ALTER DATABASE {name} SET synchronous_commit = off")

    with Journal.open(url, HandClock()) as journal, journal._reading() as db:
        assert db.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


@only_postgresql
def test_a_server_s_writers_wait_for_each_other_and_say_so_when_it_takes_too_long(
    journal: Journal, url: str
) -> None:
    with Journal.open(url, HandClock()) as other, other._writing():
        with journal._database.engine.connect() as db:
            db.exec_driver_sql("SET lock_timeout = '10ms'")
            db.commit()
        with pytest.raises(JournalError, match="keeps it locked"):
            journal.acquire("test")
    assert journal.acquire("test").token == 1


@only_postgresql
def test_a_reader_never_waits_for_a_writer(journal: Journal, url: str) -> None:
    with Journal.open(url, HandClock()) as other, other._writing():
        assert journal.unfinished("test") == ()


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(JournalError) as caught:
        Journal.open(f"postgresql://ada:secret@/journal?host={tmp_path}", HandClock())

    said = str(caught.value)
    assert "the server cannot be reached" in said
    assert "secret" not in said
    assert len(said.splitlines()) == 1


def test_two_processes_make_the_tables_at_the_same_time(url: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: Journal.open(url, HandClock()), range(4)))
    leases = {opened[0].acquire("a").token, opened[1].acquire("b").token}
    for journal in opened:
        journal.close()

    assert leases == {1}


@pytest.mark.parametrize("plan", ['{"policy": "night"}', ""])
def test_the_journal_of_an_older_program_is_converted(url: str, plan: str) -> None:
    with Journal.open(url, HandClock()) as journal:
        lease = journal.acquire("test")
        journal.begin(PLAN, lease, plan_text=plan)
        with journal._writing() as db:  # what version 1 did not have
            db.exec_driver_sql("ALTER TABLE rollouts DROP COLUMN policy")
            for table in ("leaders", "maintenance", "lease_watches"):
                db.exec_driver_sql(f"DROP TABLE {table}")
            db.exec_driver_sql("UPDATE schema_version SET version = 1")

    with Journal.open(url, HandClock()) as journal, journal._reading() as db:
        assert db.exec_driver_sql("SELECT version FROM schema_version").scalar() == 4
        policy = db.exec_driver_sql("SELECT policy FROM rollouts").scalar()
        assert policy == ("night" if plan else "")
        for table in ("leaders", "maintenance", "lease_watches"):
            assert db.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0


def test_migrations_of_which_parts_were_measured_are_found_however_they_ended(
    journal: Journal, clock: HandClock
) -> None:
    lease = journal.acquire("test")
    number = journal.begin(PLAN, lease)
    part = MeasuredPart(part=Part.SHUT_DOWN, seconds=180.0, is_over=False)
    ignored = Outcome(
        migration="m1", state=MigrationState.FAILED_SAFE, text="it ignored", parts=(part,)
    )
    journal.write(number, [state_entry("m1", MigrationState.FAILED_SAFE, "", ignored)], lease)

    assert [row.outcome for row in journal.timed_in_parts("test", 10)] == [ignored]
    assert journal.timed_in_parts("another cluster", 10) == ()
    assert journal.completed("test", 10) == ()


def test_a_journal_of_version_3_is_read_on_and_not_by_its_program_any_more(url: str) -> None:
    """What it has of migrations stays as it is: there are no parts in it."""
    with Journal.open(url, HandClock()) as journal:
        lease = journal.acquire("test")
        number = journal.begin(PLAN, lease)
        journal.write(number, [state_entry("m1", MigrationState.COMPLETE, "", MOVED)], lease)
        with journal._writing() as db:
            db.exec_driver_sql("UPDATE schema_version SET version = 3")

    with Journal.open(url, HandClock()) as journal, journal._reading() as db:
        assert db.exec_driver_sql("SELECT version FROM schema_version").scalar() == 4
        (row,) = journal.completed("test", 10)
        assert row.outcome == MOVED
        assert row.migration == PLAN.migrations[0]
        assert journal.timed_in_parts("test", 10) == ()
