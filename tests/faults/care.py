"""Whether a command may be issued at that instant.

Judged by the last look; where a copy is to be ended, by the simulated hosts and the journal.

Nothing in here uses the rollout's own opinion of what justifies what.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from rebalancer.cluster.inventory import VmState
from rebalancer.rollout.driver import Command, EndStaleCopy, Restore, Resume, Start, Undefine
from rebalancer.rollout.records import Entry, RecordKind
from rebalancer.rollout.sightings import Sighting, StateReason
from rebalancer.simulation.datacentre import Datacentre

LOOKS_IN_A_ROW = 2
_STOOD_STILL = (StateReason.MIGRATION, StateReason.USER)


def carelessness(command: Command, last: tuple[float, Sighting] | None) -> str:
    """Why the last look at all hosts does not justify a command; empty if it does."""
    if not isinstance(command, Start | Restore | Undefine | Resume):
        return ""
    name = f"{type(command).__name__} of {command.vm} on {command.host}"
    if last is None:
        return f"{name} before all hosts were asked"
    sighting = last[1]
    if isinstance(command, Resume):
        others = [host for host in sighting.active_on if host != command.host]
        return f"{name} though {others[0]} had it, too" if others else ""
    if sighting.unreachable:
        return f"{name} while {sighting.unreachable[0]} was silent"
    if isinstance(command, Start | Restore) and sighting.active_on:
        return f"{name} though it was active on {sighting.active_on[0]}"
    if isinstance(command, Undefine) and command.host in sighting.active_on:
        return f"{name} though it was active there"
    return ""


def why_not_end(
    command: EndStaleCopy, world: Datacentre, written: Sequence[Entry], wanted: Collection[str]
) -> str:
    """Why a copy must not be ended just now; empty if it may.

    `wanted`: the migrations whose stale copies the operator was shown and wants to be ended.
    """
    name = f"{command.vm} on {command.host} was to be ended, keeping that on {command.keep}"
    return "; ".join(f"{name}: {why}" for why in _reasons(command, world, written, wanted))


def _reasons(
    command: EndStaleCopy, world: Datacentre, written: Sequence[Entry], wanted: Collection[str]
) -> Iterator[str]:
    stale = world.hosts[command.host].process_of(command.vm)
    kept = world.hosts[command.keep].process_of(command.vm)
    if stale is None or stale.state is not VmState.PAUSED or stale.reason not in _STOOD_STILL:
        yield "it was not paused by us or by the migration"
    if kept is None or not kept.runs:
        yield "the one that is kept did not run"
    if world.migration_of(command.vm) is not None:
        yield "a migration of it was under way"
    for host in world.hosts.values():
        if host.id in (command.host, command.keep):
            continue
        if host.process_of(command.vm) is not None:
            yield f"{host.id} had a copy, too"
        if host.powered and not world.answers(host.id):
            yield f"{host.id} was silent"
    asked_by = [entry.migration for entry in written if _is_request(entry, command)]
    if not asked_by:
        yield "we had not asked for that migration"
    elif not _was_seen(asked_by[-1], command, written):
        yield "no two looks in a row had shown which one is older"
    if not set(asked_by) & set(wanted):
        yield "nobody had asked for it"


def _is_request(entry: Entry, command: EndStaleCopy) -> bool:
    asked = entry.payload.get("command", {}) if entry.kind is RecordKind.INTENT else {}
    wanted = ("Migrate", command.vm, command.host, command.keep)
    return (asked.get("do"), asked.get("vm"), asked.get("host"), asked.get("target")) == wanted


def _was_seen(migration: str, command: EndStaleCopy, written: Sequence[Entry]) -> bool:
    in_a_row, asked, paused = 0, False, False
    for entry in written:
        if entry.migration != migration:
            continue
        asked = asked or _is_request(entry, command)
        paused = paused or entry.payload.get("command", {}).get("do") == "Pause"
        if entry.kind is RecordKind.OBSERVED and "sighting" in entry.payload:
            views: dict[str, dict[str, Any]] = entry.payload["sighting"]["views"]
            source, target = views.get(command.host, {}), views.get(command.keep, {})
            shows = _is(target, VmState.RUNNING, StateReason.MIGRATED) and (
                _is(source, VmState.RUNNING, StateReason.MIGRATION_CANCELED)
                or _is(source, VmState.PAUSED, StateReason.MIGRATION)
                or (paused and _is(source, VmState.PAUSED, StateReason.USER))
            )
            in_a_row = in_a_row + 1 if asked and shows else 0
            if in_a_row >= LOOKS_IN_A_ROW:
                return True
    return False


def _is(view: dict[str, Any], state: VmState, reason: StateReason) -> bool:
    found = (view.get("state"), view.get("reason"), view.get("job"))
    return found == (state, reason, None)
