"""Everything about one VM: why a placement has it where it is, and why not elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rebalancer.cluster.inventory import HostId, Vm
from rebalancer.placement.arrays import Ints
from rebalancer.placement.explain.obstacles import Obstacles
from rebalancer.placement.explain.rises import Change, Rises
from rebalancer.placement.explain.spent import Besides, limits_in_the_way
from rebalancer.placement.layout import Layout, Scale
from rebalancer.placement.objectives import Tier
from rebalancer.placement.problem import PlacementProblem, Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """How full a host is, as shares of its cores and of its memory for guests.

    Not a number where nobody knows how large the host is: it never answered.
    """

    cpu_ratio: float
    memory_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A host that the VM could be on, or could not, instead of where the placement has it."""

    host: HostId
    name: str
    change: Change
    """What the objective would rise by; less than 0 would be better."""
    obstacles: tuple[str, ...]
    """Everything that keeps the VM off it; empty where it could go."""
    limits: tuple[str, ...]
    """Limits of one plan that the move would pass; a later plan may make it."""
    load: HostLoad
    """Of this host with the VM on it."""
    left: HostLoad
    """Of the host that the VM is on in the placement, without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyHere:
    """Why one VM is where a placement has it."""

    vm: Vm
    moves_with: tuple[str, ...]
    """Names of VMs that only move together with it."""
    present: HostId
    planned: HostId
    load: HostLoad
    """Of the planned host, with the VM on it."""
    if_it_stayed: Change | None
    """What the objective would rise by if it did not move; `None` where it does not."""
    keeps: tuple[str, ...]
    """What keeps it where it is now, whatever other hosts are like."""
    possible: tuple[Alternative, ...]
    """Hosts that could take it, the best first."""
    impossible: tuple[Alternative, ...]
    """Hosts that could not, those first where it would gain most."""
    obstacles: Mapping[str, int]
    """How many hosts each obstacle keeps it off, the most frequent first."""


def why_here(
    problem: PlacementProblem, tiers: Sequence[Tier], x: Ints, vm: Vm, besides: Besides
) -> WhyHere:
    """Compare where placement `x` has the VM with every other host."""
    unit = unit_of(problem, vm)
    here, home = int(x[unit]), int(problem.start[unit])
    view = _View(problem, tiers, x, unit, besides)
    hosts = np.array([h for h in range(problem.host_count) if h != here], np.intp)
    ordered = [view.alternative(host) for host in view.rises.order(unit, hosts).tolist()]
    keeps = view.obstacles.own(unit)
    return WhyHere(
        vm=vm,
        moves_with=tuple(other.name for other in problem.units[unit] if other.id != vm.id),
        present=problem.host_ids[home],
        planned=problem.host_ids[here],
        load=view.load_of(here, 0.0),
        if_it_stayed=view.rises.at(unit, home) if here != home else None,
        keeps=keeps,
        possible=tuple(one for one in ordered if not one.obstacles and not keeps),
        impossible=tuple(one for one in ordered if one.obstacles or keeps),
        obstacles=view.obstacles.hosts_against(unit, hosts.tolist()),
    )


def unit_of(problem: PlacementProblem, vm: Vm) -> int:
    """The unit that the VM belongs to."""
    return next(k for k, vms in enumerate(problem.units) if any(one.id == vm.id for one in vms))


class _View:
    """One unit of a placement."""

    def __init__(
        self,
        problem: PlacementProblem,
        tiers: Sequence[Tier],
        x: Ints,
        unit: int,
        besides: Besides,
    ) -> None:
        self._x, self._besides = x, besides
        self.rises = Rises(problem, tiers, x)
        self.obstacles = Obstacles(problem, x)
        self._problem, self._unit = problem, unit
        self._here = int(x[unit])
        self._load = problem.load(x)
        layout = Layout(problem, x, Scale(tiers=()))
        self._may = layout.gains_of_moving(np.array([unit]), self._here)[0] > -np.inf

    def alternative(self, host: int) -> Alternative:
        problem, host_id = self._problem, self._problem.host_ids[host]
        found = tuple(each.full_text for each in self.obstacles.at(self._unit, host))
        if not found and not self._may[host] and problem.movable[self._unit]:
            found = ("the limits of the plan do not allow it",)
        return Alternative(
            host=host_id,
            name=problem.snapshot.host_by_id[host_id].name,
            change=self.rises.at(self._unit, host),
            obstacles=found,
            limits=self._limits(host) if host != problem.start[self._unit] else (),
            load=self.load_of(host, 1.0),
            left=self.load_of(self._here, -1.0),
        )

    def _limits(self, host: int) -> tuple[str, ...]:
        return tuple(limits_in_the_way(self._problem, self._besides, self._x, self._unit, host))

    def load_of(self, host: int, times: float) -> HostLoad:
        """How full a host is with the unit added so many times."""
        where = self._problem.snapshot.host_by_id[self._problem.host_ids[host]]
        if where.is_of_unknown_size:
            return HostLoad(cpu_ratio=math.nan, memory_ratio=math.nan)
        rows = [Resource.CORES, Resource.MEMORY]
        needs = self._problem.needs[rows, self._unit]
        ratio = (self._load[rows, host] + times * needs) / self._problem.size[rows, host]
        return HostLoad(cpu_ratio=float(ratio[0]), memory_ratio=float(ratio[1]))
