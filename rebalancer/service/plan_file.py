"""Plan <-> JSON: what `plan --out` writes, `apply` and `show` read, and machines are given.

The keys are the names of the fields, which carry their units. Values that follow from others
(`gap_ratio`, `captured_ratio`, `finish_seconds`) are written for those who read with `jq`, and
computed anew when the plan is read back. JSON has no infinity: a duration that has no upper end
is `null`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from rebalancer.cluster.plan import Objective, Plan
from rebalancer.cluster.prediction import Prediction
from rebalancer.errors import Fault, InvalidFileError
from rebalancer.files import Document, json_text, open_json, write_text
from rebalancer.rollout.admission import uses_the_network
from rebalancer.service.plan_edits import digest, with_edits_told
from rebalancer.service.plan_record import SCHEMA_VERSION, PlanRecord


def plan_to_json(plan: Plan) -> str:
    """Write a plan as JSON text, the same text for the same plan."""
    tree = {"schema_version": SCHEMA_VERSION, **_plain_mapping(plan)}
    # One that was edited stays so in the journal, and wherever else it is written.
    tree["made_as"] = plan.made_as or digest(tree)
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_plan(plan: Plan, path: Path | str) -> None:
    """Save a plan; whoever looks at the file sees the old one or the whole new one."""
    write_text(path, [plan_to_json(plan)], what="the plan")


def read_plan(path: Path | str) -> Plan:
    """Read a plan file; raise `InvalidFileError` when it is damaged or not a plan."""
    return _plan_of(open_json(path))


def plan_of_text(text: str, origin: str) -> Plan:
    """Read a plan that is at hand already; `origin` is what faults call it."""
    return _plan_of(json_text.parse(text, origin))


def _plan_of(document: Document) -> Plan:
    if problem := _other_kind(document):
        raise InvalidFileError([document.fault((), *problem)])
    record = document.read(PlanRecord)
    if faults := list(_faults(record, document)):
        raise InvalidFileError(faults)
    return with_edits_told(record.noun(), document.tree)


def _plain_mapping(noun: object) -> dict[str, object]:
    assert dataclasses.is_dataclass(noun)
    plain = {field.name: _plain(getattr(noun, field.name)) for field in dataclasses.fields(noun)}
    if isinstance(noun, Objective):
        plain |= {"gap_ratio": noun.gap_ratio, "captured_ratio": noun.captured_ratio}
    if isinstance(noun, Prediction):
        plain |= {"finish_seconds": _plain(noun.finish_seconds)}
    return plain


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return _plain_mapping(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return None if value == math.inf else value


def _other_kind(document: Document) -> tuple[str, str] | None:
    """Say what a file is that holds JSON and is not a plan, rather than list every key."""
    tree = document.tree
    if not isinstance(tree, dict) or {"migrations", "verdict"} & tree.keys():
        return None
    if {"hosts", "vms"} <= tree.keys():
        return ("this is a snapshot, not a plan", "make a plan of it: rebalancer plan --snapshot")
    return ("this is not a plan", "a plan is what `rebalancer plan --out FILE` writes")


def _faults(plan: PlanRecord, document: Document) -> Iterator[Fault]:
    """Find what would leave a rollout waiting for ever, or doing something else than is shown."""
    seen: set[str] = set()
    known = {migration.id for migration in plan.migrations}
    for index, migration in enumerate(plan.migrations):
        path = ("migrations", index)
        if migration.id in seen:
            yield document.fault((*path, "id"), f"{migration.id} occurs twice")
        seen.add(migration.id)
        if migration.source == migration.target:
            yield document.fault((*path, "target"), "is the source")
        if uses_the_network(migration.mode) and not migration.bytes_per_second:
            yield document.fault(
                (*path, "bytes_per_second"), f"0 is too little for {migration.mode}"
            )
        if missing := sorted(set(migration.depends_on) - known):
            yield document.fault(
                (*path, "depends_on"), f"no migration is called {', '.join(missing)}"
            )
    for index, step in enumerate(plan.power):
        if missing := sorted(set(step.depends_on) - known):
            yield document.fault(
                ("power", index, "depends_on"), f"no migration is called {', '.join(missing)}"
            )
    yield from _circles(plan, document)


def _circles(plan: PlanRecord, document: Document) -> Iterator[Fault]:
    waits = {migration.id: migration.depends_on for migration in plan.migrations}
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        yield document.fault(("migrations",), f"these wait for each other: {circle}")
