"""What is wrong with the goals of a policy file that no field by itself shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rebalancer.cluster.policy import GeographyCriterion
from rebalancer.files import Finding
from rebalancer.service.policy_format import (
    BalanceSection,
    DrainSection,
    GeographySection,
    GoalSection,
    MovementSection,
    RelieveSection,
)
from rebalancer.service.rule_format import says_something

type Path = tuple[str | int, ...]


_ONCE = ("balance", "relieve", "power", "movement", "drain")
"""Goals of which a second one would say nothing new; geography may be wanted in several ways."""


def repeated_goals(kinds: Sequence[object]) -> Iterator[Finding]:
    """Find the goals of a kind that may be given once, by what the file calls each."""
    for index, kind in enumerate(kinds):
        if kind in _ONCE and kind in kinds[:index]:
            path = ("goals", index)
            yield Finding(path, f"a second goal {kind}", "each kind of goal may be given once")


def goal_faults(goals: Mapping[int, GoalSection]) -> Iterator[Finding]:
    """Everything wrong with what each goal says.

    They come by their place in the list; those that cannot be read are left out.
    """
    for index, goal in goals.items():
        path = ("goals", index)
        match goal:
            case BalanceSection() if not (goal.resources.cpu or goal.resources.memory):
                yield Finding(
                    (*path, "resources"),
                    "every weight is 0",
                    "expected one above 0, or no balance goal",
                )
            case RelieveSection() if goal.above is None and goal.memory_above is None:
                yield Finding(
                    (*path, "above"), "there is no band", "expected above, memory_above or both"
                )
            case MovementSection() if goal.dear is not None and not says_something(goal.dear):
                yield Finding(
                    (*path, "dear"), "selects every VM", "expected which VMs, or a higher weight"
                )
            case DrainSection() if goal.evacuate and not says_something(goal.evacuate):
                yield Finding(
                    (*path, "evacuate"), "selects every host", "expected a site, or which hosts"
                )
            case GeographySection():
                earlier = [one for place, one in goals.items() if place < index]
                yield from _same_geography(goal, earlier, path)
                yield from _geography_faults(goal, path)


def _same_geography(
    goal: GeographySection, earlier: Sequence[GoalSection], path: Path
) -> Iterator[Finding]:
    """Geography may be given once for the same criterion, users and VMs."""
    if any(isinstance(one, GeographySection) and _wanted(one) == _wanted(goal) for one in earlier):
        expected = "expected another criterion, other users or other vms"
        yield Finding(path, "a second goal geography", expected)


def _wanted(goal: GeographySection) -> object:
    return goal.criterion, goal.users, goal.vms


def _geography_faults(goal: GeographySection, path: Path) -> Iterator[Finding]:
    by_latency = goal.criterion is GeographyCriterion.LATENCY
    by_energy = goal.criterion in (GeographyCriterion.ENERGY_PRICE, GeographyCriterion.CARBON)
    if goal.users is not None and not by_latency:
        yield Finding(
            (*path, "users"),
            f"has no meaning with criterion {goal.criterion}",
            "expected only with criterion latency",
        )
    if goal.users is None and by_latency:
        yield Finding(
            (*path, "users"),
            "this key is missing",
            "expected the site or group of users to be near to",
        )
    if "payback" in goal.model_fields_set and not by_energy:
        yield Finding(
            (*path, "payback"),
            f"has no meaning with criterion {goal.criterion}",
            "expected only with criterion energy_price or carbon",
        )
    if goal.vms is not None and not says_something(goal.vms):
        yield Finding((*path, "vms"), "selects every VM", "expected which VMs, or no key vms")
