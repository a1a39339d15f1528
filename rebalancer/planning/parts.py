"""What takes its time in a migration beside its memory: what is assumed, then learned.

Guests shut down and are started, memory is written to a storage and read back, disks are copied
to a target. None of that follows from the guest's memory and bandwidth; `part_calibration`
learns it from migrations that ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from rebalancer.cluster.inventory import HostId, Vm, VmId
from rebalancer.cluster.prediction import Part, PredictedPart
from rebalancer.planning.safety import DOWNTIME_SAFETY, SETUP_SAFETY, TIME_SAFETY

SHUTDOWN_SECONDS = 60.0
BOOT_SECONDS = 60.0
START_SECONDS = 2.0
"""Cold: the guest ends its services, is defined on the target, and starts them again. Nobody
knows how long without having seen that guest do so; a minute each is what other systems assume.
When its services answer again nobody sees, so that minute stays assumed."""

LOOK_SECONDS = 4.0
"""Whether a guest is off is looked at every 2 s, which a look's own time comes on top of: that
may make any shutdown or start so much longer."""

HALF_SAVE_SECONDS = 2.0
"""Beside writing, and beside reading: the rollout looks at every host between the steps, some
three times half a second, and the target starts a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """How long something takes."""

    seconds: float
    upper_seconds: float
    """The end of the band that nine of ten should stay within."""
    learned_from: int = 0
    """0: it is assumed."""
    given_up: int = 0
    """Of those so many were given up: they took longer than anybody waited."""

    @property
    def outage_upper_seconds(self) -> float:
        """The end of the band where the guest is away meanwhile: wider for what is assumed."""
        return self.upper_seconds if self.learned_from else DOWNTIME_SAFETY * self.seconds

    def predicted(self, part: Part, ideal_seconds: float = 0.0) -> PredictedPart:
        """What the plan says of it."""
        return PredictedPart(
            part=part,
            seconds=self.seconds,
            upper_seconds=self.upper_seconds,
            ideal_seconds=ideal_seconds,
            learned_from=self.learned_from,
        )


def assumed(seconds: float) -> Span:
    """How long something takes that nobody has seen here."""
    return Span(seconds=seconds, upper_seconds=TIME_SAFETY * seconds)


ASSUMED_SHUTDOWN = assumed(SHUTDOWN_SECONDS)
ASSUMED_START = Span(
    seconds=START_SECONDS, upper_seconds=SETUP_SAFETY * START_SECONDS + LOOK_SECONDS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoragePace:
    """How memory is written to a storage, or read back from it."""

    setup_seconds: float = HALF_SAVE_SECONDS
    efficiency_ratio: float = 1.0
    """The share of the rate that the policy states of it that memory really travels at."""
    upper_ratio: float = TIME_SAFETY
    learned_from: int = 0

    def span(self, ideal_seconds: float) -> Span:
        """How long bytes take that need so long at the stated rate."""
        seconds = self.setup_seconds + ideal_seconds / self.efficiency_ratio
        upper = self.upper_ratio * seconds
        return Span(seconds=seconds, upper_seconds=upper, learned_from=self.learned_from)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPace:
    """How disks are copied to a folder of a target."""

    most_bytes_per_second: float = math.inf
    """What the target takes, of all mirrors together; infinity: whatever is granted."""
    least_writes_bytes_per_second: float = 0.0
    """What the VM was seen to write meanwhile."""
    learned_from: int = 0


ASSUMED_STORAGE = StoragePace()
ASSUMED_DISKS = DiskPace()


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedPart:
    """One thing that was learned, to be shown."""

    part: Part
    of: str
    """VM, host, storage, or host and folder; empty: of all together."""
    migrations: int
    given_up: int = 0
    seconds: float | None = None
    upper_seconds: float | None = None
    efficiency_ratio: float | None = None
    """`seconds` passes once, and the rest at this share of the stated rate."""
    bytes_per_second: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartHabits:
    """How long parts take in this cluster."""

    shutdown: Span = ASSUMED_SHUTDOWN
    """Of a VM that has not been seen shutting down."""
    shutdowns: Mapping[VmId, Span] = field(default_factory=dict)
    start: Span = ASSUMED_START
    starts: Mapping[HostId, Span] = field(default_factory=dict)
    saves: Mapping[str, StoragePace] = field(default_factory=dict)
    restores: Mapping[str, StoragePace] = field(default_factory=dict)
    disks: Mapping[tuple[HostId, str], DiskPace] = field(default_factory=dict)
    """By target and folder."""
    disk_writes: Mapping[VmId, float] = field(default_factory=dict)
    """Bytes a second that VMs wrote at least to their disks while those were copied."""
    names: Mapping[VmId, str] = field(default_factory=dict)
    """What the VMs are called that something was learned of."""

    def of_shutdown(self, vm: VmId) -> Span:
        """How long this VM takes to shut down; as the others, if it has not been seen."""
        return self.shutdowns.get(vm, self.shutdown)

    def of_start(self, target: HostId) -> Span:
        """How long it takes until a guest that is off is started on this host."""
        return self.starts.get(target, self.start)

    def of_saving(self, storage: str) -> tuple[StoragePace, StoragePace]:
        """How memory is written there, and how it is read back."""
        return (
            self.saves.get(storage, ASSUMED_STORAGE),
            self.restores.get(storage, ASSUMED_STORAGE),
        )

    def of_disks(self, vm: Vm, target: HostId) -> DiskPace:
        """How a VM's local disks are copied to a target: as into the slowest of its folders."""
        folders = {disk.folder for disk in vm.local_disks}
        known = [self.disks[target, each] for each in folders if (target, each) in self.disks]
        pace = min(known, key=lambda each: each.most_bytes_per_second, default=ASSUMED_DISKS)
        seen = self.disk_writes.get(vm.id, 0.0)
        return replace(pace, least_writes_bytes_per_second=seen) if seen else pace

    def listed(self) -> Iterator[LearnedPart]:
        """Everything that was learned, to be shown; what is assumed is left out."""
        shutdowns = {self.names.get(vm, vm): span for vm, span in self.shutdowns.items()}
        for part, everywhere, own in (
            (Part.SHUT_DOWN, self.shutdown, shutdowns),
            (Part.START, self.start, dict(self.starts)),
        ):
            if everywhere.learned_from:
                yield _listed(part, "", everywhere)
            for of, span in sorted(own.items()):
                yield _listed(part, of, span)
        for part, paces in ((Part.SAVE, self.saves), (Part.RESTORE, self.restores)):
            for storage, pace in sorted(paces.items()):
                yield LearnedPart(
                    part=part,
                    of=storage,
                    migrations=pace.learned_from,
                    seconds=pace.setup_seconds,
                    upper_seconds=pace.upper_ratio * pace.setup_seconds,
                    efficiency_ratio=pace.efficiency_ratio,
                )
        for (host, folder), copies in sorted(self.disks.items()):
            most = copies.most_bytes_per_second
            yield LearnedPart(
                part=Part.DISKS,
                of=f"{host}:{folder}",
                migrations=copies.learned_from,
                bytes_per_second=most if math.isfinite(most) else None,
            )


def _listed(part: Part, of: str, span: Span) -> LearnedPart:
    return LearnedPart(
        part=part,
        of=of,
        migrations=span.learned_from,
        given_up=span.given_up,
        seconds=span.seconds,
        upper_seconds=span.upper_seconds,
    )


UNLEARNED = PartHabits()
"""What is believed before anything was learned."""
