"""Judges a run by what really happened: nothing in here asks the rollout's own opinion first.

The promises are those of `docs/safety.md`; each finding names the one that was broken. What a
script did to a guest on purpose (its owner shut it down, its host lost power) excuses that the
guest does not run; nothing excuses a second copy that we started.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId, Mode, Vm, VmId, VmState
from rebalancer.cluster.plan import ENDED_STATES, Migration, MigrationState, Outcome
from rebalancer.rollout.driver import (
    CreateDisk,
    Migrate,
    MoveDefinition,
    Resume,
    Save,
    ShutDown,
    Start,
)
from rebalancer.rollout.records import RecordKind, RolloutStatus, outcome_from_json
from rebalancer.rollout.sightings import DomainView, StateReason
from rebalancer.simulation.faults import Fault, FaultKind
from rebalancer.simulation.record import Span
from tests.faults.limits import MOVES_GUESTS, budgets_are_kept, rules_are_kept
from tests.faults.played import Played
from tests.faults.troubles import What

S = MigrationState
K = FaultKind

LONGEST_LOOK_SECONDS = 12.0
"""A look may be so old when an outcome is written: three hosts that are given up after 3 s each
are asked at once, the result is read, and that may take a while as well."""
SPLIT_IS_ENDED_WITHIN_SECONDS = 15.0
"""Two looks, up to 5 s apart while a host was silent, and the call that pauses one copy."""
LOST_CALL_SECONDS = 75.0
"""… and longer where the script lets a call hang, which is given up after 30 s."""

STOPS_GUESTS = frozenset(
    {K.SOURCE_GUEST_DIES, K.HOST_DIES, K.IO_ERROR, K.SHUT_DOWN_BY_OWNER, K.RE_CREATED}
)
"""Kinds after which a guest may stand still, whatever the rollout does."""
HUMAN_ENDS = ("SPLIT BRAIN", "stale copy", "memory is on", "stands still on", "paused copy")
"""Unknown outcomes that only a human may end, by their words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A promise that was broken."""

    promise: str
    text: str

    def __str__(self) -> str:
        """Say it."""
        return f"{self.promise}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """An outcome as the journal has it, with the true time."""

    at_seconds: float
    migration: Migration
    outcome: Outcome


def judge(played: Played) -> tuple[Finding, ...]:
    """Return everything that should not have happened."""
    return tuple(
        Finding(promise=promise, text=text)
        for promise, check in _CHECKS.items()
        for text in check(played)
    )


def endings(played: Played) -> tuple[Ending, ...]:
    """Return every outcome that was written, in order."""
    by_id = {migration.id: migration for migration in played.script.plan.migrations}
    return tuple(
        Ending(
            at_seconds=line.at_seconds,
            migration=by_id[line.entry.migration],
            outcome=outcome_from_json(line.entry.payload["outcome"]),
        )
        for line in played.written
        if line.entry.kind is RecordKind.STATE and "outcome" in line.entry.payload
    )


# The promises -----------------------------------------------------------------------------------


def _nothing_odd(played: Played) -> Iterator[str]:
    yield from played.complaints


def _has_an_end(played: Played) -> Iterator[str]:
    """I3: every migration ends in a named state, every rollout is closed."""
    if played.rollout is None:
        if played.deaths == 0:
            yield "no rollout is in the journal"
        return
    if played.rollout.status is RolloutStatus.RUNNING:
        yield "the rollout is still called running after recover"
    for row in played.rows:
        if row.state not in ENDED_STATES or row.outcome is None:
            yield f"{row.migration.id} is left in state {row.state}"


def _is_written_first(played: Played) -> Iterator[str]:
    """I2: the intent is in the journal before the command is issued."""
    for issued in played.issued:
        if not issued.is_written:
            name = type(issued.command).__name__
            yield f"{name} was issued at second {issued.at_seconds:.1f} without being written down"


def _is_looked_at_first(played: Played) -> Iterator[str]:
    """I6, I7, I8: no start, undefine or resume that the last look does not justify."""
    yield from played.careless


def _ends_only_stale_copies(played: Played) -> Iterator[str]:
    """I7: a copy is ended only with proof that it is the older one, and if somebody wants it."""
    yield from played.unproved


def _is_never_doubled(played: Played) -> Iterator[str]:
    """I8: two copies run only if libvirt itself did it, and then not for long."""
    for span in played.world.record.doubled():
        where = f"{span.vm} ran on {' and '.join(span.hosts)} from second {span.begin_seconds:.1f}"
        if _by_us(played, span):
            yield f"{where}: we started it twice"
        elif not _libvirt_may_split(played, span):
            yield f"{where}, and nothing in the script did that"
        elif not _was_told(played, span):
            yield f"{where}, and nobody was told"
        else:
            yield from _too_long(played, span, where)


def _by_us(played: Played, span: Span) -> bool:
    return any(
        isinstance(issued.command, Start | Resume)
        and issued.command.vm == span.vm
        and issued.command.host in span.hosts
        and -0.2 <= span.begin_seconds - issued.at_seconds <= 1.0
        for issued in played.issued
    )


def _libvirt_may_split(played: Played, span: Span) -> bool:
    faults = played.script.part.faults
    return any(
        fault.kind in (K.SPLIT_BRAIN, K.LINK_DROPS, K.HOST_DIES) or _is_for(fault, span.vm)
        for fault in faults
    )


def _is_for(fault: Fault, vm: VmId) -> bool:
    return fault.kind is K.MIGRATED_BY_SOMEBODY and fault.vm == vm


def _is_never_ruined(played: Played) -> Iterator[str]:
    """I9: no guest goes on with a saved memory that is older than its disks."""
    yield from played.world.record.corrupted


def _was_told(played: Played, span: Span) -> bool:
    """A person has to hear of it, if it happened while the rollout cared for that VM."""
    told = [ending for ending in endings(played) if ending.migration.vm == span.vm]
    if any(ending.outcome.state is S.UNKNOWN for ending in told):
        return True
    return all(ending.at_seconds < span.begin_seconds + 1.0 for ending in told)


def _too_long(played: Played, span: Span, where: str) -> Iterator[str]:
    lost = any(f.kind in (K.CALL_HANGS, K.REPLY_LOST) for f in played.script.part.faults)
    limit = SPLIT_IS_ENDED_WITHIN_SECONDS + (LOST_CALL_SECONDS if lost else 0.0)
    seen = played.seeable_seconds[span.vm]
    if seen <= limit or any(
        "SPLIT BRAIN" in ending.outcome.text
        for ending in endings(played)
        if ending.migration.vm == span.vm
    ):
        return
    if all(e.at_seconds < span.begin_seconds for e in endings(played) if e.migration.vm == span.vm):
        return
    yield f"{where}; for {seen:.0f} s of that both hosts could have been asked"


def _is_never_lost(played: Played) -> Iterator[str]:
    """I10: what ran runs, unless the script stopped it; what was defined is defined."""
    for vm in played.script.snapshot.vms:
        excused = _stopped_by_script(played, vm)
        running = played.world.record.running_on(vm.id)
        if vm.is_active and not running and not excused:
            yield f"{vm.id} ran and does not run any more: {_what_is_said(played, vm.id)}"
        if _is_deleted(played, vm) or (not vm.persistent and excused):
            continue
        if not _views(played, vm.id):
            yield f"no host knows {vm.id} any more: {_what_is_said(played, vm.id)}"


def _stopped_by_script(played: Played, vm: Vm) -> bool:
    if _is_left_saved(played, vm):
        return True
    ends_here = {vm.host, *(m.target for m in played.script.plan.migrations if m.vm == vm.id)}
    for fault in played.script.part.faults:
        if fault.kind is K.HOST_DIES and fault.host in ends_here:
            return True
        if fault.kind is K.TARGET_QEMU_DIES and played.script.plan.migrations[0].mode is (
            Mode.POST_COPY
        ):
            return True
        if fault.kind in STOPS_GUESTS and fault.kind is not K.HOST_DIES and fault.vm == vm.id:
            return True
    return False


def _is_left_saved(played: Played, vm: Vm) -> bool:
    """Whether libvirt forgot that the guest was saved, so that only people may use the file."""
    forgets = played.script.kinds & {K.LIBVIRTD_RESTARTS, K.START_FAILS}
    said = [ending.outcome for ending in endings(played) if ending.migration.vm == vm.id]
    words = ("restore it on ONE host", "loaded from its saved memory, and may have run")
    return bool(forgets and said) and any(word in said[-1].text for word in words)


def _is_deleted(played: Played, vm: Vm) -> bool:
    return any(f.kind is K.RE_CREATED and f.vm == vm.id for f in played.script.part.faults)


def _what_is_said(played: Played, vm: VmId) -> str:
    said = [ending.outcome for ending in endings(played) if ending.migration.vm == vm]
    return f"{said[-1].state}, {said[-1].text!r}" if said else "nothing was said of it"


def _views(played: Played, vm: VmId) -> dict[HostId, DomainView]:
    found = {host.id: host.view(vm) for host in played.world.hosts.values()}
    return {host: view for host, view in found.items() if isinstance(view, DomainView)}


def _agrees(played: Played) -> Iterator[str]:
    """I1, I4: the hosts were as the outcome says when it was written."""
    vms = played.script.snapshot.vm_by_id
    for ending in endings(played):
        vm = vms[ending.migration.vm]
        places = _places(ending)
        if not vm.is_active or places is None:
            continue
        since = ending.at_seconds - LONGEST_LOOK_SECONDS
        seen = played.world.record.hosts_at(vm.id, since, ending.at_seconds)
        if seen.isdisjoint(places):
            truth = " or ".join(" and ".join(hosts) or "nowhere" for hosts in sorted(seen))
            yield (
                f"{ending.migration.id} ended {ending.outcome.state} at second "
                f"{ending.at_seconds:.1f} ({ending.outcome.text!r}), and {vm.id} ran {truth}"
            )


def _places(ending: Ending) -> set[tuple[HostId, ...]] | None:
    """Where an outcome says that the VM runs; `None` if it says nothing."""
    match ending.outcome.state:
        case S.COMPLETE:
            return {(ending.migration.target,)}
        case S.FAILED_SAFE | S.ABORTED:
            return {(ending.migration.source,)}
        case S.FAILED_DOWN:
            return {()}
    return None


def _is_tidy(played: Played) -> Iterator[str]:
    """I25: one definition, in the right place, with its autostart; or the left-over is named."""
    vms = played.script.snapshot.vm_by_id
    for row in played.rows:
        vm, outcome = vms[row.migration.vm], row.outcome
        if outcome is None or _is_disturbed(played, vm):
            continue
        place = {
            S.COMPLETE: row.migration.target,
            S.FAILED_SAFE: row.migration.source,
            S.ABORTED: row.migration.source,
        }.get(outcome.state)
        if place is None or _names_a_left_over(outcome):
            continue
        views = _views(played, vm.id)
        defined = [host for host, view in views.items() if view.persistent]
        if defined != [place] * vm.persistent:
            yield f"{vm.id} ended {outcome.state} and is defined on {defined}"
        starts = [host for host, view in views.items() if view.autostart]
        if starts != [place] * (vm.persistent and vm.autostart):
            yield f"{vm.id} ended {outcome.state} and has autostart on {starts}"


def _names_a_left_over(outcome: Outcome) -> bool:
    words = ("left on", "also defined on", "autostart is off", "has no definition", "keep an eye")
    return any(word in outcome.text for word in words)


def _is_disturbed(played: Played, vm: Vm) -> bool:
    """Whether somebody else changed where it is or what is known of it."""
    if _is_deleted(played, vm) or _stopped_by_script(played, vm):
        return True
    return any(f.kind in MOVES_GUESTS and f.vm == vm.id for f in played.script.part.faults)


def _disks_are_kept(played: Played) -> Iterator[str]:
    """A guest has its disks where it runs, its old ones are never touched, nothing is forgotten."""
    vms, files = played.script.snapshot.vm_by_id, played.world.disk_files
    for vm in played.script.snapshot.vms:
        for host in {vm.host, *played.world.record.running_on(vm.id)}:
            missing = [disk.path for disk in vm.local_disks if (host, disk.path) not in files]
            if missing:
                yield f"{missing[0]} of {vm.id} is gone from {host}"
    for row in played.rows:
        outcome, vm, target = row.outcome, vms[row.migration.vm], row.migration.target
        if outcome is None:
            continue
        left = target if outcome.state is not S.COMPLETE else row.migration.source
        asked = {i.command.path for i in played.issued if isinstance(i.command, CreateDisk)}
        for disk in vm.local_disks:
            is_told = disk.path in outcome.text or disk.path not in asked
            if (left, disk.path) in files and not is_told:
                yield f"{row.migration.id} left {disk.path} on {left}, and says {outcome.text!r}"


def _nothing_after_stop(played: Played) -> Iterator[str]:
    """I23: nothing new within a second of the request to stop."""
    if played.stopped_at is None:
        return
    for issued in played.issued:
        is_new = isinstance(issued.command, Migrate | ShutDown | Save | MoveDefinition)
        if is_new and issued.at_seconds > played.stopped_at + 1.0:
            yield f"{type(issued.command).__name__} at second {issued.at_seconds:.1f}, after stop"


def _no_abort_in_post_copy(played: Played) -> Iterator[str]:
    """I12: nothing is called off once the VM may run on the target."""
    for vm in played.aborted_too_late:
        yield f"{vm} was aborted in post-copy"


def _recover_recovers(played: Played) -> Iterator[str]:
    """I24: with every host back, `recover` leaves only to people what only people may decide."""
    vms = played.script.snapshot.vm_by_id
    for row in played.rows:
        outcome = row.outcome
        if outcome is None or outcome.state is not S.UNKNOWN:
            continue
        views = _views(played, vms[row.migration.vm].id)
        active = [view for view in views.values() if view.is_active]
        broken = any(view.reason is StateReason.POST_COPY_FAILED for view in active)
        if _is_stale_copy_left(played, row.migration, vms[row.migration.vm]):
            yield f"{row.migration.id} has its stale copy, although the operator said yes"
        elif len(active) < 2 and not broken:
            yield f"{row.migration.id} stays unknown with {len(active)} copies: {outcome.text!r}"
        elif not any(word in outcome.text for word in HUMAN_ENDS):
            yield f"{row.migration.id} says too little: {outcome.text!r}"


def _is_stale_copy_left(played: Played, migration: Migration, vm: Vm) -> bool:
    """Whether a copy is there that everything speaks for ending."""
    views = _views(played, vm.id)
    active = {host for host, view in views.items() if view.is_active}
    if active != {migration.source, migration.target} or not vm.is_active:
        return False
    source, target = views[migration.source], views[migration.target]
    asked = any(isinstance(i.command, Migrate) and i.command.vm == vm.id for i in played.issued)
    return (
        asked
        and (source.state, source.reason) == (VmState.PAUSED, StateReason.MIGRATION)
        and (target.state, target.reason) == (VmState.RUNNING, StateReason.MIGRATED)
        and source.job is None
        and target.job is None
    )


_CHECKS = {
    "no surprise": _nothing_odd,
    "I3 named end": _has_an_end,
    "I2 written first": _is_written_first,
    "I6 looked first": _is_looked_at_first,
    "I7 ended with proof": _ends_only_stale_copies,
    "I8 never doubled": _is_never_doubled,
    "I9 image used once": _is_never_ruined,
    "I10 never lost": _is_never_lost,
    "I4 journal and world agree": _agrees,
    "I25 tidy": _is_tidy,
    "I16 budgets": budgets_are_kept,
    "I15 rules": rules_are_kept,
    "I23 stop": _nothing_after_stop,
    "disks are kept": _disks_are_kept,
    "I12 abort": _no_abort_in_post_copy,
    "I24 recovered": _recover_recovers,
}

__all__ = ["Finding", "What", "endings", "judge"]
