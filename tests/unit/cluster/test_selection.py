"""Which hosts and VMs a selector means."""

from __future__ import annotations

from rebalancer.cluster.selection import HostSelector, VmSelector
from tests.builders import a_host, a_vm


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
