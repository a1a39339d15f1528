"""Labels and hints in domain metadata."""

from __future__ import annotations

import pytest

from rebalancer.cluster.inventory import Mode
from rebalancer.collect.domain_metadata import Hints
from rebalancer.collect.domain_xml import read_domain
from tests.unit.collect.fakes import a_domain_xml, hints


def read(metadata: str) -> Hints:
    return read_domain(a_domain_xml(metadata=metadata)).hints


def test_a_vm_without_metadata_has_no_wishes() -> None:
    assert read("") == Hints()


def test_everything_that_can_be_said() -> None:
    found = read(
        hints(
            "<rebalancer:label name='app' value='db'/><rebalancer:label name='env' value=''/>"
            "<rebalancer:movable>yes</rebalancer:movable>"
            "<rebalancer:modes>live suspend</rebalancer:modes>"
            "<rebalancer:max-downtime seconds='0.3'/>"
        )
    )

    assert found.labels == {"app": "db", "env": ""}
    assert found.movable
    assert found.allowed_modes == frozenset({Mode.LIVE, Mode.SUSPEND})
    assert found.max_downtime_seconds == 0.3
    assert found.faults == ()


def test_elements_need_not_repeat_the_namespace() -> None:
    assert read(hints("<label name='app' value='db'/><movable> NO </movable>")) == Hints(
        labels={"app": "db"}, movable=False
    )


def test_metadata_of_others_is_none_of_our_business() -> None:
    other = "<nova:instance xmlns:nova='http://openstack.org/nova'><nova:movable/></nova:instance>"

    assert read(other) == Hints()


def test_modes_may_be_written_with_commas_and_dashes() -> None:
    found = read(hints("<modes>live, post-copy</modes>"))

    assert found.allowed_modes == frozenset({Mode.LIVE, Mode.POST_COPY})


@pytest.mark.parametrize(
    "wrong",
    [
        "<moveable>no</moveable>",
        "<movable>perhaps</movable>",
        "<movable/>",
        "<modes>teleport</modes>",
        "<modes/>",
        "<max-downtime>0.3</max-downtime>",
        "<max-downtime seconds='-1'/>",
        "<max-downtime seconds='nan'/>",
        "<max-downtime seconds='inf'/>",
        "<label name='app'/>",
        "<label value='db'/>",
        "<label name='a&#10;b' value='db'/>",
        "<label name='app' value='a'/><label name='app' value='b'/>",
    ],
)
def test_what_cannot_be_understood_is_a_fault_and_not_ignored(wrong: str) -> None:
    assert len(read(hints(wrong)).faults) == 1


def test_another_root_is_a_fault() -> None:
    metadata = "<r:domain xmlns:r='https://rebalancer.dev/xmlns/domain/1.0'/>"

    assert read(metadata).faults == ("<domain> is not known, expected <vm>",)


def test_the_rest_is_read_all_the_same() -> None:
    found = read(hints("<nonsense/><label name='app' value='db'/>"))

    assert found.labels == {"app": "db"}


def test_whoever_says_both_means_no() -> None:
    assert not read(hints("<movable>no</movable><movable>yes</movable>")).movable
