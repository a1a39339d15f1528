"""What a file holds before anybody asks what it means: plain values, and paths to them."""

import json
from dataclasses import dataclass, field
from typing import NamedTuple

type Tree = dict[str, Tree] | list[Tree] | str | int | float | bool | None
type Path = tuple[str | int, ...]

MOST_DEPTH = 64
"""How deep values may be nested; our formats are some six levels deep."""

_MOST_SHOWN = 60
"""Characters of a value or key that are shown before the rest is left out."""


class Finding(NamedTuple):
    """Something wrong at a place in the tree: a `Fault` that does not know its file yet."""

    path: Path
    problem: str
    expected: str = ""


@dataclass(frozen=True, slots=True)
class Lines:
    """In which line of the file a value starts, and each value inside of it."""

    line: int
    keys: dict[str, "Lines"] = field(default_factory=dict)
    items: list["Lines"] = field(default_factory=list)

    def of(self, path: Path) -> int:
        """Return the line of what `path` leads to, or of the last thing on the way there."""
        return self.at(path).line

    def at(self, path: Path) -> "Lines":
        """Return the lines of what `path` leads to, or of the last thing on the way there."""
        here = self
        for step in path:
            if isinstance(step, str) and step in here.keys:
                here = here.keys[step]
            elif isinstance(step, int) and step < len(here.items):
                here = here.items[step]
            else:
                break
        return here


def value_at(tree: Tree, path: Path) -> Tree:
    """Return the value that `path` leads to, or `None` where nothing is."""
    for step in path:
        if isinstance(tree, dict) and isinstance(step, str):
            tree = tree.get(step)
        elif isinstance(tree, list) and isinstance(step, int) and step < len(tree):
            tree = tree[step]
        else:
            return None
    return tree


def dotted(path: Path) -> str:
    """Return `path` as people write it: `goals[0].weight`, `labels["a b"]`."""
    text = ""
    for step in path:
        if isinstance(step, str) and step.isascii() and step.isidentifier():
            name = step if len(step) <= _MOST_SHOWN else f"{step[:_MOST_SHOWN]}…"
            text += f".{name}" if text else name
        else:
            text += f"[{shown(step)}]"
    return text


def shown(value: Tree) -> str:
    """Return `value` as it stands in a file, but short and harmless to a terminal."""
    match value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str() if len(value) > _MOST_SHOWN:
            text = json.dumps(f"{value[:_MOST_SHOWN]}…", ensure_ascii=False)
        case int() if abs(value) > 10**_MOST_SHOWN:
            text = "a huge number"  # Python itself refuses to write out 4,300 digits
        case _:
            text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
