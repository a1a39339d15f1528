"""Whether a bar of `placement.py` can be reached by anybody: the least CPU spread there is.

    python benchmarks/reachable.py SNAPSHOT.json --spread 0.02 [--gib 79] [--moves 3] [--seconds 60]

For a neutral snapshot (as `gen_cluster.py` makes them) it minimises the spread of CPU use over all
placements that keep every limit, spread group and pin, that move no more GiB and VMs than said, and
whose memory spread is not above what it is now. The whole integer program, with tangents to the two
squares added where solutions were; what it proves is a bound, for our search and for any other.
Small clusters take seconds, medium ones usually end at `not decided`.

    python benchmarks/reachable.py SNAPSHOT.json --spread 0.02 --gib 79 --plan PLAN.json

asks the bound of a plan instead (of `plan -o json`, by `policies/balance.yaml`; for that of another
policy say `--movement` and the weight of its goal). That bound holds for every placement there is.
If evenness and bytes as asked for would come to less by the policy's own measure, nothing can be
as even for so little. That takes no time, and often decides where the program does not.

Ends with 0 if the spread that is asked for is reached by the placement found, with 1 if it is
proved that none reaches it, with 2 if neither could be shown in time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rebalancer.placement.model import Model, Row, Solution
from rebalancer.placement.movement import MOVE_PRICE

type Floats = npt.NDArray[np.float64]

ROUNDS = 15
CLOSE = 1.001
"""Tangents are added until the squares are this near to what the model takes them for."""
SCALE = 1e3
"""Squares of shares are small numbers to a solver."""
HOT = 0.85
"""The load from which on the policies of the benchmark count more of it for worse."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One resource: what each VM needs of each host, as a share of it, `(V, H)`."""

    share: Floats
    now: Floats

    @classmethod
    def of(cls, need: Sequence[float], size: Sequence[float], start: Sequence[int]) -> Load:
        """Relate what VMs need to what hosts have."""
        share = np.asarray(need, float)[:, None] / np.asarray(size, float)
        now = np.bincount(start, share[np.arange(len(start)), list(start)], len(size))
        return cls(share=share, now=now)


class Question:
    """The program: binaries x[v, h], loads less their mean, squares above their tangents."""

    def __init__(self, snapshot: dict[str, Any], gib: float | None, moves: int | None) -> None:
        self.hosts, self.vms = snapshot["hosts"], snapshot["vms"]
        number = {host["name"]: index for index, host in enumerate(self.hosts)}
        self.start = [number[vm["host"]] for vm in self.vms]
        cores = [host["cpu_cores"] for host in self.hosts]
        self.cpu = Load.of([vm["cpu_used_cores"] for vm in self.vms], cores, self.start)
        memory = [host["mem_mib"] for host in self.hosts]
        self.memory = Load.of([vm["mem_mib"] for vm in self.vms], memory, self.start)
        vcpus = Load.of([vm["vcpus"] for vm in self.vms], cores, self.start)
        self.model = Model("spread")
        self.at = [
            [self._place(vm, host) for host in range(len(self.hosts))]
            for vm in range(len(self.vms))
        ]
        self.model.add(self._placed_once())
        most = float(snapshot["limits"]["cpu_overcommit"])
        self.model.add(self._within(self.memory, 1.0))
        self.model.add(self._within(vcpus, most))
        self.model.add(self._apart())
        self.model.add(self._capped(gib, moves))
        self.cpu_squares = self._squares(self.cpu, cost=SCALE)
        self.memory_squares = self._squares(self.memory, cost=0.0)
        allowed = float(((self.memory.now - self.memory.now.mean()) ** 2).sum())
        self.model.add([self._sum(self.memory_squares[1], SCALE * allowed + 1e-9)])

    def _place(self, vm: int, host: int) -> int:
        here = host == self.start[vm]
        fixed = not self.vms[vm]["movable"]
        return self.model.column(
            low=float(fixed and here), high=float(not fixed or here), is_integer=True
        )

    def _placed_once(self) -> Iterator[Row]:
        for columns in self.at:
            yield Row(name="", columns=columns, coefficients=[1.0] * len(columns), low=1, high=1)

    def _within(self, load: Load, limit: float) -> Iterator[Row]:
        for host in range(len(self.hosts)):
            columns = [row[host] for row in self.at]
            most = max(limit, float(load.now[host]))
            yield Row(
                name="", columns=columns, coefficients=load.share[:, host].tolist(), high=most
            )

    def _apart(self) -> Iterator[Row]:
        groups: dict[str, list[int]] = {}
        for number, vm in enumerate(self.vms):
            if vm["anti_affinity"]:
                groups.setdefault(vm["anti_affinity"], []).append(number)
        for members in groups.values():
            for host in range(len(self.hosts)):
                columns = [self.at[vm][host] for vm in members]
                now = sum(self.start[vm] == host for vm in members)
                yield Row(name="", columns=columns, coefficients=[1.0] * len(columns),
                          high=max(1.0, now))  # fmt: skip

    def _capped(self, gib: float | None, moves: int | None) -> Iterator[Row]:
        stays = [row[host] for row, host in zip(self.at, self.start, strict=True)]
        sizes = [vm["mem_mib"] / 1024 for vm in self.vms]
        if gib is not None:
            # Σ size·(1 − stays) ≤ gib
            yield Row(name="", columns=stays, coefficients=sizes, low=sum(sizes) - gib)
        if moves is not None:
            yield Row(name="", columns=stays, coefficients=[1.0] * len(stays),
                      low=len(stays) - moves)  # fmt: skip

    def _squares(self, load: Load, cost: float) -> tuple[list[int], list[int]]:
        """Columns of each host's load less the mean, and of its square; the latter above 0."""
        count, free = len(self.hosts), -np.inf
        mean = self.model.column(low=free)
        off = [self.model.column(low=free) for _ in range(count)]
        squares = [self.model.column(cost / SCALE) for _ in range(count)]
        self.model.add(
            Row(name="", columns=[*(row[host] for row in self.at), off[host], mean],
                coefficients=[*load.share[:, host], -1.0, -1.0], low=0, high=0)
            for host in range(count)
        )  # fmt: skip
        self.model.add([self._sum(off, 0.0, low=0.0)])
        now = load.now - load.now.mean()
        for point in (*(step * np.ones(count) for step in (-0.1, -0.02, 0.0, 0.02, 0.1)), now):
            self.touch((off, squares), point)
        return off, squares

    def touch(self, columns: tuple[list[int], list[int]], point: Floats) -> None:
        """Add tangents: square ≥ p² + 2p·(off − p)."""
        off, squares = columns
        self.model.add(
            Row(name="", columns=[off[host], squares[host]],
                coefficients=[2 * SCALE * value, -1.0], high=SCALE * value**2)
            for host, value in enumerate(point.tolist())
        )  # fmt: skip

    def _sum(self, columns: Sequence[int], high: float, low: float = -np.inf) -> Row:
        return Row(name="", columns=columns, coefficients=[1.0] * len(columns), low=low, high=high)

    def spread(self, bound: float) -> float:
        """The spread that a sum of squares means."""
        return float(np.sqrt(max(0.0, bound) / SCALE / len(self.hosts)))

    def refined(self, solution: Solution) -> bool:
        """Add tangents at a solution; say whether the model took its squares for too little."""
        wrong = False
        for columns in (self.cpu_squares, self.memory_squares):
            off = solution.values[columns[0]]
            taken = float(solution.values[columns[1]].sum())
            wrong |= SCALE * float((off**2).sum()) > CLOSE * taken + 1e-6
            self.touch(columns, off)
        return wrong


def ask(question: Question, spread: float, seconds: float) -> tuple[int, str]:
    """Solve until the answer is known: exit code and sentence."""
    ends_at, bound = time.monotonic() + seconds, 0.0
    for _ in range(ROUNDS):
        left = ends_at - time.monotonic()
        solution = question.model.solve(left) if left > 0 else None
        if solution is None:
            break
        bound = max(bound, question.spread(solution.bound))
        if bound > spread * CLOSE:
            return 1, f"no placement has a CPU spread below {bound:.4f}, {spread:.4f} is asked for"
        if not question.refined(solution):
            found = question.spread(solution.objective)
            if found <= spread * CLOSE:
                return 0, f"a placement with a CPU spread of {found:.4f} was found"
    return 2, f"not decided in {seconds:.0f} s: none has a CPU spread below {bound:.4f}"


def most_it_costs(
    snapshot: dict[str, Any], spread: float, gib: float, weight: float
) -> float | None:
    """What a placement so even for so many GiB costs at most by `balance` and `movement`.

    `Σ_h (u[h] − ū)² + weight · 0.1 · GiB / memory of a host`, the first being H · spread² where all
    hosts are equal. `None` where they are not, or where a host could be hot all the same.
    """
    hosts = snapshot["hosts"]
    if len({(host["cpu_cores"], host["mem_mib"]) for host in hosts}) > 1:
        return None
    cores = sum(vm["cpu_used_cores"] for vm in snapshot["vms"])
    mean = cores / sum(host["cpu_cores"] for host in hosts)
    if mean + spread * (len(hosts) - 1) ** 0.5 > HOT:
        return None
    host_gib = float(hosts[0]["mem_mib"]) / 1024
    return len(hosts) * spread**2 + weight * MOVE_PRICE * gib / host_gib


def ask_plan(
    snapshot: dict[str, Any], objective: dict[str, float], spread: float, gib: float, weight: float
) -> tuple[int, str]:
    """Compare what is asked for with the bound of a plan: exit code and sentence."""
    cost = most_it_costs(snapshot, spread, gib, weight)
    if cost is None:
        return 2, "not decided: hosts are unequal, or could be hot while the spread is that small"
    if cost < objective["bound"]:
        return 1, (
            f"no placement has a CPU spread of {spread:.4f} for {gib:.0f} GiB: it would cost "
            f"{cost:.5f} at most, and none costs less than {objective['bound']:.5f}"
        )
    return 2, (
        f"not decided: it would cost {cost:.5f}, the plan costs {objective['after']:.5f}, "
        f"and nothing less than {objective['bound']:.5f}"
    )


def main() -> int:
    """Answer one question."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("--spread", type=float, required=True, help="the CPU spread to be reached")
    parser.add_argument("--gib", type=float, help="no more GiB may move than this")
    parser.add_argument("--moves", type=int, help="no more VMs may move than this")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--plan", type=Path, help="ask the bound of this plan; needs --gib")
    parser.add_argument("--movement", type=float, default=0.14, help="weight of its movement goal")
    asked = parser.parse_args()
    if asked.plan and asked.gib is None:
        parser.error("--plan needs --gib: it is evenness and bytes together that a bound is about")
    snapshot = json.loads(asked.snapshot.read_text(encoding="utf-8"))
    if asked.plan:
        objective = json.loads(asked.plan.read_text(encoding="utf-8"))["objective"]
        code, said = ask_plan(snapshot, objective, asked.spread, asked.gib, asked.movement)
        print(f"{asked.snapshot.stem}: {said}")
        return code
    code, said = ask(Question(snapshot, asked.gib, asked.moves), asked.spread, asked.seconds)
    print(f"{asked.snapshot.stem}: {said}")
    return code


if __name__ == "__main__":
    sys.exit(main())
