"""The geography goal: where VMs are better off, by latency, energy, carbon, or what the way costs.

Where a VM may be at all is not decided here: that is what the rules fence and ban are for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from rebalancer.cluster.inventory import Host
from rebalancer.cluster.policy import GeographyCriterion, GeographyGoal
from rebalancer.cluster.power import idle_watts, max_watts
from rebalancer.cluster.sites import Link, Site
from rebalancer.placement.arrays import Floats, Ints
from rebalancer.placement.movement import bytes_sent, mean_nic
from rebalancer.placement.prices import Linear, everywhere
from rebalancer.placement.problem import PlacementProblem, Resource

GIB = 1024**3
HOUR_SECONDS = 3600.0
DAY_HOURS = 24


def geography(problem: PlacementProblem, goal: GeographyGoal) -> Iterator[Linear]:
    """What the criterion of the goal says; nothing where no site tells enough for it."""
    if goal.weight <= 0 or not problem.scored.any():
        return iter(())
    match goal.criterion:
        case GeographyCriterion.LATENCY:
            return latency(problem, goal)
        case GeographyCriterion.ENERGY_PRICE | GeographyCriterion.CARBON:
            return energy(problem, goal)
        case GeographyCriterion.WAN_COST:
            return wan_cost(problem, goal)


def latency(problem: PlacementProblem, goal: GeographyGoal) -> Iterator[Linear]:
    """Be near the users: Σ_v latency[site of v] / worst latency, over the VMs of a mean host.

    A cluster's cost is of the order of its number of hosts. A site whose latency to the users
    is unknown is as bad as the worst one.
    """
    users = goal.users or ""
    known = {
        site.name: 0.0 if site.name == users else site.latency_seconds[users]
        for site in problem.snapshot.sites
        if site.name == users or users in site.latency_seconds
    }
    if (worth := _by_host(problem, known)) is not None:
        shares = _shares(problem, goal, Resource.VMS)
        yield everywhere(problem, "geography", shares, goal.weight * worth.of_host)


def energy(problem: PlacementProblem, goal: GeographyGoal) -> Iterator[Linear]:
    """Run where energy is cheap or clean, and go there only if that pays for the way in time.

    Σ_v kWh[v]·rate[site of v] + Σ over moved v of GiB[v]·toll[way], in what a mean host uses at
    the worst site, counted from the best one where a price is negative. kWh[v] is what v makes a
    mean host draw over the pay-back time: its cores times (max watts - idle watts) per core;
    rate is the mean over that time from the snapshot on, of the hourly table if a site has one;
    the toll is what a GiB over the links between the sites costs. So a VM moves if
    (rate here - rate there)·kWh[v] exceeds GiB[v]·toll. A site whose rate is unknown is as bad
    as the worst one.
    """
    rates = {
        site.name: rate
        for site in problem.snapshot.sites
        if (rate := expected_rate(site, goal, problem.snapshot.taken_at)) is not None
    }
    if (worth := _by_host(problem, rates)) is None:
        return
    shares = _shares(problem, goal, Resource.CORES)
    yield everywhere(problem, "geography", shares, goal.weight * worth.of_host)
    mean_cores = _mean_need(problem, Resource.CORES)
    host_kwh = mean_cores * _watts_per_core(problem) / 1000 * goal.payback_seconds / HOUR_SECONDS
    yield from _tolls(problem, goal, goal.weight / max(1e-12, host_kwh * worth.unit))


def wan_cost(problem: PlacementProblem, goal: GeographyGoal) -> Iterator[Linear]:
    """Send little over dear links: Σ over moved v of GiB[v]·toll[way], in mean hosts' memory.

    One is what it costs to send as much as the memory of a mean host over the dearest link.
    """
    dearest = max((link.price_per_gib for link in problem.snapshot.links), default=0.0)
    host_gib = float(problem.size[Resource.MEMORY, problem.scored].mean()) / GIB
    if dearest > 0:
        yield from _tolls(problem, goal, goal.weight / (dearest * host_gib))


def expected_rate(site: Site, goal: GeographyGoal, now: datetime) -> float | None:
    """Mean price, or grams of CO₂, of a kWh over the pay-back time from `now` on."""
    is_carbon = goal.criterion is GeographyCriterion.CARBON
    by_hour = site.carbon_g_per_kwh_by_hour if is_carbon else site.energy_price_per_kwh_by_hour
    if by_hour:
        return mean_over(by_hour, now, goal.payback_seconds)
    return site.carbon_g_per_kwh if is_carbon else site.energy_price_per_kwh


def mean_over(by_hour: Sequence[float], start: datetime, seconds: float) -> float:
    """Mean over a time span of what has a value for each hour of the day, UTC."""
    first = start.hour + (start.minute * 60 + start.second) / HOUR_SECONDS
    # Whole days have the mean of the day, so no span is longer than one.
    days, rest = divmod(seconds / HOUR_SECONDS, DAY_HOURS)
    total = days * sum(by_hour)
    hour, end = first, first + rest
    while hour < end:
        until = min(end, np.floor(hour) + 1)
        total += by_hour[int(hour) % DAY_HOURS] * (until - hour)
        hour = float(until)
    return float(total / (seconds / HOUR_SECONDS))


def _sites_of(problem: PlacementProblem) -> list[str]:
    """The site of each host; a host without one is at no site that anything is known of."""
    return [problem.snapshot.host_by_id[host].site or "" for host in problem.host_ids]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Worth:
    """How bad it is to be on each host for what is known of its site."""

    of_host: Floats
    """`(H,)`, 1 at the worst site."""
    unit: float
    """What 1 is, in the unit of what is known."""


def _by_host(problem: PlacementProblem, known: dict[str, float]) -> _Worth | None:
    """Say how bad each host's site is; `None` if what is known says nothing.

    Every VM is somewhere, so it is all the same what is counted from: 0, or the best site where
    that is below, as energy has a negative price when nobody wants it.
    """
    sites = _sites_of(problem)
    there = [known[site] for site in sites if site in known]
    best, worst = min(there, default=0.0), max(there, default=0.0)
    zero = min(0.0, best)
    unit = worst - zero
    if unit <= 0:
        return None
    bad = np.array([known.get(site, worst) for site in sites])
    return _Worth(of_host=(bad - zero) / unit, unit=unit)


def _shares(problem: PlacementProblem, goal: GeographyGoal, resource: Resource) -> Floats:
    """Part of a mean host's need that each unit has, `(U,)`; of the VMs that the goal is about."""
    needs = problem.needs[resource]
    if (selector := goal.vms) is not None:
        cores = problem.demand.vm_cpu_cores
        needs = np.array(
            [
                sum(
                    cores[vm.id] if resource is Resource.CORES else 1.0
                    for vm in unit
                    if vm.is_active and selector.matches(vm)
                )
                for unit in problem.units
            ],
            float,
        )
    return np.asarray(needs / _mean_need(problem, resource), float)


def _mean_need(problem: PlacementProblem, resource: Resource) -> float:
    return max(1e-9, float(problem.needs[resource].sum() / problem.scored.sum()))


def _watts_per_core(problem: PlacementProblem) -> float:
    """What a busy core draws more than an idle one, on the mean of the hosts."""
    hosts = [host for host in problem.snapshot.hosts if host.cpu_cores > 0]
    watts = [max(0.0, max_watts(host) - idle_watts(host)) / host.cpu_cores for host in hosts]
    return max(1e-3, float(np.mean(watts))) if watts else 1e-3


def _tolls(problem: PlacementProblem, goal: GeographyGoal, per_toll: float) -> Iterator[Linear]:
    """What the links between two sites take for a GiB, for each VM that passes them."""
    hosts = [problem.snapshot.host_by_id[host] for host in problem.host_ids]
    kind, toll = _tolls_by_way(problem, goal, hosts)
    if not toll.any():
        return
    nic = mean_nic(problem)
    about = goal.vms
    gib = [
        sum(bytes_sent(vm, nic) for vm in unit if about is None or about.matches(vm)) / GIB
        for unit in problem.units
    ]
    yield Linear(
        goal="wan",
        factor=per_toll * np.array(gib, float),
        kind=kind[problem.start],
        matrix=toll,
        when_moved=True,
    )


def _tolls_by_way(
    problem: PlacementProblem, goal: GeographyGoal, hosts: Sequence[Host]
) -> tuple[Ints, Floats]:
    """Site of each host as a number `(H,)`, and the toll of a GiB from each site to each host."""
    sites: dict[str | None, int] = {}
    kind = np.array([sites.setdefault(host.site, len(sites)) for host in hosts], np.intp)
    between = np.zeros((len(sites), len(sites)))
    for link in problem.snapshot.links:
        one, other = link.between
        if one != other and one in sites and other in sites:
            between[sites[one], sites[other]] += _toll(link, goal)
            between[sites[other], sites[one]] += _toll(link, goal)
    return kind, between[:, kind]


def _toll(link: Link, goal: GeographyGoal) -> float:
    is_carbon = goal.criterion is GeographyCriterion.CARBON
    return link.carbon_g_per_gib if is_carbon else link.price_per_gib
