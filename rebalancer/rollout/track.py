"""Everything a rollout knows of one migration at an instant, and the times it works by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from rebalancer.cluster.inventory import Mode, Snapshot, Vm
from rebalancer.cluster.plan import ENDED_STATES, Migration, MigrationState
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.rollout.attempt import Attempt
from rebalancer.rollout.driver import Command, Failed, Returned
from rebalancer.rollout.hooks import HookReply
from rebalancer.rollout.permitted import longest_pause_seconds
from rebalancer.rollout.prechecks import Scene
from rebalancer.rollout.precopy import Mandate, Watch
from rebalancer.rollout.reconcile import Decision, Ended, UriOf, default_uri
from rebalancer.rollout.sightings import TransferProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long a rollout waits for what. Defaults and their sources are in `docs/safety.md`."""

    tick_seconds: float = 0.5
    """Between two rounds of the executor."""
    poll_seconds: float = 1.0
    """Between two readings of a transfer's progress."""
    look_seconds: float = 2.0
    """Between two looks at the hosts, doubled up to `look_max_seconds` while some are silent."""
    look_max_seconds: float = 30.0
    split_look_seconds: float = 5.0
    """The same for a VM whose memory may have arrived while nobody could see it: two copies of
    it may run as long as a host is silent."""
    hold_seconds: float = 10.0
    """Between two tries of a migration that something temporary keeps from starting."""
    hold_patience_seconds: float = 600.0
    """After so long a temporary obstacle counts as lasting, and the migration is skipped."""
    unknown_patience_seconds: float = 300.0
    """So long an unclear state may take to become clear by itself."""
    tidy_patience_seconds: float = 30.0
    """The same where the VM is well, and only something is left to tidy up."""
    settle_seconds: float = 35.0
    """A request whose end nobody saw may still be waiting for libvirt's lock on the domain, for
    up to 30 s; only after that a quiet picture is believed."""
    shutdown_seconds: float = 180.0
    """A guest that was asked to shut down gets so long."""
    least_deadline_seconds: float = 120.0
    deadline_factor: float = 3.0
    """A transfer may take so many times its prediction before it is ended."""
    abort_again_seconds: float = 30.0
    stall_seconds: float = 60.0
    silence_seconds: float = 60.0
    heartbeat_seconds: float = 10.0
    repairs: int = 3
    """How often the same repair is tried."""


class Leave(StrEnum):
    """Whether the operator's `before_migration` hooks let a migration start."""

    NOT_ASKED = "not asked"
    ASKED = "asked"
    GIVEN = "given"
    """Once for all: a migration that has to wait afterwards does not ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """A decision that the looks since `since` agree on."""

    decision: Decision
    since: datetime
    looks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One migration in a rollout. Changed by `stages.advance` only."""

    migration: Migration
    mandate: Mandate
    state: MigrationState = MigrationState.PENDING
    entered_at: datetime
    """When the present state began."""
    attempt: Attempt | None = None
    """From the moment on when something is about to be changed."""
    granted_bytes_per_second: float = 0.0
    slowed_to_bytes_per_second: float | None = None
    """What the hypervisor was told since, if the operator asked for less; `None`: nothing."""
    awaiting: frozenset[Command] = frozenset()
    """Commands without a reply as yet."""
    next_at: datetime | None = None
    """When to look or poll next; not before."""
    first_held_at: datetime | None = None
    leave: Leave = Leave.NOT_ASKED
    requested_at: datetime | None = None
    moved_at: datetime | None = None
    """When the transfer, or the last step of a cold move, was over."""
    stopped_at: datetime | None = None
    """When a guest that is moved cold was seen shut off."""
    ignored_at: datetime | None = None
    """When waiting for it to shut down was given up."""
    parted_at: datetime | None = None
    """When the first part of what takes its time was over: its memory saved, its disks copied."""
    watch: Watch | None = None
    settling: Settling | None = None
    looks_in_vain: int = 0
    called_off: str = ""
    """Why we asked for it to be aborted; empty if we did not."""
    called_off_at: datetime | None = None
    on_request: bool = False
    """It was the operator who asked for that."""
    abort_again_at: datetime | None = None
    ending: Ended | None = None
    """How it ended, while its statistics are still being fetched."""
    is_result_lost: bool = False
    """They could not be fetched; that is not tried again."""
    result: TransferProgress | None = None
    """The statistics at its end, or the last ones that were seen."""
    text: str = ""
    """The latest thing to be said about it."""

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will be done about it in this rollout."""
        return self.state in ENDED_STATES

    @property
    def is_under_way(self) -> bool:
        """Whether it takes up room on its target and a place among the running ones."""
        return not self.is_ended and self.state is not MigrationState.PENDING

    def enter(self, state: MigrationState, now: datetime, text: str = "") -> Track:
        """Go to another state; `steps.TRANSITIONS` says which are legal."""
        return replace(
            self,
            state=state,
            entered_at=now,
            next_at=None,
            settling=None,
            looks_in_vain=0,
            moved_at=now if state is MigrationState.FINISH else self.moved_at,
            text=text or self.text,
        )

    def without_awaiting(self, answered: Iterable[Command]) -> Track:
        """Take replies off the list of what is waited for."""
        return replace(self, awaiting=self.awaiting - frozenset(answered))

    def awaits(self, kind: type[object]) -> bool:
        """Whether a command of that kind has no reply yet."""
        return any(isinstance(command, kind) for command in self.awaiting)

    def later(self, now: datetime, seconds: float) -> Track:
        """Do nothing more by itself until some time has passed."""
        return replace(self, next_at=now + timedelta(seconds=seconds))

    def is_due(self, now: datetime) -> bool:
        """Whether the time for the next look or poll has come."""
        return self.next_at is None or now >= self.next_at


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heard:
    """The reply to a command."""

    command: Command
    reply: Returned | Failed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surroundings:
    """What a step needs to know besides its own migration."""

    scene: Scene
    times: Times = field(default_factory=Times)
    uri_of: UriOf = default_uri
    is_hurried: bool = False
    """The operator wants it to end: what is unclear is reported as it is, not waited for."""
    pace_ratio: float = 1.0
    """What a transfer under way may use of what it was granted."""
    spare_bytes_per_second: float = 0.0
    """What no migration has of the links on its way; told where it could help."""
    asks_leave: bool = False
    """A hook has to be asked before it starts."""
    hook_reply: HookReply | None = None
    """What that hook said just now."""
    standstill: str = ""
    """Why nothing may start just now."""

    def scene_for(self, track: Track) -> Scene:
        """The cluster without the migration itself."""
        others = tuple(m for m in self.scene.in_flight if m.id != track.migration.id)
        return replace(self.scene, in_flight=others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a migration does in one round: its new state, and commands to issue."""

    track: Track
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()

    def issuing(self, *commands: Command) -> Turn:
        """Issue these as well, and remember that."""
        track, attempt = self.track, self.track.attempt
        return replace(
            self,
            commands=(*self.commands, *commands),
            track=replace(
                track,
                awaiting=track.awaiting | frozenset(commands),
                attempt=attempt.with_issued(commands) if attempt else None,
            ),
        )

    def noting(self, note: str) -> Turn:
        """Tell the operator something."""
        return replace(self, notes=(*self.notes, note))

    def then(self, later: Turn) -> Turn:
        """Go on with a turn that was taken from this one's track."""
        return Turn(
            track=later.track,
            commands=(*self.commands, *later.commands),
            notes=(*self.notes, *later.notes),
        )


def mandate_for(
    migration: Migration,
    snapshot: Snapshot,
    permissions: MigrationPermissions,
    times: Times,
) -> Mandate:
    """Derive what may be done to finish a transfer: from the plan, the policy and the owner."""
    vm = snapshot.vm_by_id.get(migration.vm)
    allowed = permissions.allow
    if vm is not None and vm.allowed_modes is not None:
        allowed = allowed & vm.allowed_modes
    planned = migration.mode is Mode.SUSPEND
    return Mandate(
        mode=migration.mode,
        max_downtime_seconds=_longest_downtime_seconds(migration, vm, permissions),
        max_suspend_seconds=(
            permissions.max_suspend_seconds if planned or Mode.SUSPEND in allowed else None
        ),
        deadline_seconds=_deadline_seconds(migration, permissions, times),
        stall_seconds=times.stall_seconds,
        silence_seconds=times.silence_seconds,
    )


def _longest_downtime_seconds(
    migration: Migration, vm: Vm | None, permissions: MigrationPermissions
) -> float:
    """What a pause may be raised to: plans aim below what policy and owner allow."""
    if migration.mode not in (Mode.LIVE, Mode.AUTO_CONVERGE):
        return migration.max_downtime_seconds
    allowed = longest_pause_seconds(migration.mode, vm, permissions)
    return max(migration.max_downtime_seconds, allowed)


def _deadline_seconds(
    migration: Migration, permissions: MigrationPermissions, times: Times
) -> float:
    """Several times the prediction, within what the policy allows, and never a mere moment."""
    predicted = migration.predicted
    generous = max(
        times.deadline_factor * predicted.duration_seconds, predicted.duration_upper_seconds
    )
    return max(times.least_deadline_seconds, min(generous, permissions.max_duration_seconds))
