"""Whether a bar can be reached by anybody, by the bound of a plan."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
HOST = {"cpu_cores": 10, "mem_mib": 102400}


@pytest.fixture(scope="module")
def reachable() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    return importlib.import_module("reachable")


def a_snapshot(*cores: float, hosts: int = 2) -> dict[str, Any]:
    return {"hosts": [HOST] * hosts, "vms": [{"cpu_used_cores": one} for one in cores]}


def test_evenness_and_bytes_are_priced_as_the_policy_does(reachable: ModuleType) -> None:
    cost = reachable.most_it_costs(a_snapshot(6.0, 4.0), spread=0.1, gib=20.0, weight=0.14)

    assert cost == pytest.approx(2 * 0.1**2 + 0.014 * 0.2)


def test_nothing_is_said_where_a_host_could_be_hot_or_hosts_are_unequal(
    reachable: ModuleType,
) -> None:
    unequal = {"hosts": [HOST, {**HOST, "mem_mib": 1}], "vms": []}

    assert reachable.most_it_costs(a_snapshot(8.0, 8.0), spread=0.1, gib=20.0, weight=0.14) is None
    assert reachable.most_it_costs(unequal, spread=0.1, gib=20.0, weight=0.14) is None


@pytest.mark.parametrize(("bound", "code"), [(0.03, 1), (0.02, 2)])
def test_what_would_be_cheaper_than_anything_can_be_is_out_of_reach(
    reachable: ModuleType, bound: float, code: int
) -> None:
    objective = {"bound": bound, "after": 0.04}

    said = reachable.ask_plan(a_snapshot(6.0, 4.0), objective, 0.1, 20.0, 0.14)

    assert said[0] == code
