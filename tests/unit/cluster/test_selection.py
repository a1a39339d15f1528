"""Which hosts and VMs a selector means."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.selection import (
    HostSelector,
    VmSelector,
    members_of,
    places_by_name,
    places_of,
)
from tests.builders import a_host, a_snapshot, a_vm


def test_an_empty_selector_means_everything() -> None:
    assert VmSelector().matches(a_vm())
    assert HostSelector().matches(a_host())


def test_names_are_globs_over_names_and_ids() -> None:
    assert VmSelector(names=("db*",)).matches(a_vm("db1"))
    assert not VmSelector(names=("db?",)).matches(a_vm("db10"))
    assert HostSelector(names=("x", "h[12]")).matches(a_host("h2"))


def test_globs_heed_upper_and_lower_case() -> None:
    assert not VmSelector(names=("DB*",)).matches(a_vm("db1"))


def test_all_labels_have_to_match_one_of_their_values() -> None:
    selector = VmSelector(labels={"app": ("db", "cache*"), "env": ("*",)})

    assert selector.matches(a_vm(labels={"app": "cache2", "env": ""}))
    assert not selector.matches(a_vm(labels={"app": "db"}))
    assert not selector.matches(a_vm(labels={"app": "web", "env": "test"}))


def test_sites_and_racks_are_taken_literally() -> None:
    host = a_host(site="tokyo", rack="r1")

    assert HostSelector(sites=("osaka", "tokyo"), racks=("r1",)).matches(host)
    assert not HostSelector(sites=("tok*",)).matches(host)
    assert not HostSelector(sites=("tokyo",)).matches(a_host())


WORDS = st.sampled_from(["a", "b", "ab", "A", "*", "a*", "?", "[ab]", "[!a]", "", "b]"])
LABELS = st.sampled_from(["app", "env"])


@given(
    vms=st.lists(st.tuples(WORDS, st.dictionaries(LABELS, WORDS)), max_size=8),
    names=st.lists(WORDS, max_size=3),
    labels=st.dictionaries(LABELS, st.lists(WORDS, max_size=3).map(tuple)),
)
def test_members_are_those_that_match_in_the_snapshot_s_order(
    vms: list[tuple[str, dict[str, str]]],
    names: list[str],
    labels: dict[str, tuple[str, ...]],
) -> None:
    snapshot = a_snapshot(
        vms=[
            replace(a_vm(f"{number}"), name=name, labels=given_labels)
            for number, (name, given_labels) in enumerate(vms)
        ]
    )
    selector = VmSelector(names=tuple(names), labels=labels)
    expected = tuple(vm for vm in snapshot.vms if selector.matches(vm))

    assert members_of(selector, snapshot) == expected
    assert members_of(selector, snapshot) == expected


@given(
    names=st.lists(WORDS, max_size=8),
    wanted=st.lists(WORDS, max_size=3),
    sites=st.lists(st.sampled_from(["x", "y"]), max_size=1),
)
def test_places_are_those_of_hosts_that_match_in_order(
    names: list[str], wanted: list[str], sites: list[str]
) -> None:
    hosts = [
        replace(a_host(f"{number}", site="xy"[number % 2]), name=name)
        for number, name in enumerate(names)
    ]
    selector = HostSelector(names=tuple(wanted), sites=tuple(sites))
    expected = [place for place, host in enumerate(hosts) if selector.matches(host)]

    assert places_of(selector, hosts, places_by_name(hosts)) == expected
