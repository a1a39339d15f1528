"""Everything about one VM: where it could be, where not, and what that would change."""

from __future__ import annotations

import pytest

from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Ban, Together
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.placement.explain.possibility import in_terms_of
from rebalancer.placement.explain.spent import Besides
from rebalancer.placement.explain.why_here import WhyHere, why_here
from rebalancer.placement.objectives import find_tiers
from tests.builders import GIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import problem_of


def why(snapshot: Snapshot, vm: str, policy: Policy | None = None, **moved: str) -> WhyHere:
    """Explain a VM where it is now, or where `moved` has it."""
    problem = problem_of(snapshot, policy)
    x = in_terms_of(problem, {**snapshot.assignment, **moved})  # type: ignore[dict-item]
    assert x is not None
    besides = Besides.what_is_needed(problem, problem.start)
    asked = snapshot.vm_by_id[vm]  # type: ignore[index]
    return why_here(problem, find_tiers(problem), x, asked, besides)


def test_hosts_that_could_take_a_vm_are_ranked_by_what_that_gains() -> None:
    hosts = [a_host(f"h{k}") for k in (1, 2, 3)]
    vms = [a_vm("a", cpu_used_cores=4.0), a_vm("b", cpu_used_cores=4.0)]
    vms += [a_vm("c", on="h2", cpu_used_cores=2.0)]

    found = why(a_snapshot(hosts, vms), "a")

    assert [one.name for one in found.possible] == ["h3", "h2"]
    assert found.possible[0].change.total < found.possible[1].change.total
    assert found.possible[0].change.by_goal.keys() == {"balance", "movement"}


def test_a_move_is_compared_with_staying() -> None:
    vms = [a_vm("a", cpu_used_cores=4.0), a_vm("b", cpu_used_cores=4.0)]

    found = why(a_snapshot(vms=vms), "a", a="h2")

    assert (found.present, found.planned) == ("h1", "h2")
    assert found.if_it_stayed is not None
    assert found.if_it_stayed.total > 0


def test_every_reason_against_a_host_is_told_at_once() -> None:
    hosts = [a_host("h1"), a_host("h2", memory_bytes=8 * GIB, storage=frozenset())]
    vms = [a_vm("a", memory_bytes=16 * GIB, storage=frozenset({"nfs"}))]
    policy = a_policy(Ban(name="away", vms=VmSelector(), hosts=HostSelector(names=("h2",))))

    (other,) = why(a_snapshot(hosts, vms), "a", policy).impossible

    assert "away forbids it" in other.obstacles
    assert "the host does not reach storage nfs" in other.obstacles
    assert any(text.startswith("no room for its memory: 16.0 GiB") for text in other.obstacles)


def test_a_host_that_takes_nobody_is_no_reason_to_tell_no_other() -> None:
    hosts = [
        a_host("h1"),
        a_host("h2", state=HostState.MAINTENANCE, memory_bytes=8 * GIB, networks=frozenset()),
    ]
    vms = [a_vm("a", memory_bytes=16 * GIB, networks=frozenset({"br0"}))]
    policy = a_policy(Ban(name="away", vms=VmSelector(), hosts=HostSelector(names=("h2",))))

    (other,) = why(a_snapshot(hosts, vms), "a", policy).impossible

    assert other.obstacles[0] == "maintenance"
    assert "away forbids it" in other.obstacles
    assert "the host has no network br0" in other.obstacles
    assert any(text.startswith("no room for its memory: 16.0 GiB") for text in other.obstacles)


@pytest.mark.parametrize("state", [HostState.DRAINING, HostState.ASLEEP])
def test_nothing_is_made_up_about_hosts_that_empty_or_were_never_seen(state: HostState) -> None:
    seen = state is HostState.DRAINING
    other = a_host("h2", state=state, **({} if seen else {"cpu_cores": 0, "memory_bytes": 0}))
    vms = [a_vm("a", memory_bytes=40 * GIB)]
    vms += [a_vm("full", on="h2", memory_bytes=60 * GIB)] if seen else []

    (found,) = why(a_snapshot([a_host("h1"), other], vms), "a").impossible

    assert found.obstacles == (str(state),)


def test_reasons_are_counted_over_hosts() -> None:
    hosts = [a_host("h1"), *(a_host(f"h{k}", memory_bytes=8 * GIB) for k in range(2, 12))]

    found = why(a_snapshot(hosts, [a_vm("a", memory_bytes=16 * GIB)]), "a")

    assert found.possible == ()
    assert found.obstacles["no room for its memory"] == 10


def test_loads_are_told_as_they_would_be_then() -> None:
    vms = [a_vm("a", cpu_used_cores=4.0, memory_bytes=16 * GIB), a_vm("b", cpu_used_cores=4.0)]

    (other,) = why(a_snapshot(vms=vms), "a").possible

    assert other.load.cpu_ratio == pytest.approx(0.25)
    assert other.load.memory_ratio == pytest.approx(0.25)
    assert other.left.cpu_ratio == pytest.approx(0.25)


def test_what_holds_a_vm_makes_every_other_host_impossible() -> None:
    found = why(a_snapshot(vms=[a_vm("a", movable=False)]), "a")

    assert found.keeps == ("it is marked as not movable",)
    assert found.possible == ()
    assert len(found.impossible) == 1


def test_vms_that_only_move_together_are_named() -> None:
    policy = a_policy(Together(name="pair", vms=VmSelector(names=("a", "b"))))

    found = why(a_snapshot(vms=[a_vm("a"), a_vm("b")]), "a", policy)

    assert found.moves_with == ("b",)


def test_vms_that_move_together_are_no_obstacle_to_each_other() -> None:
    hosts = [a_host(f"h{k}") for k in (1, 2, 3)]
    pair = Together(name="pair", vms=VmSelector(names=("s*",)))

    found = why(a_snapshot(hosts, [a_vm("s1"), a_vm("s2")]), "s1", a_policy(pair))

    assert found.moves_with == ("s2",)
    assert found.keeps == ()
    assert {one.name for one in found.possible} == {"h2", "h3"}
