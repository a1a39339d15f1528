"""What a site has over another one for a VM, in the numbers that the policy goes by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rebalancer.cluster.inventory import Vm
from rebalancer.cluster.policy import GeographyCriterion, GeographyGoal
from rebalancer.cluster.sites import Site
from rebalancer.placement.geography import expected_rate
from rebalancer.placement.problem import PlacementProblem


def comparison_text(problem: PlacementProblem, vms: Sequence[Vm], here: str, there: str) -> str:
    """Write ` (energy 0.4 → 0.1 per kWh)`: what differs between two sites for some VMs."""
    goals = [goal for goal in problem.policy.goals if isinstance(goal, GeographyGoal)]
    about = (g for g in goals if g.vms is None or any(g.vms.matches(vm) for vm in vms))
    texts = [text for goal in about for text in _difference(problem, goal, here, there)]
    return f" ({', '.join(dict.fromkeys(texts))})" if texts else ""


def _difference(
    problem: PlacementProblem, goal: GeographyGoal, here: str, there: str
) -> Iterator[str]:
    sites = {site.name: site for site in problem.snapshot.sites}
    was, will = (_measure(problem, goal, sites.get(name)) for name in (here, there))
    if was == will:
        return
    before, after = (_number(value) for value in (was, will))
    match goal.criterion:
        case GeographyCriterion.LATENCY:
            yield f"latency to {goal.users} {before} → {after} ms"
        case GeographyCriterion.ENERGY_PRICE:
            yield f"energy {before} → {after} per kWh"
        case GeographyCriterion.CARBON:
            yield f"carbon {before} → {after} g/kWh"
        case GeographyCriterion.WAN_COST:
            return


def _measure(problem: PlacementProblem, goal: GeographyGoal, site: Site | None) -> float | None:
    """What the goal looks at, in the units that it is written in; `None` if it is not known."""
    if site is None or goal.criterion is GeographyCriterion.WAN_COST:
        return None
    if goal.criterion is not GeographyCriterion.LATENCY:
        return expected_rate(site, goal, problem.snapshot.taken_at)
    if site.name == goal.users:
        return 0.0
    seconds = site.latency_seconds.get(goal.users or "")
    return None if seconds is None else seconds * 1000


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
