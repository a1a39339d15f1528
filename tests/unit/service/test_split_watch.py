"""Between cycles: a VM that runs twice is noticed within one look of its host's return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rebalancer.cluster.inventory import HostId, VmState
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.executor import execute
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.records import RecordKind
from rebalancer.rollout.sightings import DomainView
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.access import ReadAccess
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.config import RunMode, load_settings
from rebalancer.service.duty import Reach, duty_of
from rebalancer.service.session import Session
from rebalancer.service.split_watch import EVERY_SECONDS, Means, SplitWatch
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind, Stage
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_source import SimulatedSource
from tests.builders import a_host, a_policy, a_snapshot, a_vm
from tests.unit.rollout.plans import a_migration, a_plan

H1, H2 = HostId("h1"), HostId("h2")
VM = a_vm("vm1", persistent=True)
SPLIT = Fault(kind=FaultKind.SPLIT_BRAIN, vm=VM.id)
SILENT_SECONDS = 1000.0
"""Longer than a rollout waits."""
SILENT = Fault(
    kind=FaultKind.HOST_UNREACHABLE,
    vm=VM.id,
    host=H2,
    stage=Stage.FINISH,
    duration_seconds=SILENT_SECONDS,
)


class World:
    """A cluster in which a rollout gave up on a VM, and a watch over it."""

    def __init__(self, folder: Path, *faults: Fault, mode: RunMode = RunMode.RECOMMEND) -> None:
        snapshot = a_snapshot([a_host("h1"), a_host("h2"), a_host("h3")], [VM])
        self.datacentre = Datacentre.of(snapshot, faults=faults)
        self.clock = VirtualClock(self.datacentre)
        self.url = f"sqlite:///{folder / 'journal.db'}"
        settings = load_settings(
            flags={"cluster": "test", "journal": self.url, "mode": mode},
            system_config=Path("/nonexistent"),
        )
        session = Session(settings=settings, out=Console(), err=Console(stderr=True))
        self.opened = 0
        self.stands_by = False
        reach = Reach(
            for_reading=self.read,
            for_change=self.change,
            on_event=lambda _: None,
            should_stop=lambda: StopRequest.NO,
        )
        means = Means(session=session, duty=duty_of(settings, a_policy()), reach=reach)
        self.watch = SplitWatch(lambda: None if self.stands_by else means)
        with self.journal() as journal:
            result = execute(
                a_plan(a_migration()),
                driver=SimulatedDriver(self.datacentre),
                clock=self.clock,
                journal=journal,
                snapshot=snapshot,
            )
        self.outcome = result.outcomes[0]

    def journal(self) -> Journal:
        return Journal.open(self.url, self.clock)

    def read(self) -> ReadAccess:
        return ReadAccess(
            cluster="test",
            host_names=("h1", "h2", "h3"),
            source=SimulatedSource(self.datacentre),
            clock=self.clock,
            uris={},
        )

    def change(self) -> ChangeAccess:
        self.opened += 1
        return ChangeAccess(read=self.read(), driver=SimulatedDriver(self.datacentre))

    def running(self) -> tuple[HostId, ...]:
        return self.datacentre.record.running_on(VM.id)

    def issued(self) -> list[str]:
        with self.journal() as journal:
            return [
                record.payload["command"]["do"]
                for record in journal.records(1)
                if record.kind is RecordKind.INTENT
            ]

    def look_until_h2_is_back(self) -> None:
        while not self.datacentre.answers(H2):
            assert self.watch.look() == ()
            self.datacentre.advance(EVERY_SECONDS)


@pytest.mark.parametrize("mode", list(RunMode))
def test_the_first_look_after_the_hosts_return_pauses_the_older_copy(
    tmp_path: Path, mode: RunMode
) -> None:
    world = World(tmp_path, SPLIT, SILENT, mode=mode)
    assert world.outcome.state is MigrationState.UNKNOWN
    assert world.running() == (H1, H2)

    world.look_until_h2_is_back()
    assert world.running() == (H1, H2)
    (said,) = world.watch.look()

    assert world.running() == (H2,)
    assert "both copies ran" in said
    here = world.datacentre.hosts[H1].view(VM.id)
    assert isinstance(here, DomainView)
    assert here.state is VmState.PAUSED
    assert world.issued() == ["Migrate", "Pause"]


def test_what_stands_still_only_waits_for_an_operator(tmp_path: Path) -> None:
    world = World(tmp_path, SPLIT, SILENT)
    world.look_until_h2_is_back()
    world.watch.look()

    assert world.watch.look() == ()
    assert world.issued() == ["Migrate", "Pause"]


def test_connections_are_kept_while_a_host_is_silent(tmp_path: Path) -> None:
    world = World(tmp_path, SPLIT, SILENT)

    world.look_until_h2_is_back()

    assert world.opened == 1


def test_without_a_doubtful_migration_no_host_is_asked(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.outcome.state is MigrationState.COMPLETE

    assert world.watch.look() == ()

    assert world.opened == 0


def test_nobody_is_asked_while_somebody_carries_the_rollout_on(tmp_path: Path) -> None:
    world = World(tmp_path, SPLIT, SILENT)

    with world.journal() as journal, journal.hold("test"):
        assert world.watch.look() == ()

    assert world.opened == 0


def test_a_daemon_that_stands_by_asks_nobody(tmp_path: Path) -> None:
    world = World(tmp_path, SPLIT, SILENT)
    world.stands_by = True

    assert world.watch.look() == ()

    assert world.opened == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"state": VmState.RUNNING, "reason": "user"},
        {"state": VmState.PAUSED, "reason": "user"},
    ],
)
def test_what_somebody_decided_meanwhile_is_left_alone(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    world = World(tmp_path, SPLIT, SILENT)
    world.datacentre.hosts[H1].set_state(VM.id, **changed)

    world.look_until_h2_is_back()

    assert world.watch.look() == ()
    assert world.issued() == ["Migrate"]
