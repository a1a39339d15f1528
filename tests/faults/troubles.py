"""Everything that a script can let go wrong, each with its numbers in the list of scenarios.

A trouble becomes faults of the simulated datacentre, or acts: what people and machines around
the controller do at an instant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from random import Random
from typing import Any

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.simulation.faults import ONLY_THERE, Fault, FaultKind, Stage
from tests.unit.rollout.ways import Way

K = FaultKind
MEMORY_WAYS = frozenset({Way.LIVE, Way.AUTO_CONVERGE, Way.SUSPEND, Way.POST_COPY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where in the life of a migration something goes wrong."""

    name: str
    stage: Stage
    operation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """The migration that it happens to."""

    vm: VmId
    source: HostId
    target: HostId
    way: Way


class What(StrEnum):
    """What people and machines around the controller do."""

    STOP = "the operator asks to stop"
    ABORT = "the operator asks to abort"
    DRAIN = "the target is drained"
    DRAIN_AND_UNDRAIN = "the target is drained, and undrained a little later"
    SECOND_CONTROLLER = "a second controller wants the lock"
    LOCK_LOST = "another controller takes the lock over"
    DISK_FULL = "the disk with the journal is full"
    CLOCK_FORWARD = "the machine restarts with its clock an hour fast"
    CLOCK_BACK = "the machine restarts with its clock an hour slow"
    HOST_FORGOTTEN = "the target is no longer configured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that is done at an instant."""

    at_seconds: float
    what: What


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one or several troubles come to."""

    faults: tuple[Fault, ...] = ()
    acts: tuple[Act, ...] = ()

    def __add__(self, other: Part) -> Part:
        """Both."""
        return Part(faults=self.faults + other.faults, acts=self.acts + other.acts)


type Make = Callable[[Random, Victim, Point], Part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A kind of disaster."""

    name: str
    numbers: tuple[int, ...]
    """In the list of failure scenarios in `docs/safety.md`."""
    make: Make
    ways: frozenset[Way] = frozenset(Way)
    anywhere: bool = True
    """Whether it can happen at any point, or has one of its own."""

    def fits(self, way: Way) -> bool:
        """Whether it can happen to a VM that is moved in that way."""
        return way in self.ways


def _fault(
    random: Random,
    victim: Victim,
    point: Point,
    *,
    kind: FaultKind,
    end: str = "",
    seconds: tuple[float | None, ...] = (None,),
    **facts: Any,
) -> Part:
    """One fault at the point, or at the only one that it has."""
    host = {"source": victim.source, "target": victim.target}.get(end)
    fault = Fault(
        kind=kind,
        vm=victim.vm,
        host=host,
        duration_seconds=random.choice(seconds),
        **facts,
    )
    if kind in ONLY_THERE:
        return Part(faults=(fault,))
    after = random.choice([0.0, 0.0, 0.3, 3.0, 20.0])
    placed = replace(fault, stage=point.stage, operation=point.operation, after_seconds=after)
    return Part(faults=(placed,))


def _refusal(random: Random, victim: Victim, point: Point, *, code: int, text: str) -> Part:
    return _fault(random, victim, point, kind=K.REFUSE, code=code, text=text)


def _lost_call(
    random: Random, victim: Victim, point: Point, *, kinds: tuple[FaultKind, ...], operation: str
) -> Part:
    """A call hangs; one that is only made in need comes with a reason to make it."""
    del point
    lost = Fault(kind=random.choice(kinds), vm=victim.vm, operation=operation)
    reasons: dict[str, Part] = {
        "Abort": Part(acts=(_at(random, What.ABORT, 3.0, 12.0),)),
        "Resume": Part(acts=(_at(random, What.ABORT, 3.0, 12.0),)),
    }
    return Part(faults=(lost,)) + reasons.get(operation, Part())


def _late_start(random: Random, victim: Victim, point: Point) -> Part:
    """A start breaks off and comes later, as late as libvirt waits for a domain's lock."""
    del point
    late = random.choice([2.5, 2.5, 3.5, 29.0])
    return Part(faults=(Fault(kind=K.START_COMES_LATE, vm=victim.vm, after_seconds=late),))


def _at(random: Random, what: What, earliest: float = 0.0, latest: float = 40.0) -> Act:
    return Act(at_seconds=round(random.uniform(earliest, latest), 1), what=what)


def _act(random: Random, victim: Victim, point: Point, *, what: What) -> Part:
    del victim, point
    return Part(acts=(_at(random, what),))


def _faulty(name: str, numbers: tuple[int, ...], kind: FaultKind, **facts: Any) -> Trouble:
    ways = facts.pop("ways", frozenset(Way))
    make = partial(_fault, kind=kind, **facts)
    return Trouble(
        name=name, numbers=numbers, make=make, ways=ways, anywhere=kind not in ONLY_THERE
    )


def _refused(number: int, name: str, code: int, text: str) -> Trouble:
    return Trouble(
        name=name,
        numbers=(number,),
        make=partial(_refusal, code=code, text=text),
        ways=MEMORY_WAYS,
        anywhere=False,
    )


def _hung(numbers: tuple[int, ...], operation: str, ways: frozenset[Way]) -> Trouble:
    return Trouble(
        name=f"{operation} is not answered",
        numbers=numbers,
        make=partial(_lost_call, kinds=(K.CALL_HANGS, K.REPLY_LOST), operation=operation),
        ways=ways,
        anywhere=False,
    )


def _acted(name: str, numbers: tuple[int, ...], what: What) -> Trouble:
    return Trouble(name=name, numbers=numbers, make=partial(_act, what=what), anywhere=False)


_COLD = frozenset({Way.COLD})
_SAVED = frozenset({Way.SAVED})
_BRIEF = (2.0, 5.0, 60.0)
_ALSO_FOR_EVER = (5.0, 60.0, None)

ALL: tuple[Trouble, ...] = (
    _refused(1, "target refuses the connection", 38, "Connection refused"),
    _refused(2, "no key or certificate from source to target", 38, "Cannot read CA certificate"),
    _faulty("stale definition on the target", (3,), K.STALE_DEFINITION, end="target"),
    _refused(4, "CPU incompatible", 91, "the CPU is incompatible with host CPU"),
    _refused(5, "bridge missing", 38, "Cannot get interface MTU on 'brz': No such device"),
    _refused(6, "storage not mounted", 38, "Cannot access storage file"),
    _faulty("target cannot allocate memory", (7,), K.OUT_OF_MEMORY, ways=MEMORY_WAYS),
    _faulty("target's memory is taken", (7, 50), K.MEMORY_TAKEN, end="target", factor=0.9),
    _refused(8, "huge pages exhausted", 1, "unable to map backing store for guest RAM"),
    _faulty("owner shuts the VM down", (9,), K.SHUT_DOWN_BY_OWNER),
    _faulty("VM is deleted and re-created", (10,), K.RE_CREATED),
    _faulty("VM grows", (11,), K.MEMORY_GROWS, factor=2.0),
    _faulty("backup job runs", (12,), K.BACKUP_RUNS, seconds=(5.0, 100.0)),
    _faulty("target goes into maintenance", (13,), K.HOST_IN_MAINTENANCE, end="target"),
    _faulty("another admin migrates it there", (14,), K.MIGRATED_BY_SOMEBODY, end="target"),
    _refused(15, "wrong migration address", 38, "unable to connect to server: timed out"),
    _refused(16, "migration ports blocked", 1, "Failed to find an available port"),
    _faulty("link drops", (17, 32), K.LINK_DROPS, end="target", seconds=(5.0, 60.0, None)),
    _faulty("source's link drops", (17,), K.LINK_DROPS, end="source", seconds=(5.0, 60.0)),
    _faulty("guest writes twice as fast", (18,), K.DIRTIES_FASTER, factor=2.0),
    _faulty("guest writes ten times as fast", (18,), K.DIRTIES_FASTER, factor=10.0),
    _faulty("bandwidth collapses", (19,), K.LINK_SLOWS, end="target", factor=0.1, seconds=_BRIEF),
    _faulty("connection breaks", (17,), K.TRANSFER_BREAKS, ways=MEMORY_WAYS),
    _faulty("target QEMU dies", (20,), K.TARGET_QEMU_DIES, ways=MEMORY_WAYS),
    _faulty("guest dies", (21,), K.SOURCE_GUEST_DIES),
    _faulty("target loses power", (22,), K.HOST_DIES, end="target", seconds=(30.0, None)),
    _faulty("source loses power", (23, 57, 59), K.HOST_DIES, end="source", seconds=(30.0, None)),
    _faulty("libvirtd on the source restarts", (24,), K.LIBVIRTD_RESTARTS, end="source"),
    _faulty("libvirtd on the target restarts", (24,), K.LIBVIRTD_RESTARTS, end="target"),
    _faulty("source silent", (17,), K.HOST_UNREACHABLE, end="source", seconds=_ALSO_FOR_EVER),
    _faulty("target silent", (17,), K.HOST_UNREACHABLE, end="target", seconds=_ALSO_FOR_EVER),
    _hung((25,), "Abort", MEMORY_WAYS),
    _hung((26,), "ReadProgress", MEMORY_WAYS),
    _hung((30,), "Migrate", MEMORY_WAYS),
    _hung((26,), "Look", frozenset(Way)),
    _hung((26,), "Pause", frozenset({Way.SUSPEND})),
    _hung((26,), "SwitchToPostCopy", frozenset({Way.POST_COPY})),
    _hung((55,), "ShutDown", _COLD),
    _hung((58,), "CopyDefinition", _COLD),
    _hung((56,), "Start", _COLD),
    _hung((26,), "Save", _SAVED),
    _hung((26,), "Restore", _SAVED),
    _hung((26,), "Resume", _SAVED),
    _hung((26,), "DiscardImage", _SAVED),
    _hung((58,), "MoveDefinition", frozenset({Way.OFFLINE})),
    _faulty("virsh domjobabort by hand", (27,), K.ABORTED_BY_SOMEBODY, ways=MEMORY_WAYS),
    _faulty("I/O error pauses the guest", (28,), K.IO_ERROR),
    _acted("the operator aborts", (29, 43), What.ABORT),
    _faulty("error though it moved", (30,), K.ERROR_THOUGH_MOVED, ways=MEMORY_WAYS),
    _faulty("definition not written", (31,), K.PERSIST_FAILS, ways=MEMORY_WAYS),
    _faulty("two copies run", (33,), K.SPLIT_BRAIN, ways=MEMORY_WAYS),
    _acted("disk full", (38,), What.DISK_FULL),
    _acted("a second controller", (39, 48), What.SECOND_CONTROLLER),
    _acted("the lock is lost", (39,), What.LOCK_LOST),
    _acted("clock forward", (40,), What.CLOCK_FORWARD),
    _acted("clock back", (40,), What.CLOCK_BACK),
    _acted("host removed from the configuration", (42,), What.HOST_FORGOTTEN),
    _acted("the operator stops", (43,), What.STOP),
    _acted("target drained", (52,), What.DRAIN),
    _acted("drain taken back", (49,), What.DRAIN_AND_UNDRAIN),
    _faulty("guest ignores shutdown", (55,), K.IGNORES_SHUTDOWN, ways=_COLD),
    _faulty("start fails", (56,), K.START_FAILS, ways=_COLD | _SAVED),
    Trouble(
        name="a start comes late",
        numbers=(26, 56),
        make=_late_start,
        ways=_COLD | _SAVED,
        anywhere=False,
    ),
)
"""In the order of the scenarios. What a simulation cannot express is named in `docs/safety.md`."""
