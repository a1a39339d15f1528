"""What one plan may move besides what has to be moved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.policy import BalanceGoal, Limits, Policy
from rebalancer.cluster.rules import Rule, Together
from rebalancer.cluster.selection import VmSelector
from rebalancer.cluster.violations import overspent
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import DRAINING, moves, on, solve


def a_cluster(count: int = 8, **first: Any) -> Snapshot:
    """All VMs on one of two hosts of a site; another site has two empty hosts."""
    hosts = [a_host("t1", site="tokyo", **first), a_host("t2", site="tokyo")]
    hosts += [a_host(f"o{k}", site="osaka") for k in (1, 2)]
    return a_snapshot(hosts, [a_vm(f"v{k}", on="t1", cpu_used_cores=1.9) for k in range(count)])


def capped(*rules: Rule, **caps: Any) -> Policy:
    return a_policy(*rules, goals=(BalanceGoal(),), limits=Limits(**({"migrations": None} | caps)))


@pytest.mark.parametrize(
    ("caps", "most"),
    [
        ({}, 6),
        ({"migrations": 2}, 2),
        ({"migrations_ratio": 0.5}, 4),
        ({"migrations_ratio": 0.01}, 1),
        ({"migrations": 3, "migrations_ratio": 0.5}, 3),
        ({"moved_bytes": 12 * GIB}, 3),
        ({"moved_bytes": 11 * GIB}, 2),
        ({"moves_out_of_host": 1}, 1),
        ({"moves_into_host": 1}, 3),
        ({"moves_into_host": 0}, 0),
        ({"moves_between_sites": 0}, 4),
        ({"bytes_between_sites": 4 * GIB}, 4),
    ],
)
def test_a_plan_stays_within_every_cap(caps: dict[str, Any], most: int) -> None:
    snapshot, policy = a_cluster(), capped(**caps)

    answer = solve(snapshot, policy)

    assert len(moves(snapshot, answer)) == most
    assert overspent(snapshot, policy, answer.assignment, set()) == ()


def test_no_more_than_allowed_goes_to_another_site() -> None:
    snapshot = a_cluster()

    answer = solve(snapshot, capped(moves_between_sites=1))

    assert len(on(answer, "o1")) + len(on(answer, "o2")) == 1
    assert len(on(answer, "t2")) >= 3


def test_a_drain_is_not_held_to_the_caps() -> None:
    snapshot = a_cluster(state=DRAINING)

    answer = solve(snapshot, capped(moves_out_of_host=0, moved_bytes=0, moves_between_sites=0))

    assert len(moves(snapshot, answer)) == 8


def test_what_has_to_move_goes_to_another_site_only_if_its_own_will_not_do() -> None:
    # Osaka is empty, so balance alone would send most of them there.
    snapshot = a_cluster(state=DRAINING)

    answer = solve(snapshot, capped(moves_between_sites=0))

    assert len(on(answer, "t2")) == 8

    full = replace(snapshot, vms=(*snapshot.vms, a_vm("full", on="t2", memory_bytes=120 * GIB)))
    answer = solve(full, capped(moves_between_sites=0))

    assert on(answer, "t1") == []
    assert on(answer, "o1") + on(answer, "o2") != []


def test_what_has_to_move_does_not_crowd_a_host_that_few_may_come_to() -> None:
    # Balance alone would have both on the large host.
    hosts = [
        a_host("h1", state=DRAINING),
        a_host("h2", cpu_cores=64.0),
        a_host("h3", cpu_cores=8.0),
    ]
    snapshot = a_snapshot(hosts, [a_vm(f"v{k}", cpu_used_cores=1.9) for k in range(2)])

    answer = solve(snapshot, capped(moves_into_host=1))

    assert [len(on(answer, host)) for host in ("h2", "h3")] == [1, 1]


def test_vms_that_move_as_one_count_one_by_one() -> None:
    snapshot = a_cluster(3)
    rule = Together(name="t", vms=VmSelector())

    assert moves(snapshot, solve(snapshot, capped(rule, migrations=2))) == {}


def test_the_oracle_names_each_cap_that_is_passed() -> None:
    snapshot = a_cluster()
    policy = capped(
        migrations=1,
        moved_bytes=GIB,
        moves_out_of_host=1,
        moves_into_host=1,
        moves_between_sites=1,
        bytes_between_sites=GIB,
    )
    moved = {**snapshot.assignment, **{vm.id: snapshot.hosts[2].id for vm in snapshot.vms[:2]}}

    assert [v.text for v in overspent(snapshot, policy, moved, set())] == [
        "2 migrations, the policy allows 1",
        f"{8 * GIB:,.6g} bytes moved, the policy allows {GIB:,.6g}",
        "2 moves between sites, the policy allows 1",
        f"{8 * GIB:,.6g} bytes moved between sites, the policy allows {GIB:,.6g}",
        "2 moves off t1, the policy allows 1",
        "2 moves onto o1, the policy allows 1",
    ]
    exempt = {vm.id for vm in snapshot.vms[:2]}
    assert overspent(snapshot, policy, moved, exempt) == ()
