"""Policy YAML -> Policy: read, checked as a whole, and turned into the noun at once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Any

from apscheduler.triggers.cron import CronTrigger
from pydantic import TypeAdapter, ValidationError

from rebalancer.cluster.policy import Policy, Schedule
from rebalancer.files import Document, FileModel, Finding, Tree, open_yaml, shown
from rebalancer.files.tree import Path, value_at
from rebalancer.service.goal_faults import goal_faults, repeated_goals
from rebalancer.service.policy_format import GoalSection, PolicyFile
from rebalancer.service.rule_format import (
    BanSection,
    FenceSection,
    RuleSection,
    SpreadSection,
    TogetherSection,
    says_something,
)


def read_policy(path: FilePath | str) -> Policy:
    """Read a policy file; raise `InvalidFileError` with everything that is wrong in it."""
    return policy_of(open_yaml(path))


def parse_policy(raw: Mapping[str, Any], origin: str) -> Policy:
    """Take a policy that stands inside another file; `origin` is what faults call that place."""
    # Inside another file that file's version counts.
    tree = {"schema_version": 1, **raw}
    text = json.dumps(tree).encode()
    return policy_of(Document(file=origin, tree=tree, json=text, value_count=0))


def policy_of(document: Document) -> Policy:
    """Make a policy of a document, or raise `InvalidFileError` with everything wrong in it."""
    return _policy(document.read(PolicyFile, also=tuple(_findings(document.tree))))


def fingerprint_of(policy: Policy) -> str:
    """Hash what a policy says: 16 hexadecimal digits that comments and layout do not change.

    Defaults are part of it. When a later version of the program changes one, plans made under
    the old value are refused, as they should be.
    """
    content = _plain(dataclasses.replace(policy, fingerprint=""))
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    """Turn nouns into JSON that is the same for equal nouns."""
    if dataclasses.is_dataclass(value):
        named = {field.name: _plain(getattr(value, field.name)) for field in _fields(value)}
        return {"is": type(value).__name__, **named}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(str(item) for item in value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    # 1 and 1.0 are the same weight, whichever the file says.
    return float(value) if type(value) is int else value


def _fields(value: Any) -> tuple[dataclasses.Field[Any], ...]:  # noqa: ANN401
    return dataclasses.fields(value)


def _findings(tree: Tree) -> Iterator[Finding]:
    """Everything wrong that one field alone does not show, as far as the rest can be read.

    It is looked for in whatever the file holds, so that it is told together with values that are
    wrong by themselves.
    """
    cron = value_at(tree, ("active", "cron"))
    if isinstance(cron, str) and (problem := _cron_problem(cron)):
        yield Finding(("active", "cron"), problem, 'expected such as "*/5 8-19 * * mon-fri"')
    goals = value_at(tree, ("goals",))
    if goals == []:
        yield Finding(
            ("goals",),
            "there is no goal, so no placement is better than any other",
            "leave the key out for balance and movement, or write [{goal: movement}] to have "
            "rules kept with few moves",
        )
    places = range(len(goals) if isinstance(goals, list) else 0)
    yield from repeated_goals([value_at(tree, ("goals", index, "goal")) for index in places])
    yield from goal_faults(_readable(tree, "goals", _GOAL))
    yield from _same_names(tree)
    for index, rule in _readable(tree, "rules", _RULE).items():
        yield from _rule_faults(rule, ("rules", index))
    if value_at(tree, ("migration", "allow")) == []:
        yield Finding(
            ("migration", "allow"), "allows nothing", "expected at least one mode, such as live"
        )


_GOAL: TypeAdapter[GoalSection] = TypeAdapter(GoalSection)
_RULE: TypeAdapter[RuleSection] = TypeAdapter(RuleSection)
_BY_ITSELF = ("tier", "weight", "hard", "name")
"""Keys of goals and rules that no other key of theirs has to fit to."""


def _readable[S](tree: Tree, section: str, model: TypeAdapter[S]) -> dict[int, S]:
    """The entries of a list that can be read, by their places.

    A value that nothing has to fit to may be wrong: the rest of its entry is looked at.
    """
    entries, found = value_at(tree, (section,)), dict[int, S]()
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        for given in (entry, _without(entry, _BY_ITSELF)):
            try:
                found[index] = model.validate_json(json.dumps(given), strict=True)
            except ValidationError:
                continue
            break
    return found


def _without(entry: Tree, keys: Collection[str]) -> Tree:
    if not isinstance(entry, dict):
        return entry
    return {key: value for key, value in entry.items() if key not in keys}


def _same_names(tree: Tree) -> Iterator[Finding]:
    rules, taken = value_at(tree, ("rules",)), set[str]()
    for index in range(len(rules) if isinstance(rules, list) else 0):
        path: Path = ("rules", index, "name")
        name = value_at(tree, path)
        if isinstance(name, str) and name in taken:
            problem = f"another rule is named {shown(name)} already"
            yield Finding(path, problem, "names of rules must differ")
        elif isinstance(name, str):
            taken.add(name)


def _rule_faults(rule: RuleSection, path: Path) -> Iterator[Finding]:
    if isinstance(rule, SpreadSection) and None not in (rule.at_most, rule.at_least):
        yield Finding(
            (*path, "at_least"),
            "is given beside at_most",
            "write two rules: one with at_most, one with at_least",
        )
    grouped = isinstance(rule, SpreadSection | TogetherSection) and rule.by is not None
    selectors: list[tuple[str, FileModel]] = [] if grouped else [("vms", rule.vms)]
    if isinstance(rule, FenceSection):
        selectors.append(("to", rule.to))
    if isinstance(rule, BanSection):
        selectors.append(("hosts", rule.hosts))
    for key, selector in selectors:
        if not says_something(selector):
            what = "VM" if key == "vms" else "host"
            yield Finding(
                (*path, key),
                f"selects every {what}",
                f'write names: "*" if that is meant, or say which {what}s',
            )


def _cron_problem(expression: str) -> str:
    fields = expression.split()
    if len(fields) == 5 and any(char.isdigit() for char in fields[4]):
        # To cron 0 is Sunday, to the scheduler Monday: a number would be off by a day.
        return "days of the week must be names, because 0 does not mean the same day everywhere"
    try:
        trigger = CronTrigger.from_crontab(expression, timezone="UTC")
    except (ValueError, TypeError, KeyError) as error:
        return f"not a cron expression: {error}"
    if trigger.get_next_fire_time(None, datetime(2000, 1, 1, tzinfo=UTC)) is None:
        return f"{expression!r} never comes: there is no such day"
    return ""


def _rule_names(rules: Sequence[RuleSection]) -> list[str]:
    """Name every rule; what the file does not name is named after what it says."""
    taken = {rule.name for rule in rules if rule.name is not None}
    names: list[str] = []
    for rule in rules:
        name = rule.name if rule.name is not None else _untaken(rule.title(), taken)
        taken.add(name)
        names.append(name)
    return names


def _untaken(title: str, taken: AbstractSet[str | None]) -> str:
    if title not in taken:
        return title
    numbers = range(2, len(taken) + 3)
    return next(name for n in numbers if (name := f"{title} ({n})") not in taken)


def _policy(file: PolicyFile) -> Policy:
    names = _rule_names(file.rules)
    policy = Policy(
        name=file.name,
        applies=file.applies.hosts.noun(),
        active=Schedule(cron=file.active.cron),
        goals=tuple(goal.noun() for goal in file.goals),
        rules=tuple(rule.noun(name) for rule, name in zip(file.rules, names, strict=True)),
        headroom=file.headroom.noun(),
        overcommit=file.overcommit.noun(),
        forecast=file.forecast.noun(),
        trigger=file.trigger.noun() if file.trigger else None,
        limits=file.limits.noun(),
        migration=file.migration.noun(),
    )
    return dataclasses.replace(policy, fingerprint=fingerprint_of(policy))
