"""JSON text -> Document.

The text is read twice: here by the standard library, which shows duplicated keys and numbers
that are not finite, and then by pydantic, which is fast. What would take minutes or fill the
memory is refused before either starts.
"""

import json
import math
from collections import Counter, deque
from collections.abc import Iterator

from rebalancer.errors import Fault, InvalidFileError
from rebalancer.files.document import Document
from rebalancer.files.tree import MOST_DEPTH, Finding, Path, Tree

MOST_CONTAINERS = 1_000_000
"""Objects and lists. A snapshot of 1,000 hosts and 20,000 VMs has about 200,000."""

MOST_VALUES = 10_000_000
"""A day of five-minute samples for 20,000 VMs is 5,760,000 numbers."""


def parse(text: str, file: str) -> Document:
    """Read one JSON object; raise `InvalidFileError` when the text is not JSON."""

    def stop(problem: str, where: str = "") -> InvalidFileError:
        return InvalidFileError([Fault(file=file, where=where, problem=problem)])

    # Counting characters also counts those in texts, and is a thousand times faster than parsing.
    container_count = text.count("{") + text.count("[")
    if container_count > MOST_CONTAINERS:
        raise stop(f"holds more than {MOST_CONTAINERS:,} objects and lists")
    value_count = container_count + text.count(",")
    if value_count > MOST_VALUES:
        raise stop(f"holds more than {MOST_VALUES:,} values")

    duplicates: list[tuple[dict[str, Tree], set[str]]] = []

    def as_object(pairs: list[tuple[str, Tree]]) -> dict[str, Tree]:
        result = dict(pairs)
        if len(result) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            duplicates.append((result, {key for key, count in counts.items() if count > 1}))
        return result

    try:
        tree: Tree = json.loads(text, object_pairs_hook=as_object)
    except json.JSONDecodeError as error:
        # Of text without an end the decoder names the beginning.
        ends_early = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        hint = "; the file seems to be cut short" if ends_early else ""
        where = f"line {error.lineno}, column {error.colno}"
        raise stop(f"not valid JSON: {error.msg}{hint}", where) from error
    except RecursionError as error:
        raise stop(f"nested deeper than {MOST_DEPTH} levels") from error
    except ValueError as error:
        raise stop("holds a number of more than 4,300 digits") from error

    return Document(
        file=file,
        tree=tree,
        json=text.encode(),
        value_count=value_count,
        findings=tuple(_findings(tree, {id(each): keys for each, keys in duplicates})),
    )


def _findings(root: Tree, duplicates: dict[int, set[str]]) -> Iterator[Finding]:
    """Yield what JSON should not hold although the standard library reads it."""
    remaining: deque[tuple[Path, Tree]] = deque([((), root)])
    while remaining:
        path, tree = remaining.popleft()
        if len(path) > MOST_DEPTH:
            yield Finding((), f"nested deeper than {MOST_DEPTH} levels")
        elif isinstance(tree, dict):
            for key in sorted(duplicates.get(id(tree), ())):
                yield Finding((*path, key), "this key is here twice")
            remaining += [((*path, key), value) for key, value in tree.items() if _matters(value)]
        elif isinstance(tree, list) and not _are_fine(tree):
            remaining += [((*path, i), value) for i, value in enumerate(tree) if _matters(value)]
        elif not isinstance(tree, list) and _matters(tree):
            yield Finding(path, "not a finite number")


def _matters(value: Tree) -> bool:
    """Tell whether `value` is wrong, or may hold something that is."""
    return not _are_fine([value])


def _are_fine(values: list[Tree]) -> bool:
    """Tell whether no value is wrong or can hold one that is: at a glance, for millions."""
    kinds = set(map(type, values))
    if kinds & {dict, list}:
        return False
    is_numeric = kinds <= {float, int, bool}
    numbers = values if is_numeric else [each for each in values if isinstance(each, float | int)]
    try:
        return all(map(math.isfinite, numbers))  # type: ignore[arg-type]
    except OverflowError:  # an integer that no float can hold
        return False
