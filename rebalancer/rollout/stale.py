"""Which of two copies of a VM is the older one, what proves it, and when it may be ended.

When the link breaks just after the target of a migration resumed the guest, the source does not
hear of it: it takes its own copy back (two copies run), or cannot because the target holds the
lock on the disk (one stands still). In both cases the target's copy is the VM from then on, as
the source's stood still until the link was given up.

The proof is in the journal: we asked for that very migration, and then two looks in a row found
the copy on the target running *because it was migrated there*, the one on the source running
because its migration was *canceled* or still standing still for it, and no job on either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rebalancer.cluster.inventory import HostId, VmState
from rebalancer.cluster.plan import Migration
from rebalancer.rollout.driver import EndStaleCopy
from rebalancer.rollout.records import Record, RecordKind
from rebalancer.rollout.sightings import DomainView, HostView, StateReason, Unreachable

ENDABLE = frozenset({StateReason.USER, StateReason.MIGRATION})
"""Why a stale copy stands still: it was paused, or never resumed after the switch-over."""
KEEPABLE = frozenset({StateReason.MIGRATED, StateReason.USER, StateReason.OTHER})
"""Why the copy that is kept runs: it arrived, or was paused and resumed or rebooted since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleProof:
    """The lines of the journal that prove which copy is the older one."""

    asked: int
    """The record in which we asked for the migration."""
    asked_at: datetime
    seen: int
    """The second of two looks in a row that found both copies as described above."""
    seen_at: datetime
    source_was: str
    """The source's copy in that look: `running (migration canceled, no job)`."""
    target_was: str


def proof_in(migration: Migration, records: Sequence[Record]) -> StaleProof | None:
    """Find the proof in what the journal has on a migration; `None` if there is none.

    A later look that found the source's copy running for another reason, or a command of ours
    to let it run, voids it: somebody may have decided for that copy.
    """
    asked: Record | None = None
    first: Record | None = None
    proof: StaleProof | None = None
    paused_by_us = False
    for record in records:
        if record.kind is RecordKind.INTENT:
            command = record.payload["command"]
            at_source = command["host"] == migration.source
            match command["do"]:
                case "Migrate":
                    ours = at_source and command["target"] == migration.target
                    was_running = record.payload["before"]["state"] == VmState.RUNNING
                    asked = record if ours and was_running else None
                    first = proof = None
                case "Resume" | "Start":
                    first, proof = None, None
                    paused_by_us = paused_by_us and not at_source
                case "Pause" if at_source:
                    paused_by_us = True
        elif asked is not None and (views := _views(record)) is not None:
            source, target = views.get(migration.source), views.get(migration.target)
            if _runs_again(source):
                first = proof = None
            elif not _are_old_and_new(migration, views, paused_by_us):
                first = None
            elif first is None:
                first = record
            elif proof is None:
                proof = StaleProof(
                    asked=asked.number,
                    asked_at=asked.at,
                    seen=record.number,
                    seen_at=record.at,
                    source_was=_in_words(source),
                    target_was=_in_words(target),
                )
    return proof


type _Views = Mapping[str, Mapping[str, Any]]


def _views(record: Record) -> _Views | None:
    """What hosts said in a look, as the journal keeps it; `None` if the record is of another kind.

    Hosts that do not know the VM are not in it.
    """
    if record.kind is not RecordKind.OBSERVED or "sighting" not in record.payload:
        return None
    views: _Views = record.payload["sighting"]["views"]
    return views


def _are_old_and_new(migration: Migration, views: _Views, paused_by_us: bool) -> bool:
    source, target = views.get(migration.source), views.get(migration.target)
    if source is None or target is None:
        return False
    ends = (migration.source, migration.target)
    others = [view for host, view in views.items() if host not in ends]
    stale = (source.get("state"), source.get("reason"))
    return (
        (target.get("state"), target.get("reason")) == (VmState.RUNNING, StateReason.MIGRATED)
        and (
            stale == (VmState.RUNNING, StateReason.MIGRATION_CANCELED)
            or stale == (VmState.PAUSED, StateReason.MIGRATION)
            or (paused_by_us and stale == (VmState.PAUSED, StateReason.USER))
        )
        and source.get("job") is None
        and target.get("job") is None
        and not any(view.get("state") in _ACTIVE for view in others)
    )


_ACTIVE = (VmState.RUNNING, VmState.PAUSED, VmState.SUSPENDED)


def _runs_again(source: Mapping[str, Any] | None) -> bool:
    """Whether the source's copy was let run by somebody."""
    return (
        source is not None
        and source.get("state") == VmState.RUNNING
        and source.get("job") is None
        and source.get("reason") != StateReason.MIGRATION_CANCELED
    )


def _in_words(view: Mapping[str, Any] | None) -> str:
    if view is None:
        return "absent"
    if "unreachable" in view:
        return f"silent ({view['unreachable']})"
    job = f", job: {view['job']}" if view.get("job") else ", no job"
    return f"{view['state']} ({view['reason']}{job})"


# Before it is ended ------------------------------------------------------------------------------


def why_not_end(command: EndStaleCopy, stale: HostView, kept: HostView) -> tuple[str, ...]:
    """Every reason why a stale copy must not be ended, by what the two hosts say right now.

    Reconciling asks this of a look, and a driver asks it once more of the hypervisors
    immediately before it acts. Empty: nothing speaks against it.
    """
    return (
        *_wrong(command.host, stale, VmState.PAUSED, command.stale_reason, ENDABLE),
        *_wrong(command.keep, kept, VmState.RUNNING, command.kept_reason, KEEPABLE),
    )


def _wrong(
    host: HostId,
    view: HostView,
    state: VmState,
    reason: StateReason,
    allowed: frozenset[StateReason],
) -> Iterator[str]:
    if isinstance(view, Unreachable):
        yield f"{host} does not answer"
    elif not isinstance(view, DomainView) or not view.is_active:
        yield f"{host} has no copy of it"
    else:
        if view.state is not state:
            yield f"its copy on {host} is {view.state}, not {state}"
        if view.reason != reason:
            yield f"its copy on {host} is {view.state} for another reason ({view.reason})"
        elif view.reason not in allowed:
            yield f"its copy on {host} is {view.state} ({view.reason}), which proves nothing"
        if view.job is not None:
            yield f"a job runs on its copy on {host}"


# What an operator is shown -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleCopy:
    """A stale copy that only waits for an operator's word, with everything that speaks for it."""

    rollout: int
    migration: Migration
    proof: StaleProof
    looked_at: datetime
    """When the hosts were asked last."""
    source_is: str
    target_is: str
    others: int
    """How many other hosts answered that they have no copy of it."""


def stale_copy_of(
    rollout: int, migration: Migration, records: Sequence[Record]
) -> StaleCopy | tuple[str, ...]:
    """Return what is known of a stale copy, or why it cannot be ended as things were last seen."""
    looks = [record for record in records if _views(record) is not None]
    proof = proof_in(migration, records)
    if proof is None or not looks:
        return ("the journal does not prove which copy is the older one",)
    last = looks[-1]
    views = _views(last)
    assert views is not None
    against = tuple(_against(migration, views))
    if against:
        return against
    others = last.payload["sighting"]["hosts_asked"] - 2
    return StaleCopy(
        rollout=rollout,
        migration=migration,
        proof=proof,
        looked_at=last.at,
        source_is=_in_words(views[migration.source]),
        target_is=_in_words(views[migration.target]),
        others=others,
    )


def _against(migration: Migration, views: _Views) -> Iterator[str]:
    """What the last look has against it: the same as `why_not_end`, and every other host."""
    source, target = views.get(migration.source), views.get(migration.target)
    for host, view, state, reasons in (
        (migration.source, source, VmState.PAUSED, ENDABLE),
        (migration.target, target, VmState.RUNNING, KEEPABLE),
    ):
        found = view or {}
        fits = found.get("state") == state and found.get("reason") in reasons
        if not fits or found.get("job") is not None:
            yield f"on {host} it was {_in_words(view)} when it was looked at last"
    for other, said in views.items():
        if other in (migration.source, migration.target):
            continue
        if "unreachable" in said:
            yield f"{other} did not answer"
        elif said.get("state") in _ACTIVE:
            yield f"{other} has a copy, too"
