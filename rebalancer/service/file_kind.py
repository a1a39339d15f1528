"""What kind of file somebody handed in, told by its keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from rebalancer.errors import Fault, InvalidFileError
from rebalancer.files import Document, open_json, open_yaml
from rebalancer.service.policy_format import PolicyFile


class FileKind(StrEnum):
    """Files that the program reads."""

    CONFIG = "settings file"
    POLICY = "policy"
    SCENARIO = "scenario"
    SNAPSHOT = "snapshot"
    PLAN = "plan"


_JSON_SIGNS = {
    FileKind.PLAN: {"migrations", "snapshot_fingerprint", "verdict"},
    FileKind.SNAPSHOT: {"vms", "hosts", "taken_at"},
}
_YAML_SIGNS = {
    FileKind.SCENARIO: {"expect", "vms", "generate", "faults"},
    FileKind.POLICY: set(PolicyFile.model_fields) - {"schema_version", "name"},
    FileKind.CONFIG: {"hosts", "cluster", "journal", "collect", "mode", "placement", "policy"},
}


def kind_of(file: Path) -> FileKind:
    """Tell the kind of a file; raise `InvalidFileError` if it cannot be read or told."""
    is_json = file.suffix == ".json"
    document = open_json(file) if is_json else open_yaml(file)
    keys = _top_keys(document)
    for kind, signs in (_JSON_SIGNS if is_json else _YAML_SIGNS).items():
        if keys & signs:
            return kind
    if not is_json and "name" in keys:
        return FileKind.POLICY  # which need not say more than its name; settings have none
    if document.tree is None:
        raise InvalidFileError([document.fault((), "the file is empty")])
    kinds = "a snapshot or a plan" if is_json else "settings, a policy or a scenario"
    raise InvalidFileError(
        [Fault(file=str(file), problem="its keys do not tell what it is", expected=kinds)]
    )


_OPTIONS = {
    FileKind.CONFIG: "name it with --config",
    FileKind.POLICY: "name it with --policy",
    FileKind.SCENARIO: "name it with --scenario",
    FileKind.SNAPSHOT: "name it with --snapshot",
    FileKind.PLAN: "rebalancer show tells what is in it",
}


@contextmanager
def expecting(wanted: FileKind, file: Path) -> Iterator[None]:
    """While a file is read: of one of another kind say that, rather than every key of it."""
    try:
        yield
    except InvalidFileError as error:
        raise _mistaken(wanted, file) or error from None


def _mistaken(wanted: FileKind, file: Path) -> InvalidFileError | None:
    try:
        kind = kind_of(file)
    except InvalidFileError:
        return None
    if kind is wanted:
        return None
    problem = f"this is a {kind}, not a {wanted}"
    return InvalidFileError([Fault(file=str(file), problem=problem, expected=_OPTIONS[kind])])


def _top_keys(document: Document) -> set[str]:
    return set(document.tree) if isinstance(document.tree, dict) else set()
