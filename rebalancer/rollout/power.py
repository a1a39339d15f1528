"""The port through which hosts are switched on and off, and everything said through it.

Like the driver of hypervisors: every operation is a value that can be written down before it is
issued, no call blocks, and no error is raised: it is a `Failed` reply, which by itself says
nothing about whether the host is on. Only looking does: at the power, and at libvirt.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Protocol

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.background import in_background
from rebalancer.rollout.driver import Clock, Failed, Pending, Ticket


class PowerState(StrEnum):
    """Whether a machine has power, as whatever switches it tells."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"
    """Nobody could tell, or it is on its way from one to the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPower:
    """Ask whether a host has power."""

    changes: ClassVar[bool] = False
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """Switch a host on. The reply means that it was told, not that it runs."""

    changes: ClassVar[bool] = True
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """Ask a host's system to shut down. The reply means that it was asked, not that it is off."""

    changes: ClassVar[bool] = True
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPower:
    """Take the power of a host that does not shut down: only where the operator allows it."""

    changes: ClassVar[bool] = True
    host: HostId


type PowerCommand = ReadPower | Wake | Sleep | CutPower


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerReturned:
    """The call returned. Only `ReadPower` carries a state."""

    state: PowerState | None = None


type PowerReply = Pending | PowerReturned | Failed


class PowerDriver(Protocol):
    """Switches hosts. One process at a time uses it, from one thread."""

    def issue(self, command: PowerCommand) -> Ticket:
        """Begin `command` and return at once; any failure comes as its reply."""
        ...

    def poll(self, ticket: Ticket) -> PowerReply:
        """Tell what became of a command; after `PowerReturned` or `Failed` the ticket is spent."""
        ...


class PowerSwitchError(Exception):
    """What switches a host did not do as it was told, or was not reached; says why."""


class PowerSwitch(Protocol):
    """What switches one host. Its calls may take their time, and raise `PowerSwitchError`."""

    def state(self) -> PowerState:
        """Whether the host has power."""
        ...

    def wake(self) -> None:
        """Switch it on; nothing happens when it is on."""
        ...

    def sleep(self) -> None:
        """Ask its system to shut down."""
        ...

    def cut(self) -> None:
        """Take its power."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    future: Future[PowerState | None]
    command: PowerCommand
    since: datetime


class SwitchedPower:
    """The driver over one switch for each host; each call has a thread that nobody waits for."""

    def __init__(
        self, switches: Mapping[HostId, PowerSwitch], clock: Clock, call_seconds: float
    ) -> None:
        """Take the switches, and for how long a call may take before it is given up."""
        self._switches = switches
        self._clock = clock
        self._call_seconds = call_seconds
        self._calls: dict[Ticket, _Call] = {}
        self._issued = 0

    def issue(self, command: PowerCommand) -> Ticket:
        """Begin `command` and return at once; any failure comes as its reply."""
        self._issued += 1
        ticket = Ticket(self._issued)
        name = f"{type(command).__name__} {command.host}"
        self._calls[ticket] = _Call(
            future=in_background(name, lambda: self._carry_out(command)),
            command=command,
            since=self._clock.now(),
        )
        return ticket

    def poll(self, ticket: Ticket) -> PowerReply:
        """Tell what became of a command; after `PowerReturned` or `Failed` the ticket is spent."""
        call = self._calls[ticket]
        if not call.future.done():
            waited = (self._clock.now() - call.since).total_seconds()
            if waited < self._call_seconds:
                return Pending()
            del self._calls[ticket]
            return Failed(text=f"no answer in {waited:.0f} s", timed_out=True)
        del self._calls[ticket]
        error = call.future.exception()
        if isinstance(error, PowerSwitchError):
            return Failed(text=str(error))
        if error is not None:
            raise error  # a bug, so let it be loud
        return PowerReturned(state=call.future.result())

    def _carry_out(self, command: PowerCommand) -> PowerState | None:
        switch = self._switches.get(command.host)
        if switch is None:
            raise PowerSwitchError(
                f"the settings do not say how {command.host} is switched: give it `power`"
            )
        match command:
            case ReadPower():
                return switch.state()
            case Wake():
                switch.wake()
            case Sleep():
                switch.sleep()
            case CutPower():
                switch.cut()
        return None


class PowerGauge:
    """The part of switches that only looks: for reports and dry runs."""

    def __init__(self, switches: Mapping[HostId, PowerSwitch]) -> None:
        """Take the switches."""
        self._switches = switches

    def state(self, host: HostId) -> tuple[PowerState, str]:
        """Whether a host has power, and if nobody knows, why. Waits for the answer."""
        switch = self._switches.get(host)
        if switch is None:
            return PowerState.UNKNOWN, "the settings do not say how it is switched"
        try:
            return switch.state(), ""
        except PowerSwitchError as error:
            return PowerState.UNKNOWN, str(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What one host's libvirt said of its domains just now; names are for people."""

    host: HostId
    active: tuple[str, ...] = ()
    """Those with a process: running, paused, or coming in."""
    busy: tuple[str, ...] = ()
    """Those that a job runs on: a migration, a save, a backup."""
    autostart: tuple[str, ...] = ()
    """Those that the host starts when it boots."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be lost with the host's power."""
        return not self.active and not self.busy


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCensus:
    """The host did not answer. It may well run VMs."""

    host: HostId
    why: str


class CensusTaker(Protocol):
    """Asks one host's libvirt, anew each time, what is there."""

    def __call__(self, host: HostId, /) -> Census | NoCensus:
        """Ask; return within a bounded time, and raise nothing."""
        ...
