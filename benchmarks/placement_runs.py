"""The two contestants of `placement.py`, and what each of their runs came to.

Ours is the whole program, as an operator starts it. Theirs is Meta's Rebalancer behind an adapter
that takes `--snapshot S --mode M --max-moves N --variant V --time-limit T --out O`. What either
wants to move is judged by the same scorer, which belongs to neither.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from from_neutral import snapshot_from_neutral
from measured_process import Ended, run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OURS, THEIRS = "ours", "theirs"
BAND = 0.75
"""What `policies/relieve.yaml` here keeps the CPU of hosts below."""
FEW_MOVES = 0.05
"""Share of the VMs that may move in the row `balance-5pct`."""
MIB = 2**20
CUT_OFF = "cut off"
FIRST = re.compile(r"^(\d+\.\d+) s after the start:", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to measure: a policy of ours, and what theirs is asked for."""

    name: str
    flavours: tuple[str, ...]
    theirs: tuple[str, str, str] | None
    """Name in the runner's tables, mode, and variant; `None`: nothing of theirs compares."""
    few_moves: bool = False

    @property
    def policy(self) -> Path:
        """Our policy."""
        return HERE / "policies" / f"{self.name}.yaml"


_UNEVEN = ("hotspot", "skewed", "tight")
_LEAN = ("reb-lean", "balance", "lean1e-3")
_PACK = ("reb-pack", "consolidate", "pack")
KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="balance", flavours=_UNEVEN, theirs=_LEAN),
        Kind(name="balance-5pct", flavours=_UNEVEN, theirs=_LEAN, few_moves=True),
        Kind(name="relieve", flavours=_UNEVEN, theirs=None),
        Kind(name="power", flavours=("sparse",), theirs=_PACK),
    )
}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A neutral snapshot that both are asked about."""

    size: str
    flavour: str
    seed: int
    file: Path

    @property
    def name(self) -> str:
        """As the generator calls it."""
        return f"{self.size}-{self.flavour}-s{self.seed}"

    def read(self) -> dict[str, Any]:
        """The snapshot, as its file has it."""
        found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        return found


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run came to. Numbers are `None` where there is no answer, or it does not say."""

    contestant: str
    kind: str
    snapshot: str
    version: str
    """Changes with anything that could change the answer."""
    status: str
    """`ok`, `cut off`, or what went wrong."""
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_mib: float | None = None
    moves: float | None = None
    most_moves: float | None = None
    gib: float | None = None
    spread_before: float | None = None
    spread: float | None = None
    hottest: float | None = None
    memory_spread_before: float | None = None
    memory_spread: float | None = None
    hot_before: float | None = None
    hot: float | None = None
    """Hosts with more CPU in use than `BAND`."""
    watts_before: float | None = None
    watts: float | None = None
    stuck: float | None = None
    feasible: float | None = None
    """1 where no limit and no rule is broken, else 0."""
    captured: float | None = None
    gap: float | None = None
    first_seconds: float | None = None
    """From the start of the program to its first feasible answer."""
    proof: str = ""
    """The status of our answer, such as `optimal`."""


@dataclass(frozen=True, kw_only=True)
class Arena:
    """Where the runs take place."""

    bench: Path
    """Folder with generator, scorer and adapter."""
    out: Path
    peer_python: Path | None
    cap_seconds: float
    options: tuple[str, ...]
    """Given to our `plan` as they are."""

    def score(self, snapshot: dict[str, Any], moves: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Judge moves."""
        spec = importlib.util.spec_from_file_location("score", self.bench / "score.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found: dict[str, Any] = module.score(snapshot, moves)
        return found

    @property
    def adapter(self) -> Path:
        """What makes theirs answer our question."""
        return self.bench / "peers" / "rebalancer_adapter.py"


def cluster(arena: Arena, snapshots: Path, size: str, flavour: str, seed: int) -> Cluster:
    """Make a snapshot, unless it is there."""
    made = Cluster(
        size=size, flavour=flavour, seed=seed, file=snapshots / f"{size}-{flavour}-s{seed}.json"
    )
    if not made.file.exists():
        snapshots.mkdir(parents=True, exist_ok=True)
        generator = [sys.executable, str(arena.bench / "gen_cluster.py")]
        asked = ["--size", size, "--flavour", flavour, "--seed", str(seed), "-o", str(made.file)]
        ended = run([*generator, *asked], cap_seconds=arena.cap_seconds, environment={})
        if ended.exit_code != 0:
            made.file.unlink(missing_ok=True)
            raise SystemExit(f"{made.name} could not be made: {ended.errors.strip()}")
    return made


def version_of_ours(kind: Kind, options: Sequence[str]) -> str:
    """Changes with any line of the program or of the policy."""
    files = [*sorted((ROOT / "rebalancer").rglob("*.py")), kind.policy]
    return _digest([file.read_bytes() for file in files], options)


def version_of_theirs(arena: Arena, kind: Kind) -> str:
    """Changes with the installed version and with what it is asked."""
    assert kind.theirs is not None
    asked = "import importlib.metadata as m; print(m.version('rebalancer'))"
    ended = run([str(arena.peer_python), "-c", asked], cap_seconds=60, environment={})
    if ended.exit_code != 0:
        raise SystemExit(f"{arena.peer_python} has no Rebalancer: {ended.errors.strip()}")
    return _digest([arena.adapter.read_bytes()], (ended.output.strip(), *kind.theirs))


def _digest(contents: Iterable[bytes], texts: Iterable[str]) -> str:
    made = hashlib.sha256()
    for part in (*contents, *(text.encode() for text in texts)):
        made.update(hashlib.sha256(part).digest())
    return made.hexdigest()[:12]


def run_ours(arena: Arena, kind: Kind, cluster: Cluster, version: str) -> Run:
    """Let our program plan, and judge its moves."""
    neutral = cluster.read()
    with tempfile.TemporaryDirectory() as folder:
        snapshot = Path(folder) / "snapshot.json"
        snapshot.write_text(json.dumps(snapshot_from_neutral(neutral)), encoding="utf-8")
        # -P: the program beside this file, not one in the folder that this is called from.
        command = [sys.executable, "-P", "-m", "rebalancer", "plan", "--snapshot", str(snapshot)]
        command += ["--policy", str(kind.policy), "-o", "json", "--verbose"]
        command += arena.options
        ended = run(command, cap_seconds=arena.cap_seconds, environment={"PYTHONPATH": str(ROOT)})
    facts = _facts(OURS, kind, cluster, version) | _took(ended)
    if ended.exit_code != 0:
        return Run(status=_failure(ended), **facts)
    plan = json.loads(ended.output)
    objective = plan["objective"]
    moves = [(step["vm"], step["target"]) for step in plan["migrations"]]
    broken = "broken by its own oracle" if plan["violations_after"] else "ok"
    return Run(
        status=broken,
        **facts,
        **_judged(arena, neutral, kind, moves),
        captured=objective["captured_ratio"],
        gap=objective["gap_ratio"],
        first_seconds=_first_seconds(ended.errors),
        proof=objective["status"],
    )


def run_theirs(arena: Arena, kind: Kind, cluster: Cluster, version: str) -> Run:
    """Let their program answer, and judge its moves."""
    assert kind.theirs is not None
    _, mode, variant = kind.theirs
    neutral = cluster.read()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [str(arena.peer_python), str(arena.adapter), "--snapshot", str(cluster.file)]
        command += ["--mode", mode, "--variant", variant, "--out", str(out)]
        command += ["--max-moves", str(most_moves(neutral, kind) or 0)]
        command += ["--time-limit", str(arena.cap_seconds)]
        ended = run(
            command, cap_seconds=arena.cap_seconds, environment={"PYTHONWARNINGS": "ignore"}
        )
        found = json.loads(out.read_text(encoding="utf-8"))["moves"] if out.exists() else None
    facts = _facts(THEIRS, kind, cluster, version) | _took(ended)
    if ended.exit_code != 0 or found is None:
        return Run(status=_failure(ended), **facts)
    moves = [(vm, host) for vm, host in found]
    return Run(status="ok", **facts, **_judged(arena, neutral, kind, moves))


def most_moves(neutral: Mapping[str, Any], kind: Kind) -> int | None:
    """How many VMs may move."""
    return max(1, round(FEW_MOVES * len(neutral["vms"]))) if kind.few_moves else None


def _first_seconds(errors: str) -> float | None:
    """When the first placement was found, by what `plan --verbose` tells on the way."""
    found = FIRST.search(errors)
    return float(found.group(1)) if found else None


def _failure(ended: Ended) -> str:
    if ended.exit_code is None:
        return CUT_OFF
    last = ended.errors.strip().splitlines()[-1:] or ["no message"]
    return f"exit {ended.exit_code}: {last[0][:160]}"


def _facts(contestant: str, kind: Kind, cluster: Cluster, version: str) -> dict[str, Any]:
    return {
        "contestant": contestant,
        "kind": kind.name,
        "snapshot": cluster.name,
        "version": version,
    }


def _took(ended: Ended) -> dict[str, Any]:
    return {
        "wall_seconds": round(ended.wall_seconds, 2),
        "cpu_seconds": round(ended.cpu_seconds, 2),
        "peak_mib": round(ended.peak_bytes / MIB),
    }


def _judged(
    arena: Arena, neutral: dict[str, Any], kind: Kind, moves: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    score = arena.score(neutral, moves)
    return {
        "moves": score["migrations"],
        "most_moves": most_moves(neutral, kind),
        "gib": score["migrated_gib"],
        "spread_before": score["cpu_std_before"],
        "spread": score["cpu_std_after"],
        "hottest": score["cpu_max_after"],
        "memory_spread_before": score["mem_std_before"],
        "memory_spread": score["mem_std_after"],
        "hot_before": _hot_hosts(neutral, ()),
        "hot": _hot_hosts(neutral, moves),
        "watts_before": score["watts_before"],
        "watts": score["watts_after"],
        "stuck": score["stuck_moves"],
        "feasible": float(score["feasible"]),
    }


def _hot_hosts(neutral: Mapping[str, Any], moves: Sequence[tuple[str, str]]) -> int:
    place = dict(moves)
    used = dict.fromkeys((host["name"] for host in neutral["hosts"]), 0.0)
    for vm in neutral["vms"]:
        used[place.get(vm["name"], vm["host"])] += vm["cpu_used_cores"]
    return sum(used[host["name"]] > BAND * host["cpu_cores"] + 1e-6 for host in neutral["hosts"])


# Kept results -------------------------------------------------------------------------------


def read_runs(file: Path) -> Iterator[Run]:
    """What was measured before; a file of another form is as good as none."""
    if not file.exists():
        return
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if reader.fieldnames == [field.name for field in fields(Run)]:
            for row in reader:
                yield Run(**{name: _cell(name, text) for name, text in row.items()})


def add_run(file: Path, made: Run) -> None:
    """Append a result, so that an interrupted comparison goes on where it was."""
    names = [field.name for field in fields(Run)]
    is_new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        if is_new:
            writer.writerow(names)
        writer.writerow(["" if getattr(made, n) is None else getattr(made, n) for n in names])


_TEXTS = frozenset(field.name for field in fields(Run) if field.type == "str")


def _cell(name: str, text: str) -> Any:  # noqa: ANN401 (a cell is text, a number or nothing)
    if name in _TEXTS:
        return text
    return float(text) if text else None


def read_peer_table(file: Path) -> Iterator[Run]:
    """Runs of theirs from a table that the runner beside the adapters has written."""
    kinds = {(k.theirs[0], "5%" if k.few_moves else "all"): k for k in KINDS.values() if k.theirs}
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            kind = kinds.get((row["contestant"], row["budget"]))
            if kind is None or row["status"] != "ok":
                continue
            yield Run(
                contestant=THEIRS,
                kind=kind.name,
                snapshot=row["snapshot"],
                version="from a table",
                status="ok",
                wall_seconds=float(row["wall_s"]),
                cpu_seconds=float(row["cpu_s"]),
                peak_mib=float(row["peak_rss_mib"]),
                moves=float(row["migrations"]),
                gib=float(row["migrated_gib"]),
                spread_before=float(row["cpu_std_before"]),
                spread=float(row["cpu_std_after"]),
                hottest=float(row["cpu_max_after"]),
                memory_spread_before=float(row["mem_std_before"]),
                memory_spread=float(row["mem_std_after"]),
                watts_before=float(row["watts_before"]),
                watts=float(row["watts_after"]),
                stuck=float(row["stuck_moves"]),
                feasible=float(row["feasible"] == "True"),
            )
