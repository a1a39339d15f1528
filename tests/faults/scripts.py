"""Scripts of disasters, by number: a small cluster, a plan for it, and what goes wrong when.

The same number is always the same script. Numbers run through four families in turn: one
trouble alone, at every point of every mode; two troubles at once; a controller that dies after
each record of its journal; and everything together in a larger plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import Mode, Snapshot, Vm
from rebalancer.cluster.plan import Migration, Plan
from rebalancer.cluster.policy import Limits, MigrationPermissions, Policy
from rebalancer.cluster.rules import Spread
from rebalancer.cluster.selection import VmSelector
from rebalancer.simulation.faults import Fault, FaultKind, Stage
from tests.builders import GIB, MIB, a_host, a_policy, a_snapshot, a_vm
from tests.faults.troubles import ALL, Part, Point, Trouble, Victim
from tests.unit.rollout.plans import a_migration, a_plan
from tests.unit.rollout.ways import FACTS, STORAGE, Way

LIMITS = Limits(migrations=None, per_host_out=2, per_host_in=2, cluster=3, link_share=0.7)
WAYS = tuple(Way)
WITH_DISKS = frozenset({Way.LIVE, Way.AUTO_CONVERGE, Way.SUSPEND})
FOLDER = "/var/lib/libvirt/images"

_LOOK = Point(name="prepare", stage=Stage.CALL, operation="Look")
_MEMORY = (
    _LOOK,
    Point(name="request", stage=Stage.REQUEST),
    Point(name="transfer", stage=Stage.TRANSFER),
    Point(name="switch-over", stage=Stage.SWITCH_OVER),
    Point(name="finish", stage=Stage.FINISH),
)
POINTS: dict[Way, tuple[Point, ...]] = {
    **dict.fromkeys((Way.LIVE, Way.AUTO_CONVERGE), _MEMORY),
    Way.SUSPEND: (*_MEMORY, Point(name="pause", stage=Stage.CALL, operation="Pause")),
    Way.POST_COPY: (*_MEMORY, Point(name="post-copy", stage=Stage.POST_COPY)),
    Way.COLD: (
        _LOOK,
        Point(name="shut-down", stage=Stage.SHUT_DOWN),
        *(
            Point(name=operation, stage=Stage.CALL, operation=operation)
            for operation in ("CopyDefinition", "SetAutostart", "Start", "Undefine")
        ),
    ),
    Way.SAVED: (
        _LOOK,
        *(
            Point(name=operation, stage=Stage.CALL, operation=operation)
            for operation in (
                "Save",
                "SetAutostart",
                "Restore",
                "Resume",
                "Undefine",
                "DiscardImage",
            )
        ),
    ),
    Way.OFFLINE: (
        _LOOK,
        Point(name="MoveDefinition", stage=Stage.CALL, operation="MoveDefinition"),
    ),
}
"""Where in the life of a migration something can go wrong, by how it is moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deaths:
    """When controllers die, counted in what they did; `None`: never."""

    after_record: int | None = None
    after_command: int | None = None
    second_after_record: int | None = None
    """The one that recovers dies, too."""
    dead_for_seconds: float = 0.0

    def __str__(self) -> str:
        """Say it in words."""
        words = [
            f"dies after record {self.after_record}" if self.after_record else "",
            f"dies after command {self.after_command}" if self.after_command else "",
            f"again after record {self.second_after_record}" if self.second_after_record else "",
            f"is dead for {self.dead_for_seconds:.0f} s" if self.dead_for_seconds else "",
        ]
        return ", ".join(word for word in words if word) or "lives"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Script:
    """Everything that a run depends on."""

    seed: int
    family: str
    way: Way
    """Of the migration that things happen to."""
    plan: Plan
    snapshot: Snapshot
    policy: Policy
    points: tuple[Point, ...]
    troubles: tuple[Trouble, ...]
    part: Part
    deaths: Deaths

    @property
    def kinds(self) -> frozenset[FaultKind]:
        """The kinds of faults in it."""
        return frozenset(fault.kind for fault in self.part.faults)

    def describe(self) -> str:
        """Tell the story before it happens."""
        moves = "\n".join(
            f"    {m.id}: {m.vm} from {m.source} to {m.target}, {m.mode}"
            + (" by its saved memory" if m.saved_to else "")
            + (f", with {len(m.disks)} local disks" if m.disks else "")
            + (f", after {', '.join(m.depends_on)}" if m.depends_on else "")
            for m in self.plan.migrations
        )
        faults = "\n".join(f"    {_told(fault)}" for fault in self.part.faults)
        acts = "\n".join(f"    second {act.at_seconds:.1f}: {act.what}" for act in self.part.acts)
        names = " and ".join(
            f"{trouble.name} at {point.name}"
            for trouble, point in zip(self.troubles, self.points, strict=True)
        )
        return "\n".join(
            line
            for line in (
                f"script {self.seed} ({self.family}): {names or 'nothing breaks'}; "
                f"the controller {self.deaths}",
                moves,
                faults,
                acts,
            )
            if line
        )


def script(seed: int) -> Script:
    """Write the script of a number."""
    turn, index = divmod(seed, len(_FAMILIES))
    family = _FAMILIES[index]
    place = turn * _FAMILIES.count(family) + _FAMILIES[:index].count(family)
    return family(seed, place)


def _alone(seed: int, place: int) -> Script:
    """One trouble, at one point of a migration."""
    random = Random(seed)
    way, point, trouble = ALONE[place % len(ALONE)]
    return _scene(
        seed, "alone", random, way, ((trouble, point),), Deaths(), others=random.randint(0, 2)
    )


def _pair(seed: int, place: int) -> Script:
    """Two troubles; every pair of kinds before any comes again."""
    random = Random(seed)
    pairs = len(ALL) * len(ALL)
    # A step that has no factor in common with the number of pairs visits all of them.
    number = (place * 577) % pairs
    both = (ALL[number // len(ALL)], ALL[number % len(ALL)])
    ways = [w for w in WAYS if all(t.fits(w) for t in both)] or list(WAYS)
    way = random.choice(ways)
    chosen = tuple((trouble, random.choice(POINTS[way])) for trouble in both)
    return _scene(seed, "pair", random, way, chosen, Deaths(), others=random.randint(0, 2))


def _crash(seed: int, place: int) -> Script:
    """Nothing breaks but the controller, after every record and command in turn."""
    random = Random(seed)
    way, number = WAYS[place % len(WAYS)], place // len(WAYS)
    turn, command = divmod(number, MOST_RECORDS + MOST_COMMANDS)
    record = command + 1 if command < MOST_RECORDS else None
    deaths = Deaths(
        after_record=record,
        after_command=None if record else (command - MOST_RECORDS + turn) % MOST_COMMANDS + 1,
        second_after_record=random.choice([None, None, 1, 2, 3, 5, 8]),
        dead_for_seconds=random.choice([0.0, 3.0, 40.0]),
    )
    return _scene(seed, "crash", random, way, (), deaths, others=0)


def _crash_in_trouble(seed: int, place: int) -> Script:
    """Troubles, and a controller that dies amid them, in a larger plan."""
    del place
    random = Random(seed)
    way = random.choice(WAYS)
    chosen = tuple(
        (random.choice(ALL), random.choice(POINTS[way])) for _ in range(random.randint(1, 2))
    )
    deaths = Deaths(
        after_record=random.randint(1, 50),
        second_after_record=random.choice([None, None, 1, 3, 9]),
        dead_for_seconds=random.choice([0.0, 3.0, 40.0, 200.0]),
    )
    return _scene(seed, "crash in trouble", random, way, chosen, deaths, others=3)


MOST_RECORDS = 22
"""No way writes more records for a single migration when nothing breaks; a test checks it."""
MOST_COMMANDS = 8
"""... nor asks for more changes."""

_FAMILIES: tuple[Callable[[int, int], Script], ...] = (
    _alone,
    _pair,
    _alone,
    _crash,
    _alone,
    _pair,
    _alone,
    _crash_in_trouble,
)
"""In proportion to what each has to go through in the first two thousand scripts."""

ALONE = [
    (way, point, trouble)
    for trouble in ALL
    for way in WAYS
    for point in POINTS[way]
    if trouble.fits(way) and (trouble.anywhere or point is POINTS[way][0])
]
"""Every trouble at every point of every way that it can happen in."""
# In this order neighbours differ in everything, so that few seeds already see much.
Random(0).shuffle(ALONE)


def _scene(
    seed: int,
    family: str,
    random: Random,
    way: Way,
    chosen: Sequence[tuple[Trouble, Point]],
    deaths: Deaths,
    others: int,
) -> Script:
    vms, migrations = _victim(random, way)
    for n in range(2, others + 2):
        _bystander(random, n, vms, migrations)
    hosts = [
        a_host(
            f"h{n}",
            memory_bytes=_host_memory(random, n),
            storage=frozenset({"nfs", STORAGE}),
            disk_pools={FOLDER: _disk_room(seed, n)},
        )
        for n in range(1, 5)
    ]
    first = migrations[0]
    victim = Victim(vm=first.vm, source=first.source, target=first.target, way=way)
    part = Part()
    for trouble, point in chosen:
        part = part + trouble.make(random, victim, point)
    apart = (Spread(name="apart", vms=VmSelector(labels={"app": ("db",)})),)
    return Script(
        seed=seed,
        family=family,
        way=way,
        plan=a_plan(*migrations, id=f"script-{seed}"),
        snapshot=a_snapshot(hosts, vms),
        policy=a_policy(
            *apart,
            limits=LIMITS,
            migration=MigrationPermissions(
                allow=frozenset(Mode), save_to=STORAGE, local_disks=True
            ),
        ),
        points=tuple(point for _, point in chosen),
        troubles=tuple(trouble for trouble, _ in chosen),
        part=part,
        deaths=deaths,
    )


def _host_memory(random: Random, number: int) -> int:
    """Targets are sometimes so small that not everything fits there."""
    return 32 * GIB if number < 3 else random.choice([6, 8, 32]) * GIB


def _disk_room(seed: int, number: int) -> int:
    """Seldom too little for what comes."""
    # Of its own, so that the scripts are what they were before there were local disks.
    return Random(f"room {seed} {number}").choice([1, 500, 500, 500]) * GIB


def _victim(random: Random, way: Way) -> tuple[list[Vm], list[Migration]]:
    vm = _with_disks(random, _vm(random, "v1", way), way)
    return [vm], [_move(random, vm, "m1", way, ())]


def _bystander(random: Random, n: int, vms: list[Vm], migrations: list[Migration]) -> None:
    way = random.choice(WAYS)
    vm = _with_disks(random, _vm(random, f"v{n}", way), way)
    earlier = tuple(m.id for m in migrations if random.random() < 0.15)
    vms.append(vm)
    migrations.append(_move(random, vm, f"m{n}", way, earlier))


def _vm(random: Random, name: str, way: Way) -> Vm:
    facts: dict[str, Any] = {
        "persistent": random.random() < 0.8,
        "autostart": random.random() < 0.5,
        "memory_bytes": random.choice([1, 2, 4]) * GIB,
        "storage": frozenset({"nfs"}) if random.random() < 0.4 else frozenset(),
        "labels": {"app": "db"} if random.random() < 0.3 else {},
        **FACTS[way],
    }
    return a_vm(name, on=f"h{random.randint(1, 2)}", **facts)


def _with_disks(random: Random, vm: Vm, way: Way) -> Vm:
    """Two thirds of the guests that could take local disks along have one or two."""
    own = Random(f"{random.getstate()[1][:3]} {vm.id}")
    if way not in WITH_DISKS or vm.storage or own.random() < 1 / 3:
        return vm
    disks = tuple(
        LocalDisk(
            target=f"vd{letter}",
            capacity_bytes=own.choice([1, 2, 4]) * GIB,
            path=f"{FOLDER}/{vm.id}-{letter}.qcow2",
            format="qcow2",
        )
        for letter in own.choice(["a", "ab"])
    )
    return replace(
        vm,
        local_disks=disks,
        local_disk_bytes=sum(disk.capacity_bytes for disk in disks),
        disk_write_bytes_per_second=own.choice([0.0, 5.0, 30.0]) * MIB,
    )


def _move(random: Random, vm: Vm, name: str, way: Way, depends_on: tuple[str, ...]) -> Migration:
    return a_migration(
        vm.name,
        vm.host,
        f"h{random.randint(3, 4)}",
        id=name,
        **way.plan,
        memory_bytes=vm.memory_bytes,
        disks=vm.local_disks,
        depends_on=depends_on,
        bytes_per_second=random.choice([100.0, 400.0, 5000.0]) * MIB,
    )


def _told(fault: Fault) -> str:
    shown = {
        "vm": fault.vm,
        "host": fault.host,
        "stage": fault.strikes_at,
        "operation": fault.operation,
        "after": fault.after_seconds or None,
        "for": fault.duration_seconds,
    }
    facts = " ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
    return f"{fault.kind}: {facts}"
