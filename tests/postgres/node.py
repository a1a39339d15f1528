"""A management node: the daemon, on simulated hypervisors that another process runs.

    python -m tests.postgres.node NAME JOURNAL HYPERVISORS API

It takes itself for a machine called NAME, so that nobody can tell by the kernel whether it lives.
"""

from __future__ import annotations

import socket
import sys
import threading
from datetime import datetime
from pathlib import Path

from rich.console import Console

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.policy import Policy, Trigger
from rebalancer.rollout.driver import Command, Reply, Ticket
from rebalancer.service.access import ReadAccess
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.config import RunMode, Settings, load_settings
from rebalancer.service.daemon import Daemon
from rebalancer.service.duty import Reach, duty_of
from rebalancer.service.logs import set_up_logs
from rebalancer.service.notify import Notifier
from rebalancer.service.session import Session
from rebalancer.service.setup import Setup
from tests.builders import a_policy
from tests.postgres.hypervisors import SPEED, Hypervisors, call


class Remote:
    """Source, driver and clock: all of it asks the hypervisors."""

    def __init__(self, hypervisors: Hypervisors, name: str) -> None:
        self._hypervisors = hypervisors
        self._name = name

    def observe(self) -> Snapshot:
        return self._hypervisors.observe()

    def issue(self, command: Command) -> Ticket:
        return self._hypervisors.issue(self._name, command)

    def poll(self, ticket: Ticket) -> Reply:
        return self._hypervisors.poll(self._name, ticket)

    def close(self) -> None:
        return

    def now(self) -> datetime:
        return self._hypervisors.now()

    def sleep(self, seconds: float) -> None:
        threading.Event().wait(seconds / SPEED)


def main() -> int:
    """Run until killed."""
    name, journal, hypervisors, api = sys.argv[1:]
    socket.gethostname = lambda: name
    settings = load_settings(
        flags={
            "cluster": "dc",
            "journal": journal,
            "mode": RunMode.AUTO,
            "api.socket": api,
            "placement.time_limit_seconds": 1.0,
            "placement.executor": "serial",
            "daemon.interval_seconds": 5.0,
        },
        system_config=Path("/nonexistent"),
    )
    remote = Remote(call(hypervisors), name)
    session = Session(settings=settings, out=Console(), err=Console(stderr=True))
    policy: Policy = a_policy(trigger=Trigger(for_cycles=1))
    setup = Setup(session=session, duties={"test": duty_of(settings, policy)})
    read = ReadAccess(cluster="dc", host_names=("h1", "h2"), source=remote, clock=remote, uris={})

    def reach(_: Settings) -> Reach:
        return Reach(
            for_reading=lambda: read,
            for_change=lambda: ChangeAccess(read=read, driver=remote),
            on_event=daemon.on_event,
            should_stop=daemon.should_stop,
        )

    set_up_logs(settings.daemon.log)
    daemon = Daemon(lambda: setup, setup, Notifier({}), reach)
    return daemon.serve(None)


if __name__ == "__main__":
    sys.exit(main())
