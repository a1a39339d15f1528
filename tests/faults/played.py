"""What is known of a run when it is over, from outside the program that is judged."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from rebalancer.cluster.inventory import VmId
from rebalancer.rollout.driver import Command
from rebalancer.rollout.records import Entry, MigrationRow, RolloutRow
from rebalancer.rollout.sightings import Sighting
from rebalancer.simulation.datacentre import Datacentre
from tests.faults.scripts import Script


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A command that changes something, on its way to a hypervisor."""

    at_seconds: float
    command: Command
    is_written: bool
    """Its intent stood in the journal already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A line of the journal, with the true time."""

    at_seconds: float
    entry: Entry


@dataclass(slots=True, kw_only=True, eq=False)
class Played:
    """Everything that is known of a run."""

    script: Script
    world: Datacentre
    written: list[Written] = field(default_factory=list)
    issued: list[Issued] = field(default_factory=list)
    looks: dict[VmId, tuple[float, Sighting]] = field(default_factory=dict)
    careless: list[str] = field(default_factory=list)
    """Commands that the last look did not justify."""
    unproved: list[str] = field(default_factory=list)
    """Copies that were to be ended without everything that this takes."""
    aborted_too_late: list[VmId] = field(default_factory=list)
    seeable_seconds: dict[VmId, float] = field(default_factory=lambda: defaultdict(float))
    """For how long two copies ran while a living controller could have asked both hosts."""
    stopped_at: float | None = None
    complaints: list[str] = field(default_factory=list)
    """What went wrong while it was played."""
    rows: tuple[MigrationRow, ...] = ()
    rollout: RolloutRow | None = None
    deaths: int = 0
    healed_at: float = 0.0
