"""What a rollout leaves behind as it goes: lines of the journal, and events for the onlooker.

And the way back: from the lines of a dead rollout to what it may have done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rebalancer.cluster.plan import Migration, MigrationState
from rebalancer.rollout.attempt import (
    Attempt,
    before_from_json,
    before_to_json,
    command_from_json,
    command_to_json,
)
from rebalancer.rollout.calls import VAGUE_CODES, may_still_happen
from rebalancer.rollout.disk_files import DiskFiles
from rebalancer.rollout.driver import (
    Command,
    CopyDefinition,
    CreateDisk,
    DiscardImage,
    Failed,
    Migrate,
    MoveDefinition,
    RemoveDisk,
    Restore,
    Returned,
    Save,
    ShutDown,
    Start,
)
from rebalancer.rollout.events import (
    Event,
    MigrationEnded,
    MigrationStarted,
    Note,
    Progress,
    StageChanged,
)
from rebalancer.rollout.precopy import Watch
from rebalancer.rollout.records import (
    Entry,
    Record,
    RecordKind,
    sighting_to_json,
    state_entry,
)
from rebalancer.rollout.sightings import Sighting, TransferProgress
from rebalancer.rollout.stages import outcome_of
from rebalancer.rollout.stale import proof_in
from rebalancer.rollout.steps import TRANSITIONS
from rebalancer.rollout.track import Track, Turn


def journal_entries(before: Track, turn: Turn) -> list[Entry]:
    """The lines that a turn leaves in the journal, in the order in which things happen."""
    track, name = turn.track, turn.track.migration.id
    lines = [
        Entry(migration=name, kind=RecordKind.NOTE, payload={"text": note}) for note in turn.notes
    ]
    if track.state is not before.state:
        _assert_legal(before.state, track.state)
        outcome = outcome_of(track) if track.is_ended else None
        lines.append(state_entry(name, track.state, track.text, outcome))
    for command in turn.commands:
        if command.changes:
            assert track.attempt is not None, "a change needs a look at the VM first"
            payload = {
                "command": command_to_json(command),
                "before": before_to_json(track.attempt.before),
                "stale_on_source": track.attempt.stale_on_source,
            }
            lines.append(Entry(migration=name, kind=RecordKind.INTENT, payload=payload))
    return lines


def _assert_legal(before: MigrationState, after: MigrationState) -> None:
    """A turn may pass through a state: finish is never skipped, though it may take no time."""
    passing = {after} | {s for s in TRANSITIONS[before] if after in TRANSITIONS[s]}
    assert passing & TRANSITIONS[before], f"{before} cannot be followed by {after}"


def reply_entry(migration: str, command: Command, reply: Returned | Failed) -> Entry:
    """The line that a reply leaves."""
    payload: dict[str, Any] = {"to": type(command).__name__}
    if isinstance(command, CreateDisk | RemoveDisk):
        payload |= {"disk": command_to_json(command)}
    match reply:
        case Failed(text=text, code=code, timed_out=timed_out):
            payload |= {"failed": text, "code": code, "timed_out": timed_out}
            payload |= {"is_from_host": True} if reply.is_from_host else {}
        case Returned(value=Sighting() as sighting):
            payload |= {"sighting": sighting_to_json(sighting)}
        case Returned(value=TransferProgress() as progress):
            payload |= {
                "transferred_bytes": progress.transferred_bytes,
                "downtime_seconds": progress.downtime_seconds,
                "iteration": progress.iteration,
            }
        case Returned():
            payload |= {"returned": True}
    return Entry(migration=migration, kind=RecordKind.OBSERVED, payload=payload)


def events_of(before: Track, turn: Turn, now: datetime) -> Iterator[Event]:
    """Tell what a turn brought."""
    track, migration = turn.track, turn.track.migration
    for note in turn.notes:
        yield Note(at=now, migration=migration.id, vm_name=migration.vm_name, text=note)
    if track.state is before.state:
        return
    yield StageChanged(
        at=now,
        migration=migration.id,
        vm_name=migration.vm_name,
        before=before.state,
        after=track.state,
        text=track.text,
    )
    if track.state is MigrationState.REQUEST:
        yield _started(track, now)
    if track.is_ended:
        outcome = outcome_of(track)
        yield MigrationEnded(at=now, vm_name=migration.vm_name, outcome=outcome)


def _started(track: Track, now: datetime) -> MigrationStarted:
    migration = track.migration
    return MigrationStarted(
        at=now,
        migration=migration.id,
        vm=migration.vm,
        vm_name=migration.vm_name,
        source=migration.source,
        target=migration.target,
        mode=migration.mode,
        bytes_per_second=track.granted_bytes_per_second,
    )


def progress_event(track: Track, sample: TransferProgress, now: datetime) -> Progress:
    """Tell how far a transfer is; rate and end are smoothed over earlier samples."""
    watch = track.watch
    return Progress(
        at=now,
        migration=track.migration.id,
        vm_name=track.migration.vm_name,
        transferred_bytes=sample.transferred_bytes,
        remaining_bytes=sample.remaining_bytes,
        total_bytes=sample.total_bytes,
        iteration=sample.iteration,
        bytes_per_second=watch.bytes_per_second if watch else None,
        eta_seconds=_eta_seconds(watch, sample),
    )


def _eta_seconds(watch: Watch | None, sample: TransferProgress) -> float | None:
    """When what is being sent now is over: the disks, or the present pass of memory."""
    if watch is None:
        return None
    if sample.is_copying_disks:
        rate = watch.bytes_per_second
        return sample.remaining_bytes / rate if rate else None
    return watch.eta_seconds()


def attempt_from(migration: Migration, records: Sequence[Record]) -> Attempt | None:
    """Read from the journal what may have been done; `None` if nothing can have been.

    A command without a reply may or may not have reached its hypervisor.
    """
    intents = [record for record in records if record.kind is RecordKind.INTENT]
    if not intents:
        return None
    return Attempt(
        migration=migration,
        before=before_from_json(intents[0].payload["before"]),
        issued=tuple(command_from_json(record.payload["command"]) for record in intents),
        issued_before=len(intents),
        stale_proof=proof_in(migration, records),
        open_call=_has_open_call(records),
        disk_files=_disk_files(records),
        image_is_gone=_is_image_gone(records),
        stale_on_source=any(record.payload["stale_on_source"] for record in intents),
        error=_last_error(records),
        is_error_vague=_is_last_error_vague(records),
    )


_MOVING = frozenset(
    kind.__name__
    for kind in (Migrate, MoveDefinition, ShutDown, Save, Restore, CopyDefinition, Start)
)


def _has_open_call(records: Sequence[Record]) -> bool:
    """Whether the last command that moves, stops or starts the VM has no definite reply."""
    is_open = False
    for record in records:
        if record.kind is RecordKind.INTENT and record.payload["command"]["do"] in _MOVING:
            is_open = True
        elif record.kind is RecordKind.OBSERVED and record.payload["to"] in _MOVING:
            said = record.payload
            is_open = "failed" in said and may_still_happen(said["to"], _failure_in(said))
    return is_open


def _failure_in(said: Mapping[str, Any]) -> Failed:
    return Failed(
        text=said["failed"],
        code=said["code"],
        timed_out=said["timed_out"],
        is_from_host=said.get("is_from_host", False),
    )


def _disk_files(records: Sequence[Record]) -> DiskFiles:
    """What was heard of the files that disks were to be copied into."""
    files = DiskFiles()
    for record in records:
        if record.kind is not RecordKind.OBSERVED or "disk" not in record.payload:
            continue
        command, said = command_from_json(record.payload["disk"]), record.payload
        assert isinstance(command, CreateDisk | RemoveDisk)
        if "failed" in said:
            files = files.told(command, _failure_in(said))
        else:
            files = files.told(command, Returned())
    return files


def _is_image_gone(records: Sequence[Record]) -> bool:
    return any(
        record.kind is RecordKind.OBSERVED
        and record.payload["to"] == DiscardImage.__name__
        and "returned" in record.payload
        for record in records
    )


def _is_last_error_vague(records: Sequence[Record]) -> bool:
    """Whether the last call that moves, stops or starts it may have failed by its connection."""
    replies = [
        record.payload
        for record in records
        if record.kind is RecordKind.OBSERVED and record.payload["to"] in _MOVING
    ]
    return bool(replies) and replies[-1].get("code") in VAGUE_CODES


def _last_error(records: Sequence[Record]) -> str:
    errors = [
        record.payload["failed"]
        for record in records
        if record.kind is RecordKind.OBSERVED
        and record.payload["to"] in _MOVING
        and "failed" in record.payload
    ]
    return str(errors[-1]) if errors else ""
