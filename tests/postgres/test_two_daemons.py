"""Two daemons on one PostgreSQL: the leader is killed in mid plan, and the other ends the plan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.leaders import Leaders
from rebalancer.rollout.records import MigrationRow, RolloutStatus
from rebalancer.service.clock import SystemClock
from tests.lab.deadline import DeadlineError, wait_until
from tests.postgres.hypervisors import Hypervisors, call
from tests.postgres.server import Server

PATIENCE_SECONDS = 180.0
TAKEN_OVER_WITHIN = timedelta(seconds=15)
"""What is promised. It is measured on the wall because that is what it is about; nine seconds of
it are silence that has to be heard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One daemon."""

    name: str
    process: subprocess.Popen[bytes]
    socket: Path
    log: Path

    def ask(self, path: str) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=str(self.socket))
        with httpx.Client(transport=transport, base_url="http://x", timeout=30) as client:
            return client.get(path)

    def status(self) -> dict[str, Any]:
        if not self.socket.exists():
            return {"role": "starting"}
        answered: dict[str, Any] = self.ask("/v1/status").json()
        return answered

    def until(self, what: Callable[[], bool], named: str) -> None:
        def is_so() -> bool:
            assert self.process.poll() is None, f"{self.name} has ended"
            return what()

        try:
            wait_until(is_so, within_seconds=PATIENCE_SECONDS, what=named)
        except DeadlineError as error:
            raise AssertionError(f"{error}:\n{self.log.read_text()}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Hypervisors, a database, and two daemons that want to work."""

    url: str
    server: Server
    hypervisors: Hypervisors
    leader: Node
    standby: Node

    def migrations(self) -> tuple[MigrationRow, ...]:
        with Journal.open(self.url, SystemClock()) as journal:
            rows = journal.rollouts("dc")
            return tuple(m for row in rows for m in journal.migrations(row.id))

    def is_transferring(self) -> bool:
        return any(row.state is MigrationState.TRANSFER for row in self.migrations())


@pytest.fixture
def site(postgres: Server) -> Iterator[Site]:
    url = postgres.new_database()
    with ExitStack() as ends, tempfile.TemporaryDirectory(prefix="nodes-") as made:
        folder = Path(made)

        def start(name: str, *arguments: object) -> subprocess.Popen[bytes]:
            with (folder / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", *map(str, arguments)],
                    stdout=log,
                    stderr=log,
                    cwd=Path(__file__).parents[2],
                    env=os.environ | {"PYTHONUNBUFFERED": "1"},
                )
            ends.callback(_end, process)
            return process

        address = str(folder / "hypervisors")
        start("hypervisors", "tests.postgres.hypervisors", address)
        wait_until(Path(address).exists, within_seconds=PATIENCE_SECONDS, what="hypervisors")

        def node(name: str) -> Node:
            api = folder / f"{name}.sock"
            process = start(name, "tests.postgres.node", name, url, address, api)
            return Node(name=name, process=process, socket=api, log=folder / f"{name}.log")

        leader = node("mgmt1")
        leader.until(lambda: leader.status()["role"] == "leads", "a leader")
        standby = node("mgmt2")
        standby.until(lambda: standby.status()["role"] == "stands by", "a standby")
        yield Site(
            url=url,
            server=postgres,
            hypervisors=call(address),
            leader=leader,
            standby=standby,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_the_other_one_takes_over_when_the_leader_is_killed_and_ends_the_plan(site: Site) -> None:
    leader, standby = site.leader, site.standby
    leader.until(site.is_transferring, "a transfer")
    assert standby.status()["leader"].startswith("standing by: process")
    assert "on mgmt1 leads since" in standby.status()["leader"]
    assert "\nrebalancer_leader 0.0\n" in standby.ask("/metrics").text
    begun = [row.migration.id for row in site.migrations() if row.state is MigrationState.TRANSFER]

    killed_at = SystemClock().now()
    os.kill(leader.process.pid, signal.SIGKILL)
    leader.process.wait()

    standby.until(lambda: standby.status()["role"] == "leads", "another leader")
    with Leaders.open(site.url, SystemClock()) as leaders:
        now_leading = leaders.of("dc")
    assert now_leading is not None
    assert now_leading.owner.host == "mgmt2"
    assert now_leading.since - killed_at <= TAKEN_OVER_WITHIN

    def is_ended() -> bool:
        with Journal.open(site.url, SystemClock()) as journal:
            return journal.rollouts("dc")[-1].status is RolloutStatus.RECOVERED

    standby.until(is_ended, "the end of the first plan")
    with Journal.open(site.url, SystemClock()) as journal:
        first = journal.rollouts("dc")[-1]
        ended = {row.migration.id: row.state for row in journal.migrations(first.id)}
    assert {ended[name] for name in begun} == {MigrationState.COMPLETE}, "adopted, not repeated"
    assert all(len(hosts) == 1 for hosts in site.hypervisors.running().values())
    assert "Traceback" not in standby.log.read_text()
    assert "\nrebalancer_leader 1.0\n" in standby.ask("/metrics").text


def test_a_leader_that_was_suspended_comes_back_and_does_nothing_more(site: Site) -> None:
    leader, standby = site.leader, site.standby
    leader.until(site.is_transferring, "a transfer")

    os.kill(leader.process.pid, signal.SIGSTOP)
    standby.until(lambda: standby.status()["role"] == "leads", "another leader")
    standby.until(lambda: not site.is_transferring(), "the end of what was under way")
    before = site.hypervisors.changes().count("mgmt1")
    os.kill(leader.process.pid, signal.SIGCONT)

    leader.until(lambda: leader.status()["role"] == "stands by", "its coming back")
    log = leader.log.read_text
    leader.until(lambda: "so it stops" in log() or "standing by: process" in log(), "its word")
    assert site.hypervisors.changes().count("mgmt1") == before
    assert all(len(hosts) == 1 for hosts in site.hypervisors.running().values())
    assert "Traceback" not in log()


def test_a_database_that_goes_away_in_the_middle_stops_nothing_that_runs(site: Site) -> None:
    leader = site.leader
    leader.until(site.is_transferring, "a transfer")

    site.server.stop()
    try:
        leader.until(lambda: "cannot be reached" in leader.log.read_text(), "a line about it")
        lines = leader.log.read_text().splitlines()
        assert not any("Traceback" in line for line in lines)
        assert leader.process.poll() is None
    finally:
        site.server.start()

    def is_settled() -> bool:
        with Journal.open(site.url, SystemClock()) as journal:
            oldest = journal.rollouts("dc")[-1]
            return oldest.status is not RolloutStatus.RUNNING

    leader.until(is_settled, "somebody who looks after what was under way")
    assert all(len(hosts) == 1 for hosts in site.hypervisors.running().values())
    roles = sorted(str(node.status()["role"]) for node in (site.leader, site.standby))
    assert roles == ["leads", "stands by"]
