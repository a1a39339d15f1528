"""What libvirt tells in XML about a host: its capabilities, its networks, a CPU spelt out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from rebalancer.cluster.inventory import HugepagePool, NumaNode
from rebalancer.collect.xml_text import attribute, byte_count, parse, text_of, whole_number

_SMALL_PAGE_BYTES = 64 * 1024
_TSC = "host/cpu/counter[@name='tsc']"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a host is able to."""

    host_uuid: str | None
    arch: str | None
    cpu_model: str | None
    cpu_xml: str | None
    """The CPU as libvirt describes it: a model, and features on top of it."""
    machine_types: tuple[str, ...]
    """Those of the host's own architecture, with their aliases."""
    numa_nodes: tuple[NumaNode, ...]
    hugepages: tuple[tuple[int, int], ...]
    """Size in bytes and number of the pages that are set aside, smallest first."""
    tsc_hertz: float | None = None
    tsc_scales: bool = False


def read_capabilities(xml: str) -> Capabilities:
    """Read a host's capabilities; raise `UnreadableXmlError` when they are none."""
    root = parse(xml)
    cpu = root.find("host/cpu")
    arch = text_of(root, "host/cpu/arch")
    return Capabilities(
        host_uuid=text_of(root, "host/uuid"),
        arch=arch,
        cpu_model=text_of(root, "host/cpu/model"),
        cpu_xml=ET.tostring(cpu, encoding="unicode").strip() if cpu is not None else None,
        machine_types=tuple(sorted(set(_machine_types(root, arch)))),
        numa_nodes=tuple(_numa_nodes(root)),
        hugepages=tuple(sorted(_hugepages(root).items())),
        tsc_hertz=float(whole_number(attribute(root, _TSC, "frequency")) or 0) or None,
        tsc_scales=attribute(root, _TSC, "scaling") == "yes",
    )


def _machine_types(root: ET.Element, arch: str | None) -> Iterator[str]:
    for guest_arch in root.iterfind("guest/arch"):
        if guest_arch.get("name") != arch:
            continue
        for machine in guest_arch.iter("machine"):
            yield from (name for name in (machine.text, machine.get("canonical")) if name)


def _cells(root: ET.Element) -> Iterator[ET.Element]:
    yield from root.iterfind("host/topology/cells/cell")


def _numa_nodes(root: ET.Element) -> Iterator[NumaNode]:
    for place, cell in enumerate(_cells(root)):
        number = whole_number(cell.get("id"))
        yield NumaNode(
            cpu_cores=float(whole_number(attribute(cell, "cpus", "num")) or 0),
            memory_bytes=byte_count(cell.find("memory")) or 0,
            number=None if number == place else number,
            hugepages=tuple(
                HugepagePool(page_bytes=size, total_pages=count, free_pages=count)
                for size, count in sorted(_hugepages_of(cell).items())
            ),
        )


def _hugepages(root: ET.Element) -> dict[int, int]:
    counts: dict[int, int] = {}
    for cell in _cells(root):
        for size, count in _hugepages_of(cell).items():
            counts[size] = counts.get(size, 0) + count
    return counts


def _hugepages_of(cell: ET.Element) -> dict[int, int]:
    """Size and number of a cell's pages; libvirt tells how many are free elsewhere."""
    return {
        size: count
        for pages in cell.iterfind("pages")
        if (size := byte_count(pages, "size") or 0) > _SMALL_PAGE_BYTES
        and (count := whole_number(pages.text) or 0)
    }


def network_names(xml: str) -> frozenset[str]:
    """Return what a VM may call an active libvirt network: its name, and that of its bridge."""
    network = parse(xml)
    names = (text_of(network, "name"), attribute(network, "bridge", "name"))
    return frozenset(name for name in names if name)


def cpu_features(xml: str) -> frozenset[str]:
    """Return the features of a CPU that libvirt has spelt out in full."""
    features = parse(xml).iterfind("feature")
    return frozenset(
        each.get("name", "") for each in features if each.get("policy") not in {"disable", "forbid"}
    )


def bare_cpu_xml(arch: str, model: str) -> str:
    """Return a CPU of just this model, in the form in which libvirt takes hosts' CPUs."""
    cpu = ET.Element("cpu")
    ET.SubElement(cpu, "arch").text = arch
    ET.SubElement(cpu, "model").text = model
    return ET.tostring(cpu, encoding="unicode")
