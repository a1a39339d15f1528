"""What a host's capabilities say."""

from __future__ import annotations

import pytest

from rebalancer.cluster.inventory import HugepagePool, NumaNode
from rebalancer.collect.host_xml import bare_cpu_xml, cpu_features, network_names, read_capabilities
from rebalancer.collect.xml_text import UnreadableXmlError
from tests.builders import GIB, MIB
from tests.unit.collect.fakes import capabilities_xml


def test_processor_and_machine_types_of_its_own_architecture() -> None:
    found = read_capabilities(capabilities_xml())

    assert (found.arch, found.cpu_model) == ("x86_64", "EPYC-Milan")
    assert found.machine_types == ("pc-q35-7.2", "q35")
    assert found.host_uuid == "host-uuid"


def test_cells_and_the_huge_pages_of_all_of_them() -> None:
    found = read_capabilities(capabilities_xml())

    pages = HugepagePool(page_bytes=2 * MIB, total_pages=512, free_pages=512)
    node = NumaNode(cpu_cores=8, memory_bytes=32 * GIB, hugepages=(pages,))
    assert found.numa_nodes == (node,) * 2
    assert found.hugepages == ((2 * MIB, 1024),)


def test_cells_that_are_not_numbered_in_a_row_keep_their_numbers() -> None:
    cells = "".join(f"<cell id='{n}'><cpus num='4'/></cell>" for n in (0, 8))

    found = read_capabilities(
        f"<capabilities><host><topology><cells>{cells}</cells></topology></host></capabilities>"
    )

    assert [node.number for node in found.numa_nodes] == [None, 8]


def test_the_time_stamp_counter() -> None:
    cpu = "<cpu><counter name='tsc' frequency='2096056000' scaling='yes'/></cpu>"

    found = read_capabilities(f"<capabilities><host>{cpu}</host></capabilities>")

    assert (found.tsc_hertz, found.tsc_scales) == (2_096_056_000.0, True)


def test_a_host_that_tells_nothing() -> None:
    found = read_capabilities("<capabilities/>")

    assert found.arch is None
    assert (found.tsc_hertz, found.tsc_scales) == (None, False)
    assert found.cpu_xml is None
    assert found.numa_nodes == ()


def test_garbage_is_refused() -> None:
    with pytest.raises(UnreadableXmlError):
        read_capabilities("<capabilities>")


def test_a_network_by_its_name_and_its_bridge() -> None:
    assert network_names("<network><name>lan</name><bridge name='virbr1'/></network>") == {
        "lan",
        "virbr1",
    }
    assert network_names("<network><name>lan</name></network>") == {"lan"}


def test_features_without_those_that_are_off() -> None:
    xml = "<cpu><feature name='a'/><feature policy='disable' name='b'/></cpu>"

    assert cpu_features(xml) == {"a"}


def test_a_bare_model_is_quoted() -> None:
    assert "<model>A&amp;B</model>" in bare_cpu_xml("x86_64", "A&B")
