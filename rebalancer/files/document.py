"""A file that was read, ready to be checked against the model of what it should hold."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from rebalancer.errors import FAULTS_SHOWN, Fault, InvalidFileError
from rebalancer.files.explain import explain
from rebalancer.files.tree import Finding, Lines, Path, Tree, dotted, shown, value_at

_LARGE = 100_000
"""From this many values on, a file of the wrong kind could have millions of faults."""

_MOST_FAULTS = 10_000
"""Faults that are worth being told one by one; a fault costs a kilobyte while it is told."""

_NOT_OF_A_SAMPLE = {"value_error", "assertion_error", "too_short"}
"""What can be wrong with part of a file although nothing is wrong with the whole of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a file holds, and where in the file each part of it is."""

    file: str
    tree: Tree
    json: bytes
    """The same as `tree`: pydantic is strict in the way we want with JSON only."""
    value_count: int
    """Roughly how many values there are."""
    findings: tuple[Finding, ...] = ()
    """What is wrong whatever the file is for."""
    lines: Lines | None = None
    """`None` for JSON, where a place is told by its path."""
    within: Path = ()
    """Where in the file this starts, when it is only a part of it."""

    def read[M: BaseModel](self, model: type[M], also: Sequence[Finding] = ()) -> M:
        """Return what the file says; raise `InvalidFileError` with everything wrong in it.

        Types are taken as written: `true` is not a number, and `"4"` is text. `also` is what
        the model cannot find, to be told together with what it can.
        """
        assert model.model_config.get("extra") == "forbid", f"{model.__name__} hides misspelt keys"
        findings = [*self.findings, *self._version_findings(model)]
        if self.value_count > _LARGE:
            sample = self._findings_of_sample(model, entries=100)
            if len(sample) >= FAULTS_SHOWN:
                raise InvalidFileError(self._faults([*findings, *sample]), stopped_early=True)
        try:
            result = model.model_validate_json(self.json, strict=True)
        except ValidationError as error:
            if error.error_count() > _MOST_FAULTS:
                findings += self._first_findings(model)
                raise InvalidFileError(self._faults(findings), stopped_early=True) from None
            errors = error.errors(include_url=False, include_input=False)
            findings += explain(errors, model, self.tree)
        findings += also
        if findings:
            raise InvalidFileError(self._faults(findings))
        return result

    def part(self, path: Path, given: Mapping[str, Any]) -> "Document":
        """Return the mapping at `path` as a document of its own, whose faults name this file.

        `given` are keys that it need not repeat, such as the version.
        """
        found = value_at(self.tree, path)
        assert isinstance(found, dict), f"{dotted(path)} is no mapping"
        tree = {**given, **found}
        return Document(
            file=self.file,
            tree=tree,
            json=json.dumps(tree, ensure_ascii=False).encode(),
            value_count=self.value_count,
            lines=self.lines.at(path) if self.lines is not None else None,
            within=(*self.within, *path),
        )

    def where(self, path: Path) -> str:
        """Return where `path` is, as `Fault.where` says it."""
        if not (self.within or path):
            return ""
        if self.lines is not None:
            return f"line {self.lines.of(path)}"
        return f"$.{dotted((*self.within, *path))}".replace("$.[", "$[")

    def fault(self, path: Path, problem: str, expected: str = "") -> Fault:
        """Return a fault of the value at `path`, for what a model by itself cannot find."""
        return Fault(
            file=self.file,
            where=self.where(path),
            key=dotted((*self.within, *path)),
            problem=problem,
            expected=expected,
        )

    def _faults(self, findings: list[Finding]) -> list[Fault]:
        """Return one fault for each place, in the order of the file as far as it is known."""
        first_of_each = {finding.path: finding for finding in reversed(findings)}
        ordered = [finding for finding in findings if first_of_each[finding.path] is finding]
        if self.lines is not None:
            lines = self.lines
            ordered.sort(key=lambda finding: lines.of(finding.path))
        return [self.fault(*finding) for finding in ordered]

    def _version_findings(self, model: type[BaseModel]) -> list[Finding]:
        """Refuse a file that is none, or of another version; nothing more can be said of it."""
        if self.tree is None:
            raise InvalidFileError([self.fault((), "the file is empty")])
        if not isinstance(self.tree, dict):
            problem = f"{shown(self.tree)} is not a mapping of keys"
            raise InvalidFileError([self.fault((), problem)])
        field = model.model_fields.get("schema_version")
        readable = get_args(field.annotation) if field else ()
        if not readable:
            return []
        path = ("schema_version",)
        if "schema_version" not in self.tree:
            return [Finding(path, "this key is missing", f'add "schema_version: {readable[-1]}"')]
        version = self.tree["schema_version"]
        if type(version) is not int or version not in readable:
            known = ", ".join(map(str, readable))
            problem = f"version {shown(version)} of this format is not known"
            raise InvalidFileError(
                [self.fault(path, problem, f"this rebalancer reads version {known}")]
            )
        return []

    def _first_findings(self, model: type[BaseModel]) -> list[Finding]:
        """Return some of the faults, when telling all would fill the memory."""
        for entries in (100, 1_000, 10_000, 100_000):
            if findings := self._findings_of_sample(model, entries):
                return findings
        return [Finding((), f"more than {_MOST_FAULTS:,} faults, far into the file")]

    def _findings_of_sample(self, model: type[BaseModel], entries: int) -> list[Finding]:
        """Return what is wrong in the first `entries` of each list and mapping."""
        sample = json.dumps(_cut(self.tree, entries))
        try:
            model.model_validate_json(sample, strict=True)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
            kept = [each for each in errors if each["type"] not in _NOT_OF_A_SAMPLE]
            return explain(kept, model, self.tree)
        return []


def _cut(tree: Tree, entries: int) -> Tree:
    """Return `tree` without what comes after the first `entries` of each list and mapping."""
    if isinstance(tree, dict):
        return {key: _cut(tree[key], entries) for key in list(tree)[:entries]}
    if isinstance(tree, list):
        return [_cut(value, entries) for value in tree[:entries]]
    return tree
