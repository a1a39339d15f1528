"""What is going to be done: a placement, and the plan of migrations that leads to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.explanation import Explanation
from rebalancer.cluster.inventory import Assignment, HostId, HostState, Mode, VmId
from rebalancer.cluster.prediction import MeasuredPart, Prediction
from rebalancer.cluster.rules import Violation

ROUNDING = 1e-6
"""Differences of an objective up to this are rounding and tolerances of solvers, not gains."""


class SolveStatus(StrEnum):
    """Why the solver stopped."""

    OPTIMAL = "optimal"
    TIME_LIMIT = "time_limit"
    """Time ran out; the placement is the best one found until then."""
    SEARCHED = "searched"
    """The search ended by itself: it found nothing better, and did not prove there is nothing."""
    UNCHANGED = "unchanged"
    """Nothing could be moved, or nothing better was found: the present placement stays."""
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterTier:
    """What a tier after the one that decided came to."""

    tier: int
    goals: tuple[str, ...]
    before: float
    after: float
    bound: float
    """No placement that is as good in the tiers before can have less in this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """How good the cluster was and will be by the policy's goals; smaller is better.

    Values are sums of weighted goals of the tier that decided, without a unit.
    """

    before: float
    after: float
    bound: float
    """No placement can have a smaller objective than this."""
    status: SolveStatus
    solve_seconds: float
    terms_before: Mapping[str, float] = field(default_factory=dict)
    """Share of each goal in `before`, by goal name, weights included."""
    terms_after: Mapping[str, float] = field(default_factory=dict)
    later: tuple[LaterTier, ...] = ()
    """The tiers after the one that decided, in their order. `status` is about all of them."""

    @property
    def gap_ratio(self) -> float:
        """Distance to the best possible: (after - bound) / after; 0 when nothing is left."""
        left = self.after - max(self.bound, 0.0)  # no goal can come to less than nothing
        return left / self.after if left > ROUNDING else 0.0

    @property
    def captured_ratio(self) -> float:
        """Share of the possible improvement that was found; 1 when nothing was possible."""
        possible = self.before - self.bound
        return min(1.0, (self.before - self.after) / possible) if possible > ROUNDING else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmoved:
    """A VM that ought to have moved and does not, with every reason."""

    vm: VmId
    reasons: tuple[str, ...]
    vm_name: str = ""
    """What people call it; empty where nobody filled it in."""
    waits_for_window: bool = False
    """Nothing is in its way but the hours: it would not be over before a window closes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AboveBand:
    """A host that stays above the band that it was to be brought down to, with every reason."""

    host: HostId
    name: str
    resource: str
    """`CPU` or `memory`."""
    ratio: float
    band_ratio: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """Where every VM should be, and how good that is."""

    assignment: Assignment
    objective: Objective
    reasons: Mapping[VmId, str] = field(default_factory=dict)
    """Why each moved VM moves, in numbers."""
    unmoved: tuple[Unmoved, ...] = ()
    above_band: tuple[AboveBand, ...] = ()
    explanation: Explanation = field(default_factory=Explanation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsolved:
    """No placement satisfies the policy."""

    status: SolveStatus
    conflicts: tuple[Violation, ...]
    """What contradicts each other, in words."""


class Priority(StrEnum):
    """What a migration is for, most urgent first."""

    DRAIN = "drain"
    REPAIR = "repair"
    """It mends a rule or a limit that is broken now."""
    BALANCE = "balance"
    """It serves a goal: balance, power, geography."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One VM going from one host to another in one way."""

    id: str
    """Unique within the plan: `m1`, `m2`, … in the order of their start."""
    vm: VmId
    vm_name: str
    source: HostId
    target: HostId
    mode: Mode
    mode_reason: str
    """Why this mode, in one sentence with numbers."""
    reason: str
    """Why the VM moves at all."""
    priority: Priority
    wave: int
    """Length of the longest chain of migrations that it waits for, plus one."""
    depends_on: tuple[str, ...]
    """Migrations that must have completed before this one may start."""
    bytes_per_second: float
    """Bandwidth it is granted."""
    max_downtime_seconds: float
    """Longest pause the hypervisor may plan for at the switch-over."""
    memory_bytes: int
    predicted: Prediction
    saved_to: str = ""
    """Cold: the shared storage through which the guest's memory goes, so that it does not boot
    anew; empty: it is shut down and started."""
    disks: tuple[LocalDisk, ...] = ()
    """Disks that only the source reaches, and that are copied to the target before its memory."""

    @property
    def disk_bytes(self) -> int:
        """The size of the disks that are copied."""
        return sum(disk.capacity_bytes for disk in self.disks)


class PowerAction(StrEnum):
    """What is done to a host's power."""

    WAKE = "wake"
    SLEEP = "sleep"


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerStep:
    """One host switched on before, or off after, the migrations that concern it."""

    host: HostId
    action: PowerAction
    reason: str
    depends_on: tuple[str, ...] = ()
    """Migrations that must have completed before."""
    vms: int = 0
    """VMs that the plan moves off it."""
    moved_bytes: float = 0.0
    """What their migrations are predicted to send."""
    saved_watts: float = 0.0
    """What the host draws when it is on and idle; below 0 for one that is woken."""
    payback_seconds: float | None = None
    """When what it saves makes up for the moves and a power cycle; `None` if it saves nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOutlook:
    """A host before and after the plan; the ratios are of its capacity, reserve taken off.

    They are `None` where that is unknown: of a host that never answered.
    """

    host: HostId
    name: str
    state: HostState
    cpu_ratio_before: float | None
    cpu_ratio_after: float | None
    memory_ratio_before: float | None
    memory_ratio_after: float | None
    vms_before: int
    vms_after: int


class VerdictKind(StrEnum):
    """What a cycle came to."""

    MOVES = "moves"
    BALANCED = "balanced"
    BELOW_THRESHOLD = "below threshold"
    NO_GAIN = "no gain"
    BLOCKED = "blocked"
    """Something that must happen cannot: a drain, the repair of a hard rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sentence that an operator reads first."""

    kind: VerdictKind
    text: str
    is_unmet: bool = False
    """Whether, though VMs move, a drain is not finished or a hard rule stays broken."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Ordered migrations with everything needed to review, apply and judge them.

    Immutable once made. Its fingerprints tie it to the snapshot and policy it was made from.
    """

    id: str
    cluster: str
    creator: str
    created_at: datetime
    expires_at: datetime
    policy: str
    policy_fingerprint: str
    snapshot_fingerprint: str
    snapshot_taken_at: datetime
    verdict: Verdict
    objective: Objective | None
    hosts: tuple[HostOutlook, ...]
    migrations: tuple[Migration, ...]
    unmoved: tuple[Unmoved, ...] = ()
    above_band: tuple[AboveBand, ...] = ()
    power: tuple[PowerStep, ...] = ()
    makespan_seconds: float = 0.0
    makespan_lower_bound_seconds: float = 0.0
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Migration id -> what a human would type to do the same."""
    violations_before: tuple[Violation, ...] = ()
    violations_after: tuple[Violation, ...] = ()
    deadline_seconds: float | None = None
    """By when all was asked to be over, counted from the start; `None` if nobody asked."""
    makespan_upper_seconds: float | None = None
    """When it is over if every migration takes as long as its band reaches; with a deadline."""
    breaks_deadline: tuple[VmId, ...] = ()
    """VMs that may not be where they should by then. A plan with any is not to be carried out."""
    explanation: Explanation = field(default_factory=Explanation)
    """What its moves are worth, what was not done and why, how many hosts there are to spare."""
    made_as: str = ""
    """The digest of the steps that were made, of a plan whose file says others now; else empty.

    Whoever edits a plan may: every step is judged anew before it is carried out. Reasons,
    predictions and hosts after it are those of the steps that were made.
    """

    @property
    def is_edited(self) -> bool:
        """Whether somebody changed its steps since it was made."""
        return bool(self.made_as)

    @property
    def final_assignment(self) -> Mapping[VmId, HostId]:
        """Where the VMs that the plan moves end up."""
        return {migration.vm: migration.target for migration in self.migrations}


class MigrationState(StrEnum):
    """Where a migration stands: five stages as the field teaches them, and how it can end."""

    PENDING = "pending"
    PREPARE = "prepare"
    """The target is checked against the live state."""
    REQUEST = "request"
    """The hypervisors were asked to move it; the target is setting up."""
    TRANSFER = "transfer"
    """Memory is copied; the source still is the owner."""
    FINISH = "finish"
    """The transfer ended and it is found out who owns the VM now."""
    COMPLETE = "complete"
    SKIPPED = "skipped"
    """Never started: it was not needed any more, or what it relied on did not hold."""
    FAILED_SAFE = "failed-safe"
    """Not moved; the VM runs on the source as before."""
    FAILED_DOWN = "failed-down"
    """The VM ran before and does not run now. A human must look at once."""
    ABORTED = "aborted"
    """Called off on request; the VM runs on the source."""
    UNKNOWN = "unknown"
    """It could not be found out where the VM is. Nothing touches the VM until it is."""


ENDED_STATES = frozenset(
    {
        MigrationState.COMPLETE,
        MigrationState.SKIPPED,
        MigrationState.FAILED_SAFE,
        MigrationState.FAILED_DOWN,
        MigrationState.ABORTED,
        MigrationState.UNKNOWN,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one migration of a rollout ended, and what it really took."""

    migration: str
    state: MigrationState
    text: str
    """What happened, for the operator."""
    duration_seconds: float | None = None
    downtime_seconds: float | None = None
    """As the hypervisor reported it."""
    transfer_bytes: float | None = None
    iterations: int | None = None
    parts: tuple[MeasuredPart, ...] = ()
    """As far as this process saw their beginning and end."""
