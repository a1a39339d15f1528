"""`docs/placement-model.md` names every goal and rule, links to what exists, and counts right."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from rebalancer.cluster.inventory import Host, Snapshot, Vm
from rebalancer.cluster.policy import (
    BalancedResource,
    BalanceGoal,
    GeographyCriterion,
    GeographyGoal,
    Goal,
    Headroom,
    Limits,
    MovementGoal,
    MovementMeasure,
    PowerGoal,
    RelieveGoal,
)
from rebalancer.cluster.rules import Ban, Domain, Fence, Pin, Presence, Rule, Spread, Together
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.sites import Link, Site
from rebalancer.placement.objectives import Tier, find_tiers
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import moves, on, problem_of, solve

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "placement-model.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
LINK = re.compile(r"\[`(\w+)`\]\(\.\./([\w/.]+\.py)\)")
PRODUCTS = {"Row", "Linear", "Curve", "Guard", "Excess", "Deviation", "Switch"}
"""What a function of the model yields: rows of a program, or terms of a cost."""
ABOUT = {"PlacementProblem", "Setting"}
"""What such a function is about: its first argument."""
TOOLS = {"everywhere"}
"""They help to write terms, and mean nothing by themselves."""


def names_in(file: Path) -> set[str]:
    """Everything that a module defines at its top."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found.update(t.id for t in targets if isinstance(t, ast.Name))
    return found


def functions_of_the_model() -> Iterator[str]:
    for file in sorted((ROOT / "rebalancer" / "placement").glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef) or node.returns is None:
                continue
            about = node.args.args[0].annotation if node.args.args else None
            is_public = not node.name.startswith("_") and node.name not in TOOLS
            if is_public and words(node.returns) & PRODUCTS and words(about) & ABOUT:
                yield node.name


def words(annotation: ast.expr | None) -> set[str]:
    """The names in an annotation."""
    parts = ast.walk(annotation) if annotation is not None else ()
    return {part.id for part in parts if isinstance(part, ast.Name)}


def alternatives(union: object) -> set[str]:
    """The classes that a type alias lists, those of aliases within it included."""
    value = getattr(union, "__value__", union)
    parts = getattr(value, "__args__", None)
    if parts is None:
        return {value.__name__}  # type: ignore[attr-defined]
    return {name for part in parts for name in alternatives(part)}


@pytest.mark.parametrize(("name", "file"), sorted(set(LINK.findall(TEXT))))
def test_what_the_document_links_to_exists(name: str, file: str) -> None:
    assert name in names_in(ROOT / file)


def test_every_function_of_the_model_is_in_the_document() -> None:
    linked = {name for name, _ in LINK.findall(TEXT)}

    assert set(functions_of_the_model()) <= linked


def test_every_goal_and_rule_is_in_the_document() -> None:
    linked = {name for name, _ in LINK.findall(TEXT)}

    assert alternatives(Goal) | alternatives(Rule) <= linked


def test_every_goal_and_rule_has_its_test() -> None:
    for heading, section in sections():
        if "Code:" in section:
            assert "Test" in section, heading
            assert re.search(r"\]\(\.\./tests/", section), heading


def sections() -> list[tuple[str, str]]:
    parts = re.split(r"^###? (.+)$", TEXT, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


# The worked examples ------------------------------------------------------------------------


def says(heading: str, *amounts: float) -> bool:
    """Whether the section has these numbers, to four digits."""
    section = dict(sections())[heading]
    numbers = {float(text) for text in re.findall(r"\d+(?:\.\d+)?", section)}
    return all(any(abs(n - amount) < 5e-5 for n in numbers) for amount in amounts)


def hosts(**of_both: object) -> list[Host]:
    """Both hosts of the examples."""
    facts = {"cpu_cores": 10.0, "memory_bytes": 100 * GIB, "reserved_memory_bytes": 0}
    watts = {"idle_watts": 100.0, "max_watts": 300.0}
    sites = ("osaka", "tokyo")
    return [a_host(f"h{k + 1}", site=sites[k], **(facts | watts | of_both)) for k in range(2)]


def vms() -> list[Vm]:
    """The VMs of the examples: a and b on h1, c on h2."""
    sizes = {"a": ("h1", 6.0, 40), "b": ("h1", 2.0, 20), "c": ("h2", 2.0, 20)}
    return [
        a_vm(name, on=on, cpu_used_cores=cores, memory_bytes=gib * GIB, dirty_bytes_per_second=0.0)
        for name, (on, cores, gib) in sizes.items()
    ]


def example() -> Snapshot:
    osaka = Site(name="osaka", energy_price_per_kwh=0.3, latency_seconds={"tokyo": 0.010})
    tokyo = Site(name="tokyo", energy_price_per_kwh=0.15)
    wan = Link(name="wan", bytes_per_second=1.25e9, between=("osaka", "tokyo"), price_per_gib=0.02)
    return a_snapshot(hosts(), vms(), sites=[osaka, tokyo], links=[wan])


def cost(goal: Goal, moved: str = "", snapshot: Snapshot | None = None) -> dict[str, float]:
    """The terms of a goal when the VMs named are on the other host."""
    problem = problem_of(snapshot or example(), a_policy(goals=(goal,)))
    x = problem.start.copy()
    for name in moved:
        unit = next(u for u, unit in enumerate(problem.units) if unit[0].id == name)
        x[unit] = 1 - x[unit]
    (tier,) = find_tiers(problem)
    assert isinstance(tier, Tier)
    return dict(tier.terms(problem, np.asarray(x, np.intp)))


def test_example_of_balance() -> None:
    goal = BalanceGoal(memory_weight=0.0)

    now, then = cost(goal)["balance"], cost(goal, "b")["balance"]

    assert [now, then] == pytest.approx([0.18, 0.02])
    assert says("balance", now, then)


def test_example_of_guard() -> None:
    goal = BalanceGoal(memory_weight=0.0, guard=frozenset({BalancedResource.MEMORY}))

    within, beyond = cost(goal, "a")["guard"], cost(goal, "ab")["guard"]

    assert [within, beyond] == pytest.approx([0.0, 24.0])
    assert says("guard", beyond)


def test_example_of_relieve() -> None:
    goal = RelieveGoal(cpu_ratio=0.75)

    now, light, heavy = (cost(goal, moved)["relieve"] for moved in ("", "b", "a"))

    assert [now, light, heavy] == pytest.approx([0.05, 0.0, 0.05])
    assert says("relieve", now)


def test_example_of_movement() -> None:
    in_memory = cost(MovementGoal(measure=MovementMeasure.MEMORY, weight=1.0), "b")["movement"]
    in_link_seconds = cost(MovementGoal(weight=1.0), "b")["movement"]

    disturbing = MovementGoal(measure=MovementMeasure.DISTURBANCE, weight=1.0)
    by_disturbance = cost(disturbing, "b")["movement"]

    assert [in_memory, in_link_seconds] == pytest.approx([0.02, 0.02025])
    assert by_disturbance == pytest.approx(0.01787, abs=5e-6)
    assert says("movement", in_memory, in_link_seconds, by_disturbance)


def test_example_of_power() -> None:
    goal = PowerGoal(min_awake=1, spare_ratio=0.0)

    now, then = cost(goal)["power"], cost(goal, "ab")["power"]

    assert [300 * now, 300 * then] == pytest.approx([400, 300])
    assert says("power", round(now, 4), then)


def test_example_of_latency() -> None:
    goal = GeographyGoal(criterion=GeographyCriterion.LATENCY, users="tokyo")

    now, then = cost(goal)["geography"], cost(goal, "ab")["geography"]

    assert [now, then] == pytest.approx([4 / 3, 0.0])
    assert says("geography: latency", round(now, 4))


def test_example_of_energy() -> None:
    goal = GeographyGoal(criterion=GeographyCriterion.ENERGY_PRICE)

    now, then = cost(goal)["geography"], cost(goal, "b")["geography"]

    assert [now, then] == pytest.approx([1.8, 1.6])
    assert says("geography: energy price, carbon", now, then)


def test_example_of_wan_cost() -> None:
    goal = GeographyGoal(criterion=GeographyCriterion.WAN_COST)

    price = cost(goal, "b")["wan"]

    assert price == pytest.approx(0.2025)
    assert says("geography: cost of the way", price)


BALANCE = (BalanceGoal(memory_weight=0.0), MovementGoal(weight=0.01))


def placed(
    *rules: Rule, snapshot: Snapshot | None = None, **of_policy: object
) -> Mapping[str, str]:
    """Which VMs of the example move where when CPU is balanced under the rules."""
    snapshot = snapshot or example()
    return moves(snapshot, solve(snapshot, a_policy(*rules, goals=BALANCE, **of_policy)))


def of(*names: str) -> VmSelector:
    return VmSelector(names=names)


def test_example_without_rules() -> None:
    assert placed() == {"b": "h2"}


def test_example_of_spread() -> None:
    answer = solve(example(), a_policy(Spread(name="apart", vms=of("a", "b")), goals=()))

    assert sorted(map(len, (on(answer, "h1"), on(answer, "h2")))) == [1, 2]
    assert not {"a", "b"} <= set(on(answer, "h1"))
    assert not {"a", "b"} <= set(on(answer, "h2"))


def test_example_of_presence() -> None:
    rule = Presence(name="two sites", vms=of("a", "b"), over=Domain.SITE)

    answer = solve(example(), a_policy(rule, goals=()))

    assert {"a", "b"} & set(on(answer, "h2"))
    assert {"a", "b"} & set(on(answer, "h1"))


def test_example_of_together() -> None:
    assert placed(Together(name="close", vms=of("b", "c"))) == {"b": "h2"}


def test_example_of_fence() -> None:
    assert "b" not in placed(Fence(name="home", vms=of("b"), to=HostSelector(sites=("osaka",))))


def test_example_of_ban() -> None:
    assert "b" not in placed(Ban(name="away", vms=of("b"), hosts=HostSelector(names=("h2",))))


def test_example_of_pin() -> None:
    assert "b" not in placed(Pin(name="stay", vms=of("b")))


def test_example_of_capacity() -> None:
    goals = (PowerGoal(min_awake=1, spare_ratio=0.0),)
    full = a_policy(goals=goals)
    ninety = a_policy(
        goals=goals, headroom=Headroom(cpu_ratio=0.1, memory_ratio=0.0, host_failures=0)
    )

    assert len(set(solve(example(), full).assignment.values())) == 1
    assert len(set(solve(example(), ninety).assignment.values())) == 2


def test_example_of_pools() -> None:
    gpus = a_snapshot(
        [a_host("h1", devices={"gpu": 3}), a_host("h2", devices={"gpu": 2})],
        [a_vm(f"vm{k}", cpu_used_cores=3.0, devices={"gpu": 1}) for k in range(3)],
    )
    off = Ban(name="off", vms=VmSelector(), hosts=HostSelector(names=("h1",)))

    answer = solve(gpus, a_policy(off, goals=()))

    assert len(on(answer, "h2")) == 2
    assert len(answer.unmoved) == 1


def test_example_of_host_failures() -> None:
    survives = a_policy(headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=1))

    assert problem_of(example(), survives).survivable_bytes == 100 * GIB


def test_example_of_budgets() -> None:
    assert placed(limits=Limits(migrations=1)) == {"b": "h2"}
