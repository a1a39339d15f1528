"""A controller that dies at a chosen moment, and the one that takes its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import Plan
from rebalancer.rollout.driver import Command, Reply, Ticket
from rebalancer.rollout.executor import RolloutResult, Settings, execute, recover
from rebalancer.rollout.hooks import NO_HOOKS, Hooks
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Lease, Owner, this_process
from rebalancer.rollout.records import Entry
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.simulated_driver import SimulatedDriver

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where journals of tests go: on a disk, waiting for it would take most of the time."""


class KilledError(BaseException):
    """kill -9: nothing that the program could catch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """When a controller dies; `None` in all: never."""

    before_record: int | None = None
    after_record: int | None = None
    after_command: int | None = None
    """The command reached its hypervisor, nobody waits for its reply."""


class MortalJournal(Journal):
    """Dies before or after its n-th commit."""

    death = Death()
    written = 0

    def write(self, rollout: int, entries: Sequence[Entry], lease: Lease) -> None:
        if not entries:
            return
        self.written += 1
        if self.written == self.death.before_record:
            raise KilledError
        super().write(rollout, entries, lease)
        if self.written == self.death.after_record:
            raise KilledError


class MortalDriver(SimulatedDriver):
    """Dies just after its n-th command that changes anything."""

    death = Death()
    changes = 0

    def issue(self, command: Command) -> Ticket:
        ticket = super().issue(command)
        self.changes += command.changes
        if command.changes and self.changes == self.death.after_command:
            raise KilledError
        return ticket

    def poll(self, ticket: Ticket) -> Reply:
        return super().poll(ticket)


_NUMBERS = count(1)


def a_dead_owner() -> Owner:
    """A process of an earlier boot of this machine."""
    return Owner(host=this_process().host, pid=next(_NUMBERS), boot="an earlier boot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What came of a rollout whose controller may have died."""

    died: bool
    first: RolloutResult | None
    recovered: tuple[RolloutResult, ...]
    records: int
    commands: int


def live_through(
    plan: Plan,
    snapshot: Snapshot,
    datacentre: Datacentre,
    folder: Path,
    death: Death,
    settings: Settings | None = None,
    dead_for_seconds: float = 0.0,
    observe: Callable[[], Snapshot] | None = None,
    hooks: Hooks = NO_HOOKS,
    hooks_of_successor: Hooks = NO_HOOKS,
) -> Story:
    """Apply `plan`; when the controller dies, let another one recover."""
    clock = VirtualClock(datacentre)
    url = f"sqlite:///{folder}/journal.db"
    first, died = None, False
    with MortalJournal.open(url, clock) as journal:
        journal.death = death
        driver = MortalDriver(datacentre)
        driver.death = death
        try:
            first = execute(
                plan,
                driver=driver,
                clock=clock,
                journal=journal,
                snapshot=observe or snapshot,
                settings=settings,
                lease=journal.acquire(plan.cluster, owner=a_dead_owner()),
                hooks=hooks,
            )
        except KilledError:
            died = True
        driver.close()
        records, commands = journal.written, driver.changes
    clock.sleep(dead_for_seconds)
    with Journal.open(url, clock) as journal:
        recovered = recover(
            cluster=plan.cluster,
            driver=SimulatedDriver(datacentre),
            clock=clock,
            journal=journal,
            snapshot=observe or snapshot,
            settings=settings,
            hooks=hooks_of_successor,
        )
    return Story(died=died, first=first, recovered=recovered, records=records, commands=commands)
