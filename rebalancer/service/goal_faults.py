"""What is wrong with the goals of a policy file that no field by itself shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rebalancer.cluster.policy import GeographyCriterion
from rebalancer.errors import Fault
from rebalancer.files import Document
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


def goal_faults(goals: Sequence[GoalSection], document: Document) -> Iterator[Fault]:
    """Everything wrong with each goal, and with having it beside the ones before."""
    for index, goal in enumerate(goals):
        path = ("goals", index)
        yield from _doublet_faults(goal, goals[:index], path, document)
        match goal:
            case BalanceSection() if not (goal.resources.cpu or goal.resources.memory):
                yield document.fault(
                    (*path, "resources"),
                    "every weight is 0",
                    "expected one above 0, or no balance goal",
                )
            case RelieveSection() if goal.above is None and goal.memory_above is None:
                yield document.fault(
                    (*path, "above"), "there is no band", "expected above, memory_above or both"
                )
            case MovementSection() if goal.dear is not None and not says_something(goal.dear):
                yield document.fault(
                    (*path, "dear"), "selects every VM", "expected which VMs, or a higher weight"
                )
            case DrainSection() if goal.evacuate and not says_something(goal.evacuate):
                yield document.fault(
                    (*path, "evacuate"), "selects every host", "expected a site, or which hosts"
                )
            case GeographySection():
                yield from _geography_faults(goal, path, document)


def _doublet_faults(
    goal: GoalSection, earlier: Sequence[GoalSection], path: Path, document: Document
) -> Iterator[Fault]:
    """Each kind of goal once; geography once for the same criterion, users and VMs."""
    same = [one for one in earlier if one.goal == goal.goal]
    expected = "each kind of goal may be given once"
    if isinstance(goal, GeographySection):
        same = [one for one in same if _wanted(one) == _wanted(goal)]
        expected = "expected another criterion, other users or other vms"
    if same:
        yield document.fault(path, f"a second goal {goal.goal}", expected)


def _wanted(goal: GoalSection) -> object:
    assert isinstance(goal, GeographySection)
    return goal.criterion, goal.users, goal.vms


def _geography_faults(goal: GeographySection, path: Path, document: Document) -> Iterator[Fault]:
    by_latency = goal.criterion is GeographyCriterion.LATENCY
    by_energy = goal.criterion in (GeographyCriterion.ENERGY_PRICE, GeographyCriterion.CARBON)
    if goal.users is not None and not by_latency:
        yield document.fault(
            (*path, "users"),
            f"has no meaning with criterion {goal.criterion}",
            "expected only with criterion latency",
        )
    if goal.users is None and by_latency:
        yield document.fault(
            (*path, "users"),
            "this key is missing",
            "expected the site or group of users to be near to",
        )
    if "payback" in goal.model_fields_set and not by_energy:
        yield document.fault(
            (*path, "payback"),
            f"has no meaning with criterion {goal.criterion}",
            "expected only with criterion energy_price or carbon",
        )
    if goal.vms is not None and not says_something(goal.vms):
        yield document.fault(
            (*path, "vms"), "selects every VM", "expected which VMs, or no key vms"
        )
