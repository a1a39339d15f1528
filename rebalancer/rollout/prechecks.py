"""Whether a migration still makes sense, asked of the live cluster just before it starts.

The plan was made from a snapshot. Since then VMs were moved, resized, stopped or deleted, hosts
taken out of service, and other migrations of this very plan got under way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rebalancer.cluster.compatibility import misfits
from rebalancer.cluster.disks import folder_needs
from rebalancer.cluster.inventory import (
    Assignment,
    Host,
    HostId,
    HostState,
    Mode,
    Snapshot,
    Vm,
    VmId,
    VmState,
)
from rebalancer.cluster.plan import Migration
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.pools import need_of, pools_of, shortages
from rebalancer.cluster.rules import Violation
from rebalancer.cluster.violations import worsened
from rebalancer.rollout.attempt import Before
from rebalancer.rollout.permitted import objections
from rebalancer.rollout.sightings import (
    DomainView,
    HostView,
    JobKind,
    Sighting,
    StateReason,
    Unreachable,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """The cluster around a migration, as far as is known without asking."""

    snapshot: Snapshot
    """The newest observation."""
    policy: Policy | None = None
    """Whose hard rules must hold at every step; `None` checks only that VMs fit."""
    moved: Mapping[VmId, HostId] = field(default_factory=dict)
    """Where this rollout's migrations took VMs since the observation."""
    in_flight: tuple[Migration, ...] = ()
    """Migrations under way; each counts on both of its hosts."""
    arriving: Mapping[VmId, HostId] = field(default_factory=dict)
    """Where migrations that others began take their VMs; those count on both hosts as well."""
    ahead: Mapping[VmId, HostId] = field(default_factory=dict)
    """Where the migrations that have not ended are to take their VMs at last."""
    leaving: frozenset[HostId] = frozenset()
    """Hosts that a migration is yet to leave, so that waiting for room there makes sense."""
    closed: Mapping[HostId, str] = field(default_factory=dict)
    """Hosts that must not receive anything, with the reason."""

    @property
    def hosts_to_ask(self) -> tuple[HostId, ...]:
        """Every host that could run a VM: all but those known to be without power."""
        off = (HostState.ASLEEP, HostState.DOWN)
        return tuple(host.id for host in self.snapshot.hosts if host.state not in off)

    def hosts_to_ask_about(self, migration: Migration) -> tuple[HostId, ...]:
        """All of them, and both ends of the migration in any case."""
        return tuple(dict.fromkeys((migration.source, migration.target, *self.hosts_to_ask)))

    def assignment(self) -> dict[VmId, HostId]:
        """Where every VM is now."""
        return {**self.snapshot.assignment, **self.moved}


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """Nothing speaks against it."""

    before: Before


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Not now; what is in the way may pass."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """What the plan relied on does not hold any more."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyThere:
    """Somebody else did it."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something is so wrong with the VM that nobody may touch it."""

    why: str


type Precheck = Go | Hold | Drop | AlreadyThere | Alarm


def precheck(migration: Migration, sighting: Sighting, scene: Scene) -> Precheck:
    """Judge one migration by a look at all hosts and by what else is going on."""
    source = sighting.views.get(migration.source, Unreachable(why="it was not asked"))
    target = sighting.views.get(migration.target, Unreachable(why="it was not asked"))
    for host, view in ((migration.source, source), (migration.target, target)):
        if isinstance(view, Unreachable):
            return Hold(why=f"{host} does not answer: {view.why}")
    if (displaced := _where_it_is(migration, sighting, source)) is not None:
        return displaced
    assert isinstance(source, DomainView)
    for verdict in (
        _its_condition(migration, source),
        _its_definition(migration, source, target, sighting),
        _its_target(migration, scene),
    ):
        if verdict is not None:
            return verdict
    had = isinstance(target, DomainView) and target.persistent
    return Go(before=Before.of(source, target_had_definition=had))


def _where_it_is(migration: Migration, sighting: Sighting, source: HostView) -> Precheck | None:
    """Anything but "on the source, and only there" (`None`)."""
    active = sighting.active_on
    views = [view for view in sighting.views.values() if isinstance(view, DomainView)]
    if len(active) > 1:
        if any(view.job is not None for view in views):
            return Hold(why="somebody else is migrating it")
        return Alarm(why=f"SPLIT BRAIN: {migration.vm_name} is active on {' and '.join(active)}")
    if active == (migration.target,):
        return AlreadyThere(why=f"{migration.vm_name} is on {migration.target} already")
    if active and active != (migration.source,):
        return Drop(why=f"it is on {active[0]} now, not on {migration.source}")
    if isinstance(source, DomainView):
        return None
    if elsewhere := [h for h, view in sighting.views.items() if isinstance(view, DomainView)]:
        if elsewhere == [migration.target] and migration.mode is Mode.OFFLINE:
            return AlreadyThere(why=f"{migration.vm_name} is on {migration.target} already")
        return Drop(why=f"{migration.source} does not know it any more, {elsewhere[0]} does")
    return Drop(why="no host that answers knows it: it was deleted, or re-created under a new id")


def _its_condition(migration: Migration, source: DomainView) -> Precheck | None:
    if source.job is not None:
        migrating = source.job in (JobKind.MIGRATION_OUT, JobKind.MIGRATION_IN)
        who = "a migration" if migrating else "another job (backup, save)"
        return Hold(why=f"{who} is running on it")
    if source.reason in (StateReason.POST_COPY, StateReason.POST_COPY_FAILED):
        return Hold(why="it is in the middle of a post-copy migration")
    if source.reason is StateReason.IO_ERROR:
        return Drop(why="it is paused by an I/O error; repair its storage first")
    if migration.mode is Mode.OFFLINE and source.is_active:
        return Drop(why="it was started since the plan was made")
    if migration.mode is not Mode.OFFLINE and not source.is_active:
        return Drop(why="it was shut off since the plan was made")
    if migration.mode is Mode.COLD and source.state is not VmState.RUNNING:
        return Drop(why=f"it is {source.state}, so it cannot be asked to shut down")
    if source.memory_bytes > migration.memory_bytes:
        return Drop(
            why=f"its memory grew from {migration.memory_bytes:,} to {source.memory_bytes:,} "
            "bytes since the plan was made"
        )
    return None


def _its_definition(
    migration: Migration, source: DomainView, target: HostView, sighting: Sighting
) -> Precheck | None:
    if migration.mode in (Mode.COLD, Mode.OFFLINE):
        if not source.persistent:
            return Drop(why="it has no persistent definition, so stopping it would lose it")
        if silent := sighting.unreachable:
            return Hold(why=f"before a VM is started anew every host must answer: {silent[0]}")
        if isinstance(target, DomainView):
            return Drop(why=_stale_definition(migration))
    if isinstance(target, DomainView) and not source.persistent:
        return Drop(why=_stale_definition(migration))
    return None


def _stale_definition(migration: Migration) -> str:
    return (
        f"{migration.target} has a definition of it already; if it is a left-over, remove it "
        f"there: virsh undefine --keep-nvram {migration.vm_name}"
    )


def _its_target(migration: Migration, scene: Scene) -> Precheck | None:
    hosts = scene.snapshot.host_by_id
    target, source = hosts.get(migration.target), hosts.get(migration.source)
    vm = scene.snapshot.vm_by_id.get(migration.vm)
    if target is None or source is None or vm is None:
        return Drop(why="its VM or one of its hosts is not in the newest snapshot")
    if reason := scene.closed.get(target.id):
        return Drop(why=f"{target.name} receives nothing: {reason}")
    if target.state is HostState.UNKNOWN:
        return Hold(why=f"{target.name} did not answer: {target.state_reason}")
    if not target.may_receive:
        return Drop(why=f"{target.name} is {target.state}")
    permissions = scene.policy.migration if scene.policy else None
    if permissions and (against := next(objections(migration, vm, permissions), "")):
        return Drop(why=against)
    obstacles = [
        *misfits(vm, source, target, copies_disks=bool(migration.disks)),
        *_other_disks(vm, migration),
        *_no_room_for_disks(vm, target, scene),
        *_owners_word(vm, migration),
        *_out_of_reach(migration, source, target),
    ]
    if obstacles:
        return Drop(why=f"it cannot go to {target.name}: {obstacles[0]}")
    return _room(vm, target, scene) or _rules(vm, target, scene)


def _out_of_reach(migration: Migration, source: Host, target: Host) -> Iterator[str]:
    """Both hosts must have told that they reach the storage to which its memory is saved."""
    for host in (source, target):
        if migration.saved_to and migration.saved_to not in (host.storage or ()):
            yield f"{host.name} does not reach storage {migration.saved_to}"


def _other_disks(vm: Vm, migration: Migration) -> Iterator[str]:
    """What is copied must be what the VM has: all of it, and nothing else."""
    planned = {disk.identity for disk in migration.disks}
    if planned != {disk.identity for disk in vm.local_disks} and (planned or vm.local_disks):
        yield "its local disks are not those that the plan was made with"


def _no_room_for_disks(vm: Vm, target: Host, scene: Scene) -> Iterator[str]:
    """Copies that others of this rollout made there, or make, fill up what was free."""
    arriving = {other.vm for other in scene.in_flight if other.target == target.id}
    arriving |= {other for other, host in scene.moved.items() if host == target.id}
    known = scene.snapshot.vm_by_id
    others = [disk for v in arriving - {vm.id} if v in known for disk in known[v].local_disks]
    taken = folder_needs(others)
    free = target.disk_pools or {}
    for folder, needed in folder_needs(vm.local_disks).items():
        if taken.get(folder, 0) + needed > free.get(folder, 0):
            yield f"{folder} has no room for its local disks beside those of other migrations"


def _owners_word(vm: Vm, migration: Migration) -> Iterator[str]:
    mode = migration.mode
    if not vm.movable:
        yield "it is marked as not movable"
    # What keeps memory from being sent keeps it from being saved.
    if mode not in (Mode.COLD, Mode.OFFLINE) or migration.saved_to:
        yield from vm.blockers
    if vm.allowed_modes is not None and mode not in vm.allowed_modes:
        yield f"its owner does not allow mode {mode}"


def _room(vm: Vm, target: Host, scene: Scene) -> Precheck | None:
    """Its memory must be free on the target, arrivals that are under way counted in full."""
    if not vm.is_active:
        return None
    overcommit = scene.policy.overcommit.memory if scene.policy else 1.0
    there = {v for v, host in scene.assignment().items() if host == target.id}
    there |= {other.vm for other in scene.in_flight if other.target == target.id}
    there |= {other for other, host in scene.arriving.items() if host == target.id}
    there.discard(vm.id)
    vms = scene.snapshot.vm_by_id
    # One that is moved cold is off for a while, and needs its room at either end.
    coming = {other.vm for other in scene.in_flight if other.mode is not Mode.OFFLINE}
    arrived = [vms[v] for v in sorted(there) if v in vms and (vms[v].is_active or v in coming)]
    if text := _short_of(vm, arrived, target, scene):
        # Huge pages that an arrival has taken already are counted once more with it.
        arriving = any(other.target == target.id for other in scene.in_flight)
        return Hold(why=text) if arriving or target.id in scene.leaving else Drop(why=text)
    used = sum(other.memory_bytes for other in arrived)
    free = target.guest_memory_bytes * overcommit - used
    if free >= vm.memory_bytes:
        return None
    text = f"{target.name} has {max(free, 0):,.0f} of the {vm.memory_bytes:,} bytes it needs"
    return Hold(why=text) if target.id in scene.leaving else Drop(why=text)


def _short_of(vm: Vm, there: Sequence[Vm], target: Host, scene: Scene) -> str:
    """Say what there is too little of on the target: huge pages, devices and the like."""
    policy = scene.policy or Policy(name="")
    for short in shortages(target, [*there, vm], pools_of(scene.snapshot), scene.snapshot, policy):
        if need_of(vm, short.pool) > 0:
            return f"{target.name} has too few {short.pool.text}"
    return ""


def _rules(vm: Vm, target: Host, scene: Scene) -> Precheck | None:
    """No hard rule may be broken more than now, with every VM in flight counted as arrived.

    Rules that are final are judged where the rest of the plan leads to.
    """
    if scene.policy is None:
        return None
    now = scene.assignment()
    planned = {**now, vm.id: target.id, **scene.ahead}
    broken = worsened(_hard(scene, now, is_final=True), _hard(scene, planned, is_final=True))
    for violation in broken:
        if vm.id in violation.vms:
            return Drop(why=f"it would break rule {violation.rule}: {violation.text}")
    flying = {**now, **scene.arriving, **{other.vm: other.target for other in scene.in_flight}}
    # One at a time: a rule may forbid the move while others still are on their sources, too.
    for assignment in ({**now, vm.id: target.id}, {**flying, vm.id: target.id}):
        before = _hard(scene, {v: h for v, h in assignment.items() if v != vm.id})
        worse = worsened(before, _hard(scene, assignment))
        ours = [violation for violation in worse if vm.id in violation.vms]
        if ours and not _no_worse_than_staying(scene, assignment, vm):
            return Drop(why=f"it would break rule {ours[0].rule}: {ours[0].text}")
    return None


def _no_worse_than_staying(scene: Scene, assignment: Assignment, vm: Vm) -> bool:
    staying = {**assignment, vm.id: scene.assignment()[vm.id]}
    return not worsened(_hard(scene, staying), _hard(scene, assignment))


def _hard(scene: Scene, assignment: Assignment, *, is_final: bool = False) -> tuple[Violation, ...]:
    assert scene.policy is not None
    known = scene.snapshot.host_by_id
    # A host may have been taken out of the configuration while VMs were on their way to it.
    assignment = {vm: host for vm, host in assignment.items() if host in known}
    return tuple(
        violation
        for rule in scene.policy.rules
        if rule.hard and rule.is_final is is_final
        for violation in rule.violations(scene.snapshot, assignment)
    )
