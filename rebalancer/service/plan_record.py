"""What a plan's file holds, key by key, and the nouns that it means.

Reading, writing, and what has to fit together in it, is `plan_file`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import HostId, HostState, Mode, VmId
from rebalancer.cluster.plan import (
    AboveBand,
    HostOutlook,
    LaterTier,
    Migration,
    Objective,
    Plan,
    PowerAction,
    PowerStep,
    Priority,
    SolveStatus,
    Unmoved,
    Verdict,
    VerdictKind,
)
from rebalancer.cluster.prediction import Confidence, Part, PredictedPart, Prediction
from rebalancer.cluster.rules import Violation
from rebalancer.files import FileModel
from rebalancer.service.explanation_record import ExplanationRecord

SCHEMA_VERSION = 1


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value


type Amount = Annotated[float, Field(ge=0)]
type Unbounded = Annotated[Amount | None, AfterValidator(_or_infinity)]
"""A duration, or `null` for one without an end."""
type Count = Annotated[int, Field(ge=0)]
type Name = Annotated[str, Field(min_length=1)]


class VerdictRecord(FileModel):
    """See `cluster.plan.Verdict`."""

    kind: VerdictKind
    text: str
    is_unmet: bool = False

    def noun(self) -> Verdict:
        """Return the verdict that this means."""
        return Verdict(kind=self.kind, text=self.text, is_unmet=self.is_unmet)


class LaterTierRecord(FileModel):
    """See `cluster.plan.LaterTier`."""

    tier: int
    goals: tuple[str, ...] = ()
    before: float
    after: float
    bound: float

    def noun(self) -> LaterTier:
        """Return the tier that this means."""
        return LaterTier(**_given(self))


class AboveBandRecord(FileModel):
    """See `cluster.plan.AboveBand`."""

    host: str
    name: str
    resource: str
    ratio: Amount
    band_ratio: Amount
    reasons: tuple[str, ...] = ()

    def noun(self) -> AboveBand:
        """Return the host that this means."""
        return AboveBand(**_given(self))


class ObjectiveRecord(FileModel):
    """See `cluster.plan.Objective`."""

    before: float
    after: float
    bound: float
    status: SolveStatus
    solve_seconds: Amount
    terms_before: Mapping[str, float] = {}
    terms_after: Mapping[str, float] = {}
    later: tuple[LaterTierRecord, ...] = ()
    gap_ratio: float | None = None
    """Derived; not read."""
    captured_ratio: float | None = None
    """Derived; not read."""

    def noun(self) -> Objective:
        """Return the objective that this means."""
        given = _given(self, but=("gap_ratio", "captured_ratio", "later"))
        return Objective(**given, later=_nouns(self.later))


class PartRecord(FileModel):
    """See `cluster.prediction.PredictedPart`."""

    part: Part
    seconds: Amount
    upper_seconds: Unbounded
    ideal_seconds: Unbounded = 0.0
    learned_from: Count = 0

    def noun(self) -> PredictedPart:
        """Return the part that this means."""
        return PredictedPart(**_given(self))


class PredictionRecord(FileModel):
    """See `cluster.prediction.Prediction`."""

    start_seconds: Amount
    finish_seconds: float | None = None
    """Derived; not read."""
    duration_seconds: Amount
    duration_upper_seconds: Unbounded
    downtime_seconds: Amount
    downtime_upper_seconds: Unbounded
    transfer_bytes: Amount
    confidence: Confidence
    rounds: int = 0
    switchover_seconds: Amount = 0.0
    parts: tuple[PartRecord, ...] = ()

    def noun(self) -> Prediction:
        """Return the prediction that this means."""
        given = _given(self, but=("finish_seconds", "parts"))
        return Prediction(**given, parts=_nouns(self.parts))


class DiskRecord(FileModel):
    """See `cluster.disks.LocalDisk`."""

    target: Name
    capacity_bytes: Count
    path: Name
    format: Name
    allocated_bytes: Count | None = None
    obstacle: str = ""

    def noun(self) -> LocalDisk:
        """Return the disk that this means."""
        return LocalDisk(**_given(self))


class MigrationRecord(FileModel):
    """See `cluster.plan.Migration`."""

    id: Name
    vm: Name
    vm_name: str
    source: Name
    target: Name
    mode: Mode
    mode_reason: str
    reason: str
    priority: Priority
    wave: Annotated[int, Field(ge=1)]
    depends_on: tuple[Name, ...] = ()
    bytes_per_second: Amount
    max_downtime_seconds: Amount
    memory_bytes: Count
    predicted: PredictionRecord
    saved_to: str = ""
    disks: tuple[DiskRecord, ...] = ()

    def noun(self) -> Migration:
        """Return the migration that this means."""
        return Migration(
            **_given(self, but=("predicted", "disks")),
            predicted=self.predicted.noun(),
            disks=_nouns(self.disks),
        )


class HostRecord(FileModel):
    """See `cluster.plan.HostOutlook`."""

    host: Name
    name: str
    state: HostState
    cpu_ratio_before: Amount | None
    cpu_ratio_after: Amount | None
    memory_ratio_before: Amount | None
    memory_ratio_after: Amount | None
    vms_before: Count
    vms_after: Count

    def noun(self) -> HostOutlook:
        """Return the outlook that this means."""
        return HostOutlook(**_given(self))


class UnmovedRecord(FileModel):
    """See `cluster.plan.Unmoved`."""

    vm: Name
    vm_name: str = ""
    reasons: tuple[str, ...]
    waits_for_window: bool = False

    def noun(self) -> Unmoved:
        """Return what this means."""
        return Unmoved(**_given(self))


class PowerRecord(FileModel):
    """See `cluster.plan.PowerStep`."""

    host: Name
    action: PowerAction
    reason: str
    depends_on: tuple[Name, ...] = ()
    vms: Count = 0
    moved_bytes: Amount = 0.0
    saved_watts: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    payback_seconds: Amount | None = None

    def noun(self) -> PowerStep:
        """Return the step that this means."""
        return PowerStep(**_given(self))


class ViolationRecord(FileModel):
    """See `cluster.rules.Violation`."""

    rule: str
    text: str
    vms: tuple[VmId, ...] = ()
    hosts: tuple[HostId, ...] = ()
    severity: float = 1.0
    breach: str = ""

    def noun(self) -> Violation:
        """Return the violation that this means."""
        return Violation(**_given(self))


class PlanRecord(FileModel):
    """See `cluster.plan.Plan`."""

    schema_version: Literal[1]
    id: Name
    cluster: str
    creator: str
    created_at: AwareDatetime
    expires_at: AwareDatetime
    policy: str
    policy_fingerprint: str
    snapshot_fingerprint: str
    snapshot_taken_at: AwareDatetime
    verdict: VerdictRecord
    objective: ObjectiveRecord | None
    hosts: tuple[HostRecord, ...]
    migrations: tuple[MigrationRecord, ...]
    unmoved: tuple[UnmovedRecord, ...] = ()
    above_band: tuple[AboveBandRecord, ...] = ()
    power: tuple[PowerRecord, ...] = ()
    makespan_seconds: Amount = 0.0
    makespan_lower_bound_seconds: Amount = 0.0
    commands: Mapping[str, tuple[str, ...]] = {}
    violations_before: tuple[ViolationRecord, ...] = ()
    violations_after: tuple[ViolationRecord, ...] = ()
    deadline_seconds: Amount | None = None
    makespan_upper_seconds: Amount | None = None
    breaks_deadline: tuple[str, ...] = ()
    explanation: ExplanationRecord = ExplanationRecord()
    made_as: str = ""
    """See `plan_edits`; plans of earlier versions have none."""
    drain: Any = None
    """What `drain -o json` adds for those who read it; a plan is carried out without it."""

    def noun(self) -> Plan:
        """Return the plan that this means."""
        listed = (
            "hosts",
            "migrations",
            "unmoved",
            "above_band",
            "power",
            "violations_before",
            "violations_after",
        )
        return Plan(
            **_given(
                self,
                but=("schema_version", "verdict", "objective", "explanation", "drain", *listed),
            ),
            **{name: _nouns(getattr(self, name)) for name in listed},
            verdict=self.verdict.noun(),
            objective=self.objective.noun() if self.objective else None,
            explanation=self.explanation.noun(),
        )


def _given(record: FileModel, but: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).model_fields if name not in but}


def _nouns(records: tuple[Any, ...]) -> Any:  # noqa: ANN401 - of whichever noun
    return tuple(record.noun() for record in records)
