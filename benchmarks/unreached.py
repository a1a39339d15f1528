"""Which of the bars that `placement.py` found missed can be reached by anybody.

    python benchmarks/unreached.py --out build/placement [--sizes small] [--seconds 60] [--json]

For each row of a finished comparison (`placement.py`, the same `--out`) whose spread or GiB is
above its bar, `reachable.py` is asked whether any placement reaches both bars at once, in as many
moves as the row allows and with memory no less even than it was:

    impossible   proved: no placement does, ours, theirs or anybody's
    possible     one was found, so that a better search could reach it
    open         neither could be shown in time
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from placement_runs import read_runs
from placement_table import GIB_RATIO, SIZES, SPREAD_RATIO, Pair, misses, pairs
from reachable import Question, ask

VERDICTS = {0: "possible", 1: "impossible", 2: "open"}
ABOUT = {"spread", "GiB"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The bars of a row that was missed, and what became of the question."""

    kind: str
    snapshot: str
    spread: float
    gib: float
    moves: int | None
    verdict: str
    said: str


def judged(found: Sequence[Pair], snapshots: Path, seconds: float) -> Iterator[Asked]:
    """Ask for each pair that misses a bar, for so many seconds each."""
    for pair in found:
        theirs = pair.theirs
        if theirs is None or theirs.spread is None or theirs.gib is None:
            continue
        if not ABOUT & set(misses(pair)):
            continue
        spread = theirs.spread * SPREAD_RATIO[pair.flavour]
        gib = theirs.gib * GIB_RATIO[pair.flavour]
        most = pair.ours.most_moves
        moves = None if most is None else int(most)
        file = snapshots / f"{pair.ours.snapshot}.json"
        snapshot = json.loads(file.read_text(encoding="utf-8"))
        code, said = ask(Question(snapshot, gib, moves), spread, seconds)
        yield Asked(
            kind=pair.ours.kind,
            snapshot=pair.ours.snapshot,
            spread=spread,
            gib=gib,
            moves=moves,
            verdict=VERDICTS[code],
            said=said,
        )


def _line(asked: Asked) -> str:
    moves = "any" if asked.moves is None else str(asked.moves)
    bars = f"{asked.spread:.4f} | {asked.gib:.1f} | {moves}"
    return f"| {asked.kind} | {asked.snapshot} | {bars} | {asked.verdict} | {asked.said} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each missed row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True, help="where placement.py keeps its runs")
    parser.add_argument("--snapshots", type=Path, help="where its snapshots are; OUT/snapshots")
    parser.add_argument("--sizes", default="small", help=f"of {','.join(SIZES)}; small")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each question")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    runs = read_runs(given.out / "runs.csv")
    found = [pair for pair in pairs(runs) if pair.size in given.sizes.split(",")]
    answers = judged(found, given.snapshots or given.out / "snapshots", given.seconds)
    if given.json:
        print(json.dumps([asdict(asked) for asked in answers], indent=1))
        return 0
    print("| row | snapshot | spread ≤ | GiB ≤ | moves ≤ | both at once | |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for asked in answers:
        print(_line(asked), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
