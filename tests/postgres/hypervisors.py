"""Simulated hypervisors in a process of their own, which controllers in others talk to.

They go on when a controller is killed, as hypervisors do. Time passes as fast as on the wall,
times `SPEED`.

    python -m tests.postgres.hypervisors SOCKET
"""

from __future__ import annotations

import sys
import threading
import time
from datetime import datetime
from multiprocessing.managers import BaseManager
from typing import cast

from rebalancer.cluster.inventory import Snapshot, VmState
from rebalancer.rollout.driver import Command, Reply, Ticket
from rebalancer.rollout.sightings import DomainView
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_source import SimulatedSource
from rebalancer.simulation.specification import (
    DatacentreSpec,
    GuestSpec,
    HostSpec,
    memory_use_of,
)
from rebalancer.simulation.traces import Constant
from tests.builders import GIB, NOON, a_host, a_vm
from tests.postgres import wire

SPEED = 4.0
KEY = b"a test's own"
GIGABIT = 125e6
_TICK_SECONDS = 0.05


def five_on_one_host() -> DatacentreSpec:
    """Two hosts, all load on one of them, and a network on which a VM takes its time."""
    hosts = [a_host(name, nic_bytes_per_second=GIGABIT) for name in ("h1", "h2")]
    vms = [a_vm(f"vm{n}", on="h1", vcpus=8, memory_bytes=4 * GIB) for n in range(5)]
    return DatacentreSpec(
        cluster="dc",
        start=NOON,
        hosts=tuple(HostSpec(host=host) for host in hosts),
        guests=tuple(
            GuestSpec(vm=vm, cpu=Constant(cores=3.0), memory=memory_use_of(vm)) for vm in vms
        ),
    )


class Hypervisors:
    """What can be asked of them; one question at a time is answered."""

    def __init__(self) -> None:
        self._world = Datacentre(five_on_one_host())
        self._source = SimulatedSource(self._world)
        self._drivers: dict[str, SimulatedDriver] = {}
        self._changes: list[str] = []
        self._asking = threading.Lock()
        threading.Thread(target=self._live, daemon=True).start()

    def observe(self) -> Snapshot:
        with self._asking:
            return self._source.observe()

    def now(self) -> datetime:
        with self._asking:
            return self._world.now

    def issue(self, client: str, command: Command) -> Ticket:
        with self._asking:
            driver = self._drivers.setdefault(client, SimulatedDriver(self._world))
            if command.changes:
                self._changes.append(client)
            return driver.issue(command)

    def poll(self, client: str, ticket: Ticket) -> Reply:
        with self._asking:
            return self._drivers[client].poll(ticket)

    def changes(self) -> list[str]:
        """Who issued the commands that change a host, one after the other."""
        with self._asking:
            return list(self._changes)

    def running(self) -> dict[str, list[str]]:
        """On which hosts each VM's CPUs run."""
        with self._asking:
            return {
                str(vm): [
                    str(host.id)
                    for host in self._world.hosts.values()
                    if isinstance(view := host.view(vm), DomainView)
                    and view.state is VmState.RUNNING
                ]
                for vm in self._world.guests
            }

    def _live(self) -> None:
        last, pause = time.monotonic(), threading.Event()
        while True:
            pause.wait(_TICK_SECONDS)
            now = time.monotonic()
            with self._asking:
                self._world.advance((now - last) * SPEED)
            last = now


class Switchboard(BaseManager):
    """Connects controllers with the one set of hypervisors."""


_METHODS = ["observe", "now", "issue", "poll", "changes", "running"]


def call(socket: str) -> Hypervisors:
    """Reach them from another process."""
    wire.let_nouns_travel()
    Switchboard.register("hypervisors", exposed=_METHODS)
    switchboard = Switchboard(address=socket, authkey=KEY)
    switchboard.connect()
    return cast("Hypervisors", switchboard.hypervisors())  # type: ignore[attr-defined]


def main() -> None:
    """Serve until killed."""
    wire.let_nouns_travel()
    one = Hypervisors()
    Switchboard.register("hypervisors", callable=lambda: one, exposed=_METHODS)
    Switchboard(address=sys.argv[1], authkey=KEY).get_server().serve_forever()


if __name__ == "__main__":
    main()
