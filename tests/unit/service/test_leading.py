"""Who of several daemons acts: with hand-turned clocks, on both databases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.errors import JournalError, LockHeldError
from rebalancer.rollout.driver import Abort, Command, Look, Pending, Reply, Ticket
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.leaders import Leaders
from rebalancer.rollout.lease import Owner, this_process
from rebalancer.rollout.records import RolloutStatus
from rebalancer.service.leading import LOCAL, SHARED, FencedDriver, Leadership, Role, Standing
from tests.builders import NOON
from tests.postgres.server import Server
from tests.unit.rollout.plans import a_migration, a_plan

ON_MGMT1, ON_MGMT2 = Owner(host="mgmt1", pid=11), Owner(host="mgmt2", pid=22)


class Calendar:
    """A clock that tells two instants apart, and nothing else."""

    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        self.at += timedelta(microseconds=1)
        return self.at

    def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@dataclass
class Node:
    """A daemon on a machine of its own."""

    url: str
    owner: Owner
    seconds: float = 0.0
    told: list[Standing] = field(default_factory=list)
    leadership: Leadership = field(init=False)

    def __post_init__(self) -> None:
        self.leadership = Leadership(
            lambda: Leaders.open(self.url, Calendar()),
            "dc",
            self.told.append,
            owner=self.owner,
            seconds_passed=lambda: self.seconds,
        )

    def looks(self, after: float = 0.0) -> Role:
        self.seconds += after
        self.leadership.step()
        return self.leadership.standing.role

    @property
    def text(self) -> str:
        return self.leadership.standing.text


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        return server.new_database()
    return f"sqlite:///{tmp_path}/journal.db"


type MakeNode = Callable[[Owner], Node]


@pytest.fixture
def node(url: str) -> Iterator[MakeNode]:
    made: list[Node] = []

    def make(owner: Owner) -> Node:
        made.append(Node(url, owner))
        return made[-1]

    yield make
    for each in made:
        each.leadership.stop()


def patience(url: str) -> float:
    return SHARED.silent_seconds if url.startswith("postgresql") else LOCAL.silent_seconds


def test_the_first_one_leads_and_the_other_stands_by_and_says_for_whom(node: MakeNode) -> None:
    first, second = node(ON_MGMT1), node(ON_MGMT2)

    assert first.looks() is Role.LEADS
    assert second.looks() is Role.STANDS_BY
    since = "since 2026-11-23 12:00:00 UTC"
    assert second.text == f"standing by: process 11 on mgmt1 leads {since}"


def test_a_leader_on_another_machine_of_the_same_name_is_not_taken_for_dead(
    node: MakeNode, url: str
) -> None:
    here = this_process()
    first, second = node(replace(here, boot="of that machine")), node(here)
    first.looks()

    if url.startswith("postgresql"):
        assert second.looks() is Role.STANDS_BY
        assert first.looks() is Role.LEADS
    else:  # a file is on one machine, which was booted since
        assert second.looks() is Role.LEADS


def test_who_shows_signs_of_life_keeps_the_lead(node: MakeNode, url: str) -> None:
    first, second = node(ON_MGMT1), node(ON_MGMT2)
    first.looks()
    second.looks()

    roles = [(first.looks(1.0), second.looks(patience(url) - 1.0)) for _ in range(4)]

    assert roles == [(Role.LEADS, Role.STANDS_BY)] * 4


def test_a_leader_that_falls_silent_loses_the_lead(node: MakeNode, url: str) -> None:
    first, second = node(ON_MGMT1), node(ON_MGMT2)
    first.looks()
    second.looks()

    assert second.looks(patience(url) - 0.5) is Role.STANDS_BY
    assert second.looks(1.0) is Role.LEADS
    assert first.looks() is Role.STANDS_BY, "it comes back and finds that another one leads"
    assert "mgmt2" in first.text


def test_a_leader_that_was_suspended_does_nothing_before_it_has_asked(
    node: MakeNode, url: str
) -> None:
    first, second = node(ON_MGMT1), node(ON_MGMT2)
    first.looks()
    second.looks()
    first.leadership.confirm()
    first.seconds += 3600.0
    second.looks(patience(url))

    with pytest.raises(LockHeldError, match="does not lead any more"):
        first.leadership.confirm()


def test_a_leader_that_was_merely_slow_goes_on(node: MakeNode) -> None:
    first = node(ON_MGMT1)
    first.looks()
    first.seconds += 3600.0

    first.leadership.confirm()

    assert first.leadership.standing.role is Role.LEADS


def test_a_leader_acts_for_less_long_than_it_takes_to_be_given_up() -> None:
    for pace in (SHARED, LOCAL):
        assert pace.acts_seconds < pace.silent_seconds
        assert pace.renew_seconds * 2 < pace.acts_seconds + pace.renew_seconds


def test_a_standby_leads_within_15_seconds_of_a_death() -> None:
    # It was renewed right before, and the standby looks again right before it has waited enough.
    assert SHARED.look_seconds + SHARED.silent_seconds + SHARED.look_seconds <= 12.0


def test_one_that_stops_hands_over_at_once(node: MakeNode) -> None:
    first, second = node(ON_MGMT1), node(ON_MGMT2)
    first.looks()
    second.looks()

    first.leadership.stop()

    assert second.looks() is Role.LEADS


def test_a_dead_process_of_this_machine_is_not_waited_for(node: MakeNode) -> None:
    dead, second = node(replace(this_process(), pid=2**22 + 1)), node(this_process())
    dead.looks()

    assert second.looks() is Role.LEADS


def test_who_takes_over_breaks_the_lock_of_the_dead_and_of_nobody_else(
    node: MakeNode, url: str
) -> None:
    first, second = node(ON_MGMT1), node(ON_MGMT2)
    first.looks()
    second.looks()
    with Journal.open(url, Calendar()) as journal:
        lease = journal.acquire("dc", owner=ON_MGMT1)
        others = journal.acquire("elsewhere", owner=ON_MGMT1)
        number = journal.begin(a_plan(a_migration(), cluster="dc"), lease)

        second.looks(patience(url))

        assert journal.holder("dc") is None
        with pytest.raises(LockHeldError, match="lost the lock"):
            journal.end(number, RolloutStatus.ENDED, "", lease)
        journal.heartbeat(others)
        assert journal.acquire("dc", owner=ON_MGMT2).token > lease.token


def test_an_operator_s_lock_outlasts_a_change_of_leaders(node: MakeNode, url: str) -> None:
    first, second = node(ON_MGMT1), node(ON_MGMT2)
    first.looks()
    second.looks()
    with Journal.open(url, Calendar()) as journal:
        lease = journal.acquire("dc", owner=Owner(host="laptop", pid=1))
        second.looks(patience(url))

        journal.heartbeat(lease)


def test_a_journal_that_cannot_be_read_is_told_once_and_nobody_acts(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    away = [False]

    def open_leaders() -> Leaders:
        if away[0]:
            raise JournalError("journal x: the server cannot be reached")
        return Leaders.open(url, Calendar())

    told: list[Standing] = []
    leadership = Leadership(open_leaders, "dc", told.append, owner=ON_MGMT1)
    away[0] = True
    with caplog.at_level(logging.INFO):
        leadership.step()
        leadership.step()
    away[0] = False
    leadership.step()
    leadership.stop()

    assert [standing.role for standing in told] == [Role.UNSURE, Role.LEADS]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "cannot be reached" in told[0].text


def test_what_changes_a_host_is_not_issued_by_one_that_does_not_lead() -> None:
    issued: list[Command] = []

    class Driver:
        def issue(self, command: Command) -> Ticket:
            issued.append(command)
            return Ticket(1)

        def poll(self, ticket: Ticket) -> Reply:
            return Pending()

        def close(self) -> None:
            return

    def deposed() -> None:
        raise LockHeldError("this process does not lead any more")

    fenced = FencedDriver(Driver(), deposed)
    look = Look(vm=VmId("vm1"), hosts=(HostId("h1"),))

    fenced.issue(look)
    with pytest.raises(LockHeldError):
        fenced.issue(Abort(vm=VmId("vm1"), host=HostId("h1")))

    assert issued == [look]
