"""The rules and limits as rows of an integer program: one function each.

    x[u, h]   1 where unit u is on host h, a column for every choice that u has
    f         what units without a choice take up, a constant

Fence, ban and pin decide which choices there are (`candidates`), so they need no rows. A limit
that is passed at the start is what it is passed by: rows are satisfied by the present placement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rebalancer.placement.allowance import caps_of
from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.groups import Group, PresenceGroup, SpreadGroup, TogetherGroup
from rebalancer.placement.model import Model, Row
from rebalancer.placement.problem import SLACK, PlacementProblem, Resource

Choices = Mapping[int, Mapping[int, int]]
"""Unit -> host -> column."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """What a program is about: who may go where, and what is as it is."""

    problem: PlacementProblem
    x: Ints
    """A placement that satisfies every row; units without a choice stay where it has them."""
    choices: Choices
    fixed_load: Floats
    """`(R, H)`: what units without a choice take up."""
    limits: Floats
    """`(3, H)`"""

    def on(self, host: int) -> dict[int, int]:
        """The units that could be on the host, with their columns."""
        return {u: hosts[host] for u, hosts in self.choices.items() if host in hosts}

    @property
    def hosts(self) -> list[int]:
        """The hosts that any unit could be on."""
        return sorted({host for hosts in self.choices.values() for host in hosts})


def assigned_once(setting: Setting) -> Iterator[Row]:
    """Every unit is on one host: Σ_h x[u, h] = 1  for all u."""
    for unit, hosts in setting.choices.items():
        yield Row(
            name=f"unit {unit} somewhere",
            columns=list(hosts.values()),
            coefficients=[1.0] * len(hosts),
            low=1.0,
            high=1.0,
        )


def memory_promised(setting: Setting) -> Iterator[Row]:
    """Memory, less reserve and headroom: f[h] + Σ_u bytes[u]·x[u, h] ≤ limit[h]  for all h."""
    return _within(setting, Resource.MEMORY)


def cpu_needed(setting: Setting) -> Iterator[Row]:
    """Forecast CPU, less headroom: f[h] + Σ_u cores[u]·x[u, h] ≤ limit[h]  for all h."""
    return _within(setting, Resource.CPU)


def vcpus_promised(setting: Setting) -> Iterator[Row]:
    """Virtual CPUs, overcommitted: f[h] + Σ_u vcpus[u]·x[u, h] ≤ limit[h]  for all h."""
    return _within(setting, Resource.VCPUS)


def _within(setting: Setting, resource: Resource) -> Iterator[Row]:
    problem = setting.problem
    # Divided by the size of the host, so that bytes and cores are of the order of 1 to the solver.
    scale = problem.size[resource]
    for host in setting.hosts:
        units = setting.on(host)
        free = setting.limits[resource, host] - setting.fixed_load[resource, host]
        yield Row(
            name=f"{resource.name} of {host}",
            columns=list(units.values()),
            coefficients=[float(problem.needs[resource, u] / scale[host]) for u in units],
            high=float((free + SLACK) / scale[host]),
        )


def pools_kept(setting: Setting) -> Iterator[Row]:
    """Counted things, such as huge pages: f[h] + Σ_u need[u]·x[u, h] ≤ limit[h]  for all h."""
    table = setting.problem.pools
    fixed = table.load(setting.x)
    limits = table.limits(setting.x)
    for unit in setting.choices:
        fixed[:, setting.x[unit]] -= table.needs[:, unit]
    for number, pool in enumerate(table.pools):
        for host in setting.hosts:
            units = {u: c for u, c in setting.on(host).items() if table.needs[number, u] > 0}
            limit = float(limits[number, host])
            if not units or limit == np.inf:
                continue
            scale = max(1.0, limit)
            yield Row(
                name=f"{pool.text} of {host}",
                columns=list(units.values()),
                coefficients=[float(table.needs[number, unit] / scale) for unit in units],
                high=float((limit - fixed[number, host] + SLACK) / scale),
            )


def survives_host_failures(setting: Setting) -> Iterator[Row]:
    """What hosts that are up hold fits without the largest of them: Σ_h load[h] ≤ survivable."""
    problem = setting.problem
    if problem.survivable_bytes == np.inf:
        return
    up = problem.is_up
    now = float(problem.load(setting.x)[Resource.MEMORY, up].sum())
    free = max(now, problem.survivable_bytes) - setting.fixed_load[Resource.MEMORY, up].sum()
    scale = float(problem.size[Resource.MEMORY].mean())
    entries = [
        (column, float(problem.needs[Resource.MEMORY, unit] / scale))
        for unit, hosts in setting.choices.items()
        for host, column in hosts.items()
        if up[host]
    ]
    yield Row(
        name="host failures",
        columns=[column for column, _ in entries],
        coefficients=[need for _, need in entries],
        high=float(free / scale) + 1e-9,
    )


def moves_capped(setting: Setting, moves: int | None, exempt: Bools | None) -> Iterator[Row]:
    """At most so many units are away from their start: Σ_u (1 - x[u, start u]) ≤ migrations."""
    if moves is None:
        return
    problem = setting.problem
    counted = np.ones(problem.unit_count, bool) if exempt is None else ~exempt
    moved = counted & (setting.x != problem.start)
    elsewhere = int(moved.sum()) - sum(bool(moved[unit]) for unit in setting.choices)
    leaving = [
        column
        for unit, hosts in setting.choices.items()
        for host, column in hosts.items()
        if counted[unit] and host != problem.start[unit]
    ]
    high = max(moves - elsewhere, int(moved.sum()) - elsewhere)
    yield Row(
        name="migrations", columns=leaving, coefficients=[1.0] * len(leaving), high=float(high)
    )


def allowance_kept(setting: Setting) -> Iterator[Row]:
    """What a plan may move: Σ_{u, h counted} weight[u]·x[u, h] ≤ cap  for all caps.

    Only what is away from its start counts, by size and by place. What is beyond a cap already
    may stay there.
    """
    problem = setting.problem
    if problem.allowance is None:
        return
    homes = sorted({int(problem.start[unit]) for unit in setting.choices})
    for cap in caps_of(problem.allowance, homes, setting.hosts):
        if cap.most == np.inf:
            continue
        now = cap.weight * cap.counts(problem.start, setting.x)
        fixed = float(now.sum()) - sum(float(now[unit]) for unit in setting.choices)
        entries = [
            (column, float(cap.weight[unit]))
            for unit, hosts in setting.choices.items()
            for host, column in hosts.items()
            if cap.weight[unit] > 0 and cap.counts(problem.start[unit], np.array(host))
        ]
        if not entries:
            continue
        most = max(cap.most, float(now.sum()))
        scale = max(1.0, most)
        yield Row(
            name=cap.name,
            columns=[column for column, _ in entries],
            coefficients=[weight / scale for _, weight in entries],
            high=(most - fixed) / scale + 1e-9,
        )


def kept_apart(setting: Setting, group: SpreadGroup, model: Model, weight: float) -> Iterator[Row]:
    """At most so many VMs of a group in a domain: f[d] + Σ_{u, h in d} x[u, h] ≤ at_most + e[d].

    `e` costs the group's weight. It is 0 where the rule is hard, except for what is too many
    at the start.
    """
    fixed, entries = _by_domain(setting, group)
    now = group.counts(setting.x)
    for domain, columns in entries.items():
        most = max(group.at_most, int(now[domain]))
        allowed = most if group.hard else int(fixed[domain]) + len(columns)
        excess = model.column(weight, high=float(max(0, allowed - group.at_most)))
        yield Row(
            name=f"{group.rule} in {domain}",
            columns=[*(column for column, _ in columns), excess],
            coefficients=[*(count for _, count in columns), -1.0],
            high=float(group.at_most - fixed[domain]),
        )


def kept_together(
    setting: Setting, group: TogetherGroup, model: Model, weight: float
) -> Iterator[Row]:
    """Most VMs of a group in one domain, its main one.

    m[d] counts VMs in the main domain: m[d] ≤ f[d] + Σ_{u, h in d} x[u, h], m[d] ≤ n·b[d],
    Σ_d b[d] = 1. Those outside, n - Σ_d m[d], cost the weight; where the rule is hard there
    are no more of them than now.
    """
    fixed, entries = _by_domain(setting, group)
    size = float(sum(group.members.values()))
    domains = sorted({*entries, *np.flatnonzero(fixed).tolist()})
    main = {d: model.column(high=1.0, is_integer=True) for d in domains}
    inside = {d: model.column(-weight, high=size) for d in domains}
    model.constant += weight * size
    yield Row(
        name=f"{group.rule} has one main domain",
        columns=list(main.values()),
        coefficients=[1.0] * len(main),
        low=1.0,
        high=1.0,
    )
    for domain in domains:
        columns = entries.get(domain, [])
        yield Row(
            name=f"{group.rule} inside {domain}",
            columns=[inside[domain], *(column for column, _ in columns)],
            coefficients=[1.0, *(-count for _, count in columns)],
            high=float(fixed[domain]),
        )
        yield Row(
            name=f"{group.rule} main {domain}",
            columns=[inside[domain], main[domain]],
            coefficients=[1.0, -size],
            high=0.0,
        )
    if group.hard:
        yield Row(
            name=f"{group.rule} not torn further apart",
            columns=list(inside.values()),
            coefficients=[1.0] * len(inside),
            low=size - group.excess(setting.x),
        )


def kept_present(
    setting: Setting, group: PresenceGroup, model: Model, weight: float
) -> Iterator[Row]:
    """VMs of a group in enough domains: Σ_d p[d] + e ≥ at_least.

    p[d] ≤ f[d] + Σ_{u, h in d} x[u, h]; `p` is 1 where any of them is, `e` the domains that are
    missing. They cost the weight; where the rule is hard there are no more of them than now.
    """
    fixed, entries = _by_domain(setting, group)
    surely = int(np.count_nonzero(fixed))
    missing = float(max(0, group.at_least - surely))
    most = min(missing, group.excess(setting.x)) if group.hard else missing
    short = model.column(weight, high=most)
    present = []
    for domain, columns in entries.items():
        if fixed[domain]:
            continue
        column = model.column(high=1.0)
        present.append(column)
        yield Row(
            name=f"{group.rule} present in {domain}",
            columns=[column, *(each for each, _ in columns)],
            coefficients=[1.0, *(-1.0 for _ in columns)],
            high=0.0,
        )
    yield Row(
        name=f"{group.rule} in enough domains",
        columns=[*present, short],
        coefficients=[1.0] * (len(present) + 1),
        low=missing,
    )


def _by_domain(setting: Setting, group: Group) -> tuple[Ints, dict[int, list[tuple[int, float]]]]:
    """VMs of the group that are fixed in each domain, and columns that add to it."""
    fixed = np.zeros(group.domain_count, np.intp)
    entries: dict[int, list[tuple[int, float]]] = {}
    for unit, count in group.members.items():
        if unit not in setting.choices:
            fixed[group.domain[setting.x[unit]]] += count
            continue
        for host, column in setting.choices[unit].items():
            domain = int(group.domain[host])
            entries.setdefault(domain, []).append((column, float(count)))
    return fixed, entries
