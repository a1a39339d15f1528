"""What ought to come about whatever the goals say: VMs leave, rules hold, no host is overfull."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.cluster.rules import Ban, Fence, Rule
from rebalancer.cluster.violations import hard_violations
from rebalancer.placement.arrays import Ints
from rebalancer.placement.curves import Excess
from rebalancer.placement.explain.amounts import WORDS
from rebalancer.placement.explain.obstacles import listed
from rebalancer.placement.objectives import REPAIR_TIER, Tier
from rebalancer.placement.prices import Linear
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource

MET = 1e-5
"""A cost up to this is none: solvers have tolerances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """A VM leaves its draining host."""

    vm: VmId
    vm_name: str
    host: str

    @property
    def text(self) -> str:
        """The wish in words."""
        return f"{self.vm_name} leaves {self.host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A hard rule that is broken at the start holds."""

    rule: str

    @property
    def text(self) -> str:
        """The wish in words."""
        return f"{self.rule} holds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A host is not promised more than it has."""

    resource: Resource
    host: HostId
    host_name: str

    @property
    def text(self) -> str:
        """The wish in words."""
        return f"{self.host_name} is within its {WORDS[self.resource]}"


type Wish = Leave | Hold | Fit


def wishes_of(problem: PlacementProblem, x: Ints) -> tuple[Wish, ...]:
    """Everything that ought to come about in a cluster, what `x` leaves undone first."""
    wishes = (*_leaves(problem), *_holds(problem), *_fits(problem))
    return tuple(sorted(wishes, key=lambda wish: is_met(problem, wish, x)))


def refusals_of(wishes: Iterable[Wish]) -> tuple[str, ...]:
    """Say that wishes cannot be met, those of a kind together: `a, b cannot both leave h1`."""
    alike = _alike(wishes)
    return (
        *(
            f"{listed(names)} cannot{_ALL.get(len(names), ' all')} leave {host}"
            for host, names in alike.leaving.items()
        ),
        *(
            f"{listed(names)} cannot{_ALL.get(len(names), ' all')} be brought within "
            f"{'its' if len(names) == 1 else 'their'} {WORDS[resource]}"
            for resource, names in alike.fitting.items()
        ),
        *(f"{rule} cannot hold" for rule in alike.holding),
    )


_ALL = {1: "", 2: " both"}


def texts_of_wishes(wishes: Iterable[Wish]) -> tuple[str, ...]:
    """Write wishes, those of a kind together: `a, b leave h1`."""
    alike = _alike(wishes)
    return (
        *(
            f"{listed(names)} leave{'s' if len(names) == 1 else ''} {host}"
            for host, names in alike.leaving.items()
        ),
        *(
            f"{listed(names)} {'is within its' if len(names) == 1 else 'are within their'} "
            f"{WORDS[resource]}"
            for resource, names in alike.fitting.items()
        ),
        *(f"{rule} holds" for rule in alike.holding),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alike:
    """Wishes by kind."""

    leaving: dict[str, list[str]]
    """Host -> VMs."""
    fitting: dict[Resource, list[str]]
    holding: list[str]


def _alike(wishes: Iterable[Wish]) -> _Alike:
    found = _Alike(leaving={}, fitting={}, holding=[])
    for wish in wishes:
        match wish:
            case Leave():
                found.leaving.setdefault(wish.host, []).append(wish.vm_name)
            case Fit():
                found.fitting.setdefault(wish.resource, []).append(wish.host_name)
            case Hold():
                found.holding.append(wish.rule)
    return found


def unmet(problem: PlacementProblem, wishes: Iterable[Wish], x: Ints) -> tuple[Wish, ...]:
    """Those of the wishes that `x` leaves undone."""
    return tuple(wish for wish in wishes if not is_met(problem, wish, x))


def is_met(problem: PlacementProblem, wish: Wish, x: Ints) -> bool:
    """Whether the placement does what is wished."""
    return tier_of(problem, [wish]).cost(problem, x) <= MET


def tier_of(problem: PlacementProblem, wishes: Sequence[Wish]) -> Tier:
    """The cost of what is left undone: VMs on their hosts, violations, shares too much."""
    rules = {wish.rule for wish in wishes if isinstance(wish, Hold)}
    return Tier(
        number=REPAIR_TIER,
        linears=(*_leaving(problem, wishes), *_misplaced(problem, rules)),
        curves=tuple(_overfull(problem, wishes)),
        spreads=tuple(g for g in problem.spreads if g.hard and g.rule in rules),
        togethers=tuple(g for g in problem.togethers if g.hard and g.rule in rules),
        presences=tuple(g for g in problem.presences if g.hard and g.rule in rules),
    )


def _leaves(problem: PlacementProblem) -> Iterator[Wish]:
    for unit in np.flatnonzero(problem.drains[problem.start]).tolist():
        host = problem.snapshot.host_by_id[problem.units[unit][0].host].name
        for vm in problem.units[unit]:
            yield Leave(vm=vm.id, vm_name=vm.name, host=host)


def _holds(problem: PlacementProblem) -> Iterator[Wish]:
    broken = {
        violation.rule
        for violation in hard_violations(
            problem.snapshot, problem.policy, problem.demand, problem.snapshot.assignment
        )
    }
    for rule in problem.policy.rules:
        if rule.name in broken:
            yield Hold(rule=rule.name)


def _fits(problem: PlacementProblem) -> Iterator[Wish]:
    for resource in LIMITED:
        over = problem.start_load[resource] > problem.capacity[resource] + 1e-6
        for column in np.flatnonzero(over & problem.scored).tolist():
            host = problem.host_ids[column]
            name = problem.snapshot.host_by_id[host].name
            yield Fit(resource=resource, host=host, host_name=name)


def _leaving(problem: PlacementProblem, wishes: Sequence[Wish]) -> Iterator[Linear]:
    """One for each wished VM that is where it starts.

    Not where any draining host is: whether that may receive it is a question of its own.
    """
    leaving = {wish.vm for wish in wishes if isinstance(wish, Leave)}
    if leaving:
        vms = [float(sum(vm.id in leaving for vm in unit)) for unit in problem.units]
        sources = np.unique(problem.start[np.array(vms) > 0])
        kind = np.zeros(problem.unit_count, np.intp)
        matrix = np.zeros((len(sources) + 1, problem.host_count))
        for row, host in enumerate(sources.tolist(), start=1):
            kind[problem.start == host] = row
            matrix[row, host] = 1.0
        yield Linear(goal="drain", factor=np.array(vms), kind=kind, matrix=matrix)


def _misplaced(problem: PlacementProblem, rules: set[str]) -> Iterator[Linear]:
    """One for each VM that a fence or ban forbids to be where it is."""
    hosts = [problem.snapshot.host_by_id[host] for host in problem.host_ids]
    for rule in problem.policy.rules:
        if rule.name not in rules or not isinstance(rule, Fence | Ban):
            continue
        concerned = [k for k, unit in enumerate(problem.units) if _is_about(rule, unit)]
        kind = np.zeros(problem.unit_count, np.intp)
        kind[concerned] = np.arange(1, len(concerned) + 1)
        matrix = np.zeros((len(concerned) + 1, problem.host_count))
        for row, unit in enumerate(concerned, start=1):
            for vm in problem.units[unit]:
                matrix[row] += [rule.forbids(vm, host) for host in hosts]
        yield Linear(goal="repair", factor=np.ones(problem.unit_count), kind=kind, matrix=matrix)


def _is_about(rule: Rule, unit: Sequence[object]) -> bool:
    return any(rule.vms.matches(vm) for vm in unit)  # type: ignore[arg-type]


def _overfull(problem: PlacementProblem, wishes: Sequence[Wish]) -> Iterator[Excess]:
    """The share by which the wished hosts are promised too much."""
    column = {host: index for index, host in enumerate(problem.host_ids)}
    for resource in LIMITED:
        hosts = [column[w.host] for w in wishes if isinstance(w, Fit) and w.resource is resource]
        if hosts:
            weight = np.zeros(problem.host_count)
            weight[hosts] = 1.0 / problem.size[resource, hosts]
            yield Excess(
                goal="repair",
                resource=resource,
                limit=problem.capacity[resource],
                weight=weight,
            )
