"""What is asked of each run of ours beside theirs, and the tables that say what was reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from placement_runs import KINDS, OURS, THEIRS, Run

SIZES = ("small", "medium", "large", "xl")
SMALL = ("small", "medium")
SECONDS = {"small": 3.0, "medium": 10.0, "large": 30.0, "xl": 90.0}
"""The whole program on two cores."""
CORES = 2
FIRST_SECONDS = 3.0
PEAK_MIB = 2048.0
CAPTURED = {"small": 0.98, "medium": 0.98, "large": 0.96, "xl": 0.96}
GIB_RATIO = {"hotspot": 0.5, "skewed": 0.8, "tight": 0.8}
SPREAD_RATIO = {"hotspot": 1.0, "skewed": 1.0, "tight": 0.5}
CEILING = 0.8
SAME = 1e-6


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A run of ours and the run of theirs on the same snapshot, if there is one."""

    ours: Run
    theirs: Run | None

    @property
    def size(self) -> str:
        """Of the snapshot."""
        return self.ours.snapshot.split("-")[0]

    @property
    def flavour(self) -> str:
        """Of the snapshot."""
        return self.ours.snapshot.split("-")[1]

    def ratio(self, what: Callable[[Run], float | None]) -> float | None:
        """Ours to theirs; infinite where theirs is 0 and ours is not."""
        ours = what(self.ours)
        theirs = what(self.theirs) if self.theirs is not None else None
        if ours is None or theirs is None:
            return None
        return ours / theirs if theirs else (1.0 if ours < SAME else float("inf"))


def pairs(runs: Iterable[Run]) -> list[Pair]:
    """The newest run of each contestant, side by side."""
    newest = {(run.kind, run.snapshot, run.contestant): run for run in runs}
    order = list(KINDS)
    found = [
        Pair(ours=run, theirs=newest.get((kind, snapshot, THEIRS)))
        for (kind, snapshot, contestant), run in newest.items()
        if contestant == OURS
    ]
    return sorted(
        found,
        key=lambda p: (order.index(p.ours.kind), SIZES.index(p.size), p.ours.snapshot),
    )


def misses(pair: Pair) -> tuple[str, ...]:
    """The bars that a run does not reach, by name."""
    if pair.ours.status != "ok":
        return (pair.ours.status[:60],)
    aims = {"relieve": _relieve, "power": _power}.get(pair.ours.kind, _balance)
    return (*aims(pair), *_sound(pair), *_quick(pair), *_proved(pair))


def _balance(pair: Pair) -> Iterator[str]:
    """Evener than theirs for less; memory no worse than before."""
    ours = pair.ours
    if _above(pair.ratio(lambda run: run.spread), SPREAD_RATIO[pair.flavour]):
        yield "spread"
    if _above(pair.ratio(lambda run: run.gib), GIB_RATIO[pair.flavour]):
        yield "GiB"
    if ours.memory_spread is not None and _above(ours.memory_spread, ours.memory_spread_before):
        yield "memory spread"
    if _above(ours.moves, ours.most_moves):
        yield "moves"


def _relieve(pair: Pair) -> Iterator[str]:
    """No hot host, unless that is proved to be the best; the fewest GiB, proved where small."""
    is_proved = pair.ours.proof == "optimal"
    if pair.ours.hot and not is_proved:
        yield "hot"
    if pair.size in SMALL and not is_proved:
        yield "not proved"


def _power(pair: Pair) -> Iterator[str]:
    """No more watts and no more moves than theirs, under the same ceiling."""
    if _above(pair.ratio(lambda run: run.watts), 1.0):
        yield "watts"
    if _above(pair.ratio(lambda run: run.moves), 1.0):
        yield "moves"
    if _above(pair.ours.hottest, CEILING):
        yield "ceiling"


def _sound(pair: Pair) -> Iterator[str]:
    """Every rule and limit kept, every move possible in some order."""
    if not pair.ours.feasible:
        yield "feasible"
    if pair.ours.stuck:
        yield "stuck"


def _quick(pair: Pair) -> Iterator[str]:
    """Time and memory. Another program may have had the cores, but not what we used of them."""
    wall, cpu = pair.ours.wall_seconds or 0.0, pair.ours.cpu_seconds or 0.0
    if min(wall, cpu / CORES) > SECONDS[pair.size]:
        yield "time"
    if _above((pair.ours.first_seconds or 0.0) * min(1.0, cpu / max(wall, SAME)), FIRST_SECONDS):
        yield "first answer"
    if _above(pair.ours.peak_mib, PEAK_MIB):
        yield "memory"


def is_time_in_doubt(pair: Pair) -> bool:
    """Whether it took too long here, and might not have if nothing else had been running."""
    wall, cpu = pair.ours.wall_seconds or 0.0, pair.ours.cpu_seconds or 0.0
    return min(wall, cpu) > SECONDS[pair.size] >= min(wall, cpu / CORES)


def _proved(pair: Pair) -> Iterator[str]:
    captured = pair.ours.captured
    if captured is not None and captured < CAPTURED[pair.size] - SAME:
        yield "captured"


def _above(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit + SAME


# Tables -------------------------------------------------------------------------------------

type Column = tuple[str, Callable[[Pair], str]]


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _bar(pair: Pair, ratio: float | None, bar: float) -> str:
    return "" if ratio is None else f"{ratio:.2f} (≤ {bar:g})"


def _both(what: Callable[[Run], float | None], digits: int = 0) -> Callable[[Pair], str]:
    def text(pair: Pair) -> str:
        ours = _number(what(pair.ours), digits)
        theirs = _number(what(pair.theirs), digits) if pair.theirs else ""
        return f"{ours} / {theirs}" if theirs else ours

    return text


_SNAPSHOT: Column = ("snapshot", lambda p: p.ours.snapshot)
_COMMON: tuple[Column, ...] = (
    ("stuck", lambda p: _number(p.ours.stuck)),
    ("feasible", lambda p: {None: "", 1.0: "yes"}.get(p.ours.feasible, "NO")),
    ("captured", lambda p: _number(p.ours.captured, 4)),
    ("gap", lambda p: _number(p.ours.gap, 4)),
    ("proof", lambda p: p.ours.proof),
    ("first s", lambda p: _number(p.ours.first_seconds, 2)),
    ("wall s", lambda p: _number(p.ours.wall_seconds, 1)),
    ("CPU s", _both(lambda run: run.cpu_seconds, 1)),
    ("× CPU", lambda p: _number(p.ratio(lambda run: run.cpu_seconds), 1)),
    ("MiB", _both(lambda run: run.peak_mib)),
    ("meets", lambda p: _verdict(p)),
)
_BALANCE: tuple[Column, ...] = (
    _SNAPSHOT,
    ("spread ×", lambda p: _bar(p, p.ratio(lambda run: run.spread), SPREAD_RATIO[p.flavour])),
    ("GiB ×", lambda p: _bar(p, p.ratio(lambda run: run.gib), GIB_RATIO[p.flavour])),
    ("spread", _both(lambda run: run.spread, 4)),
    ("GiB", _both(lambda run: run.gib)),
    ("memory spread, after / before", lambda p: _memory_ratio(p)),
    ("moves", _both(lambda run: run.moves)),
    *_COMMON,
)
_RELIEVE: tuple[Column, ...] = (
    _SNAPSHOT,
    ("hot before", lambda p: _number(p.ours.hot_before)),
    ("hot after", lambda p: _number(p.ours.hot)),
    ("GiB", lambda p: _number(p.ours.gib)),
    ("moves", lambda p: _number(p.ours.moves)),
    *(column for column in _COMMON if column[0] != "× CPU"),
)
_POWER: tuple[Column, ...] = (
    _SNAPSHOT,
    ("watts ×", lambda p: _number(p.ratio(lambda run: run.watts), 3)),
    ("moves ×", lambda p: _number(p.ratio(lambda run: run.moves), 3)),
    ("watts", _both(lambda run: run.watts)),
    ("moves", _both(lambda run: run.moves)),
    ("GiB", _both(lambda run: run.gib)),
    ("hottest", lambda p: _number(p.ours.hottest, 3)),
    *_COMMON,
)
_COLUMNS = {"relieve": _RELIEVE, "power": _POWER}


def _verdict(pair: Pair) -> str:
    missed = misses(pair)
    doubt = "; time?" if is_time_in_doubt(pair) else ""
    return ("all" if not missed else "misses " + ", ".join(missed)) + doubt


def _memory_ratio(pair: Pair) -> str:
    after, before = pair.ours.memory_spread, pair.ours.memory_spread_before
    return "" if after is None or not before else f"{after / before:.3f}"


def tables(found: Sequence[Pair]) -> str:
    """One table in Markdown for each kind of row, and how many rows reach every bar."""
    parts = []
    for kind in dict.fromkeys(pair.ours.kind for pair in found):
        mine = [pair for pair in found if pair.ours.kind == kind]
        good = sum(not misses(pair) for pair in mine)
        parts.append(f"{kind}: {good} of {len(mine)} rows reach every bar\n\n{_table(kind, mine)}")
    return "\n\n".join(parts)


def _table(kind: str, found: Sequence[Pair]) -> str:
    columns = _COLUMNS.get(kind, _BALANCE)
    cells = [[title for title, _ in columns]]
    cells += [[text(pair) for _, text in columns] for pair in found]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
