"""The driver port over a simulated datacentre."""

from __future__ import annotations

from rebalancer.rollout.driver import (
    Command,
    Failed,
    Migrate,
    Pending,
    Reply,
    Restore,
    Save,
    Ticket,
)
from rebalancer.simulation.calls import Call
from rebalancer.simulation.datacentre import Datacentre

CALL_TIMEOUT_SECONDS = 30.0
"""Calls other than a migration are given up after this long, as the real driver does."""
IMAGE_TIMEOUT_SECONDS = 600.0
"""... and those that write or read a guest's memory."""


class SimulatedDriver:
    """Issues commands to simulated hypervisors. Several may share one datacentre."""

    def __init__(
        self, datacentre: Datacentre, call_timeout_seconds: float = CALL_TIMEOUT_SECONDS
    ) -> None:
        """Talk to the hosts of `datacentre`."""
        self._datacentre = datacentre
        self._call_timeout_seconds = call_timeout_seconds
        self._calls: dict[Ticket, Call] = {}
        self._issued = 0

    def issue(self, command: Command) -> Ticket:
        """Begin `command` and return at once; any failure comes as its reply."""
        self._issued += 1
        ticket = Ticket(self._issued)
        self._calls[ticket] = self._datacentre.ask(command)
        return ticket

    def poll(self, ticket: Ticket) -> Reply:
        """Tell what became of a command; after `Returned` or `Failed` the ticket is spent."""
        if ticket not in self._calls:
            raise ValueError(f"ticket {ticket} is spent or was never issued")
        call = self._calls[ticket]
        reply = self._timed_out(call) if isinstance(call.reply, Pending) else call.reply
        if not isinstance(reply, Pending):
            del self._calls[ticket]
        return reply

    def close(self) -> None:
        """Let go of the hosts; migrations go on without anybody waiting for them."""
        self._calls.clear()

    def _timed_out(self, call: Call) -> Reply:
        waited = self._datacentre.seconds - call.issued_at
        is_long = isinstance(call.command, Save | Restore)
        limit = IMAGE_TIMEOUT_SECONDS if is_long else self._call_timeout_seconds
        if isinstance(call.command, Migrate) or waited < limit:
            return Pending()
        name = type(call.command).__name__
        return Failed(text=f"{name} got no answer within {waited:.0f} s", timed_out=True)
