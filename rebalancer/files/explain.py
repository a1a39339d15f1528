"""What pydantic found wrong, in the words and places of the person who wrote the file.

pydantic's locations hold more than the path of a value: which branches of a union it tried. Here
they become paths, the complaints of a union's branches become one, and each says what would be
right.
"""

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeAliasType, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from rebalancer.files.tree import Finding, Path, Tree, shown, value_at

_NOUNS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping of keys",
    "mapping_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "datetime_type": "a date and time in quotes",
}
"""By type of error, what the value should have been."""

_BOUNDS = {
    "greater_than": ("is too small", "expected more than {gt}"),
    "greater_than_equal": ("is too small", "expected {ge} or more"),
    "less_than": ("is too large", "expected less than {lt}"),
    "less_than_equal": ("is too large", "expected {le} or less"),
    "string_too_short": ("is too short", "expected {min_length} or more characters"),
    "string_too_long": ("is too long", "expected {max_length} or fewer characters"),
    "too_short": ("is too short", "expected {min_length} or more entries"),
    "too_long": ("is too long", "expected {max_length} or fewer entries"),
}


NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f-\x9f]+$"
"""What names of things fit: a terminal would obey anything else."""

_MOST_CHOICES = 12
"""Words that are listed when none is near to what was written."""


class _Complaint(NamedTuple):
    """An error of pydantic, its location taken apart."""

    path: Path
    forks: tuple[tuple[Path, str], ...]
    """Where a union was on the way, and which of its branches was tried."""
    type: str
    message: str
    context: Mapping[str, Any]
    noun: str = ""
    """What the value should have been, if it is wrong as a whole."""


def explain(errors: Iterable[ErrorDetails], model: type[BaseModel], tree: Tree) -> list[Finding]:
    """Return a finding for each thing that is wrong with `tree` as a `model`."""
    complaints = _without_echoes([_take_apart(error, tree) for error in errors], tree)
    return [_finding(complaint, model, tree) for complaint in _settle(complaints, depth=0)]


def _take_apart(error: ErrorDetails, tree: Tree) -> _Complaint:
    path: Path = ()
    forks: list[tuple[Path, str]] = []
    steps = [step for step in error["loc"] if step != "[key]"]
    for position, step in enumerate(steps, start=1):
        here = value_at(tree, path)
        is_missing_key = error["type"] == "missing" and position == len(steps)
        if isinstance(step, int) or is_missing_key or (isinstance(here, dict) and step in here):
            path = (*path, step)
        else:
            forks.append((path, step))
    context = error.get("ctx", {})
    kind = error["type"]
    noun = context.get("noun") if kind == "quantity" else _NOUNS.get(kind)
    if kind in {"literal_error", "enum"}:
        noun = context["expected"]
    return _Complaint(path, tuple(forks), kind, error["msg"], context, noun or "")


def _without_echoes(complaints: Sequence[_Complaint], tree: Tree) -> list[_Complaint]:
    """Leave out that a list is too short where that is only for an entry that is wrong itself."""
    within = {
        complaint.path[:length] for complaint in complaints for length in range(len(complaint.path))
    }
    return [
        each
        for each in complaints
        if each.type != "too_short" or each.path not in within or not value_at(tree, each.path)
    ]


def _settle(complaints: Sequence[_Complaint], depth: int) -> Iterator[_Complaint]:
    """Yield the complaints; of each union only those of the branch that was probably meant."""
    unions: dict[Path, dict[str, list[_Complaint]]] = defaultdict(lambda: defaultdict(list))
    for each in complaints:
        if len(each.forks) > depth:
            fork, branch = each.forks[depth]
            unions[fork][branch].append(each)
    for each in complaints:
        if len(each.forks) <= depth:
            yield each
        elif branches := unions.pop(each.forks[depth][0], None):
            yield from _settle(_likeliest(list(branches.values()), depth), depth + 1)


def _likeliest(branches: Sequence[Sequence[_Complaint]], depth: int) -> Sequence[_Complaint]:
    """Return the complaints of the branch that comes nearest, or of all branches as one."""

    def is_wrong_as_a_whole(complaint: _Complaint) -> bool:
        return bool(complaint.noun) and complaint.path == complaint.forks[depth][0]

    def distance(branch: Sequence[_Complaint]) -> tuple[bool, bool, int]:
        return (
            any(map(is_wrong_as_a_whole, branch)),
            any(complaint.type == "literal_error" for complaint in branch),
            len(branch),
        )

    nearest = min(branches, key=distance)
    if len(branches) == 1 or not is_wrong_as_a_whole(nearest[0]):
        return nearest
    nouns = dict.fromkeys(complaint.noun for branch in branches for complaint in branch)
    first = nearest[0]
    return [
        first._replace(type="union", noun=" or ".join(nouns), forks=first.forks[: depth + 1])
        if len(nouns) > 1
        else first
    ]


def _finding(complaint: _Complaint, model: type[BaseModel], tree: Tree) -> Finding:
    path, context = complaint.path, complaint.context
    value = value_at(tree, path)
    match complaint.type:
        case "missing":
            what = "entry" if path and isinstance(path[-1], int) else "key"
            return Finding(path, f"this {what} is missing")
        case "extra_forbidden":
            known = sorted(_known_keys(model, complaint))
            return Finding(path, "unknown key", _suggestion(str(path[-1]), known))
        case "union_tag_not_found":
            return Finding((*path, _unquoted(context["discriminator"])[0]), "this key is missing")
        case "union_tag_invalid":
            path = (*path, _unquoted(context["discriminator"])[0])
            choices = _unquoted(context["expected_tags"])
            return Finding(path, *_unknown_word(value_at(tree, path), choices))
        case "literal_error" | "enum" if choices := _unquoted(context["expected"]):
            return Finding(path, *_unknown_word(value, choices))
        case "quantity":
            problem = f"{shown(value)} {context['problem']}"
            return Finding(path, problem, f"expected {context['example']}")
        case "value_error" | "assertion_error":
            return Finding(path, *_own_words(value, " ".join(str(context["error"]).split())))
        case bound if bound in _BOUNDS:
            problem, expected = _BOUNDS[bound]
            return Finding(path, f"{shown(value)} {problem}", expected.format_map(_short(context)))
        case _ if complaint.noun:
            return Finding(path, *_wrong_type(value, complaint.noun))
        case "string_pattern_mismatch" if context["pattern"] == NO_CONTROL_CHARACTERS:
            problem = f"{shown(value)} has control characters in it"
            return Finding(path, problem, "expected characters that can be seen, and spaces")
        case "json_invalid":
            return Finding(path, f"not valid JSON: {context['error']}")
        case _:
            return Finding(path, *_foreign(value, " ".join(complaint.message.split())))


def _foreign(value: Tree, message: str) -> tuple[str, str]:
    """Return what pydantic says of a rule that is not known above."""
    if message.startswith("Input should "):
        return f"{shown(value)} is not right", message.replace("Input", "it", 1)
    return message, ""


def _own_words(value: Tree, message: str) -> tuple[str, str]:
    """Return what a validator of ours says, with the value that it says it of.

    Unless that has more to it than a line can show, or might be a secret.
    """
    is_one = isinstance(value, str | int | float) and not _may_hold_a_secret(value)
    if message.startswith("expected "):
        return f"{shown(value)} is not right" if is_one else "is not right", message
    is_about_it = message.startswith(("is ", "has ", "would "))
    return (f"{shown(value)} {message}" if is_one and is_about_it else message), ""


def _may_hold_a_secret(value: str | float) -> bool:
    """Whether it looks like an address with a password in it."""
    text = str(value).lower()
    before, at, _ = text.rpartition("@")
    is_user_only = re.fullmatch(r"([\w+.-]+:/+)?[^:]*", before)
    named = any(word in text for word in ("password", "secret", "token"))
    return named or (bool(at) and not is_user_only)


def _short(context: Mapping[str, Any]) -> dict[str, object]:
    """Return pydantic's numbers as people write them: 5 rather than 5.0."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in context.items()
    }


def _wrong_type(value: Tree, noun: str) -> tuple[str, str]:
    if value is None:
        return "has no value", f"expected {noun}"
    if noun == "text" and isinstance(value, int | float):
        expected = f'write "{shown(value)}"'
    elif noun in {"a number", "a whole number"} and isinstance(value, str) and value[:1].isdigit():
        expected = "expected digits alone, without a unit and without quotes"
    else:
        expected = ""
    return f"{shown(value)} is not {noun}", expected


def _unknown_word(value: Tree, choices: Sequence[str]) -> tuple[str, str]:
    if value is None:
        return "has no value", f"expected {', '.join(choices)}"
    return f"{shown(value)} is not known here", _suggestion(str(value), choices)


def _suggestion(word: str, choices: Sequence[str]) -> str:
    """Return what may be said instead of `word`, which nobody knows."""
    if near := difflib.get_close_matches(word, choices, n=1):
        return f'did you mean "{near[0]}"?'
    listed = [*choices[:_MOST_CHOICES], "…"] if len(choices) > _MOST_CHOICES else choices
    return f"expected {', '.join(listed)}" if listed else ""


def _unquoted(listed: str) -> list[str]:
    """Return the words that pydantic lists as `'a', 'b' or 'c'`."""
    return re.findall(r"'([^']*)'", listed)


def _known_keys(model: type[BaseModel], complaint: _Complaint) -> set[str]:
    """Return the keys that could stand where the unknown key does."""
    branches = dict(complaint.forks)
    types = list(_alternatives(model))
    for length, step in enumerate(complaint.path):
        if branch := branches.get(complaint.path[:length]):
            types = [each for each in types if _is_branch(each, branch)] or types
        if length < len(complaint.path) - 1:
            types = [inner for each in types for inner in _inside(each, step)]
    return {key for each in types for key in _fields(each)}


def _alternatives(annotation: object) -> Iterator[object]:
    """Yield what `annotation` allows, one type after the other."""
    if isinstance(annotation, TypeAliasType):
        yield from _alternatives(annotation.__value__)
    elif get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in {Union, UnionType}:
        for each in get_args(annotation):
            yield from _alternatives(each)
    else:
        yield annotation


def _inside(annotation: object, step: str | int) -> Iterator[object]:
    """Yield the types of what `step` leads to in a value of this type."""
    if isinstance(step, str) and step in (fields := _fields(annotation)):
        yield from _alternatives(fields[step])
    elif arguments := get_args(annotation):
        for each in arguments[1:] if isinstance(step, str) else arguments:
            yield from _alternatives(each)


def _is_branch(annotation: object, branch: str) -> bool:
    """Tell whether pydantic means this type by `branch`: its name, or its tag."""
    tags = {
        str(tag)
        for each in _fields(annotation).values()
        if get_origin(each) is Literal
        for tag in get_args(each)
    }
    return branch in tags or branch == getattr(annotation, "__name__", None)


def _fields(annotation: object) -> dict[str, object]:
    """Return the keys of a model and their types; none for anything else."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return {}
    return {
        field.alias or name: field.annotation for name, field in annotation.model_fields.items()
    }
