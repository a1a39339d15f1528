"""Compare our placements with those of Meta's Rebalancer, on the same clusters and cores.

    make bench-placement BENCH=DIR [SIZES=small,medium] [FLAVOURS=...] [SEEDS=1,2,3] [ROWS=...]

or, with an interpreter in whose environment theirs is installed (it has our import name, so it
cannot be in ours):

    python benchmarks/placement.py --bench DIR --out DIR --peer-python PYTHON [--json] ...

`DIR` of `--bench` holds what belongs to neither: `gen_cluster.py` makes clusters from a size, a
flavour and a seed, `score.py` judges moves, `peers/rebalancer_adapter.py` asks theirs.

    balance       `policies/balance.yaml` and its local search, a price on each move: both even out
                  CPU, in as many moves as they like
    balance-5pct  the same, with 5 % of the VMs at most
    relieve       no host above 75 % CPU, and as little moved as possible
    power         fewest watts with no host above 80 % CPU, beside theirs that wants fewest hosts

Tables say ours / theirs, and as ratios (×); spread is the standard deviation of the hosts' CPU
use. `meets` names the bars that a row does not reach. Time is of this machine and this hour, so
that only its ratio to theirs says something; `time` is missed where half of the CPU time is above
the bar as well, and `time?` is doubtful, as another program may have had the cores.

Results are kept in `OUT/runs.csv`: an interrupted comparison goes on where it was, and a run is
made again when the program, the policy or theirs has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from placement_runs import (
    CUT_OFF,
    KINDS,
    OURS,
    THEIRS,
    Arena,
    Cluster,
    Kind,
    Run,
    add_run,
    cluster,
    read_peer_table,
    read_runs,
    run_ours,
    run_theirs,
    version_of_ours,
    version_of_theirs,
)
from placement_table import SIZES, Pair, misses, pairs, tables

FLAVOURS = ("hotspot", "skewed", "tight", "sparse")


def compare(given: argparse.Namespace, arena: Arena) -> list[Run]:
    """Make every run that is asked for and not kept yet; return all that are asked for."""
    file = given.out / "runs.csv"
    kept = {_key(run): run for run in read_runs(file) if run.status in ("ok", CUT_OFF)}
    from_table = list(read_peer_table(given.peer_rows)) if given.peer_rows else []
    theirs = {(run.kind, run.snapshot): run for run in from_table}
    found = []
    for kind, asked in _asked(given, arena):
        for contestant, version, make in _contestants(given, arena, kind):
            if contestant == THEIRS and (known := theirs.get((kind.name, asked.name))):
                found.append(known)
                continue
            if version is None:
                continue
            run = kept.get((contestant, kind.name, asked.name, version))
            if run is None:
                run = make(arena, kind, asked, version)
                add_run(file, run)
                _tell(run)
            found.append(run)
    return found


def _key(run: Run) -> tuple[str, str, str, str]:
    return run.contestant, run.kind, run.snapshot, run.version


type Make = Callable[[Arena, Kind, Cluster, str], Run]


def _contestants(
    given: argparse.Namespace, arena: Arena, kind: Kind
) -> Iterator[tuple[str, str | None, Make]]:
    """Who plays, in which version (`None`: cannot), and how."""
    if kind.theirs is not None and not given.ours_only:
        version = version_of_theirs(arena, kind) if arena.peer_python else None
        yield THEIRS, version, run_theirs
    yield OURS, version_of_ours(kind, arena.options), run_ours


def _asked(given: argparse.Namespace, arena: Arena) -> Iterator[tuple[Kind, Cluster]]:
    snapshots = given.snapshots or given.out / "snapshots"
    for size in given.sizes:
        for name in given.rows:
            kind = KINDS[name]
            if not kind.policy.exists():
                print(f"{name}: there is no {kind.policy.name}; left out", file=sys.stderr)
                continue
            for flavour in (f for f in given.flavours if f in kind.flavours):
                for seed in given.seeds:
                    yield kind, cluster(arena, snapshots, size, flavour, seed)


def _tell(run: Run) -> None:
    moved = "" if run.moves is None else f"{run.moves:.0f} moves, {run.gib:.0f} GiB, "
    took = f"{run.wall_seconds} s, {run.cpu_seconds} CPU s"
    print(
        f"{run.contestant} {run.kind} {run.snapshot}: {run.status}, {moved}{took}", file=sys.stderr
    )


def _as_json(found: Sequence[Pair]) -> str:
    rows = [
        {
            "row": pair.ours.kind,
            "snapshot": pair.ours.snapshot,
            "misses": misses(pair),
            "ours": asdict(pair.ours),
            "theirs": asdict(pair.theirs) if pair.theirs else None,
        }
        for pair in found
    ]
    return json.dumps(rows, indent=1)


def _listed(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name] or list(known)
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return names

    return parse


def _seeds(text: str) -> list[int]:
    return [int(seed) for seed in text.split(",") if seed] or [1, 2, 3]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--bench", type=Path, required=True, help="generator, scorer, adapters")
    parser.add_argument("--out", type=Path, required=True, help="where results are kept")
    parser.add_argument("--snapshots", type=Path, help="made here if missing; OUT/snapshots")
    parser.add_argument("--sizes", type=_listed(SIZES), default=list(SIZES))
    parser.add_argument("--flavours", type=_listed(FLAVOURS), default=list(FLAVOURS))
    parser.add_argument("--seeds", type=_seeds, default=[1, 2, 3])
    parser.add_argument("--rows", type=_listed(tuple(KINDS)), default=list(KINDS))
    theirs = parser.add_mutually_exclusive_group()
    theirs.add_argument("--peer-python", type=Path, help="interpreter that imports theirs")
    theirs.add_argument("--peer-rows", type=Path, help="a table of earlier runs of theirs")
    theirs.add_argument("--ours-only", action="store_true")
    parser.add_argument("--cores", help="for both, such as 0,1; the first two that we may use")
    parser.add_argument("--cap", type=float, default=900.0, help="seconds to each run")
    parser.add_argument("--solver-time", help="passed on to our plan")
    parser.add_argument("--json", action="store_true")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; say by the exit code whether everything could be run."""
    given = _parser().parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, [int(c) for c in given.cores.split(",")] if given.cores else cores)
    given.out.mkdir(parents=True, exist_ok=True)
    arena = Arena(
        bench=given.bench.resolve(),
        out=given.out,
        peer_python=given.peer_python,
        cap_seconds=given.cap,
        options=("--solver-time", given.solver_time) if given.solver_time else (),
    )
    found = pairs(compare(given, arena))
    print(_as_json(found) if given.json else tables(found))
    return int(any(pair.ours.status != "ok" for pair in found))


if __name__ == "__main__":
    sys.exit(main())
