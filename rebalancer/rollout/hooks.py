"""The port to an operator's own commands around plans, migrations and drains; and what they read.

A hook is asked like a hypervisor: `start` returns at once with a ticket, `poll` tells what became
of it, and nobody waits. `hook_processes` runs real commands; a dry run and a simulation have
`NO_HOOKS`. When which hook is asked in a rollout is decided by `steps` and `hook_desk`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType, Protocol

from rebalancer.cluster.plan import Migration, Outcome

HookTicket = NewType("HookTicket", int)

DOCUMENT_VERSION = 1


class Moment(StrEnum):
    """When a hook is asked."""

    BEFORE_PLAN = "before_plan"
    AFTER_PLAN = "after_plan"
    BEFORE_MIGRATION = "before_migration"
    AFTER_MIGRATION = "after_migration"
    BEFORE_DRAIN = "before_drain"
    AFTER_DRAIN = "after_drain"

    @property
    def may_object(self) -> bool:
        """Whether a hook that fails keeps what was to follow from beginning."""
        return self in (Moment.BEFORE_PLAN, Moment.BEFORE_MIGRATION, Moment.BEFORE_DRAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class HookCall:
    """What is asked of the hooks of one moment."""

    moment: Moment
    cluster: str
    at: datetime
    about: Mapping[str, Any]
    """What it is about, as `docs/operations.md` describes it."""

    def document(self) -> str:
        """The JSON that a hook reads from its standard input."""
        head = {
            "schema_version": DOCUMENT_VERSION,
            "moment": str(self.moment),
            "cluster": self.cluster,
            "at": self.at.isoformat(),
        }
        return json.dumps(head | dict(self.about))


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """All hooks of the moment ended well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objected:
    """A hook ended badly, could not be run, or was killed because it took too long."""

    why: str


type HookReply = Passed | Objected


class Hooks(Protocol):
    """Asks the hooks of a moment. Used from one thread; no call of it blocks."""

    def has(self, moment: Moment) -> bool:
        """Whether there is a hook for that moment."""
        ...

    def start(self, call: HookCall) -> HookTicket:
        """Begin to run the hooks of a moment, one after the other."""
        ...

    def poll(self, ticket: HookTicket) -> HookReply | None:
        """Tell how they ended; `None` while they run. After a reply the ticket is spent."""
        ...

    def cancel(self, ticket: HookTicket) -> None:
        """Kill what runs; its reply is an objection."""
        ...

    def close(self) -> None:
        """Kill whatever still runs; nobody asks for replies any more."""
        ...


class _NoHooks:
    def has(self, moment: Moment) -> bool:
        del moment
        return False

    def start(self, call: HookCall) -> HookTicket:
        raise ValueError(f"there is no hook {call.moment}")

    def poll(self, ticket: HookTicket) -> HookReply | None:
        raise ValueError(f"ticket {ticket} was never issued")

    def cancel(self, ticket: HookTicket) -> None:
        raise ValueError(f"ticket {ticket} was never issued")

    def close(self) -> None:
        pass


NO_HOOKS: Hooks = _NoHooks()


# What hooks are told ------------------------------------------------------------------------


def about_migration(migration: Migration, plan_id: str, outcome: Outcome | None) -> dict[str, Any]:
    """Describe one migration; with its outcome when it is over."""
    about: dict[str, Any] = {"plan": plan_id, "migration": _migration(migration)}
    return about | ({"outcome": _outcome(outcome)} if outcome is not None else {})


def about_plan(
    plan_id: str,
    migrations: Iterable[Migration],
    outcomes: Sequence[Outcome] | None,
    stopped: str = "",
) -> dict[str, Any]:
    """Describe a plan; with the outcomes of its migrations when it is over."""
    about = {"plan": plan_id, "migrations": [_migration(migration) for migration in migrations]}
    if outcomes is None:
        return about
    return about | {"outcomes": [_outcome(outcome) for outcome in outcomes], "stopped": stopped}


def about_drain(hosts: Sequence[str], left: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    """Describe a drain; with the names of the VMs that are left on each host when it is over."""
    about: dict[str, Any] = {"hosts": list(hosts)}
    return about | ({"left": {h: list(vms) for h, vms in left.items()}} if left is not None else {})


def _migration(migration: Migration) -> dict[str, Any]:
    return {
        "id": migration.id,
        "vm": migration.vm,
        "vm_name": migration.vm_name,
        "source": migration.source,
        "target": migration.target,
        "mode": str(migration.mode),
        "reason": migration.reason,
        "predicted": {
            "duration_seconds": migration.predicted.duration_seconds,
            "downtime_seconds": migration.predicted.downtime_seconds,
            "transfer_bytes": migration.predicted.transfer_bytes,
        },
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "migration": outcome.migration,
        "state": str(outcome.state),
        "text": outcome.text,
        "duration_seconds": outcome.duration_seconds,
        "downtime_seconds": outcome.downtime_seconds,
        "transfer_bytes": outcome.transfer_bytes,
    }
