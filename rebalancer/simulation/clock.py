"""Time of a simulation, as rollouts know it."""

from __future__ import annotations

from datetime import datetime

from rebalancer.simulation.datacentre import Datacentre


class VirtualClock:
    """A clock whose sleep lets the datacentre's time pass, and takes none itself."""

    def __init__(self, datacentre: Datacentre) -> None:
        """Tell the datacentre's time."""
        self._datacentre = datacentre

    def now(self) -> datetime:
        """Return the present instant of virtual time, aware, UTC."""
        return self._datacentre.now

    def sleep(self, seconds: float) -> None:
        """Let that much virtual time pass."""
        self._datacentre.advance(seconds)
