"""The five rules, judging assignments by themselves."""

from __future__ import annotations

from collections.abc import Iterable

from rebalancer.cluster.inventory import HostId, Snapshot, Vm, VmId
from rebalancer.cluster.rules import (
    Ban,
    Domain,
    Fence,
    Pin,
    Presence,
    Rule,
    Spread,
    Together,
    Violation,
    groups_in,
)
from rebalancer.cluster.selection import HostSelector, VmSelector
from tests.builders import a_host, a_snapshot, a_vm

ALL = VmSelector()


def a_cluster(vms: Iterable[Vm]) -> Snapshot:
    hosts = [
        a_host("h1", site="tokyo", rack="r1"),
        a_host("h2", site="tokyo", rack="r2"),
        a_host("h3", site="osaka"),
    ]
    return a_snapshot(hosts, vms)


def broken(rule: Rule, *placed: str) -> list[Violation]:
    """What `rule` says of VMs a, b, c, … on the hosts given."""
    vms = [a_vm(name, on=host) for name, host in zip("abcdefg", placed, strict=False)]
    snapshot = a_cluster(vms)
    return list(rule.violations(snapshot, snapshot.assignment))


def test_spread_counts_the_vms_too_many_on_each_host() -> None:
    rule = Spread(name="apart", vms=ALL)

    assert broken(rule, "h1", "h2", "h3") == []
    [violation] = broken(rule, "h1", "h1", "h1", "h2")
    assert violation.severity == 2
    assert violation.vms == ("a", "b", "c")
    assert "a, b, c share host h1, at most 1 may" in violation.text


def test_spread_allows_at_most_so_many() -> None:
    rule = Spread(name="apart", vms=ALL, at_most=2)

    assert broken(rule, "h1", "h1", "h2") == []
    assert len(broken(rule, "h1", "h1", "h1")) == 1


def test_spread_goes_by_rack_or_site() -> None:
    assert len(broken(Spread(name="s", vms=ALL, over=Domain.SITE), "h1", "h2")) == 1
    assert broken(Spread(name="r", vms=ALL, over=Domain.RACK), "h1", "h2") == []


def test_a_host_without_a_rack_is_a_rack_of_its_own() -> None:
    hosts = [a_host("h1"), a_host("h2")]
    snapshot = a_snapshot(hosts, [a_vm("a", on="h1"), a_vm("b", on="h2")])

    rule = Spread(name="r", vms=ALL, over=Domain.RACK)

    assert list(rule.violations(snapshot, snapshot.assignment)) == []


def test_spread_by_label_judges_each_value_by_itself() -> None:
    vms = [
        a_vm("a", on="h1", labels={"group": "x"}),
        a_vm("b", on="h1", labels={"group": "y"}),
        a_vm("c", on="h1", labels={"group": "y"}),
        a_vm("d", on="h1"),
        a_vm("e", on="h1"),
    ]
    snapshot = a_cluster(vms)

    [violation] = Spread(name="s", vms=ALL, by_label="group").violations(
        snapshot, snapshot.assignment
    )

    assert violation.vms == ("b", "c")


def test_groups_are_those_of_the_selected_vms() -> None:
    vms = [a_vm("db1", labels={"g": "x"}), a_vm("db2", labels={"g": "x"}), a_vm("web")]
    rule = Together(name="t", vms=VmSelector(names=("db*",)), by_label="g")

    assert [[vm.name for vm in group] for group in groups_in(rule, a_cluster(vms))] == [
        ["db1", "db2"]
    ]


def test_together_counts_the_vms_outside_the_largest_part() -> None:
    rule = Together(name="close", vms=ALL)

    assert broken(rule, "h1", "h1") == []
    [violation] = broken(rule, "h1", "h1", "h2", "h3")
    assert violation.severity == 2
    assert violation.hosts == ("h1", "h2", "h3")


def test_together_in_a_site_lets_hosts_differ() -> None:
    assert broken(Together(name="close", vms=ALL, over=Domain.SITE), "h1", "h2") == []


def test_presence_wants_so_many_places() -> None:
    rule = Presence(name="here and there", vms=ALL, over=Domain.SITE, at_least=2)

    assert broken(rule, "h1", "h3") == []
    [violation] = broken(rule, "h1", "h2", "h2")
    assert violation.text == "a, b, c are in site tokyo only, at least 2 are wanted"
    assert violation.severity == 1


def test_a_group_smaller_than_the_places_that_are_wanted_is_spread_out() -> None:
    rule = Presence(name="p", vms=ALL, at_least=5)

    assert broken(rule, "h1", "h2") == []
    assert [v.severity for v in broken(rule, "h1", "h1", "h1")] == [2]
    assert broken(rule, "h1") == []


def test_presence_by_label_judges_each_value_by_itself() -> None:
    vms = [a_vm(name, on="h1", labels={"g": name[0]}) for name in ("x1", "x2", "y1")]
    snapshot = a_cluster(vms)

    [violation] = Presence(name="p", vms=ALL, by_label="g").violations(
        snapshot, snapshot.assignment
    )

    assert violation.vms == ("x1", "x2")


def test_a_fence_keeps_its_vms_in() -> None:
    rule = Fence(name="jp", vms=VmSelector(names=("a",)), to=HostSelector(sites=("tokyo",)))

    assert broken(rule, "h1", "h3") == []
    assert [v.vms for v in broken(rule, "h3", "h1")] == [("a",)]


def test_a_ban_keeps_its_vms_out() -> None:
    rule = Ban(name="no", vms=ALL, hosts=HostSelector(names=("h[12]",)))

    assert [v.vms for v in broken(rule, "h1", "h3", "h2")] == [("a",), ("c",)]


def test_a_pin_is_broken_by_moving_only() -> None:
    snapshot = a_cluster([a_vm("a", on="h1")])
    rule = Pin(name="stay", vms=ALL)

    assert list(rule.violations(snapshot, snapshot.assignment)) == []
    [violation] = rule.violations(snapshot, {VmId("a"): HostId("h2")})
    assert "a is pinned to h1 and would be on h2" in violation.text
