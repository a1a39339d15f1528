"""Switches over a simulated datacentre: its hosts really go off, and boot when they are woken."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.driver import Failed, Ticket
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
from rebalancer.simulation.datacentre import Datacentre


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerChange:
    """A host that went on or off."""

    at_seconds: float
    host: HostId
    is_on: bool


class SimulatedPower:
    """The port of switches and the census over a simulated datacentre.

    Hosts in `broken` refuse every command, as a BMC with the wrong password does. One with
    guests is never put off: that is the guard's to see to, and it is loud if it did not.
    """

    def __init__(self, datacentre: Datacentre, broken: Collection[str] = ()) -> None:
        """Switch the hosts of `datacentre`."""
        self._datacentre = datacentre
        self._replies: dict[Ticket, PowerReply] = {}
        self.broken = set(broken)
        self.told: list[PowerCommand] = []
        """Every command that was to change something."""
        self.changes: list[PowerChange] = []

    def issue(self, command: PowerCommand) -> Ticket:
        """Begin `command` and return at once; any failure comes as its reply."""
        ticket = Ticket(len(self._replies) + 1)
        self._replies[ticket] = self._carried_out(command)
        return ticket

    def poll(self, ticket: Ticket) -> PowerReply:
        """Tell what became of a command."""
        return self._replies[ticket]

    def census(self, host: HostId) -> Census | NoCensus:
        """Ask one host what it has."""
        if not self._datacentre.answers(host):
            return NoCensus(host=host, why="no route to host")
        domains = self._datacentre.hosts[host].domains.values()
        return Census(
            host=host,
            active=tuple(domain.vm for domain in domains if domain.process),
            busy=tuple(domain.vm for domain in domains if domain.job),
            autostart=tuple(domain.vm for domain in domains if domain.autostart),
        )

    def seconds_on(self, host: HostId) -> float:
        """Return how long a host has had power since the beginning."""
        return sum(end - begin for begin, end in self._spans_on(host))

    def _spans_on(self, host: HostId) -> Iterator[tuple[float, float]]:
        began: float | None = 0.0
        changes = [change for change in self.changes if change.host == host]
        if changes and changes[0].is_on:
            began = None  # it was off at the beginning
        elif not changes and not self._datacentre.hosts[host].powered:
            return
        for change in changes:
            if change.is_on:
                began = change.at_seconds
            elif began is not None:
                yield began, change.at_seconds
                began = None
        if began is not None:
            yield began, self._datacentre.seconds

    def _carried_out(self, command: PowerCommand) -> PowerReply:
        host = self._datacentre.hosts[command.host]
        if command.changes:
            self.told.append(command)
            if command.host in self.broken:
                return Failed(text="the BMC refused")
        match command:
            case ReadPower():
                pass
            case Wake():
                if not host.powered:
                    self._datacentre.wake(command.host)
                    self._note(command.host, is_on=True)
            case Sleep() | CutPower():
                if host.powered:
                    self._datacentre.put_to_sleep(command.host)
                    self._note(command.host, is_on=False)
        return PowerReturned(state=PowerState.ON if host.powered else PowerState.OFF)

    def _note(self, host: HostId, *, is_on: bool) -> None:
        at = self._datacentre.seconds
        self.changes.append(PowerChange(at_seconds=at, host=host, is_on=is_on))
