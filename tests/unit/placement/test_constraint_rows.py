"""Each constraint as rows: what the present placement satisfies, and what breaks a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rebalancer.cluster.inventory import HugepagePool, NumaNode, Snapshot
from rebalancer.cluster.policy import Headroom, Limits, Policy
from rebalancer.cluster.rules import Domain, Presence, Spread, Together
from rebalancer.cluster.selection import VmSelector
from rebalancer.placement import constraints
from rebalancer.placement.constraints import Setting
from rebalancer.placement.model import Model, Row
from rebalancer.placement.problem import PlacementProblem, allowance_beside
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING, problem_of

ALL = VmSelector()


def setting_of(snapshot: Snapshot, policy: Policy | None = None) -> tuple[Setting, Model]:
    """Every VM may choose any host; columns are numbered in order of VMs and hosts."""
    problem = problem_of(snapshot, policy)
    problem = replace(problem, allowance=allowance_beside(problem, problem.start))
    model = Model("test")
    choices = {
        unit: {host: model.column() for host in range(problem.host_count)}
        for unit in range(problem.unit_count)
    }
    fixed = problem.load(problem.start)
    for unit in choices:
        fixed[:, problem.start[unit]] -= problem.needs[:, unit]
    setting = Setting(
        problem=problem,
        x=problem.start,
        choices=choices,
        fixed_load=fixed,
        limits=problem.limits(problem.start),
    )
    return setting, model


def broken(rows: Iterator[Row], setting: Setting, **moved: str) -> list[str]:
    """Names of rows that hold no more, whatever columns of their own they have, when VMs move."""
    problem = setting.problem
    x = problem.start.copy()
    names = [unit[0].name for unit in problem.units]
    for name, host in moved.items():
        x[names.index(name)] = problem.host_ids.index(host)
    chosen = {setting.choices[unit][int(x[unit])] for unit in setting.choices}
    known = {column for hosts in setting.choices.values() for column in hosts.values()}
    found = []
    for row in rows:
        entries = list(zip(row.columns, row.coefficients, strict=True))
        value = sum(k for column, k in entries if column in chosen)
        if any(column not in known for column, _ in entries):
            continue
        if not row.low - 1e-9 <= value <= row.high + 1e-9:
            found.append(row.name)
    return found


def two_hosts(*vms: Any, **facts: Any) -> Snapshot:
    return a_snapshot([a_host("h1", **facts), a_host("h2", **facts)], vms)


type Rows = Callable[[Setting], Iterator[Row]]


@pytest.mark.parametrize(
    ("rows", "vm", "facts", "name"),
    [
        (constraints.memory_promised, {"memory_bytes": 40 * GIB}, {}, "MEMORY of 1"),
        (constraints.cpu_needed, {"cpu_used_cores": 9.0}, {}, "CPU of 1"),
        (constraints.vcpus_promised, {"vcpus": 40}, {}, "VCPUS of 1"),
        (
            constraints.pools_kept,
            {"devices": {"vf": 1}},
            {"devices": {"vf": 1}},
            "devices vf of 1",
        ),
        (
            constraints.pools_kept,
            {"hugepage_bytes": GIB, "memory_bytes": 4 * GIB},
            {"hugepages": (HugepagePool(page_bytes=GIB, total_pages=6, free_pages=6),)},
            "huge pages of 1.00 GiB of 1",
        ),
        (
            constraints.pools_kept,
            {"numa_nodes": (NumaNode(cpu_cores=1, memory_bytes=20 * GIB, host_nodes=(0,)),)},
            {"numa_nodes": (NumaNode(cpu_cores=8, memory_bytes=32 * GIB),) * 2},
            "memory on NUMA node 0 of 1",
        ),
    ],
)
def test_a_host_gives_no_more_than_it_has(
    rows: Rows, vm: Mapping[str, Any], facts: Mapping[str, Any], name: str
) -> None:
    snapshot = two_hosts(a_vm("a", on="h1", **vm), a_vm("b", on="h2", **vm), **facts)
    setting, _ = setting_of(snapshot)

    assert broken(rows(setting), setting) == []
    assert broken(rows(setting), setting, a="h2", b="h1") == []
    assert broken(rows(setting), setting, a="h2") == [name]


def test_every_unit_is_somewhere() -> None:
    setting, _ = setting_of(two_hosts(a_vm("a", on="h1")))

    assert broken(constraints.assigned_once(setting), setting) == []
    (row,) = constraints.assigned_once(setting)
    assert (row.low, row.high, list(row.coefficients)) == (1.0, 1.0, [1.0, 1.0])


def test_arrivals_leave_room_for_a_host_failure() -> None:
    hosts = [a_host("h1", state=DRAINING), *(a_host(f"h{k}", memory_bytes=8 * GIB) for k in (2, 3))]
    snapshot = a_snapshot(hosts, [a_vm("a", on="h1"), a_vm("b", on="h2", memory_bytes=6 * GIB)])
    headroom = Headroom(cpu_ratio=0, memory_ratio=0, host_failures=1)
    setting, _ = setting_of(snapshot, a_policy(headroom=headroom))

    assert broken(constraints.survives_host_failures(setting), setting) == []
    assert broken(constraints.survives_host_failures(setting), setting, a="h3") == ["host failures"]


@pytest.mark.parametrize(
    ("caps", "within", "beyond", "name"),
    [
        ({"moved_bytes": 4 * GIB}, {"a": "h2"}, {"a": "h2", "b": "h2"}, "memory moved"),
        ({"moves_out_of_host": 1}, {"a": "h2"}, {"a": "h2", "b": "h3"}, "moves off 0"),
        ({"moves_into_host": 1}, {"a": "h2", "b": "h3"}, {"a": "h2", "b": "h2"}, "moves onto 1"),
        ({"moves_between_sites": 0}, {"a": "h2"}, {"a": "h3"}, "moves to other sites"),
        ({"bytes_between_sites": GIB}, {"a": "h2"}, {"a": "h3"}, "memory to other sites"),
    ],
)
def test_a_plan_moves_no_more_than_its_caps(
    caps: dict[str, Any], within: dict[str, str], beyond: dict[str, str], name: str
) -> None:
    hosts = [a_host(f"h{k}", site="osaka" if k == 3 else "tokyo") for k in (1, 2, 3)]
    snapshot = a_snapshot(hosts, [a_vm("a", on="h1"), a_vm("b", on="h1")])
    setting, _ = setting_of(snapshot, a_policy(limits=Limits(**({"migrations": None} | caps))))

    assert broken(constraints.allowance_kept(setting), setting, **within) == []
    assert broken(constraints.allowance_kept(setting), setting, **beyond) == [name]


def test_a_plan_makes_no_more_moves_than_its_cap() -> None:
    setting, _ = setting_of(two_hosts(a_vm("a", on="h1"), a_vm("b", on="h1")))

    assert broken(constraints.moves_capped(setting, 1, None), setting, a="h2") == []
    assert broken(constraints.moves_capped(setting, 1, None), setting, a="h2", b="h2") == [
        "migrations"
    ]
    exempt = np.array([True, False])
    assert broken(constraints.moves_capped(setting, 1, exempt), setting, a="h2", b="h2") == []


def cheapest(
    rows: Callable[[Setting, Any, Model, float], Iterator[Row]],
    snapshot: Snapshot,
    policy: Policy,
    moved: Mapping[str, str],
) -> float | None:
    """What the rows of the policy's only group cost at least where VMs are moved so."""
    setting, model = setting_of(snapshot, policy)
    (group,) = setting.problem.groups
    names = [unit[0].name for unit in setting.problem.units]
    for name, host in ({vm.name: vm.host for vm in snapshot.vms} | dict(moved)).items():
        column = setting.choices[names.index(name)][setting.problem.host_ids.index(host)]
        for each in setting.choices[names.index(name)].values():
            model.lows[each] = model.highs[each] = float(each == column)
    model.add(rows(setting, group, model, 1.0))
    solution = model.solve(5.0)
    return None if solution is None else round(solution.objective, 6)


def test_a_hard_spread_has_no_place_for_one_more() -> None:
    snapshot = two_hosts(a_vm("a", on="h1"), a_vm("b", on="h2"))
    hard, soft = (a_policy(Spread(name="s", vms=ALL, hard=hard)) for hard in (True, False))

    assert cheapest(constraints.kept_apart, snapshot, hard, {}) == 0
    assert cheapest(constraints.kept_apart, snapshot, hard, {"a": "h2"}) is None
    assert cheapest(constraints.kept_apart, snapshot, soft, {"a": "h2"}) == 1


def test_a_hard_together_is_not_torn_further_apart() -> None:
    snapshot = two_hosts(a_vm("a", on="h1"), a_vm("b", on="h1"), a_vm("c", on="h2"))
    hard, soft = (a_policy(Together(name="t", vms=ALL, hard=hard)) for hard in (True, False))

    assert cheapest(constraints.kept_together, snapshot, hard, {}) == 1
    assert cheapest(constraints.kept_together, snapshot, hard, {"c": "h1"}) == 0
    assert cheapest(constraints.kept_together, snapshot, soft, {"a": "h2"}) == 1


def test_a_hard_presence_loses_no_place() -> None:
    hosts = [a_host(f"h{k}", site=f"s{k}") for k in (1, 2, 3)]
    vms = [a_vm("a", on="h1"), a_vm("b", on="h2"), a_vm("c", on="h2")]
    snapshot = a_snapshot(hosts, vms)
    hard, soft = (
        a_policy(Presence(name="p", vms=ALL, over=Domain.SITE, at_least=3, hard=hard))
        for hard in (True, False)
    )

    assert cheapest(constraints.kept_present, snapshot, hard, {}) == 1
    assert cheapest(constraints.kept_present, snapshot, hard, {"c": "h3"}) == 0
    assert cheapest(constraints.kept_present, snapshot, hard, {"a": "h2"}) is None
    assert cheapest(constraints.kept_present, snapshot, soft, {"a": "h2"}) == 2


def test_without_caps_there_are_no_rows() -> None:
    setting, _ = setting_of(two_hosts(a_vm("a", on="h1")))
    problem: PlacementProblem = setting.problem

    assert problem.allowance is None
    assert list(constraints.allowance_kept(setting)) == []
    assert list(constraints.pools_kept(setting)) == []
