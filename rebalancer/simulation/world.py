"""What everything that happens in a simulated datacentre may know and do of it.

`datacentre` is it. Hypervisors, migrations and faults see this much of it, so that none of them
has to know the module that puts all of them together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.rollout.driver import Command
from rebalancer.rollout.sightings import TransferProgress
from rebalancer.simulation.calls import Call
from rebalancer.simulation.faults import Fault, FaultScript, Stage
from rebalancer.simulation.hosts import SimulatedHost
from rebalancer.simulation.network import Carrier
from rebalancer.simulation.record import Record
from rebalancer.simulation.specification import GuestSpec, Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """A file with a guest's memory."""

    vm: VmId
    at_seconds: float
    """When the guest was stopped for it."""


class World[M](Protocol):
    """A datacentre, and the time that passes in it; `M` is a migration under way.

    `Datacentre` says of everything in here how it comes about.
    """

    timings: Timings
    seconds: float
    record: Record
    guests: dict[VmId, GuestSpec]
    hosts: dict[HostId, SimulatedHost]
    migrations: list[M]
    results: dict[tuple[HostId, VmId], TransferProgress]
    images: dict[tuple[str, str], SavedImage]
    disk_files: set[tuple[HostId, str]]
    made_files: dict[tuple[HostId, str], int]
    faults: FaultScript
    paces: dict[VmId, float]

    @property
    def now(self) -> datetime:
        """The present instant of virtual time."""

    # Time and calls

    def schedule(self, delay_seconds: float, action: Callable[[], None]) -> None:
        """Let `action` happen after a while."""

    def ask(self, command: Command) -> Call:
        """Issue a call to the hypervisor that `command` is about."""

    def pending_calls(self, host: HostId) -> tuple[Call, ...]:
        """Calls to a host that wait for their answer."""

    # Migrations

    def begin_migration(self, migration: M) -> None:
        """Know a migration whose target is being set up."""

    def forget(self, migration: M) -> None:
        """Know an ended migration no more."""

    def migration_of(self, vm: VmId) -> M | None:
        """The VM's migration, if one is under way."""

    def rng_for(self, vm: VmId) -> np.random.Generator:
        """Random numbers for this attempt at moving the VM."""

    # Faults

    def strike(self, stage: Stage, migration: M) -> None:
        """Let faults strike that waited for `migration` to reach `stage`."""

    def let_strike(self, fault: Fault, migration: M | None) -> None:
        """Let a fault happen whose time has come, or that long after."""

    # The network

    def rates_changed(self) -> None:
        """Share the network anew."""

    def path(self, source: HostId, target: HostId) -> tuple[Carrier, ...]:
        """What bytes from one host to another pass."""

    def set_working_share(self, carriers: tuple[Carrier, ...], share: float) -> None:
        """Let NICs or links carry only a share of what they should; 0 cuts them."""

    def carriers_of(self, host: HostId | None, link: str | None) -> tuple[Carrier, ...]:
        """Both directions of a host's NIC or of a link."""

    def is_cut(self, source: HostId, target: HostId) -> bool:
        """Whether nothing gets from one host to the other, or back."""

    # Hosts

    def answers(self, host: HostId) -> bool:
        """Whether the controller gets an answer from the host."""

    def fits(self, host: SimulatedHost, memory_bytes: int) -> bool:
        """Whether the host has memory for one more guest."""

    def is_locked(self, vm: VmId) -> bool:
        """Whether a running copy holds the lock on the VM's shared disk."""
