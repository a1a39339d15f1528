"""Many names in one: `web{1..8}`, `h{01..40}`."""

from __future__ import annotations

import re

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_NAMES = 100_000


def expand(pattern: str) -> tuple[str, ...]:
    """Return every name that `pattern` stands for; itself if it has no braces.

    `{1..3}` is 1, 2, 3; `{01..10}` keeps the leading zero. Several braces multiply. Raises
    `ValueError` for a range that runs backwards or is longer than any cluster.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return (pattern,)
    first, last = match.groups()
    if int(last) < int(first):
        raise ValueError(f"range {match[0]} in {pattern!r} runs backwards")
    if int(last) - int(first) >= MOST_NAMES:
        raise ValueError(f"range {match[0]} in {pattern!r} has more than {MOST_NAMES} names")
    width = len(first) if first.startswith("0") else 0
    head, tail = pattern[: match.start()], pattern[match.end() :]
    numbers = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return tuple(name for number in numbers for name in expand(f"{head}{number}{tail}"))
