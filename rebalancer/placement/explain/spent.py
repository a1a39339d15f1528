"""Which limits of one plan a placement has used up, so that one more move would pass them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rebalancer.placement.arrays import Ints
from rebalancer.placement.explain.amounts import amount_text
from rebalancer.placement.problem import PlacementProblem, Resource, most_moves


def limits_in_the_way(problem: PlacementProblem, x: Ints, unit: int, host: int) -> Iterator[str]:
    """Say which limits moving the unit to `host` would pass on top of what `x` moves.

    What leaves a draining host is not held to any limit, and so not counted.
    """
    limits, start = problem.policy.limits, problem.start
    counted = (x != start) & ~problem.drains[start]
    vms = np.array([len(each) for each in problem.units])
    size = np.array([sum(vm.moved_bytes for vm in each) for each in problem.units], float)
    site = _sites(problem)
    across = counted & (site[x] != site[start])
    crosses = bool(site[host] != site[start[unit]])
    more_vms, more_bytes = int(vms[unit]), float(size[unit])
    most = most_moves(problem)
    if most is not None and vms[counted].sum() + more_vms > most:
        yield f"the limit of {_counted(most, 'migration')} in one plan is used up"
    if limits.moved_bytes is not None and size[counted].sum() + more_bytes > limits.moved_bytes:
        allowed = amount_text(Resource.MEMORY, limits.moved_bytes)
        yield f"the limit of {allowed} moved in one plan is used up"
    out = vms[counted & (start == start[unit])].sum() + more_vms
    if limits.moves_out_of_host is not None and out > limits.moves_out_of_host:
        yield f"the limit of {_counted(limits.moves_out_of_host, 'move')} off one host is used up"
    into = vms[counted & (x == host)].sum() + more_vms
    if limits.moves_into_host is not None and into > limits.moves_into_host:
        yield f"the limit of {_counted(limits.moves_into_host, 'move')} onto one host is used up"
    if not crosses:
        return
    most_across, bytes_across = limits.moves_between_sites, limits.bytes_between_sites
    if most_across is not None and vms[across].sum() + more_vms > most_across:
        yield f"the limit of {_counted(most_across, 'move')} between sites is used up"
    if bytes_across is not None and size[across].sum() + more_bytes > bytes_across:
        allowed = amount_text(Resource.MEMORY, bytes_across)
        yield f"the limit of {allowed} moved between sites is used up"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _sites(problem: PlacementProblem) -> Ints:
    """The site of each host; one whose site is not known is a site of its own."""
    hosts = [problem.snapshot.host_by_id[host] for host in problem.host_ids]
    known: dict[str, int] = {}
    names = [f"site {h.site}" if h.site is not None else f"host {h.id}" for h in hosts]
    return np.array([known.setdefault(name, len(known)) for name in names], np.intp)
