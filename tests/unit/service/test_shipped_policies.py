"""Every policy that ships can be read, and makes a plan of a cluster as it is."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.plan import Plan
from rebalancer.cluster.policy import DrainGoal, GeographyGoal, MovementGoal, RelieveGoal
from rebalancer.cluster.rules import Fence
from rebalancer.cluster.sites import Link, Site
from rebalancer.service.cycle import Request, run_cycle
from rebalancer.service.policy_file import read_policy
from tests.builders import GIB, NOON, a_host, a_vm

POLICIES = Path(__file__).parents[3] / "policies"
NAMES = ["balance", "drain", "follow-the-sun", "geography", "power-saving", "relieve"]


def a_cluster() -> Snapshot:
    """Two sites; the first host of the dear one is too full and another one there drains."""
    dear = {"energy_price_per_kwh_by_hour": (0.4,) * 24, "latency_seconds": {"users-jp": 0.01}}
    cheap = {"energy_price_per_kwh_by_hour": (0.1,) * 24, "latency_seconds": {"users-jp": 0.2}}
    hosts = [a_host(f"t{k}", site="tokyo") for k in (1, 2, 3)]
    hosts += [a_host(f"o{k}", site="oregon") for k in (1, 2, 3)]
    hosts[2] = a_host("t3", site="tokyo", state=HostState.DRAINING)
    vms = [a_vm(f"v{k}", on="t1", cpu_used_cores=1.7, memory_bytes=4 * GIB) for k in range(8)]
    vms += [a_vm("bank", on="t2", labels={"residency": "jp"}), a_vm("web", on="t3")]
    return Snapshot(
        cluster="test",
        taken_at=NOON,
        hosts=tuple(hosts),
        vms=tuple(vms),
        sites=(
            Site(name="tokyo", **dear),  # type: ignore[arg-type]
            Site(name="oregon", **cheap),  # type: ignore[arg-type]
        ),
        links=(
            Link(
                name="wan",
                bytes_per_second=1.25e9,
                between=("tokyo", "oregon"),
                price_per_gib=0.0001,
            ),
        ),
    )


def plan_with(name: str) -> Plan:
    request = Request(
        plan_id="p",
        creator="test",
        now=NOON + timedelta(seconds=30),
        ttl_seconds=3600.0,
        solve_seconds=20.0,
        seconds_passed=lambda: 0.0,
        uris={},
    )
    return run_cycle(a_cluster(), read_policy(POLICIES / f"{name}.yaml"), request).plan


def test_these_policies_ship() -> None:
    assert sorted(path.stem for path in POLICIES.glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_policy_makes_a_plan_that_empties_a_draining_host(name: str) -> None:
    plan = plan_with(name)

    assert {m.vm for m in plan.migrations} >= {"web"}
    assert "bank" not in {m.vm for m in plan.migrations}
    assert plan.violations_after == ()


def test_relieve_moves_only_what_is_needed_and_sends_little() -> None:
    plan = plan_with("relieve")
    hot = {host.name: host.cpu_ratio_after or 0.0 for host in plan.hosts}

    assert len([m for m in plan.migrations if m.source == "t1"]) == 1
    assert hot["t1"] <= 0.75


def test_geography_and_the_sun_take_vms_to_the_cheap_site() -> None:
    for name in ("geography", "follow-the-sun"):
        targets = {m.target for m in plan_with(name).migrations if m.source == "t1"}

        assert targets <= {"o1", "o2", "o3"}, name
        assert targets, name


def test_drain_moves_nothing_else() -> None:
    assert [m.vm for m in plan_with("drain").migrations] == ["web"]


def test_residency_is_a_hard_rule_where_places_are_chosen() -> None:
    for name in ("geography", "follow-the-sun"):
        rules = [r for r in read_policy(POLICIES / f"{name}.yaml").rules if isinstance(r, Fence)]

        assert [rule.hard for rule in rules] == [True], name


def test_every_kind_of_goal_but_balance_and_power_has_a_policy_that_shows_it() -> None:
    shown = {type(goal) for name in NAMES for goal in read_policy(POLICIES / f"{name}.yaml").goals}

    assert shown >= {RelieveGoal, GeographyGoal, MovementGoal, DrainGoal}
