"""How many hosts a cluster has too few, or could do without, under its policy.

For each resource r, over the hosts that are up and that the policy is about:

    needed[r] = Σ_v need[v, r]                     VMs on those hosts and on draining ones
    usable[r] = Σ_h capacity[h, r] − kept free[r]  capacity: headroom and overcommit applied
    short     = max_r ceil((needed[r] − usable[r]) / mean_h capacity[h, r])

What is kept free is the memory of the largest `host_failures` hosts. `short` is a lower bound in
hosts of the mean size: sums that fit do not promise that the VMs do. `spare` is a promise, so it
is never told from sums: those hosts were emptied in a trial placement with every rule and limit
in force, once the largest first and once the emptiest first. More may be possible, never less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.explanation import CapacityAdvice, Use
from rebalancer.cluster.inventory import HostId, HostState, Snapshot
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.pools import relocated
from rebalancer.cluster.violations import hard_violations, worsened
from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.explain.amounts import WORDS, amount_text, percent_text
from rebalancer.placement.explain.obstacles import listed
from rebalancer.placement.layout import Layout, Scale
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource, placement_problem

FAILURES_IN_A_ROW = 12
"""Hosts that could not be emptied before the rest is not tried."""
SLACK = 1e-6


def advise_on_capacity(
    snapshot: Snapshot, demand: Demand, policy: Policy, budget: Budget
) -> CapacityAdvice:
    """Say how many hosts are missing or to spare; looking for the latter ends with the budget."""
    problem = placement_problem(snapshot, demand, policy)
    if not problem.receives.any():
        return CapacityAdvice(uses=(), short=0, spare=(), text="no host may receive VMs")
    uses = tuple(sorted(_uses(problem), key=lambda use: -use.ratio))
    short = max(_missing(problem, resource) for resource in LIMITED)
    spare = () if short else _spare(problem, budget)
    return CapacityAdvice(
        uses=uses, short=short, spare=spare, text=_text(problem, uses, short, spare)
    )


def _uses(problem: PlacementProblem) -> list[Use]:
    return [
        Use(
            resource=resource.name.lower(),
            needed=_needed(problem, resource),
            usable=_usable(problem, resource, problem.receives),
        )
        for resource in LIMITED
    ]


def _needed(problem: PlacementProblem, resource: Resource) -> float:
    """What the VMs need that are on hosts that receive, or that have to go there."""
    there = (problem.receives | problem.drains)[problem.start]
    return float(problem.needs[resource, there].sum())


def _usable(problem: PlacementProblem, resource: Resource, hosts: Bools) -> float:
    capacity = problem.capacity[resource, hosts]
    failures = problem.policy.headroom.host_failures if resource is Resource.MEMORY else 0
    kept_free = np.sort(capacity)[::-1][:failures].sum()
    return max(0.0, float(capacity.sum() - kept_free))


def _missing(problem: PlacementProblem, resource: Resource) -> int:
    """Hosts of the mean size that the sums are short of."""
    lack = _needed(problem, resource) - _usable(problem, resource, problem.receives)
    mean = float(problem.capacity[resource, problem.receives].mean())
    if lack <= 1e-6 * max(1.0, mean):
        return 0
    return math.ceil(lack / mean - 1e-9) if mean > 0 else 1


def _spare(problem: PlacementProblem, budget: Budget) -> tuple[HostId, ...]:
    """The most hosts that a trial could do without at once: the largest first, or the emptiest."""
    best: list[int] = []
    for order in (_largest_first(problem), _emptiest_first(problem)):
        trial = _Trial(problem)
        found = trial.dispensable(order, budget)
        while len(found) > len(best) and not _is_lawful(problem, found, trial.x):
            # Rarely: the VMs of a failed host would fit in sum, and not one by one.
            trial, half = _Trial(problem), found[: len(found) // 2]
            found = trial.dispensable(half, budget)
        best = max(best, found, key=len)
    return tuple(problem.host_ids[host] for host in best)


def _is_lawful(problem: PlacementProblem, without: Sequence[int], x: Ints) -> bool:
    """Whether the oracle of rules and limits finds nothing worse without these hosts than now."""
    gone = {problem.host_ids[host] for host in without}
    snapshot, placed = problem.snapshot, problem.assignment(x)
    there = relocated(snapshot, placed)
    left = replace(
        there,
        hosts=tuple(
            replace(host, state=HostState.MAINTENANCE) if host.id in gone else host
            for host in there.hosts
        ),
    )
    before = hard_violations(snapshot, problem.policy, problem.demand, snapshot.assignment)
    after = hard_violations(left, problem.policy, problem.demand, placed)
    return not worsened(before, after)


def _largest_first(problem: PlacementProblem) -> list[int]:
    """By their share of what they are largest in, of equally large ones the emptiest."""
    hosts = np.flatnonzero(problem.receives)
    total = np.maximum(problem.capacity[:, hosts].sum(axis=1), 1e-9)
    share = (problem.capacity[:, hosts] / total[:, None]).max(axis=0)
    full = problem.start_load[Resource.MEMORY, hosts]
    return [int(host) for host in hosts[np.lexsort((hosts, full, -share.round(9)))]]


def _emptiest_first(problem: PlacementProblem) -> list[int]:
    hosts = np.flatnonzero(problem.receives)
    full = problem.start_load[Resource.MEMORY, hosts]
    return [int(host) for host in hosts[np.lexsort((hosts, full))]]


class _Trial:
    """Empties one host after the other, best fit, as long as every rule and limit holds."""

    def __init__(self, problem: PlacementProblem) -> None:
        self._problem = problem
        self._layout = Layout(problem, problem.start, Scale(tiers=()))
        self._rest = problem.receives.copy()

    @property
    def x(self) -> Ints:
        """Where everything is by now."""
        return self._layout.x

    def dispensable(self, order: Sequence[int], budget: Budget) -> list[int]:
        """Hosts that could be emptied on top of those that drain; none where these cannot be."""
        draining = np.flatnonzero(self._problem.drains).tolist()
        if not all(self._empty(host) for host in draining):
            return []
        found, failed = [], 0
        for host in order:
            if budget.is_spent or failed >= FAILURES_IN_A_ROW or self._rest.sum() < 2:
                break
            self._rest[host] = False
            if self._sums_fit() and self._empty(host):
                found.append(host)
                failed = 0
            else:
                self._rest[host] = True
                failed += 1
        return found if self._is_within_capacity() else []

    def _sums_fit(self) -> bool:
        problem = self._problem
        return all(_needed(problem, r) <= _usable(problem, r, self._rest) + SLACK for r in LIMITED)

    def _is_within_capacity(self) -> bool:
        """Whether the hosts that are left hold no more than they may: not even what they do now."""
        load = self._layout.load[: len(LIMITED), self._rest]
        return bool((load <= self._problem.capacity[:, self._rest] + SLACK).all())

    def _empty(self, host: int) -> bool:
        """Move everything off the host, the largest first; nothing if not all of it can go."""
        layout, done = self._layout, list[tuple[int, int]]()
        memory = self._problem.needs[Resource.MEMORY]
        for unit in sorted(layout.members[host], key=lambda u: (-memory[u], u)):
            target = self._fullest_that_fits(unit, host)
            if target is None:
                layout.restore(done)
                return False
            layout.move(unit, target)
            done.append((unit, host))
        return True

    def _fullest_that_fits(self, unit: int, host: int) -> int | None:
        gains = self._layout.gains_of_moving(np.array([unit]), host)[0]
        fits = np.flatnonzero((gains > -np.inf) & self._rest)
        if not len(fits):
            return None
        limits, load = self._layout.limits[:, fits], self._layout.load[: len(LIMITED), fits]
        free = ((limits - load) / self._problem.size[: len(LIMITED), fits]).min(axis=0)
        return int(fits[free.argmin()])


def _text(
    problem: PlacementProblem, uses: Sequence[Use], short: int, spare: Sequence[HostId]
) -> str:
    """`1 host spare: without h3 everything still fits, with host_failures 1 (memory at 82 %)`."""
    tightest = uses[0]
    failures = problem.policy.headroom.host_failures
    even_so = f", with host_failures {failures}" if failures else ""
    if failures >= (up := int(problem.receives.sum())):
        return (
            f"after the loss of {failures} hosts nothing would be left of the {_hosts(up)} that "
            "VMs may be on, so none is to spare"
        )
    if short:
        scarce = max(LIMITED, key=lambda r: _missing(problem, r))
        lack = _needed(problem, scarce) - _usable(problem, scarce, problem.receives)
        what = "" if scarce is Resource.VCPUS else f" of {WORDS[scarce]}"
        return (
            f"{_hosts(short)} of the mean size short at least: "
            f"{amount_text(scarce, lack)}{what} are missing{even_so}"
        )
    if not spare:
        word = WORDS[Resource[tightest.resource.upper()]]
        verb = "are" if tightest.resource == Resource.VCPUS.name.lower() else "is"
        used = f"{word} {verb} used to {percent_text(tightest.ratio)} of what may be"
        if up == 1:
            return f"the one host that VMs may be on is not to spare{even_so}: {used}"
        if problem.drains[problem.start].any():
            # What is left there has no room elsewhere, whatever the sums say.
            return (
                f"VMs are left on draining hosts, and no host besides could be shown to be "
                f"spare{even_so}; {used}"
            )
        return f"no host to spare that could be shown{even_so}: {used}"
    rest = problem.receives.copy()
    rest[[problem.host_ids.index(host) for host in spare]] = False
    binding = max(LIMITED, key=lambda r: _needed(problem, r) / max(1e-9, _usable(problem, r, rest)))
    ratio = _needed(problem, binding) / max(1e-9, _usable(problem, binding, rest))
    names = listed(problem.snapshot.host_by_id[host].name for host in spare)
    return (
        f"{_hosts(len(spare))} spare: without {names} everything still fits{even_so}, "
        f"{WORDS[binding]} at {percent_text(ratio)} of what may be used"
    )


def _hosts(count: int) -> str:
    return f"{count} host" if count == 1 else f"{count:,} hosts"
