"""Numbers and names of a policy that do not fit the cluster are told, and nothing fails by them."""

from __future__ import annotations

from rebalancer.cluster.inventory import HostState
from rebalancer.cluster.policy import GeographyCriterion, GeographyGoal, Headroom, PowerGoal
from rebalancer.cluster.rules import Spread
from rebalancer.cluster.selection import VmSelector
from rebalancer.cluster.sites import Site
from rebalancer.service.notes import notes_on
from tests.builders import a_host, a_policy, a_snapshot, a_vm

TOKYO = Site(name="tokyo", latency_seconds={"users-jp": 0.005}, energy_price_per_kwh=0.2)
CLUSTER = a_snapshot([a_host("h1", site="tokyo"), a_host("h2", site="tokyo")], sites=[TOKYO])


def test_a_policy_that_fits_has_no_notes() -> None:
    near = GeographyGoal(users="users-jp")
    cheap = GeographyGoal(criterion=GeographyCriterion.ENERGY_PRICE)
    policy = a_policy(goals=(near, cheap, PowerGoal(min_awake=2)))

    assert notes_on(CLUSTER, policy) == ()


def test_hosts_whose_vms_nobody_can_look_after_are_noted() -> None:
    hosts = [
        a_host("h1"),
        a_host("h2", state=HostState.DOWN),
        a_host("h3", state=HostState.UNKNOWN, state_reason="no route to host"),
        a_host("h4", state=HostState.DOWN),
        a_host("h5", state=HostState.MAINTENANCE),
    ]
    vms = [a_vm(f"v{k}", on=f"h{k}") for k in (1, 2, 3, 5)] + [a_vm("w", on="h3")]

    assert notes_on(a_snapshot(hosts, vms), a_policy()) == (
        "h2 is down: its VM is left out of this plan",
        "h3 did not answer (no route to host): its 2 VMs are left out of this plan",
    )


def test_more_failures_than_hosts_are_noted() -> None:
    policy = a_policy(headroom=Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=9))

    (note,) = notes_on(CLUSTER, policy)

    assert note.startswith("host_failures is 9, and only 2 hosts are up")
    assert "1 is the most" in note


def test_more_awake_hosts_than_there_are_are_noted() -> None:
    (note,) = notes_on(CLUSTER, a_policy(goals=(PowerGoal(min_awake=99),)))

    assert note == ("goal power has no effect: min_awake is 99, and the policy looks after 2 hosts")


def test_users_that_no_site_knows_are_noted() -> None:
    (note,) = notes_on(CLUSTER, a_policy(goals=(GeographyGoal(users="mars"),)))

    assert "no site knows its latency to users 'mars'" in note


def test_rates_that_no_site_has_are_noted() -> None:
    goal = GeographyGoal(criterion=GeographyCriterion.CARBON)

    (note,) = notes_on(CLUSTER, a_policy(goals=(goal,)))

    assert note.endswith("the carbon intensity of no site is known")


def test_a_rule_that_protects_nothing_is_noted_unless_it_is_general() -> None:
    policy = a_policy(
        Spread(name="apart", vms=VmSelector(labels={"anti_affinity": ("*",)})),
        Spread(name="db-apart", vms=VmSelector(names=("db*",), labels={"app": ("a", "b")})),
    )

    (note,) = notes_on(CLUSTER, policy)

    assert note == (
        "rule db-apart protects nothing: no VM matches {names: db*, labels: {app: [a, b]}}"
    )
