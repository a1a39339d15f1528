"""Plays many scripts and prints what came of them: `python -m tests.faults --seeds 0:2000`."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

from tests.faults.judge import Finding, judge
from tests.faults.planted import PLANTED, planted
from tests.faults.play import play
from tests.faults.scripts import script


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one script."""

    seed: int
    family: str
    troubles: tuple[str, ...]
    ends: tuple[str, ...]
    findings: tuple[Finding, ...]
    story: str = ""
    """Only of a failed one."""


def try_out(seed: int, bug: str = "") -> Verdict:
    """Play and judge one script; an exception is a finding like any other."""
    written = script(seed)
    try:
        with planted(bug):
            played = play(written)
        findings = judge(played)
        ends = tuple(str(row.state) for row in played.rows)
    except Exception:  # noqa: BLE001  whatever it is, the other scripts are played, too
        findings = (Finding(promise="no surprise", text=traceback.format_exc()),)
        ends = ()
    return Verdict(
        seed=seed,
        family=written.family,
        troubles=tuple(trouble.name for trouble in written.troubles) or ("crash only",),
        ends=ends,
        findings=findings,
        story=written.describe() if findings else "",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    first, _, last = options.seeds.partition(":")
    seeds = range(int(first), int(last) if last else int(first) + 1)
    begun = time.monotonic()
    verdicts = list(_try_all(seeds, options.jobs, options.bug))
    if len(seeds) == 1:
        print(script(seeds[0]).describe())
    _print_table(verdicts)
    failed = [verdict for verdict in verdicts if verdict.findings]
    for verdict in failed[: options.show]:
        print(f"\n{verdict.story}")
        for finding in verdict.findings:
            print(f"  !! {finding}")
        print(f"  again: {sys.executable} -m tests.faults --seeds {verdict.seed}")
    if len(failed) > options.show:
        print("\nmore that failed:", *(verdict.seed for verdict in failed[options.show :]))
    took = time.monotonic() - begun
    print(f"\n{len(verdicts)} scripts in {took:.0f} s: {len(failed)} broke a promise")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", default="0:2000", help="FIRST:END, or one number")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bug", default="", choices=["", *PLANTED], help="plant a bug first")
    parser.add_argument("--show", type=int, default=10, help="how many failures to tell in full")
    return parser


def _try_all(seeds: Sequence[int], jobs: int, bug: str) -> Iterable[Verdict]:
    work: Callable[[int], Verdict] = partial(try_out, bug=bug)
    if jobs <= 1 or len(seeds) == 1:
        yield from map(work, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, seeds, chunksize=10)


_ENDS = ("complete", "failed-safe", "aborted", "skipped", "failed-down", "unknown")


def _print_table(verdicts: Sequence[Verdict]) -> None:
    counts: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        for trouble in verdict.troubles:
            row = counts.setdefault(trouble, Counter())
            row["scripts"] += 1
            row["broken"] += bool(verdict.findings)
            row.update(verdict.ends[:1])
    width = max((len(name) for name in counts), default=0)
    print("How the migration that it happened to ended at last:")
    print(" " * width, "scripts", *(f"{end:>11}" for end in _ENDS), "broken promises")
    for name, row in sorted(counts.items()):
        cells = "".join(f"{row[end] or '·':>12}" for end in _ENDS)
        print(f"{name:{width}} {row['scripts']:7}{cells} {row['broken'] or '·':>7}")
