"""Which limits of one plan a placement has used up, so that one more move would pass them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.allowance import Allowance
from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.explain.amounts import amount_text
from rebalancer.placement.problem import (
    PlacementProblem,
    Resource,
    allowance_beside,
    most_moves,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Besides:
    """What a plan may move besides what has to be moved."""

    exempt: Bools
    """`(U,)`: units that have to move, so that they do not count as moved."""
    allowance: Allowance | None
    """The caps by size and place, as the search kept them; `None` where there are none."""

    @classmethod
    def what_is_needed(cls, problem: PlacementProblem, needed: Ints) -> Besides:
        """The same where `needed` is what has to be done whatever the goals say."""
        return cls(exempt=needed != problem.start, allowance=allowance_beside(problem, needed))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """What of one limit is spent, and what one more move would take."""

    most: float
    counted: float
    needed: float
    """Of what is counted, the part that has to be moved all the same."""
    beside: float
    """What moves and is not counted."""
    more: float


def limits_in_the_way(
    problem: PlacementProblem, besides: Besides, x: Ints, unit: int, host: int
) -> Iterator[str]:
    """Say which limits moving the unit to `host` would pass on top of what `x` moves of others.

    With what counts towards each limit, and what moves and does not: a drain, say.
    """
    limits, start = problem.policy.limits, problem.start
    others = x.copy()
    others[unit] = start[unit]
    moved, free, allowance = others != start, ~besides.exempt, besides.allowance
    vms = np.array([len(each) for each in problem.units], float)
    size = np.array([sum(vm.moved_bytes for vm in each) for each in problem.units], float)
    counts_in = allowance.counted_in if allowance is not None else free
    counts_across = allowance.counted_across if allowance is not None else free
    site = _sites(problem)
    across = moved & (site[others] != site[start])

    def use(most: float, weight: Floats, among: Bools, counts: Bools) -> _Use:
        return _Use(
            most=most,
            counted=float(weight[among & counts].sum()),
            needed=float(weight[among & counts & besides.exempt].sum()),
            beside=float(weight[among & ~counts].sum()),
            more=float(weight[unit]) if counts[unit] else 0.0,
        )

    def name(column: int) -> str:
        return problem.snapshot.host_by_id[problem.host_ids[column]].name

    source = int(start[unit])
    off, onto = moved & (start == source), moved & (others == host)
    most = most_moves(problem)
    if most is not None:
        yield from _in_vms("migration", "in one plan", use(most, vms, moved, free))
    if limits.moved_bytes is not None:
        yield from _in_bytes("in one plan", use(limits.moved_bytes, size, moved, free))
    if limits.moves_out_of_host is not None:
        spent = use(limits.moves_out_of_host, vms, off, free)
        yield from _in_vms("move", f"off {name(source)}", spent)
    if limits.moves_into_host is not None:
        spent = use(limits.moves_into_host, vms, onto, counts_in)
        yield from _in_vms("move", f"onto {name(host)}", spent)
    if site[host] == site[source]:
        return
    if limits.moves_between_sites is not None:
        spent = use(limits.moves_between_sites, vms, across, counts_across)
        yield from _in_vms("move", "between sites", spent)
    if limits.bytes_between_sites is not None:
        spent = use(limits.bytes_between_sites, size, across, counts_across)
        yield from _in_bytes("between sites", spent)


def _in_vms(noun: str, where: str, use: _Use) -> Iterator[str]:
    """`the limit of 10 migrations in one plan is used up: 10 count, 2 more do not, as …`."""
    if use.counted + use.more <= use.most:
        return
    most = f"{use.most:.0f} {noun}{'' if use.most == 1 else 's'}"
    if not (use.most or use.counted or use.beside):
        yield f"the policy allows no {noun} {where} (the limit is 0)"
        return
    spent = f"{use.counted:.0f} {'counts' if use.counted == 1 else 'count'}"
    if use.needed:
        spent += (
            f", {use.needed:.0f} of these {'has' if use.needed == 1 else 'have'} to be made anyway"
        )
    if use.beside == 1:
        spent += ", 1 more does not, as it has to be made"
    elif use.beside:
        spent += f", {use.beside:.0f} more do not, as they have to be made"
    if use.counted < use.most:
        yield f"the limit of {most} {where} does not allow {use.more:.0f} more: {spent}"
    else:
        yield f"the limit of {most} {where} is used up: {spent}"


def _in_bytes(where: str, use: _Use) -> Iterator[str]:
    """`the limit of 40.0 GiB moved in one plan does not allow 8.0 GiB more: 36.0 GiB count`."""
    if use.counted + use.more <= use.most:
        return
    spent = f"{_bytes_text(use.counted)} count"
    if use.beside:
        spent += f", {_bytes_text(use.beside)} more do not, as they have to be moved"
    yield (
        f"the limit of {_bytes_text(use.most)} moved {where} does not allow "
        f"{_bytes_text(use.more)} more: {spent}"
    )


def _bytes_text(count: float) -> str:
    return amount_text(Resource.MEMORY, count)


def _sites(problem: PlacementProblem) -> Ints:
    """The site of each host; one whose site is not known is a site of its own."""
    hosts = [problem.snapshot.host_by_id[host] for host in problem.host_ids]
    known: dict[str, int] = {}
    names = [f"site {h.site}" if h.site is not None else f"host {h.id}" for h in hosts]
    return np.array([known.setdefault(name, len(known)) for name in names], np.intp)
