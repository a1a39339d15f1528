"""What the journal's tables hold, as values, and how migrations are written in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import HostId, Mode, VmId
from rebalancer.cluster.plan import Migration, MigrationState, Outcome, Priority
from rebalancer.cluster.prediction import Confidence, MeasuredPart, Part, PredictedPart, Prediction
from rebalancer.rollout.sightings import Absent, DomainView, HostView, Sighting, Unreachable


class RecordKind(StrEnum):
    """What a line of the journal is about."""

    INTENT = "intent"
    """A command that is going to be issued; written before it is."""
    OBSERVED = "observed"
    """A reply, or what the hosts said."""
    STATE = "state"
    """The migration went to another stage."""
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line about to be written."""

    migration: str
    kind: RecordKind
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A line of the journal."""

    number: int
    rollout: int
    migration: str
    at: datetime
    kind: RecordKind
    payload: Mapping[str, Any]


class RolloutStatus(StrEnum):
    """What became of a rollout."""

    RUNNING = "running"
    """Under way; or its process died, and `recover` has to see to it."""
    ENDED = "ended"
    STOPPED = "stopped"
    """It ended early: on request, or after too many failures."""
    RECOVERED = "recovered"
    """Its process died; every migration was looked after since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """One application of one plan."""

    id: int
    cluster: str
    plan_id: str
    status: RolloutStatus
    owner: str
    started_at: datetime
    ended_at: datetime | None
    text: str
    """Why it stopped early, if it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationRow:
    """One migration of a rollout: what was predicted and what it really took."""

    rollout: int
    migration: Migration
    state: MigrationState
    outcome: Outcome | None
    """`None` while it has not ended."""
    changed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A VM that was moved, for cool-downs and for not moving it straight back."""

    vm: VmId
    source: HostId
    target: HostId
    priority: Priority
    at: datetime
    memory_bytes: int = 0
    """The VM's, as it was planned with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """A migration that was begun and failed, whoever's fault that was."""

    vm: VmId
    source: HostId
    target: HostId
    at: datetime
    text: str
    """Why, as far as it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainMark:
    """A host that its operator wants empty."""

    host: HostId
    since: datetime
    reason: str


def migration_to_json(migration: Migration) -> dict[str, Any]:
    """Write a migration as the journal keeps it."""
    written = asdict(migration)
    if not migration.disks:
        del written["disks"]  # so that programs of before there were any can read it
    if not migration.predicted.parts:
        del written["predicted"]["parts"]
    return written


def migration_from_json(written: Mapping[str, Any]) -> Migration:
    """Read a migration back."""
    predicted = dict(written["predicted"])
    predicted["confidence"] = Confidence(predicted["confidence"])
    predicted["parts"] = tuple(
        PredictedPart(**{**part, "part": Part(part["part"])}) for part in predicted.get("parts", ())
    )
    return Migration(
        **{
            **written,
            "mode": Mode(written["mode"]),
            "priority": Priority(written["priority"]),
            "depends_on": tuple(written["depends_on"]),
            "disks": tuple(LocalDisk(**disk) for disk in written.get("disks", ())),
            "predicted": Prediction(**predicted),
        }
    )


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Write an outcome as the journal keeps it."""
    written = asdict(outcome)
    if not outcome.parts:
        del written["parts"]
    return written


def outcome_from_json(written: Mapping[str, Any]) -> Outcome:
    """Read an outcome back."""
    parts = tuple(
        MeasuredPart(**{**part, "part": Part(part["part"])}) for part in written.get("parts", ())
    )
    return Outcome(**{**written, "state": MigrationState(written["state"]), "parts": parts})


def sighting_to_json(sighting: Sighting) -> dict[str, Any]:
    """Write what hosts said; those that do not know the VM are only counted."""
    return {
        "hosts_asked": len(sighting.views),
        "absent": sum(isinstance(view, Absent) for view in sighting.views.values()),
        "views": {
            host: _view_to_json(view)
            for host, view in sighting.views.items()
            if not isinstance(view, Absent)
        },
    }


def _view_to_json(view: HostView) -> dict[str, Any]:
    match view:
        case DomainView():
            return asdict(view)
        case Unreachable(why=why):
            return {"unreachable": why}
        case Absent():
            return {"absent": True}


def note_entry(migration: str, text: str) -> Entry:
    """A line that says something worth knowing later, and changes nothing."""
    return Entry(migration=migration, kind=RecordKind.NOTE, payload={"text": text})


def state_entry(
    migration: str, state: MigrationState, text: str, outcome: Outcome | None = None
) -> Entry:
    """A line that says which stage a migration reached, and how it ended if it did."""
    payload: dict[str, Any] = {"state": state, "text": text}
    if outcome is not None:
        payload["outcome"] = outcome_to_json(outcome)
    return Entry(migration=migration, kind=RecordKind.STATE, payload=payload)
