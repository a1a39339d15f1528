"""Which NUMA nodes and CPUs of its host a definition binds a VM to.

libvirt moves a definition as it is: what is bound to node 1 here will be bound to node 1 there.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from rebalancer.cluster.inventory import NumaNode
from rebalancer.collect.xml_text import attribute, byte_count, whole_number

_BINDING = {"strict", "restrictive"}
"""Modes of memory tuning that take memory from these nodes or fail; the others only prefer them."""


def numa_nodes(domain: ET.Element, vcpus: int, memory_bytes: int) -> tuple[NumaNode, ...]:
    """Return the cells of the guest that are bound to nodes of the host, with these nodes.

    A guest may see cells that are none of the host's: then they may go anywhere. One that sees
    none, and is bound all the same, is bound as a whole.
    """
    own = {
        number: (node.get("mode", "strict"), numbers_in(node.get("nodeset")))
        for node in domain.iterfind("numatune/memnode")
        if (number := whole_number(node.get("cellid"))) is not None
    }
    mode = attribute(domain, "numatune/memory", "mode") or "strict"
    is_tuned = domain.find("numatune/memory") is not None
    common = (mode, numbers_in(attribute(domain, "numatune/memory", "nodeset")))
    found = []
    for place, cell in enumerate(domain.iterfind("cpu/numa/cell")):
        number = whole_number(cell.get("id"))
        how, nodes = own.get(place if number is None else number, common if is_tuned else ("", ()))
        if how in _BINDING:
            found.append(_cell(cell, nodes))
    if domain.find("cpu/numa/cell") is None and is_tuned and mode in _BINDING and common[1]:
        whole = NumaNode(cpu_cores=float(vcpus), memory_bytes=memory_bytes, host_nodes=common[1])
        return (whole,)
    return tuple(found)


def _cell(cell: ET.Element, nodes: tuple[int, ...]) -> NumaNode:
    return NumaNode(
        cpu_cores=float(len(numbers_in(cell.get("cpus")))),
        memory_bytes=byte_count(cell, "memory") or 0,
        host_nodes=nodes,
    )


def pinned_cpus(domain: ET.Element) -> frozenset[int]:
    """Return the host's CPUs that vCPUs are pinned to, one by one or all together."""
    return frozenset(
        number for cpus in _cpu_sets(domain) for number in numbers_in(cpus) if cpus is not None
    )


def _cpu_sets(domain: ET.Element) -> Iterator[str | None]:
    for pin in domain.iterfind("cputune/vcpupin"):
        yield pin.get("cpuset")
    yield attribute(domain, "vcpu", "cpuset")


def numbers_in(text: str | None) -> tuple[int, ...]:
    """Return the numbers that a set such as `0-3,8,^2` names, in order."""
    members: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.strip().removeprefix("^").partition("-")
        start, end = whole_number(first), whole_number(last or first)
        if start is None or end is None or end - start > 100_000:
            continue
        numbers = set(range(start, end + 1))
        members = members - numbers if part.strip().startswith("^") else members | numbers
    return tuple(sorted(members))
