"""Machines that are switched: what a BMC and libvirt would say of them, on a clock of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.driver import Failed, Ticket
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.power import (
    Census,
    CutPower,
    NoCensus,
    PowerCommand,
    PowerReply,
    PowerReturned,
    PowerState,
    ReadPower,
    Sleep,
    Wake,
)
from rebalancer.rollout.power_executor import PowerTools
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.power_steps import PowerTimes
from tests.builders import NOON


class Crash(BaseException):
    """The process dies here, with whatever was written and done so far."""


class MachineClock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self._now = NOON

    def now(self) -> datetime:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


@dataclass
class Machine:
    """One machine. What it is told takes a while, and some do not do as they are told."""

    is_on: bool = True
    boots: bool = True
    shuts_down: bool = True
    takes_commands: bool = True
    tells_power: bool = True
    guests: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    autostart: list[str] = field(default_factory=list)
    libvirt_hangs: bool = False
    wakes_at: datetime | None = None
    sleeps_at: datetime | None = None
    lost: list[str] = field(default_factory=list)
    """Guests that were running when the power went."""

    def pass_time(self, now: datetime) -> None:
        if self.wakes_at is not None and now >= self.wakes_at:
            self.is_on, self.wakes_at = True, None
        if self.sleeps_at is not None and now >= self.sleeps_at:
            self.lose_power()

    def lose_power(self) -> None:
        self.lost += self.guests
        self.is_on, self.sleeps_at = False, None


BOOT_SECONDS, SHUTDOWN_SECONDS = 120.0, 60.0


class Machines:
    """All machines: a `PowerDriver` and a `CensusTaker` in one."""

    def __init__(self, clock: MachineClock, **machines: Machine) -> None:
        self.clock = clock
        self.machines = {HostId(name): machine for name, machine in machines.items()}
        self.told: list[PowerCommand] = []
        self.before_each: Callable[[str], None] = lambda _: None
        self._replies: dict[Ticket, PowerReply] = {}

    def __getitem__(self, name: str) -> Machine:
        machine = self.machines[HostId(name)]
        machine.pass_time(self.clock.now())
        return machine

    def issue(self, command: PowerCommand) -> Ticket:
        if command.changes:
            self.before_each(f"issue {type(command).__name__}")
            self.told.append(command)
        ticket = Ticket(len(self._replies) + 1)
        self._replies[ticket] = self._carried_out(command)
        if command.changes:
            self.before_each(f"after {type(command).__name__}")
        return ticket

    def poll(self, ticket: Ticket) -> PowerReply:
        return self._replies[ticket]

    def _carried_out(self, command: PowerCommand) -> PowerReply:
        machine, now = self[command.host], self.clock.now()
        if isinstance(command, ReadPower):
            if not machine.tells_power:
                return Failed(text="the BMC does not answer")
            return PowerReturned(state=PowerState.ON if machine.is_on else PowerState.OFF)
        if not machine.takes_commands:
            return Failed(text="the BMC refused")
        match command:
            case Wake() if not machine.is_on and machine.boots:
                machine.wakes_at = now + timedelta(seconds=BOOT_SECONDS)
            case Sleep() if machine.is_on and machine.shuts_down:
                machine.sleeps_at = now + timedelta(seconds=SHUTDOWN_SECONDS)
            case CutPower():
                machine.lose_power()
        return PowerReturned()

    def census(self, host: HostId) -> Census | NoCensus:
        machine = self[host]
        if not machine.is_on or machine.libvirt_hangs:
            return NoCensus(host=host, why="no route to host")
        return Census(
            host=host,
            active=tuple(machine.guests),
            busy=tuple(machine.busy),
            autostart=tuple(machine.autostart),
        )


class CrashingJournal(PowerJournal):
    """A journal before each write of which the process may die."""

    before_each: Callable[[str], None] = staticmethod(lambda _: None)

    def keep(self, *args: object, **named: object) -> None:
        self.before_each("write")
        super().keep(*args, **named)  # type: ignore[arg-type]
        self.before_each("written")


TIMES = PowerTimes(boot_seconds=300.0, shutdown_seconds=300.0, tick_seconds=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Everything that switching needs, on one clock."""

    machines: Machines
    journal: CrashingJournal
    locks: Journal
    lease: Lease
    clock: MachineClock

    def tools(self, *, cuts_power: bool = False) -> PowerTools:
        return PowerTools(
            driver=self.machines,
            census=self.machines.census,
            journal=self.journal,
            lease=self.lease,
            clock=self.clock,
            times=TIMES,
            cuts_power=cuts_power,
        )

    def phase(self, host: str) -> str:
        mark = self.journal.marks("test").get(HostId(host))
        return mark.phase.value if mark is not None else "awake"


@contextmanager
def a_room(folder: Path, **machines: Machine) -> Iterator[Room]:
    """A journal in a folder, and machines; whoever comes again finds what was written."""
    clock = MachineClock()
    url = f"sqlite:///{folder / 'journal.db'}"
    with (
        Journal.open(url, clock) as locks,
        locks.hold("test") as lease,
        CrashingJournal.open(url, clock) as journal,
    ):
        yield Room(
            machines=Machines(clock, **machines),
            journal=journal,
            locks=locks,
            lease=lease,
            clock=clock,
        )
