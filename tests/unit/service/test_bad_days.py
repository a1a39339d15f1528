"""What a daemon in `auto` says and does when something beside the cluster is wrong.

There is always something worth moving: five busy VMs on one of two hosts. Each case is one clear
line, and nothing is moved on bad data.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from rebalancer.cluster.inventory import HostId
from rebalancer.collect.past_use import InventoryWithHistory, Requirement
from rebalancer.collect.prometheus_source import PrometheusSource, UsageQueries
from rebalancer.collect.sources import InventorySource
from rebalancer.rollout import database
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.leaders import Leaders
from rebalancer.rollout.lease import Owner
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import RunMode
from rebalancer.service.duty import Duty, rhythm_of
from rebalancer.service.leading import Leadership
from rebalancer.service.timetable import Timetable
from rebalancer.simulation.clock import VirtualClock
from tests.builders import NOON, a_policy
from tests.unit.collect.prometheus_server import FakePrometheus, Samples, Series, serving
from tests.unit.service.daemon_world import MakeWorld, Telemetry, World
from tests.unit.service.samples import settings_without_file

STEP_SECONDS, HISTORY_SECONDS = 60.0, 3600.0
HOUR = timedelta(hours=1)
VMS = [f"vm{n}" for n in range(5)]


def past(until: datetime = NOON, value: str = "3.0") -> Samples:
    """What a VM used in the hour before an instant, and for an hour after it."""
    steps = range(-int(HISTORY_SECONDS / STEP_SECONDS), 1)
    return [(until.timestamp() + step * STEP_SECONDS, value) for step in steps]


def of_vms(samples: Samples, label: str = "uuid") -> dict[str, list[Series]]:
    return {"vm_cpu": [Series(labels={label: vm}, samples=samples) for vm in VMS]}


@pytest.fixture
def prometheus() -> Iterator[FakePrometheus]:
    with serving(FakePrometheus(series=of_vms(past()))) as fake:
        yield fake


def asking(url: str, ahead: timedelta = timedelta(0)) -> Telemetry:
    """See the cluster with what a Prometheus tells; our clock may be set wrong."""

    def see(source: InventorySource, now: Callable[[], datetime]) -> InventorySource:
        return InventoryWithHistory(
            inventory=source,
            usage=PrometheusSource(
                url=url,
                hosts={"h1": HostId("h1"), "h2": HostId("h2")},
                queries=UsageQueries(vm_cpu="vm_cpu[$window]", host_cpu=None),
                step_seconds=STEP_SECONDS,
                timeout_seconds=5.0,
            ),
            now=lambda: now() + ahead,
            history_seconds=HISTORY_SECONDS,
            step_seconds=STEP_SECONDS,
            requirement=Requirement(),
            asks_hosts=False,
            hosts_from_guests=frozenset(),
        )

    return see


def verdict_of(world: World) -> str:
    """The verdict of one cycle, after which nothing has been moved."""
    verdict = world.cycle()
    assert "\n" not in verdict
    assert world.moves() == ()
    return verdict


def test_with_good_telemetry_it_moves(make_world: MakeWorld, prometheus: FakePrometheus) -> None:
    world = make_world(policy=a_policy(), seen_through=asking(prometheus.url))

    assert world.cycle().startswith("moved 2 VMs")


def test_prometheus_is_down(make_world: MakeWorld) -> None:
    with serving(FakePrometheus()) as gone:
        url = gone.url

    verdict = verdict_of(make_world(policy=a_policy(), seen_through=asking(url)))

    assert verdict.startswith("plan only: past use could not be read: ")
    assert url in verdict


def test_samples_are_no_numbers(make_world: MakeWorld, prometheus: FakePrometheus) -> None:
    prometheus.series = of_vms(past(value="NaN"))

    verdict = verdict_of(make_world(policy=a_policy(), seen_through=asking(prometheus.url)))

    assert verdict.startswith("plan only: ")
    assert "no sample of any VM" in verdict


def test_samples_are_an_hour_old(make_world: MakeWorld, prometheus: FakePrometheus) -> None:
    prometheus.series = of_vms(past(until=NOON - HOUR + timedelta(minutes=2)))

    verdict = verdict_of(make_world(policy=a_policy(), seen_through=asking(prometheus.url)))

    assert verdict.startswith("plan only: ")
    assert "s old, prometheus.max_age_seconds allows 900 s" in verdict


def test_labels_are_not_those_that_are_asked_for(
    make_world: MakeWorld, prometheus: FakePrometheus
) -> None:
    prometheus.series = of_vms(past(), label="domain_id")

    verdict = verdict_of(make_world(policy=a_policy(), seen_through=asking(prometheus.url)))

    assert verdict.startswith("plan only: ")
    assert "uuid" in verdict
    assert "domain_id" in verdict


def test_our_clock_has_jumped_an_hour_ahead(
    make_world: MakeWorld, prometheus: FakePrometheus
) -> None:
    ahead = asking(prometheus.url, ahead=HOUR - timedelta(minutes=2))

    verdict = verdict_of(make_world(policy=a_policy(), seen_through=ahead))

    assert verdict.startswith("plan only: ")
    assert "clocks of both machines" in verdict


def test_a_clock_that_is_set_back_puts_off_no_cycle(caplog: pytest.LogCaptureFixture) -> None:
    due: list[str] = []
    timetable = Timetable(due.append)
    policy = a_policy()
    duty = Duty(name="p", policy=policy, mode=RunMode.AUTO, rhythm=rhythm_of(policy, 300))
    timetable.plan({"p": duty}, settings_without_file())
    timetable.start()
    try:
        (job,) = timetable._scheduler.get_jobs()
        job.modify(next_run_time=SystemClock().now() + timedelta(hours=5))

        timetable.mend_after_a_clock_jump()

        (job,) = timetable._scheduler.get_jobs()
        assert job.next_run_time < SystemClock().now() + timedelta(hours=1)
        assert [record.getMessage() for record in caplog.records] == ["clock_jumped"]
    finally:
        timetable.stop()


@contextmanager
def locked(world: World) -> Iterator[None]:
    """Somebody keeps the database to themselves."""
    path = Path(str(sa.make_url(world.url).database))
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.rollback()
        other.close()


def made(world: World) -> World:
    """With a database that is there already."""
    with Journal.open(world.url, VirtualClock(world.datacentre)):
        return world


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_FOR_WRITERS_MS", 20)


@pytest.mark.usefixtures("impatient")
def test_the_database_is_locked(make_world: MakeWorld) -> None:
    world = made(make_world(policy=a_policy()))

    with locked(world):
        verdict = verdict_of(world)

    assert verdict.startswith("blocked: journal sqlite:///")
    assert "another process keeps it locked" in verdict
    assert world.cycle().startswith("moved")


@pytest.mark.usefixtures("impatient")
def test_the_database_is_locked_in_the_middle_of_a_rollout(make_world: MakeWorld) -> None:
    looks: list[int] = []
    lock = ExitStack()

    def lock_it_after_a_while() -> StopRequest:
        looks.append(1)
        if len(looks) == 12:
            lock.enter_context(locked(world))
        return StopRequest.NO

    world = made(make_world(policy=a_policy(), should_stop=lock_it_after_a_while))
    verdict = world.cycle()
    begun = sum(m is not None for m in map(world.datacentre.migration_of, world.datacentre.guests))
    running = {vm: world.datacentre.record.running_on(vm) for vm in world.datacentre.guests}
    lock.close()
    later = world.cycle()

    assert verdict.startswith("blocked: journal sqlite:///")
    assert all(len(hosts) == 1 for hosts in running.values())
    assert begun + sum("h2" in hosts for hosts in running.values()) > 0, "what ran went on"
    assert not later.startswith(("blocked", "failed"))
    with Journal.open(world.url, VirtualClock(world.datacentre)) as journal:
        assert journal.unfinished("dc") == ()


def test_the_disk_is_full(make_world: MakeWorld) -> None:
    world = made(make_world(policy=a_policy()))
    engine = database._known(sa.make_url(world.url))

    def no_more_pages(connection: sqlite3.Connection, _: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(engine, "connect", no_more_pages)
    try:
        verdict = verdict_of(world)
    finally:
        event.remove(engine, "connect", no_more_pages)

    assert verdict.startswith("blocked: journal sqlite:///")
    assert "the disk is full: make room" in verdict
    assert world.cycle().startswith("moved")


def test_another_daemon_leads(make_world: MakeWorld) -> None:
    world = make_world(policy=a_policy())
    with Leaders.open(world.url, SystemClock()) as leaders:
        leaders.follow("dc", None, Owner(host="mgmt1", pid=12))
    leadership = Leadership(lambda: Leaders.open(world.url, SystemClock()), "dc")
    leadership.step()
    world.daemon._leadership = leadership

    verdict = verdict_of(world)
    leadership.stop()

    assert verdict.startswith("standing by: process 12 on mgmt1 leads since 20")
    assert str(world.daemon.notices.policies["test"].result) == "standing by"
