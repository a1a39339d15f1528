"""Hosts are found by what people call them, or it is said which ones there are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rebalancer.errors import UsageError
from rebalancer.service.naming import hosts_called
from tests.builders import a_host, a_snapshot

MANY = a_snapshot([a_host(f"kvm{k:02}") for k in range(1, 41)])


def test_hosts_are_found_once_in_the_order_of_their_names() -> None:
    found = hosts_called(MANY, ["kvm02", "kvm01", "kvm02"])

    assert [host.name for host in found] == ["kvm02", "kvm01"]


def test_every_name_that_nobody_has_is_told_and_none_of_many_hosts_is_hidden() -> None:
    with pytest.raises(UsageError) as told:
        hosts_called(MANY, ["kvm01", "zz", "kvm1"])

    first, second = str(told.value).splitlines()
    assert first.startswith("no host called zz in cluster test; it has kvm01, ")
    assert first.endswith(" and 32 more")
    assert second.startswith("no host called kvm1 in cluster test; did you mean kvm01, ")


def test_a_name_that_two_hosts_have_is_never_guessed_at() -> None:
    twins = a_snapshot([replace(a_host(f"id{k}"), name="node") for k in (1, 2)])

    with pytest.raises(UsageError, match="2 hosts in cluster test are called node; give the id"):
        hosts_called(twins, ["node"])
