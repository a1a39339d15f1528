"""What a rollout tells while it works, for progress bars and logs. Nothing depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rebalancer.cluster.inventory import HostId, Mode, VmId
from rebalancer.cluster.plan import MigrationState, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStarted:
    """A rollout has its lock and begins."""

    at: datetime
    rollout: str
    plan: str
    migrations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChanged:
    """A migration went from one stage to the next."""

    at: datetime
    migration: str
    vm_name: str
    before: MigrationState
    after: MigrationState
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStarted:
    """The hypervisors are being asked to move a VM."""

    at: datetime
    migration: str
    vm: VmId
    vm_name: str
    source: HostId
    target: HostId
    mode: Mode
    bytes_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a transfer is."""

    at: datetime
    migration: str
    vm_name: str
    transferred_bytes: float
    remaining_bytes: float
    total_bytes: float
    iteration: int
    bytes_per_second: float | None
    eta_seconds: float | None
    """The end, if the guest wrote nothing more from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something worth telling: a repair, a pause, a reason to wait."""

    at: datetime
    migration: str
    vm_name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationEnded:
    """A migration came to an end, whichever."""

    at: datetime
    vm_name: str
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Nothing happened for a while; this is what is still going on."""

    at: datetime
    running: int
    pending: int
    ended: int
    paused: str = ""
    """Who keeps the pending ones from starting, and why; empty: nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutEnded:
    """Everything that was begun has ended."""

    at: datetime
    rollout: str
    stopped: str
    """Why it stopped early; empty if it did not."""


type Event = (
    RolloutStarted
    | StageChanged
    | MigrationStarted
    | Progress
    | Note
    | MigrationEnded
    | Heartbeat
    | RolloutEnded
)
