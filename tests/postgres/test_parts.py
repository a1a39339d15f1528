"""Whatever is kept in the journal's database is kept by PostgreSQL as well."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.policy import Trigger
from rebalancer.errors import LockHeldError, PlanRefusedError
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Owner
from rebalancer.rollout.maintenance_journal import MaintenanceJournal, MaintenancePhase
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.power_steps import Phase, PowerMark, Unneeded
from rebalancer.rollout.wishes import Wishes
from rebalancer.service.clock import SystemClock
from rebalancer.service.cycle_history import KEPT_DAYS, CycleHistory, CycleRecord
from rebalancer.service.recommendations import Recommendations
from rebalancer.service.stability import PastCycle
from tests.builders import NOON, a_policy
from tests.postgres.server import Server
from tests.unit.service.daemon_world import MakeWorld, make_world
from tests.unit.service.samples import a_plan

__all__ = ["make_world"]

H1 = HostId("h1")
LATER = datetime(2999, 1, 1, tzinfo=UTC)


@pytest.fixture
def url(postgres: Server) -> str:
    return postgres.new_database()


def test_a_daemon_waits_moves_and_rests(make_world: MakeWorld, url: str) -> None:
    world = make_world(url=url, policy=a_policy(trigger=Trigger(for_cycles=2)))

    verdicts = [world.cycle() for _ in range(3)]

    assert [verdict.split(" ")[0] for verdict in verdicts] == ["waiting:", "moved", "balanced:"]
    assert len(world.moves()) == 2


def test_wishes_and_drains(url: str) -> None:
    with Journal.open(url, SystemClock()) as journal:
        journal.wish("dc", lambda wishes: replace(wishes, paused_at=NOON, paused_by="anna"))
        journal.wish("dc", lambda wishes: replace(wishes, at_once=2, link_share=0.5))
        journal.mark_drain("dc", H1, "new memory")
        journal.mark_drain("dc", H1, "asked twice")

        wishes = journal.wishes("dc")
        assert (wishes.paused_by, wishes.at_once, wishes.link_share) == ("anna", 2, 0.5)
        assert journal.wishes("other") == Wishes()
        assert journal.drains("dc")[H1].reason == "new memory"


def test_past_cycles(url: str) -> None:
    past = PastCycle(at=NOON, wanted=True, acted=False, silent_hosts=frozenset({H1}))
    old = replace(past, at=NOON - timedelta(days=KEPT_DAYS + 1))
    with CycleHistory.open(url) as history:
        for each in (old, past):
            history.add(CycleRecord(cluster="dc", policy="p", verdict="waiting", past=each))

        (record,) = history.latest("dc", "p", count=5)
        assert record.past == past


def test_recommendations(url: str) -> None:
    now = SystemClock().now()
    with Recommendations.open(url) as kept:
        for name in ("plan-1", "plan-2"):
            kept.keep("balance", a_plan(id=name, expires_at=LATER), now)
        kept.approve("test", "plan-1", "by anna", now)
        kept.approve("test", "plan-2", "by anna", now)
        waiting = kept.waiting("test", "balance")
        kept.reject("test", "plan-2", "no")

        assert waiting is not None
        assert waiting.plan_id == "plan-2"
        assert kept.approvable("test", now) == []
        with pytest.raises(PlanRefusedError, match="over and done with"):
            kept.approve("test", "plan-1", "by anna", now)


def test_hosts_power(url: str) -> None:
    clock = SystemClock()
    mark = PowerMark(host=H1, phase=Phase.ASLEEP, since=NOON, reason="empty", told=True, size=None)
    with Journal.open(url, clock) as journal, PowerJournal.open(url, clock) as power:
        lease = journal.acquire("dc", owner=Owner(host="elsewhere", pid=1))
        power.keep(H1, mark, "sent to sleep", lease)
        power.keep_unneeded("dc", "p", {H1: Unneeded(cycles=3, at=NOON)})

        assert power.marks("dc") == {H1: mark}
        assert [record.text for record in power.records("dc")] == ["sent to sleep"]
        assert power.unneeded("dc", "p") == {H1: Unneeded(cycles=3, at=NOON)}
        journal.release(lease)
        with pytest.raises(LockHeldError):
            power.keep(H1, None, "too late", lease)
        assert power.marks("dc") == {H1: mark}


def test_commands_of_rolling_maintenance(url: str) -> None:
    clock, h2 = SystemClock(), HostId("h2")
    with Journal.open(url, clock) as journal, MaintenanceJournal.open(url, clock) as kept:
        lease = journal.acquire("dc", owner=Owner(host="elsewhere", pid=1))
        journal.mark_drain("dc", h2)
        name = kept.begin([H1, h2], "patch --reboot", lease)
        kept.started(name, Owner(host="elsewhere", pid=2))
        (begun,) = kept.not_over("dc")
        assert (begun.hosts, begun.phase) == ((H1, h2), MaintenancePhase.BEGUN)
        assert begun.process == Owner(host="elsewhere", pid=2)
        journal.unmark_drain("dc", H1)
        assert kept.not_over("dc") == (begun,), "it may be at work on the other machine"

        kept.ended(name)

        (ended,) = kept.not_over("dc")
        assert (ended.hosts, ended.phase, ended.failure) == ((h2,), MaintenancePhase.ENDED, "")
        journal.release(lease)
        with pytest.raises(LockHeldError):
            kept.begin([H1], "too late", lease)


def test_a_lock_that_is_watched_from_another_machine(url: str) -> None:
    """Both have the same database; neither its clock nor theirs is asked for the time of day."""
    passed = [50.0]
    with Journal.open(url, SystemClock()) as journal:
        journal.acquire("dc", owner=Owner(host="elsewhere", pid=1))
        for seconds in (0.0, 119.0):
            passed[0] += seconds
            with pytest.raises(LockHeldError):
                journal.acquire("dc", clock="mgmt2", seconds_passed=lambda: passed[0])
        passed[0] += 1.0

        assert journal.acquire("dc", clock="mgmt2", seconds_passed=lambda: passed[0]).token == 2
