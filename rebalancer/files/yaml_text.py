"""YAML text -> Document.

PyYAML only splits the text into events here; what its words mean is decided below, by the core
schema of YAML 1.2. So `no`, `on` and `12:30` stay words, and nothing but plain values can come
out: no tags, no Python objects, no dates. The tree is built without recursion and counted while
it grows, so that a few lines of aliases cannot fill the memory.
"""

import json
import math
import re
from dataclasses import dataclass, replace

import yaml

from rebalancer.errors import Fault, InvalidFileError
from rebalancer.files.document import Document
from rebalancer.files.tree import MOST_DEPTH, Finding, Lines, Path, Tree, shown

MOST_VALUES = 1_000_000
"""How many values the tree may have when every alias is written out."""

_CHARACTERS_PER_VALUE = 16
"""A long text counts as several values, so that repeating it is not free."""

_MOST_DIGITS = 300

# The C parser is ten times faster; it is in PyYAML's wheels, but not in every build of PyYAML.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_WORDS: dict[str, Tree] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def parse(text: str, file: str) -> Document:
    """Read one YAML document; raise `InvalidFileError` when the text is not YAML."""
    composer = _Composer(file)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        raise InvalidFileError([_syntax_fault(error, text, file)]) from error
    except yaml.YAMLError as error:
        # Only a character that YAML does not allow has no mark, and the C parser counts bytes.
        bad = _UNPRINTABLE.search(text)
        line = text.count("\n", 0, bad.start()) + 1 if bad else 1
        problem = f"holds a character that is not text: {shown(bad[0] if bad else str(error))}"
        fault = Fault(file=file, where=f"line {line}", problem=problem)
        raise InvalidFileError([fault]) from error
    return composer.document()


def _syntax_fault(error: yaml.MarkedYAMLError, text: str, file: str) -> Fault:
    lines = _LINE_BREAK.split(text)
    number = error.problem_mark.line if error.problem_mark else 0
    begun = error.context_mark.line if error.context_mark else number
    if error.problem == "could not find expected ':'":
        number = begun  # the line that is neither `key: value` nor anything else
    while number and (number >= len(lines) or not lines[number]):
        number -= 1  # what ends too early is missed only after its last line
    indentation = re.match(r"\s*", lines[number])
    if indentation and "\t" in indentation[0]:
        problem, expected = "a tab in the indentation", "YAML allows spaces only"
    else:
        context = f" {error.context}" if error.context else ""
        since = f" that starts in line {begun + 1}" if begun < number else ""
        problem, expected = f"not valid YAML: {error.problem}{context}{since}", ""
    return Fault(file=file, where=f"line {number + 1}", problem=problem, expected=expected)


@dataclass(slots=True)
class _Node:
    """A value, where it is, and how many values it counts for."""

    value: Tree
    lines: Lines
    weight: int = 1


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not been read yet."""

    value: dict[str, Tree] | list[Tree]
    lines: Lines
    anchor: str | None
    weight_before: int
    key: str | None = None
    key_line: int = 0


class _Composer:
    """Builds the tree from events, one after the other."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._root: _Node | None = None
        self._open: list[_Open] = []
        self._anchors: dict[str, _Node | None] = {}
        self._weight = 0
        self._documents = 0
        self._findings: list[Finding] = []

    def document(self) -> Document:
        """Return what was read."""
        root = self._root or _Node(None, Lines(1))
        return Document(
            file=self._file,
            tree=root.value,
            json=json.dumps(root.value, ensure_ascii=False).encode(),
            value_count=self._weight,
            findings=tuple(self._findings),
            lines=root.lines,
        )

    def take(self, event: yaml.Event) -> None:
        """Add what `event` says."""
        assert event.start_mark is not None
        line = event.start_mark.line + 1
        match event:
            case yaml.ScalarEvent():
                self._take_scalar(event, line)
            case yaml.MappingStartEvent():
                self._take_start({}, event, line)
            case yaml.SequenceStartEvent():
                self._take_start([], event, line)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._take_end()
            case yaml.AliasEvent(anchor=str(anchor)):
                self._take_alias(anchor, line)
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise self._stop(line, "a second YAML document starts here; a file holds one")

    def _take_scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        self._check_tag(event.tag, line)
        is_key = self._awaits_key()
        is_plain = event.implicit[0] and event.tag is None
        if is_key and is_plain and event.value == "<<":
            raise self._stop(
                line, "merge keys (<<) are not supported; write out what they would bring in"
            )
        value = self._meaning(event.value) if is_plain and not is_key else event.value
        weight = 1 + len(event.value) // _CHARACTERS_PER_VALUE
        node = _Node(value, Lines(line), weight)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._count(weight, line)
        self._take_key(event.value, line) if is_key else self._put(node)

    def _take_start(
        self, value: dict[str, Tree] | list[Tree], event: yaml.CollectionStartEvent, line: int
    ) -> None:
        self._check_tag(event.tag, line)
        if self._awaits_key():
            raise self._stop(line, "a key has to be a word, not a mapping or a list")
        if len(self._open) == MOST_DEPTH:
            raise self._stop(line, f"nested deeper than {MOST_DEPTH} levels")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._open.append(_Open(value, Lines(line), event.anchor, weight_before=self._weight))
        self._count(1, line)

    def _take_end(self) -> None:
        done = self._open.pop()
        node = _Node(done.value, done.lines, self._weight - done.weight_before)
        if done.anchor is not None:
            self._anchors[done.anchor] = node
        self._put(node)

    def _take_alias(self, anchor: str, line: int) -> None:
        if anchor not in self._anchors:
            raise self._stop(line, f"*{anchor} has no &{anchor} above it")
        node = self._anchors[anchor]
        if node is None:
            raise self._stop(line, f"*{anchor} is inside of what it stands for")
        self._count(node.weight, line)
        if not self._awaits_key():
            self._put(node)
        elif isinstance(node.value, str):
            self._take_key(node.value, line)
        else:
            raise self._stop(line, "a key has to be a word")

    def _take_key(self, key: str, line: int) -> None:
        mapping = self._open[-1]
        mapping.key, mapping.key_line = key, line
        if key in mapping.value:
            first = mapping.lines.keys[key].line
            self._find("this key is here twice", f"the first is in line {first}")

    def _put(self, node: _Node) -> None:
        """Put a finished value where it belongs."""
        if isinstance(node.value, float) and not math.isfinite(node.value):
            self._find("not a finite number")
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(node.value)
            parent.lines.items.append(node.lines)
        elif parent.key is not None:
            parent.value[parent.key] = node.value
            parent.lines.keys[parent.key] = replace(node.lines, line=parent.key_line)
            parent.key = None

    def _meaning(self, word: str) -> Tree:
        """Return what a word without quotes stands for."""
        if word in _WORDS:
            return _WORDS[word]
        if _INTEGER.fullmatch(word) and len(word) <= _MOST_DIGITS:
            return int(word, {"0o": 8, "0x": 16}.get(word[:2], 10))
        if _FLOAT.fullmatch(word):
            return float(word)
        return math.nan if _NOT_FINITE.fullmatch(word) else word

    def _awaits_key(self) -> bool:
        return (
            bool(self._open)
            and self._open[-1].key is None
            and isinstance(self._open[-1].value, dict)
        )

    def _count(self, weight: int, line: int) -> None:
        self._weight += weight
        if self._weight > MOST_VALUES:
            raise self._stop(line, f"more than {MOST_VALUES:,} values, with what aliases repeat")

    def _check_tag(self, tag: str | None, line: int) -> None:
        if tag not in {None, "!", "tag:yaml.org,2002:str"}:
            raise self._stop(line, f"the tag {shown(tag)} is not supported; leave it out")

    def _path(self) -> Path:
        """Return where the next value will go."""
        steps = (len(each.value) if each.key is None else each.key for each in self._open)
        return tuple(steps)

    def _find(self, problem: str, expected: str = "") -> None:
        self._findings.append(Finding(self._path(), problem, expected))

    def _stop(self, line: int, problem: str) -> InvalidFileError:
        return InvalidFileError([Fault(file=self._file, where=f"line {line}", problem=problem)])
